//! `emit`: puts an event in, as if it had come from outside, once however often the step is carried out.

use crate::conductor::advance::{Turn, broken};
use crate::conductor::effect::Effect;
use crate::definitions::tree::Tree;
use crate::definitions::workflow::Step as Definition;
use crate::model::{StepStatus, Value};

use super::plain_map;

pub(in crate::conductor) fn start(
    turn: &mut Turn<'_>,
    definition: &Definition,
    trigger: &str,
    with: &[(String, Tree)],
) {
    match plain_map(with, &turn.world.definitions.expr, &turn.scope()) {
        Ok(payload) => {
            let visit = turn.run.step(&definition.id).map_or(1, |step| step.visit);
            let dedup = format!("{}/{}/{visit}", turn.run.id, definition.id);
            turn.effects.push(Effect::Emit { trigger: trigger.to_owned(), payload, dedup });
            turn.succeed(&definition.id, Value::Null);
        }
        Err(failure) => {
            let error = broken(definition, "with", &failure);
            turn.fail(&definition.id, StepStatus::Failed, error);
        }
    }
}
