//! `approve`: a question to people. Votes are counted where they are stored; what they decide comes in here.

use serde_json::json;

use crate::conductor::advance::{Turn, broken};
use crate::conductor::effect::Effect;
use crate::conductor::undo;
use crate::definitions::tree::Tree;
use crate::definitions::workflow::{Approve, Kind, Step as Definition};
use crate::expr::Scope;
use crate::model::approval::Question;
use crate::model::step::StepState;
use crate::model::{Actor, ErrorKind, RunError, Span, StepStatus, Value};

use super::{plain, plain_map};

const DEFAULT_TIMEOUT: Span = Span::days(7);

pub(in crate::conductor) fn start(turn: &mut Turn<'_>, definition: &Definition, approve: &Approve) {
    match question(turn, definition, approve) {
        Ok(question) => {
            turn.set(
                &definition.id,
                StepState::Approving {
                    expires_at: question.expires_at,
                    remind: approve.remind.map(|span| turn.world.now.plus(span)),
                },
            );
            turn.effects.push(Effect::Ask { question });
        }
        Err(error) => turn.fail(&definition.id, StepStatus::Failed, error),
    }
}

fn question(turn: &Turn<'_>, definition: &Definition, approve: &Approve) -> Result<Question, RunError> {
    let (expr, scope) = (&turn.world.definitions.expr, turn.scope_for(&definition.id));
    let render = |key: &str, tree: &Tree| {
        plain(tree, expr, &scope).map_err(|failure| broken(definition, key, &failure))
    };
    let wrong = |text: String| RunError::failed(text).at(&definition.place);
    let of = names_in(&render("of", &approve.of)?);
    if of.is_empty() {
        return Err(wrong(format!("`of` of step `{}` names nobody who could answer", definition.id)));
    }
    let count = render("count", &approve.count)?;
    let count =
        count.as_u64().or_else(|| count.as_str()?.parse().ok()).and_then(|count| u32::try_from(count).ok());
    let Some(count) = count.filter(|count| *count > 0) else {
        return Err(wrong(format!("`count` of step `{}` must be a whole number from 1", definition.id)));
    };
    let distinct_from = match &approve.distinct_from {
        None => turn.run.starter().map(str::to_owned).into_iter().collect(),
        Some(trees) => distinct(turn, definition, trees, &scope)?,
    };
    let show =
        plain_map(&approve.show, expr, &scope).map_err(|failure| broken(definition, "show", &failure))?;
    Ok(Question {
        step: definition.id.clone(),
        ask: text(&render("ask", &approve.ask)?),
        of,
        count,
        distinct_from,
        show,
        fields: approve.fields_shown.clone(),
        warnings: warnings(turn),
        // As they would be done were the run to fail now.
        undos: undo::shown(turn.world, turn.run),
        expires_at: turn.world.now.plus(approve.timeout.or(definition.timeout).unwrap_or(DEFAULT_TIMEOUT)),
    })
}

/// People who may not decide: `starter` is the run's, anything else is a name.
fn distinct(
    turn: &Turn<'_>,
    definition: &Definition,
    trees: &[Tree],
    scope: &Scope,
) -> Result<Vec<String>, RunError> {
    let mut people = Vec::new();
    for tree in trees {
        let value = plain(tree, &turn.world.definitions.expr, scope)
            .map_err(|failure| broken(definition, "distinct_from", &failure))?;
        for name in names_in(&value) {
            match name.as_str() {
                "starter" => people.extend(turn.run.starter().map(str::to_owned)),
                _ => people.push(name),
            }
        }
    }
    Ok(people)
}

/// A rule said on whose behalf it acts, and nobody here is linked to that name: four eyes can't be sure.
fn warnings(turn: &Turn<'_>) -> Vec<String> {
    let Actor::Rule { on_behalf_of: Some(person), .. } = &turn.run.started_by else { return Vec::new() };
    if turn.world.definitions.site.users.contains_key(person) {
        return Vec::new();
    }
    vec![format!("started on behalf of `{person}`, to whom no user is linked")]
}

pub(in crate::conductor) fn approved(
    turn: &mut Turn<'_>,
    key: &str,
    by: &[String],
    comment: Option<&str>,
    answers: &Value,
) {
    if !asks(turn, key) {
        return;
    }
    let mut output = match answers {
        Value::Object(answers) => answers.clone(),
        _ => crate::model::Object::new(),
    };
    output.entry("approved_by").or_insert_with(|| json!(by));
    if let Some(comment) = comment {
        output.entry("comment").or_insert_with(|| json!(comment));
    }
    turn.note("approved", Some(key), Some(format!("by {}", by.join(", "))));
    turn.succeed(key, Value::Object(output));
}

pub(in crate::conductor) fn rejected(turn: &mut Turn<'_>, key: &str, by: &str, comment: Option<&str>) {
    if !asks(turn, key) {
        return;
    }
    let why = comment.map(|comment| format!(": {comment}")).unwrap_or_default();
    turn.refuse(key, RunError::new(ErrorKind::Rejected, format!("rejected by {by}{why}")));
}

/// Time passed: those who have not answered are asked again, or it is too late.
pub(in crate::conductor) fn tick(turn: &mut Turn<'_>, key: &str) {
    let Some(StepState::Approving { expires_at, .. }) = turn.run.step(key).map(|step| step.state.clone())
    else {
        return;
    };
    let now = turn.world.now;
    if expires_at <= now {
        return expired(turn, key);
    }
    let every = match turn.definition(key).map(|definition| &definition.kind) {
        Some(Kind::Approve(approve)) => approve.remind,
        _ => None,
    };
    turn.set(key, StepState::Approving { expires_at, remind: every.map(|span| now.plus(span)) });
    turn.note("reminded", Some(key), None);
    turn.effects.push(Effect::Remind { step: key.to_owned() });
}

fn expired(turn: &mut Turn<'_>, key: &str) {
    turn.effects.push(Effect::Withdraw { step: key.to_owned(), expired: true });
    let error = RunError::new(ErrorKind::TimedOut, "nobody decided in time");
    turn.fail(key, StepStatus::TimedOut, error);
}

fn asks(turn: &Turn<'_>, key: &str) -> bool {
    turn.run.step(key).is_some_and(|step| matches!(step.state, StepState::Approving { .. }))
}

/// A list of names, or one.
fn names_in(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::Null => Vec::new(),
        one => vec![text(one)],
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
