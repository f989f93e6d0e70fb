//! The names that expressions of a workflow see (`semantics.md` has the table), built from a run.

use std::sync::Arc;

use serde_json::json;

use crate::expr::{Parts, Scope};
use crate::model::{Run, Step, Value};

use super::World;

/// `input steps run config apps`. With `reported`, a step that has no output shows what its attempts reported so far: what an undo reads.
pub(super) fn scope(world: World<'_>, run: &Run, reported: bool) -> Scope {
    let mut steps = Parts::new();
    for (id, step) in run.outer.iter().flat_map(|outer| &outer.steps) {
        steps.add_value(id, step.shared());
    }
    for (id, step) in &run.steps {
        steps.add(id, step_parts(step, reported));
    }
    let of_run = match &run.outer {
        Some(outer) => outer.run.shared(),
        None => Arc::new(run_value(world, run)),
    };
    let mut scope = Scope::new()
        .with("input", run.input.shared())
        .with_parts("steps", steps)
        .with("run", of_run)
        .with("config", world.workflow.config.clone())
        .with("apps", Arc::clone(&world.definitions.apps));
    if !run.published.is_empty() {
        scope = scope.with("vars", Value::Object(run.published.clone()));
    }
    for (name, value) in run.outer.iter().flat_map(|outer| &outer.names) {
        scope = scope.with(name, value.shared());
    }
    scope
}

/// A step as expressions see it; what it gave is shared, not copied.
fn step_parts(step: &Step, reported: bool) -> Parts {
    let output = if reported && step.output.is_null() { &step.reported } else { &step.output };
    Parts::new()
        .with("status", json!(step.status()))
        .with("output", output.shared())
        .with("error", json!(step.error))
        .with("attempts", json!(step.attempts))
        .with("started_at", json!(step.started_at))
        .with("finished_at", json!(step.finished_at))
}

/// A step as a group sees it that is done as a run of its own.
pub(super) fn step_value(step: &Step) -> Value {
    json!({
        "status": step.status(),
        "output": *step.output,
        "error": step.error,
        "attempts": step.attempts,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    })
}

/// `run` as expressions see it.
pub(super) fn run_value(world: World<'_>, run: &Run) -> Value {
    let failed_step = run.error.as_ref().and_then(|error| error.step.clone());
    json!({
        "id": run.id,
        "url": run_url(world.public_url, run),
        "workflow": run.workflow,
        "status": run.verdict.unwrap_or(run.status),
        "started_by": run.started_by.to_string(),
        "started_at": run.started_at,
        "failed_step": failed_step,
        "error": run.error,
    })
}

fn run_url(public_url: &str, run: &Run) -> String {
    format!("{}/runs/{}", public_url.trim_end_matches('/'), run.id)
}
