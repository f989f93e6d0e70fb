//! `emit`: puts an event in, as if it had come from outside, once however often the step is carried out.

use crate::conductor::advance::{Turn, broken};
use crate::conductor::effect::Effect;
use crate::definitions::tree::Tree;
use crate::definitions::workflow::Step as Definition;
use crate::model::{StepKey, StepStatus, Value};

use super::plain_map;

pub(in crate::conductor) fn start(
    turn: &mut Turn<'_>,
    definition: &Definition,
    key: &str,
    trigger: &str,
    with: &[(String, Tree)],
) {
    match plain_map(with, &turn.world.definitions.expr, &turn.scope_for(key)) {
        Ok(payload) => {
            let of_step = StepKey::parse(key);
            let visit = turn.run.steps.get(of_step.id).map_or(1, |step| step.visit);
            let item = of_step.item.map(|item| format!("/{item}")).unwrap_or_default();
            let dedup = format!("{}/{}/{visit}{item}", turn.run.id, definition.id);
            turn.effects.push(Effect::Emit { trigger: trigger.to_owned(), payload, dedup });
            turn.succeed(key, Value::Null);
        }
        Err(failure) => {
            let error = broken(definition, "with", &failure);
            turn.fail(key, StepStatus::Failed, error);
        }
    }
}
