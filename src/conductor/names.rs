//! The names that expressions of a workflow see (`semantics.md` has the table), built from a run.

use std::sync::Arc;

use serde_json::json;

use crate::expr::Scope;
use crate::model::{Object, Run, Step, Value};

use super::World;

/// `input steps run config apps`. With `reported`, a step that has no output shows what its attempts reported so far: what an undo reads.
pub(super) fn scope(world: World<'_>, run: &Run, reported: bool) -> Scope {
    let mut steps = Object::new();
    for (id, step) in &run.steps {
        steps.insert(id.clone(), step_value(step, reported));
    }
    Scope::new()
        .with("input", run.input.clone())
        .with("steps", Value::Object(steps))
        .with("run", run_value(world, run))
        .with("config", world.workflow.config.clone())
        .with("apps", Arc::clone(&world.definitions.apps))
}

fn step_value(step: &Step, reported: bool) -> Value {
    let output = if reported && step.output.is_null() { &step.reported } else { &step.output };
    json!({
        "status": step.status(),
        "output": output,
        "error": step.error,
        "attempts": step.attempts,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    })
}

/// `run` as expressions see it.
fn run_value(world: World<'_>, run: &Run) -> Value {
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
