//! Graphs with edges, which other syntaxes compile to: conditions, published values, joins, circles.

use super::*;
use crate::definitions::tree::Tree;
use crate::definitions::workflow::{Edge, Entry, Join, StartOn};

/// `from on when publish` of each edge to a step; a step without edges begins.
type Edges<'a> =
    &'a [(&'a str, &'a [(&'a str, StartOn, Option<&'a str>, Option<(&'a str, &'a str)>)], Join)];

fn stage(steps: &[&str], edges: Edges<'_>) -> Stage {
    let mut text = "description: d\noutput: {n: '{{ steps.a.output }}'}\nsteps:\n".to_owned();
    for step in steps {
        text += &format!("  - {{id: {step}, run: t.do, needs: []}}\n");
    }
    let definitions = definitions(&[("workflows/w.yaml", &text)]);
    let mut workflow = (*definitions.workflow_of("site.w").unwrap()).clone();
    for step in &mut workflow.steps {
        let found = edges.iter().find(|(id, ..)| *id == step.id);
        let (list, join) = found.map_or((&[][..], Join::All), |(_, edges, join)| (*edges, *join));
        let edge = |(from, on, when, publish): &(&str, StartOn, Option<&str>, Option<(&str, &str)>)| Edge {
            from: (*from).to_owned(),
            on: *on,
            when: when.map(|when| definitions.expr.script(when).unwrap()),
            publish: publish
                .iter()
                .map(|(name, text)| {
                    ((*name).to_owned(), Tree::Template(definitions.expr.template(text).unwrap()))
                })
                .collect(),
        };
        step.entry = Some(Entry { edges: list.iter().map(edge).collect(), join });
    }
    Stage::playing(definitions, Arc::new(workflow), json!({}))
}

#[test]
fn a_circle_goes_round_until_its_way_out_and_what_it_publishes_is_seen() {
    let mut stage = stage(
        &["a", "b", "c"],
        &[
            (
                "b",
                &[
                    ("a", StartOn::Success, None, None),
                    (
                        "b",
                        StartOn::Success,
                        Some("steps.b.output.again"),
                        Some(("n", "{{ steps.b.output.n }}")),
                    ),
                ],
                Join::Count(1),
            ),
            ("c", &[("b", StartOn::Success, Some("!steps.b.output.again"), None)], Join::All),
        ],
    );
    assert_eq!(stage.dispatched(), ["a"]);
    stage.done("a", json!({}));
    for n in 1..4 {
        stage.done("b", json!({"again": true, "n": n}));
        assert_eq!(stage.attempt("b").key.to_string(), format!("1/b#{}.1", n + 1));
        stage.restart();
    }
    assert_eq!(stage.run.published["n"], 3);
    stage.done("b", json!({"again": false}));
    stage.done("c", json!({}));
    assert_eq!((stage.run.status, stage.run.steps["b"].visit), (RunStatus::Succeeded, 4));
}

#[test]
fn a_join_waits_for_as_many_as_it_counts() {
    let all: &[_] = &[("a", StartOn::Success, None, None), ("b", StartOn::Success, None, None)];
    let mut every = stage(&["a", "b", "c"], &[("c", all, Join::All)]);
    assert_eq!(every.dispatched(), ["a", "b"]);
    every.done("b", json!({}));
    assert_eq!(every.dispatched().len(), 2);
    every.done("a", json!({}));
    assert_eq!(every.dispatched(), ["a", "b", "c"]);
    let mut one = stage(&["a", "b", "c"], &[("c", all, Join::Count(1))]);
    one.done("b", json!({}));
    assert_eq!(one.dispatched(), ["a", "b", "c"]);
    one.done("c", json!({}));
    one.done("a", json!({}));
    assert_eq!(one.attempt("c").key.visit, 2);
}

#[test]
fn an_edge_on_failure_leads_on_and_without_one_the_run_fails() {
    let mut stage_ = stage(&["a", "b"], &[("b", &[("a", StartOn::Failure, None, None)], Join::All)]);
    stage_.failed("a", ErrorKind::Failed);
    stage_.done("b", json!({}));
    assert_eq!(stage_.run.status, RunStatus::Succeeded);
    let mut other = stage(&["a", "b"], &[("b", &[("a", StartOn::Success, None, None)], Join::All)]);
    other.failed("a", ErrorKind::Failed);
    assert_eq!((other.run.status, other.status("b")), (RunStatus::Failed, StepStatus::NotStarted));
}

#[test]
fn a_circle_without_a_way_out_ends_and_says_so() {
    let mut stage = stage(
        &["a", "b"],
        &[(
            "b",
            &[("a", StartOn::Success, None, None), ("b", StartOn::Finished, None, None)],
            Join::Count(1),
        )],
    );
    stage.done("a", json!({}));
    for _ in 0..2000 {
        if stage.run.status.is_final() {
            break;
        }
        stage.done("b", json!({}));
    }
    assert_eq!(stage.run.status, RunStatus::Failed);
    let error = stage.run.error.as_ref().unwrap().to_string();
    assert!(error.contains("was entered 1000 times; does its circle have a way out?"), "{error}");
}
