//! What each kind of step does when it starts and when something comes for it: one file per kind.

pub(super) mod action;
pub(super) mod approve;
pub(super) mod child;
pub(super) mod each;
pub(super) mod emit;
pub(super) mod group;
pub(super) mod repeat;
pub(super) mod sleep;
pub(super) mod wait_for;
pub(super) mod watch;

use crate::definitions::tree::{self, Tree};
use crate::expr::{Expr, Failure, Scope};
use crate::model::{Object, Run, RunError, Value};

use super::World;

/// The workflow's `output`.
pub(super) fn output_of(world: World<'_>, run: &Run, scope: &Scope) -> Result<Value, RunError> {
    let workflow = world.workflow;
    if workflow.gives_steps {
        return Ok(outputs_of_steps(world, run));
    }
    let broken = |failure: Failure| {
        RunError::failed(format!("`output` of {}: {}", workflow.name, failure.message)).at(&workflow.place)
    };
    if let Some(whole) = &workflow.whole_output {
        return plain(whole, &world.definitions.expr, scope).map_err(broken);
    }
    plain_map(&workflow.output, &world.definitions.expr, scope).map_err(broken)
}

/// What a group gives: what its own steps gave, by their ids.
fn outputs_of_steps(world: World<'_>, run: &Run) -> Value {
    let own = world.workflow.steps.iter().filter(|definition| definition.group.is_none());
    let output = |id: &str| run.steps.get(id).map_or(Value::Null, |step| (*step.output).clone());
    own.map(|definition| (definition.id.clone(), output(&definition.id))).collect::<Object>().into()
}

/// Renders where no secret may stand; `check` has seen to that, so a hole shows as `***`.
pub(super) fn plain(tree: &Tree, expr: &Expr, scope: &Scope) -> Result<Value, Failure> {
    Ok(tree.render(expr, scope)?.masked())
}

/// As `plain`, for entries; those that are wholly `()` are dropped.
pub(super) fn plain_map(entries: &[(String, Tree)], expr: &Expr, scope: &Scope) -> Result<Value, Failure> {
    Ok(tree::render_map(entries, expr, scope)?.masked())
}
