//! Pack `core`: the smallest actions.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `core.noop` | | nothing; `{}` |
//! | `core.echo` | `value` | `{value}` |
//! | `core.fail` | `message` | fails with this message |
//! | `core.kv_get` | `key` | `{value, version}`; null and 0 when there is no such key |
//! | `core.kv_set` | `key`, `value`, `ttl`, `if_version` | sets it, or fails when `if_version` is not its version (0: it must be absent); `{version}` |

use super::super::{Done, Failure, Job, object, optional_text, text_parameter};
use crate::model::desk::{Reply, Request};
use crate::model::{Object, Span, Value};

pub(super) async fn noop(_job: Job) -> Result<Done, Failure> {
    Ok(Done::with(Value::Object(Object::new())))
}

pub(super) async fn echo(job: Job) -> Result<Done, Failure> {
    let value = job.parameters.get("value").cloned().unwrap_or(Value::Null);
    Ok(Done::with(object([("value", value)])))
}

pub(super) async fn fail(job: Job) -> Result<Done, Failure> {
    Err(Failure::new(optional_text(&job.parameters, "message")?.unwrap_or("failed, as it was told to")))
}

pub(super) async fn kv_get(job: Job) -> Result<Done, Failure> {
    let key = text_parameter(&job.parameters, "key")?.to_owned();
    match job.line.ask(Request::KvGet { key }).await {
        Reply::Kv { value, version } => {
            let value = value.unwrap_or(Value::Null);
            Ok(Done::with(object([("value", value), ("version", Value::from(version))])))
        }
        reply => Err(unexpected(reply)),
    }
}

pub(super) async fn kv_set(job: Job) -> Result<Done, Failure> {
    let ttl = match optional_text(&job.parameters, "ttl")? {
        None => None,
        Some(text) => Some(text.parse::<Span>().map_err(Failure::new)?),
    };
    let request = Request::KvSet {
        key: text_parameter(&job.parameters, "key")?.to_owned(),
        value: job.parameters.get("value").cloned().unwrap_or(Value::Null),
        ttl,
        if_version: job.parameters.get("if_version").and_then(Value::as_i64),
    };
    match job.line.ask(request).await {
        Reply::Kv { version, .. } => Ok(Done::with(object([("version", Value::from(version))]))),
        reply => Err(unexpected(reply)),
    }
}

/// A reply that is no answer to what was asked.
pub(super) fn unexpected(reply: Reply) -> Failure {
    match reply {
        Reply::Refused { why } => Failure::new(why),
        _ => Failure::new(
            "the server gave an answer of another kind than was asked for; are both of the same version?",
        ),
    }
}
