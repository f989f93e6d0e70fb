//! Random workflows. Spans are the same everywhere, so that checkers know them without asking the conductor.

use std::collections::BTreeSet;

use super::chance::Chance;
use crate::definitions::tree::Tree;
use crate::definitions::workflow::{Edge, Entry, Join, Kind, StartOn, Step as Definition};
use crate::definitions::{Definitions, Workflow};
use crate::model::{Span, Timestamp};

pub(super) const SLEEP: Span = Span::minutes(5);
pub(super) const ASK: Span = Span::hours(1);
pub(super) const WAIT: Span = Span::minutes(30);
pub(super) const WATCH: Span = Span::minutes(10);
pub(super) const WATCH_FAILURES: u32 = 2;
pub(super) const DEADLINE: Span = Span::hours(2);

/// Open in the first twenty minutes of each hour, and in the last.
pub(super) const SITE: &str = "windows: {early: {open: ['0-19,40-59 * * * *']}}\n";

/// Whether the window of `SITE` is open.
pub(super) fn is_open(now: Timestamp) -> bool {
    !(20..40).contains(&(now.0 / 60_000 % 60))
}

/// What an undo is told of its step, or of its item.
fn undo(chance: &mut Chance, id: &str, looped: bool) -> String {
    let output = if looped { "output.x".to_owned() } else { format!("steps.{id}.output.x") };
    match chance.below(4) {
        0 => "undo: {run: t.do}\n".to_owned(),
        1 => format!("undo: {{run: t.do, with: {{what: '{{{{ {output} }}}}'}}}}\n"),
        _ => String::new(),
    }
}

fn looped(chance: &mut Chance) -> String {
    let mut text = format!("for_each: '0..{}'\n", chance.below(7));
    if !chance.one_in(4) {
        text += &format!("concurrency: {}\n", 1 + chance.below(3));
    }
    text += *chance.pick(&["", "", "max_failures: 1\n", "max_failures: 50%\n"]);
    text += *chance.pick(&["", "", "fail_fast: true\n"]);
    text
}

fn retried(chance: &mut Chance) -> &'static str {
    match chance.below(6) {
        0 => "retry: {attempts: 3, delay: 1m}\n",
        1 => "retry: {attempts: 2, delay: 1m, lost: true}\n",
        _ => "",
    }
}

fn work(chance: &mut Chance, id: &str) -> String {
    let mut text = (*chance.pick(&["run: t.do\n", "run: t.once\n"])).to_owned();
    let is_looped = chance.one_in(4);
    if is_looped {
        text += &looped(chance);
    }
    if chance.one_in(3) {
        text += "with: {what: 5}\n";
    }
    text += &undo(chance, id, is_looped);
    text += retried(chance);
    if chance.one_in(5) {
        text += "until: output.well\nevery: 2m\ntimeout: 4m\n";
    }
    text
}

fn child(chance: &mut Chance) -> String {
    let mut text = "run: t.child\n".to_owned();
    if chance.one_in(4) {
        text += &looped(chance);
    }
    if chance.one_in(2) {
        text += "undo: {run: t.do}\n";
    }
    if chance.one_in(4) {
        text += retried(chance);
    }
    text
}

fn leaf(chance: &mut Chance, id: &str) -> String {
    match chance.below(13) {
        0 => "sleep: 5m\n".to_owned(),
        1 => "approve: {ask: 'ok?', of: [managers], timeout: 1h}\n".to_owned(),
        2 => match chance.below(3) {
            0 => "wait_for: {trigger: t.alarm, timeout: 30m}\n".to_owned(),
            1 => "wait_for: {trigger: t.alarm, timeout: 30m, on_timeout: continue}\n".to_owned(),
            _ => "wait_for: {trigger: t.alarm, timeout: 30m, or_poll: {run: t.do, every: 3m, until: output.well}}\n".to_owned(),
        },
        3 => "watch: {for: 10m, check: {run: t.do, every: 2m, healthy: output.well, failures: 2}, abort_on: {trigger: t.alarm}}\n".to_owned(),
        4 if chance.one_in(3) => format!("emit: t.alarm\n{}", looped(chance)),
        4 => "emit: t.alarm\n".to_owned(),
        5 | 6 => child(chance),
        _ => work(chance, id),
    }
}

/// A group: of two or three steps, maybe of groups again, maybe a run of its own.
fn group(chance: &mut Chance, id: &str, depth: u32) -> String {
    let mut text = String::new();
    let is_run = chance.one_in(3);
    if is_run {
        text += &match chance.below(3) {
            0 => looped(chance),
            1 => "retry: {attempts: 2, delay: 1m}\n".to_owned(),
            _ => looped(chance) + "retry: {attempts: 2, delay: 1m}\n",
        };
    }
    text += *chance.pick(&["steps:\n", "parallel:\n"]);
    // What a run of its own does is not seen from here.
    let members = if is_run { 1 } else { 1 + chance.below(3) };
    for member in 0..members {
        let inner = format!("{id}_{member}");
        let body = if !is_run && depth < 2 && chance.one_in(6) {
            group(chance, &inner, depth + 1)
        } else if is_run {
            "run: t.do\n".to_owned()
        } else {
            leaf(chance, &inner)
        };
        text +=
            &indented(&listed(&inner, &format!("{body}{}{}", common(chance), locked(chance, &body))), "  ");
    }
    text
}

/// Keys that most kinds of step have.
fn common(chance: &mut Chance) -> String {
    let mut text = String::new();
    if chance.one_in(6) {
        text += "continue_on_failure: true\n";
    }
    if chance.one_in(9) {
        text += "when: 'false'\n";
    }
    text
}

fn locked(chance: &mut Chance, body: &str) -> String {
    if body.starts_with("emit") || !chance.one_in(4) {
        return String::new();
    }
    format!("lock: {}\n", chance.pick(&["one", "two"]))
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

/// A step of a list.
fn listed(id: &str, body: &str) -> String {
    format!("- id: {id}\n{}", indented(body, "  "))
}

fn step(chance: &mut Chance, id: usize, before: &[usize], graph: bool) -> String {
    let name = format!("s{id}");
    let is_group = chance.one_in(6);
    let mut text = if is_group { group(chance, &name, 0) } else { leaf(chance, &name) };
    text += &common(chance);
    text += &locked(chance, &text);
    if !is_group && chance.one_in(8) {
        text += "window: early\n";
    }
    if !is_group && chance.one_in(8) {
        text += "read: {flag: a/key}\n";
    }
    if graph && id > 0 {
        let needs: BTreeSet<usize> =
            (0..chance.below(3)).filter(|_| !before.is_empty()).map(|_| *chance.pick(before)).collect();
        let names: Vec<String> = needs.iter().map(|need| format!("s{need}")).collect();
        text += &format!("needs: [{}]\n", names.join(", "));
        if !needs.is_empty() && chance.one_in(4) {
            text += &format!("start_on: {}\n", chance.pick(&["failure", "finished"]));
        }
    }
    listed(&name, &text)
}

/// A condition on what a step gave that is false when all goes well: the way out of a circle.
const AGAIN: &str = "output.x % 2 == 0";

/// Whether `AGAIN` holds of an output.
pub(super) fn goes_again(output: &crate::model::Value) -> bool {
    output["x"].as_u64().is_some_and(|x| x % 2 == 0)
}

/// What an edge between two steps publishes.
pub(super) fn published(from: &str, to: &str) -> String {
    format!("{from}_{to}")
}

/// Whether it is known what a step gives.
fn gives_x(step: &Definition) -> bool {
    matches!(&step.kind, Kind::Run(call) if call.run == "t.do" || call.run == "t.once")
        && step.for_each.is_none()
}

/// The steps of a workflow joined by edges, some of which lead back, with a line for each for people.
pub(super) fn with_edges(
    chance: &mut Chance,
    definitions: &Definitions,
    workflow: &Workflow,
) -> (Workflow, String) {
    let mut workflow = workflow.clone();
    let steps: Vec<(usize, bool)> = (workflow.steps.iter().enumerate())
        .filter(|(_, step)| step.group.is_none())
        .map(|(index, step)| (index, gives_x(step)))
        .collect();
    let ids: Vec<String> = workflow.steps.iter().map(|step| step.id.clone()).collect();
    let mut lines = String::new();
    for (place, (index, _)) in steps.iter().enumerate() {
        let mut edges: Vec<Edge> = Vec::new();
        let mut add = |from: usize, on: StartOn, conditional: bool, publishes: bool| {
            let (from, to) = (&ids[from], &ids[*index]);
            let script = |text: &str| {
                definitions.expr.script(&text.replace("output", &format!("steps.{from}.output")))
            };
            let template = |text: String| Tree::Template(definitions.expr.template(&text).unwrap());
            let publish = (published(from, to), template(format!("{{{{ steps.{from}.output.x }}}}")));
            edges.push(Edge {
                from: from.clone(),
                on,
                when: conditional.then(|| script(AGAIN).unwrap()),
                publish: if publishes { vec![publish] } else { Vec::new() },
            });
        };
        let forward = if place == 0 { 0 } else { chance.below(3) };
        for _ in 0..forward {
            let (from, gives) = *chance.pick(&steps[..place]);
            let on = *chance.pick(&[StartOn::Success, StartOn::Success, StartOn::Failure, StartOn::Finished]);
            let knows = gives && on == StartOn::Success;
            add(from, on, knows && chance.one_in(3), knows && chance.one_in(3));
        }
        // What leads back has a way out.
        let later: Vec<usize> =
            steps[place..].iter().filter(|(_, gives)| *gives).map(|(index, _)| *index).collect();
        if forward > 0 && !later.is_empty() && chance.one_in(2) {
            add(*chance.pick(&later), StartOn::Success, true, chance.one_in(2));
        }
        let join = match chance.below(3) {
            0 => Join::All,
            _ => Join::Count(1 + chance.below(2) as u32),
        };
        for edge in &edges {
            lines += &format!(
                "# {} -> {} on {:?}, {join:?}, again: {}, publishes: {}\n",
                edge.from,
                ids[*index],
                edge.on,
                edge.when.is_some(),
                !edge.publish.is_empty()
            );
        }
        let step = &mut workflow.steps[*index];
        (step.needs, step.start_on) = (Vec::new(), StartOn::Success);
        step.entry = Some(Entry { edges, join });
    }
    (workflow, lines)
}

/// The text of a workflow.
pub(super) fn workflow(chance: &mut Chance) -> String {
    let graph = chance.one_in(2);
    let mut text = "description: random\ninput: {app: string}\n".to_owned();
    if chance.one_in(4) {
        text += "timeout: 2h\n";
    }
    text += "steps:\n";
    let steps = 1 + chance.below(6) as usize;
    let before: Vec<usize> = (0..steps).collect();
    let written: Vec<String> = before.iter().map(|id| step(chance, *id, &before[..*id], graph)).collect();
    for step in &written {
        text += &indented(step, "  ");
    }
    // What an action gives is not known before; everything else is checked when it is read.
    let gives_anything = ["run: t.do\n", "run: t.once\n"]
        .iter()
        .any(|run| written[0].starts_with(&format!("- id: s0\n  {run}")));
    if gives_anything && !written[0].contains("for_each") && chance.one_in(4) {
        text += "output: {x: '{{ steps.s0.output.x }}'}\n";
    }
    if chance.one_in(2) {
        text += "on_failure:\n  - {id: tell, run: t.do}\n";
    }
    match chance.below(4) {
        0 | 1 => text += "finally:\n  - {id: clean, run: t.once}\n",
        2 => text += "finally:\n  - {id: clean, run: t.child}\n  - {id: sweep, run: t.do}\n",
        _ => (),
    }
    text
}
