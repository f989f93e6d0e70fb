//! Errors of rhai in our words, with their place.

use rhai::EvalAltResult;

use super::data::to_value;
use super::rhai::{ASSIGNED, OPTIONAL, place, sentence};
use super::{Failure, FailureKind, Scope, limits};
use crate::model::Value;

/// An error of rhai in our words.
pub(super) fn explain(error: &EvalAltResult, scope: Option<&Scope>) -> Failure {
    use EvalAltResult as E;
    let (line, column) = place(error.position()).unwrap_or((1, 1));
    let at = |message: String, kind: FailureKind| Failure { message, line, column, kind };
    let failed = |message: String| at(message, FailureKind::Error);
    let limit = |message: String| at(message, FailureKind::Limit);
    match error {
        E::ErrorInFunctionCall(name, _, inner, position) => {
            let inner = explain(inner, scope);
            // A closure stands in the same text, so the place inside it is the one to show.
            if name.contains('$') || inner.kind == FailureKind::Limit {
                return inner;
            }
            let (line, column) = place(*position).unwrap_or((inner.line, inner.column));
            Failure { message: format!("in {name}(): {}", inner.message), line, column, kind: inner.kind }
        }
        E::ErrorVariableNotFound(name, _) => failed(match scope {
            Some(scope) => scope.unknown(name),
            None => format!("there is no `{name}` here"),
        }),
        E::ErrorRuntime(value, _) => failed(match to_value(value) {
            Ok(Value::String(text)) => text,
            Ok(Value::Null) => "the script threw".to_owned(),
            Ok(other) => format!("the script threw {other}"),
            Err(_) => "the script threw".to_owned(),
        }),
        E::ErrorTooManyOperations(_) => {
            limit(format!("the script did more than {} operations", limits::OPERATIONS))
        }
        E::ErrorStackOverflow(_) => limit(format!(
            "the script's functions call one another more than {} levels deep",
            limits::CALL_LEVELS
        )),
        E::ErrorTooManyVariables(_) => {
            limit(format!("the script has more than {} variables at once", limits::VARIABLES))
        }
        E::ErrorDataTooLarge(what, _) => limit(format!(
            "{what}: at most {} bytes of text, {} items of lists, {} entries of maps",
            limits::STRING_BYTES,
            limits::LIST_ITEMS,
            limits::MAP_ENTRIES
        )),
        E::ErrorFunctionNotFound(signature, _) => failed(no_such_function(signature)),
        E::ErrorDotExpr(what, _) => failed(no_such_property(what)),
        E::ErrorIndexingType(what, _) => failed(format!("{} can't be indexed so", plain_types(what))),
        E::ErrorArrayBounds(length, index, _) => {
            failed(format!("the list has {length} items, there is no [{index}]"))
        }
        E::ErrorStringBounds(length, index, _) => {
            failed(format!("the text has {length} characters, there is no [{index}]"))
        }
        E::ErrorMismatchDataType(wanted, given, _) if !wanted.is_empty() => {
            failed(format!("{} belongs here, not {}", plain_types(wanted), plain_types(given)))
        }
        E::ErrorMismatchOutputType(wanted, given, _) => {
            failed(format!("{} belongs here, not {}", plain_types(wanted), plain_types(given)))
        }
        E::ErrorFor(_) => {
            failed("`for` goes over lists, ranges and texts only; for a map take its .keys()".to_owned())
        }
        E::ErrorAssignmentToConstant(name, _) => {
            failed(format!("`{name}` can't be changed; copy it with `let` first"))
        }
        E::ErrorNonPureMethodCallOnConstant(name, _) => {
            failed(format!("{name}() would change a value that can't be changed; copy it with `let` first"))
        }
        E::ErrorDataRace(..) => failed(
            "the function in brackets uses the variable that it is called on; copy that with `let` first"
                .to_owned(),
        ),
        E::ErrorArithmetic(message, _) => failed(sentence(message)),
        other => failed(sentence(other.to_string().split(" (line ").next().unwrap_or_default())),
    }
}

/// `trim (i64)` becomes words.
fn no_such_function(signature: &str) -> String {
    let (name, types) = signature.split_once(" (").unwrap_or((signature, ""));
    let types = types.trim_end_matches(')');
    let types: Vec<String> = types.split(", ").filter(|part| !part.is_empty()).map(plain_types).collect();
    if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return format!("`{name}` does not work on {}", types.join(" and "));
    }
    match types.as_slice() {
        [] => format!("{name}() does not work without a value"),
        types => format!("{name}() does not work on {}", types.join(" and ")),
    }
}

/// `Unknown property 'x' ...` becomes words.
fn no_such_property(what: &str) -> String {
    let mut quoted = what.split('\'').skip(1).step_by(2);
    let Some(name) = quoted.next() else { return sentence(what) };
    let name = name.trim_start_matches([OPTIONAL, ASSIGNED]);
    let owner =
        what.rsplit_once("type ").or_else(|| what.rsplit_once("for ")).map(|(_, owner)| plain_types(owner));
    match owner {
        Some(owner) => format!("{owner} has no `{name}`"),
        None => format!("there is no `{name}` here"),
    }
}

fn plain_types(rhai_type: &str) -> String {
    let plain = match rhai_type.trim().trim_matches('\'').split(" | ").next().unwrap_or_default() {
        "i64" | "f64" | "int" | "integer" => "a number",
        "string" | "&str" | "String" | "ImmutableString" | "char" => "a text",
        "bool" => "a boolean",
        "array" => "a list",
        "map" => "a map",
        "()" => "()",
        "Fn" => "a function",
        "range" | "range=" => "a range",
        other => return other.to_owned(),
    };
    plain.to_owned()
}
