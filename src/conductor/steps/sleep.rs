//! `sleep`: lets time pass.

use crate::conductor::advance::{Turn, broken};
use crate::definitions::tree::Tree;
use crate::definitions::workflow::Step as Definition;
use crate::model::step::StepState;
use crate::model::{RunError, Span, StepStatus, Timestamp, Value};

use super::plain;

pub(in crate::conductor) fn start(turn: &mut Turn<'_>, definition: &Definition, until: &Tree) {
    let rendered = plain(until, &turn.world.definitions.expr, &turn.scope_for(&definition.id))
        .map_err(|failure| broken(definition, "sleep", &failure))
        .and_then(|value| {
            moment(&value, turn.world.now).map_err(|why| RunError::failed(why).at(&definition.place))
        });
    match rendered {
        Ok(until) if until <= turn.world.now => turn.succeed(&definition.id, Value::Null),
        Ok(until) => turn.set(&definition.id, StepState::Sleeping { until }),
        Err(error) => turn.fail(&definition.id, StepStatus::Failed, error),
    }
}

/// A duration from `now`, or a time.
fn moment(value: &Value, now: Timestamp) -> Result<Timestamp, String> {
    let Some(text) = value.as_str() else {
        return Err(format!("`sleep` takes a duration (15m) or a time (2026-12-24T08:00:00Z), not {value}"));
    };
    text.parse::<Span>()
        .map(|span| now.plus(span))
        .or_else(|_| text.parse::<Timestamp>())
        .map_err(|_| format!("`{text}` is neither a duration (15m) nor a time (2026-12-24T08:00:00Z)"))
}
