//! What operators, lists, maps and texts do in rhai where plain rhai does otherwise, or nothing.

use std::any::TypeId;

use rhai::{
    Array, Dynamic, Engine, EvalAltResult, FnPtr, FuncRegistration, ImmutableString, Map, NativeCallContext,
    Position,
};

use super::data::{Outcome, describe_dynamic, error, kind, to_dynamic, to_value};
use super::limits;
use super::rhai::{ASSIGNED, OPTIONAL};
use super::scope::{Branch, Way};
use crate::model::Value;

type Verdict = fn(std::cmp::Ordering) -> bool;
const COMPARISONS: [(&str, Verdict); 6] = [
    ("==", |order| order.is_eq()),
    ("!=", |order| order.is_ne()),
    ("<", |order| order.is_lt()),
    ("<=", |order| order.is_le()),
    (">", |order| order.is_gt()),
    (">=", |order| order.is_ge()),
];

pub(super) fn register_comparisons(engine: &mut Engine) {
    for (operator, verdict) in COMPARISONS {
        let any = TypeId::of::<Dynamic>();
        let list = TypeId::of::<Array>();
        let map = TypeId::of::<Map>();
        // rhai's own for lists and maps are more precise in type, so ours must be registered for these too.
        for types in [[any, any], [list, list], [map, map]] {
            engine.register_raw_fn(
                operator,
                types,
                move |_: NativeCallContext, arguments: &mut [&mut Dynamic]| {
                    compare(operator, verdict, arguments[0], arguments[1])
                },
            );
        }
        // The usual pairs are found at first glance so.
        engine.register_fn(operator, move |left: i64, right: i64| verdict(left.cmp(&right)));
        engine.register_fn(operator, move |left: bool, right: bool| verdict(left.cmp(&right)));
        engine.register_fn(operator, move |left: &str, right: &str| verdict(left.cmp(right)));
    }
}

fn compare(operator: &str, verdict: Verdict, left: &Dynamic, right: &Dynamic) -> Outcome<bool> {
    let is_equality = operator == "==" || operator == "!=";
    if left.is_unit() || right.is_unit() {
        return Ok(match operator {
            "==" => left.is_unit() && right.is_unit(),
            "!=" => !(left.is_unit() && right.is_unit()),
            _ => false,
        });
    }
    if kind(left) != kind(right) {
        return error(format!(
            "`{operator}` compares {} with {}, which never fit: convert one of them first",
            describe_dynamic(left),
            describe_dynamic(right)
        ));
    }
    if let (Ok(left), Ok(right)) = (left.as_int(), right.as_int()) {
        return Ok(verdict(left.cmp(&right)));
    }
    if let (Some(left), Some(right)) = (as_float(left), as_float(right)) {
        // A number that is none is unlike everything.
        return Ok(left.partial_cmp(&right).map_or(operator == "!=", verdict));
    }
    if let (Ok(left), Ok(right)) = (left.as_bool(), right.as_bool()) {
        return Ok(verdict(left.cmp(&right)));
    }
    if let (Some(left), Some(right)) = (as_text(left), as_text(right)) {
        return Ok(verdict(left.cmp(&right)));
    }
    if !is_equality {
        return error(format!("`{operator}` does not work on {}", kind(left)));
    }
    if left.is::<FnPtr>() {
        return error("functions can't be compared".to_owned());
    }
    let same = match (to_value(left), to_value(right)) {
        (Ok(left), Ok(right)) => same_values(&left, &right),
        (Err(message), _) | (_, Err(message)) => return error(message),
    };
    Ok(same == (operator == "=="))
}

/// Whether two values are alike; 1 is 1.0.
fn same_values(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_values(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| same_values(left, right)))
        }
        _ => left == right,
    }
}

fn as_float(value: &Dynamic) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "comparing a whole number with a float means as floats")]
    value.as_float().ok().or_else(|| value.as_int().ok().map(|whole| whole as f64))
}

fn as_text(value: &Dynamic) -> Option<String> {
    match value.as_char() {
        Ok(char) => Some(char.to_string()),
        Err(_) => value.read_lock::<ImmutableString>().map(|text| text.to_string()),
    }
}

/// `item in list`: an error when nothing in the list could ever be like it.
fn position_in(list: &[Dynamic], item: &Dynamic, operator: &str) -> Outcome<Option<usize>> {
    let comparable = |other: &Dynamic| other.is_unit() || item.is_unit() || kind(other) == kind(item);
    if let Some(first) = list.first()
        && !list.iter().any(comparable)
    {
        return error(format!(
            "`{operator}` looks for {} in a list of other things, such as {}: convert one of them first",
            describe_dynamic(item),
            describe_dynamic(first)
        ));
    }
    for (index, other) in list.iter().enumerate() {
        if comparable(other) && compare("==", |order| order.is_eq(), other, item)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

pub(super) fn register_lists(engine: &mut Engine) {
    let types = [TypeId::of::<Array>(), TypeId::of::<Dynamic>()];
    engine.register_raw_fn("contains", types, |_: NativeCallContext, arguments: &mut [&mut Dynamic]| {
        let item = std::mem::take(arguments[1]);
        let list = arguments[0].read_lock::<Array>();
        position_in(list.as_deref().map_or(&[], Vec::as_slice), &item, "in").map(|found| found.is_some())
    });
    engine.register_raw_fn("index_of", types, |_: NativeCallContext, arguments: &mut [&mut Dynamic]| {
        let item = std::mem::take(arguments[1]);
        let list = arguments[0].read_lock::<Array>();
        let found = position_in(list.as_deref().map_or(&[], Vec::as_slice), &item, "index_of")?;
        Ok(found.and_then(|index| i64::try_from(index).ok()).unwrap_or(-1))
    });
    engine.register_fn("join", |list: Array, between: &str| -> Outcome<ImmutableString> {
        let mut text = String::new();
        for (index, item) in list.iter().enumerate() {
            if index > 0 {
                text.push_str(between);
            }
            match to_value(item) {
                Ok(Value::String(piece)) => text.push_str(&piece),
                Ok(Value::Null) => return error(format!("join(): item {index} is ()")),
                Ok(other) => text.push_str(&other.to_string()),
                Err(message) => return error(message),
            }
            within_limit(text.len())?;
        }
        Ok(text.into())
    });
    // `x in event?.labels` is false where there are no labels.
    engine.register_fn("contains", |(): (), _item: Dynamic| false);
}

/// Maps from outside behave as rhai's own do, except that nothing changes them.
pub(super) fn register_maps(engine: &mut Engine) {
    engine.register_type_with_name::<Branch>("map");
    engine.register_indexer_get(|map: &mut Branch, key: &str| -> Outcome<Dynamic> {
        let (optional, key) = match key.strip_prefix(OPTIONAL) {
            Some(key) => (true, key),
            None => (false, key),
        };
        match entry(map, key)? {
            Some(value) => Ok(value),
            None if optional => Ok(Dynamic::UNIT),
            None => error(map.missing(key)),
        }
    });
    // rhai also writes back what a method was called on, changed or not.
    let write_back = |map: &mut Branch, key: &str, value: Dynamic| -> Outcome<()> {
        let key = key.trim_start_matches([OPTIONAL, ASSIGNED]);
        match entry(map, key)? {
            Some(old) if looks_the_same(&old, &value) => Ok(()),
            _ => error(format!(
                "{map} came from outside and can't be changed: copy what you need first, `let copy = ...`"
            )),
        }
    };
    FuncRegistration::new_index_setter().with_purity(true).register_into_engine(engine, write_back);
    engine.register_fn("len", |map: &mut Branch| keys(map).count() as i64);
    engine.register_fn("is_empty", |map: &mut Branch| keys(map).next().is_none());
    engine.register_fn("keys", |map: &mut Branch| keys(map).map(Dynamic::from).collect::<Array>());
    engine.register_fn("values", |map: &mut Branch| -> Outcome<Array> {
        Ok(own_map(map)?.into_values().collect())
    });
    engine.register_fn("contains", |map: &mut Branch, key: &str| map.child(key).is_some());
    engine.register_fn("get", |map: &mut Branch, key: &str| -> Outcome<Dynamic> {
        Ok(entry(map, key)?.unwrap_or(Dynamic::UNIT))
    });
    engine.register_fn("get", |map: &mut Branch, key: &str, otherwise: Dynamic| -> Outcome<Dynamic> {
        Ok(entry(map, key)?.unwrap_or(otherwise))
    });
    engine.register_fn("get", |map: &mut Map, key: &str, otherwise: Dynamic| {
        map.get(key).cloned().unwrap_or(otherwise)
    });
    for name in ["filter", "map"] {
        let types = [TypeId::of::<Branch>(), TypeId::of::<FnPtr>()];
        engine.register_raw_fn(
            name,
            types,
            move |context: NativeCallContext, arguments: &mut [&mut Dynamic]| {
                let function = std::mem::take(arguments[1]);
                let mut own: Dynamic = match arguments[0].read_lock::<Branch>() {
                    Some(map) => own_map(&map)?.into(),
                    None => Dynamic::UNIT,
                };
                context.call_native_fn_raw(name, true, &mut [&mut own, &mut function.clone()])
            },
        );
    }
    engine.register_fn("+", |left: Branch, right: Branch| merge(own_map(&left), own_map(&right)));
    engine.register_fn("+", |left: Map, right: Branch| merge(Ok(left), own_map(&right)));
    engine.register_fn("+", |left: Branch, right: Map| merge(own_map(&left), Ok(right)));
    engine.register_fn("+=", |left: &mut Map, right: Branch| -> Outcome<()> {
        left.extend(own_map(&right)?);
        Ok(())
    });
    for name in ["to_json", "to_string", "to_debug"] {
        engine.register_fn(name, |map: &mut Branch| -> Outcome<ImmutableString> {
            let text = map.value().to_string();
            within_limit(text.len())?;
            Ok(text.into())
        });
    }
}

/// Whether a method left a value as it was. Maps inside can't have been changed: they come from outside too.
fn looks_the_same(old: &Dynamic, new: &Dynamic) -> bool {
    if let (Some(old), Some(new)) = (old.read_lock::<Array>(), new.read_lock::<Array>()) {
        return old.len() == new.len()
            && old.iter().zip(new.iter()).all(|(old, new)| looks_the_same(old, new));
    }
    if let (Some(old), Some(new)) = (old.read_lock::<Branch>(), new.read_lock::<Branch>()) {
        return std::ptr::eq(old.value(), new.value());
    }
    !old.is::<Branch>()
        && !new.is::<Branch>()
        && kind(old) == kind(new)
        && matches!((to_value(old), to_value(new)), (Ok(old), Ok(new)) if old == new)
}

fn entry(map: &Branch, key: &str) -> Outcome<Option<Dynamic>> {
    map.child(key).map(|entry| to_dynamic(&entry)).transpose()
}

fn keys(map: &Branch) -> impl Iterator<Item = ImmutableString> {
    map.keys().into_iter().map(ImmutableString::from)
}

/// The map as rhai's own, one level deep.
fn own_map(map: &Branch) -> Outcome<Map> {
    keys(map)
        .map(|key| {
            let value = to_dynamic(&map.down(Way::Key(key.as_str().into())))?;
            Ok((key.as_str().into(), value))
        })
        .collect()
}

fn merge(left: Outcome<Map>, right: Outcome<Map>) -> Outcome<Map> {
    let mut map = left?;
    map.extend(right?);
    Ok(map)
}

fn within_limit(bytes: usize) -> Outcome<()> {
    if bytes <= limits::STRING_BYTES {
        return Ok(());
    }
    Err(Box::new(EvalAltResult::ErrorDataTooLarge("a text is too long".to_owned(), Position::NONE)))
}

/// Functions of texts: each returns, none changes its text.
pub(super) const TEXT_FUNCTIONS: &[&str] = &[
    "len",
    "bytes",
    "is_empty",
    "contains",
    "starts_with",
    "ends_with",
    "index_of",
    "trim",
    "trim_start",
    "trim_end",
    "to_upper",
    "to_lower",
    "replace",
    "sub_string",
    "split",
    "lines",
    "chars",
    "to_chars",
    "pad_start",
    "repeat",
    "reverse",
    "join",
];

pub(super) fn register_texts(engine: &mut Engine) {
    engine.register_fn("len", |text: &str| text.chars().count() as i64);
    engine.register_get("len", |text: &mut ImmutableString| text.chars().count() as i64);
    engine.register_get("is_empty", |text: &mut ImmutableString| text.is_empty());
    engine.register_fn("bytes", |text: &str| text.len() as i64);
    engine.register_fn("is_empty", |text: &str| text.is_empty());
    engine.register_fn("contains", |text: &str, part: &str| text.contains(part));
    engine.register_fn("contains", |text: &str, part: char| text.contains(part));
    engine.register_fn("starts_with", |text: &str, part: &str| text.starts_with(part));
    engine.register_fn("ends_with", |text: &str, part: &str| text.ends_with(part));
    engine.register_fn("index_of", |text: &str, part: &str| match text.find(part) {
        Some(at) => text[..at].chars().count() as i64,
        None => -1,
    });
    engine.register_fn("trim", |text: &str| ImmutableString::from(text.trim()));
    engine.register_fn("trim_start", |text: &str| ImmutableString::from(text.trim_start()));
    engine.register_fn("trim_end", |text: &str| ImmutableString::from(text.trim_end()));
    engine.register_fn("to_upper", |text: &str| text.to_uppercase());
    engine.register_fn("to_lower", |text: &str| text.to_lowercase());
    engine.register_fn("replace", |text: &str, old: &str, new: &str| -> Outcome<ImmutableString> {
        let growth = text.matches(old).count().saturating_mul(new.len());
        within_limit(text.len().saturating_add(growth))?;
        Ok(text.replace(old, new).into())
    });
    engine.register_fn("sub_string", |text: &str, start: i64| sub_string(text, start, i64::MAX));
    engine.register_fn("sub_string", sub_string);
    engine.register_fn("sub_string", |text: &str, range: std::ops::Range<i64>| {
        sub_string(text, range.start, range.end.saturating_sub(range.start))
    });
    engine.register_fn("sub_string", |text: &str, range: std::ops::RangeInclusive<i64>| {
        sub_string(text, *range.start(), range.end().saturating_sub(*range.start()).saturating_add(1))
    });
    engine.register_fn("split", |text: &str, between: &str| pieces(text.split(between)));
    engine.register_fn("split", |text: &str, between: &str, count: i64| {
        pieces(text.splitn(usize::try_from(count).unwrap_or(0), between))
    });
    engine.register_fn("split", |text: &str| pieces(text.split_whitespace()));
    engine.register_fn("lines", |text: &str| pieces(text.lines()));
    for name in ["chars", "to_chars"] {
        engine.register_fn(name, |text: &str| -> Outcome<Array> {
            within_list_limit(text.len())?;
            Ok(text.chars().map(|c| Dynamic::from(c.to_string())).collect())
        });
    }
    engine.register_fn("pad_start", |text: &str, length: i64, with: &str| -> Outcome<ImmutableString> {
        let missing = usize::try_from(length).unwrap_or(0).saturating_sub(text.chars().count());
        within_limit(text.len().saturating_add(missing.saturating_mul(with.len())))?;
        let padding: String = with.chars().cycle().take(if with.is_empty() { 0 } else { missing }).collect();
        Ok((padding + text).into())
    });
    engine.register_fn("repeat", |text: &str, times: i64| -> Outcome<ImmutableString> {
        let times = usize::try_from(times).unwrap_or(0);
        within_limit(text.len().saturating_mul(times))?;
        Ok(text.repeat(times).into())
    });
    engine.register_fn("reverse", |text: &str| text.chars().rev().collect::<String>());
    engine.register_fn("+", |text: &str, number: i64| format!("{text}{number}"));
    engine.register_fn("+", |text: &str, number: f64| format!("{text}{number}"));
    engine.register_fn("+", |text: &str, value: bool| format!("{text}{value}"));
    engine.register_fn("+", |number: i64, text: &str| format!("{number}{text}"));
}

/// Characters from `start` (from the end when negative), at most `length` of them.
fn sub_string(text: &str, start: i64, length: i64) -> ImmutableString {
    let count = text.chars().count();
    let start = match usize::try_from(start) {
        Ok(start) => start,
        Err(_) => count.saturating_sub(usize::try_from(start.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    text.chars().skip(start).take(usize::try_from(length).unwrap_or(0)).collect::<String>().into()
}

fn pieces<'a>(pieces: impl Iterator<Item = &'a str>) -> Outcome<Array> {
    let list: Array = pieces.take(limits::LIST_ITEMS + 1).map(|piece| piece.into()).collect();
    within_list_limit(list.len())?;
    Ok(list)
}

fn within_list_limit(items: usize) -> Outcome<()> {
    if items <= limits::LIST_ITEMS {
        return Ok(());
    }
    Err(Box::new(EvalAltResult::ErrorDataTooLarge("a list is too long".to_owned(), Position::NONE)))
}
