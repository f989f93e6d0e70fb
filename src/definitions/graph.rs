//! What the steps of a workflow say of one another: ids, `needs`, and which outputs are read where.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{StepRead, unknown_field};
use super::fields::Fields;
use super::mistake::{Mistake, Place, suggestion};
use super::sheet::Sheet;
use super::workflow::Step;

/// A part of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Steps,
    OnFailure,
    Finally,
}

impl Section {
    pub(super) fn key(self) -> &'static str {
        match self {
            Section::Steps => "steps",
            Section::OnFailure => "on_failure",
            Section::Finally => "finally",
        }
    }
}

/// A step as it was read, with what must be looked up among its siblings.
pub(super) struct Written {
    pub(super) step: Step,
    /// What it says it needs.
    pub(super) needs: Option<Vec<(String, Place)>>,
    /// The steps that its expressions read.
    pub(super) reads: Vec<StepRead>,
    /// Those of its `undo`, which sees its own output as well.
    pub(super) own_reads: Vec<StepRead>,
    /// What it gives; none when that is not known.
    pub(super) outputs: Option<Fields>,
}

/// Fills in `needs` and reports everything that does not fit.
pub(super) fn check(sheet: &Sheet<'_>, sections: &mut [Vec<Written>; 3], output_reads: &[StepRead]) {
    if !check_ids(sheet, sections) {
        // Who is meant by such an id can't be said; but who is nobody can.
        find_strangers(sheet, sections, output_reads);
        return;
    }
    for section in sections.iter_mut() {
        fill_needs(sheet, section);
        find_cycle(sheet, section);
    }
    let outputs: BTreeMap<String, Option<Fields>> =
        sections.iter().flatten().map(|written| (written.step.id.clone(), written.outputs.clone())).collect();
    let of_steps: BTreeSet<&str> = sections[0].iter().map(|written| written.step.id.as_str()).collect();
    for (index, section) in sections.iter().enumerate() {
        let is_graph = section.iter().any(|written| written.needs.is_some());
        for written in section {
            let mut visible = ancestors(section, &written.step);
            match index {
                0 => (),
                1 => visible.extend(&of_steps),
                _ => visible.extend(
                    of_steps
                        .iter()
                        .copied()
                        .chain(sections[1].iter().map(|written| written.step.id.as_str())),
                ),
            }
            let id = written.step.id.as_str();
            for read in &written.reads {
                check_read(sheet, read, &outputs, &visible, Some((id, is_graph)));
            }
            visible.insert(id);
            for read in &written.own_reads {
                check_read(sheet, read, &outputs, &visible, Some((id, is_graph)));
            }
        }
    }
    for read in output_reads {
        check_read(sheet, read, &outputs, &of_steps, None);
    }
}

/// Reports the steps that are read and are not there.
fn find_strangers(sheet: &Sheet<'_>, sections: &[Vec<Written>; 3], output_reads: &[StepRead]) {
    let ids: BTreeSet<&str> = sections.iter().flatten().map(|written| written.step.id.as_str()).collect();
    let reads = sections.iter().flatten().flat_map(|written| written.reads.iter().chain(&written.own_reads));
    for read in reads.chain(output_reads).filter(|read| !ids.contains(read.step.as_str())) {
        let message = format!("there is no step `{}` in this workflow", read.step);
        let help = suggestion(&read.step, ids.iter().copied());
        sheet.add(Mistake { place: read.place.clone(), message, help });
    }
}

fn check_ids(sheet: &Sheet<'_>, sections: &[Vec<Written>; 3]) -> bool {
    let mut is_clear = true;
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    for written in sections.iter().flatten() {
        if let Some(place) = first.insert(&written.step.id, &written.step.place) {
            is_clear = false;
            let message = format!(
                "two steps are called `{}`; the other stands in line {}",
                written.step.id, place.line
            );
            sheet.add(Mistake {
                place: written.step.place.clone(),
                message,
                help: Some("give each its own `id`".to_owned()),
            });
        }
    }
    is_clear
}

/// A list: each needs the one above. A graph: what the steps say.
fn fill_needs(sheet: &Sheet<'_>, section: &mut [Written]) {
    let ids: Vec<String> = section.iter().map(|written| written.step.id.clone()).collect();
    let is_graph = section.iter().any(|written| written.needs.is_some());
    for (index, written) in section.iter_mut().enumerate() {
        let own = &ids[index];
        written.step.needs = match &written.needs {
            None if !is_graph => index.checked_sub(1).map(|above| ids[above].clone()).into_iter().collect(),
            None => {
                if index > 0 {
                    let message =
                        format!("step `{own}` does not say what it needs, and others of this graph do");
                    let help = format!("needs: [{}], or `needs: []` for nothing", ids[index - 1]);
                    sheet.add(Mistake { place: written.step.place.clone(), message, help: Some(help) });
                }
                Vec::new()
            }
            Some(needs) => {
                let mut kept: Vec<String> = Vec::new();
                for (need, place) in needs {
                    let wrong = |message: String, help: Option<String>| {
                        sheet.add(Mistake { place: place.clone(), message, help })
                    };
                    if need == own {
                        wrong(format!("step `{own}` needs itself"), None);
                    } else if !ids.contains(need) {
                        let help = suggestion(need, ids.iter().filter(|id| *id != own).map(String::as_str));
                        wrong(format!("step `{own}` needs `{need}`, which is no step here"), help);
                    } else if kept.contains(need) {
                        wrong(format!("`{need}` stands here twice"), None);
                    } else {
                        kept.push(need.clone());
                    }
                }
                kept
            }
        };
    }
}

/// Reports one way around, if there is one: at the step of the circle that stands first.
fn find_cycle(sheet: &Sheet<'_>, section: &mut [Written]) {
    let needs: BTreeMap<&str, Vec<&str>> = section
        .iter()
        .map(|written| (written.step.id.as_str(), written.step.needs.iter().map(String::as_str).collect()))
        .collect();
    // What is left after taking away, again and again, all that needs nothing of what is left, goes in circles.
    let mut left: BTreeSet<&str> = needs.keys().copied().collect();
    loop {
        let free: Vec<&str> = left
            .iter()
            .copied()
            .filter(|id| !needs.get(id).into_iter().flatten().any(|need| left.contains(need)))
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|id| !free.contains(id));
    }
    let Some(first) = section.iter().find(|written| left.contains(written.step.id.as_str())) else { return };
    let mut path = vec![first.step.id.as_str()];
    let (mut at, mut start) = (first.step.id.as_str(), 0);
    while let Some(next) = needs.get(at).into_iter().flatten().copied().find(|need| left.contains(need)) {
        if let Some(seen) = path.iter().position(|id| *id == next) {
            start = seen;
            path.push(next);
            break;
        }
        path.push(next);
        at = next;
    }
    let circle: Vec<String> = path[start..].iter().map(|id| format!("`{id}`")).collect();
    let place = section.iter().find(|written| written.step.id == path[start]).map(|written| {
        written
            .needs
            .iter()
            .flatten()
            .next()
            .map_or_else(|| written.step.place.clone(), |(_, place)| place.clone())
    });
    if let Some(place) = place {
        let message = format!("these steps wait for one another: {}", circle.join(" needs "));
        sheet.add(Mistake { place, message, help: Some("take one of these needs away".to_owned()) });
    }
}

/// All that a step waits for, also through others.
fn ancestors<'a>(section: &'a [Written], step: &'a Step) -> BTreeSet<&'a str> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = step.needs.iter().map(String::as_str).collect();
    let by_id: BTreeMap<&str, &Step> =
        section.iter().map(|written| (written.step.id.as_str(), &written.step)).collect();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(by_id.get(id).into_iter().flat_map(|step| step.needs.iter().map(String::as_str)));
        }
    }
    found
}

fn check_read(
    sheet: &Sheet<'_>,
    read: &StepRead,
    outputs: &BTreeMap<String, Option<Fields>>,
    visible: &BTreeSet<&str>,
    reader: Option<(&str, bool)>,
) {
    let step = &read.step;
    let wrong = |message: String, help: Option<String>| {
        sheet.add(Mistake { place: read.place.clone(), message, help })
    };
    let Some(known) = outputs.get(step) else {
        let own = reader.map(|(id, _)| id);
        let help = suggestion(step, outputs.keys().map(String::as_str).filter(|id| Some(*id) != own));
        return wrong(format!("there is no step `{step}` in this workflow"), help);
    };
    if !visible.contains(step.as_str()) {
        return match reader {
            Some((id, _)) if id == step => wrong(
                format!("step `{id}` reads its own output"),
                Some("only its `undo` can do that".to_owned()),
            ),
            Some((id, true)) => wrong(
                format!("step `{id}` reads `steps.{step}` but does not wait for it"),
                Some(format!("add `{step}` to its `needs`")),
            ),
            Some((id, false)) => {
                let help = format!("put `{step}` above `{id}`");
                wrong(format!("step `{id}` reads `steps.{step}` but does not wait for it"), Some(help));
            }
            None => {
                wrong(format!("`steps.{step}` is not known yet where the workflow's `output` is made"), None)
            }
        };
    }
    let (Some(fields), Some(("output", path))) =
        (known, read.path.split_first().map(|(first, path)| (first.as_str(), path)))
    else {
        return;
    };
    if read.optional || path.is_empty() {
        return;
    }
    if let Some((message, help)) = unknown_field(fields, path, &format!("steps.{step}.output")) {
        wrong(message, help);
    }
}
