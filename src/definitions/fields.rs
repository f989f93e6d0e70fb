//! The typed fields of an input: `app: string`, `bake: {type: duration, default: 15m}`.

use indexmap::IndexMap;
use serde_json::json;

use super::mistake::{nearest, suggestion};
use super::sheet::{Keys, Sheet};
use super::yaml::{Content, Node};
use crate::model::{Filled, Object, Span, Value};

/// Fields by name, in the order of writing.
pub type Fields = IndexMap<String, Field>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Any,
    String,
    Integer,
    Number,
    Boolean,
    Duration,
    Array,
    Object,
    File,
}

impl Type {
    pub const ALL: [Type; 9] = [
        Type::Any,
        Type::String,
        Type::Integer,
        Type::Number,
        Type::Boolean,
        Type::Duration,
        Type::Array,
        Type::Object,
        Type::File,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Type::Any => "any",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            Type::Duration => "duration",
            Type::Array => "array",
            Type::Object => "object",
            Type::File => "file",
        }
    }
}

impl Type {
    /// What bounds of it are: a length is a whole number too.
    fn bound(self) -> Type {
        if self == Type::Number { Type::Number } else { Type::Integer }
    }
}

/// One field of an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub kind: Type,
    pub description: Option<String>,
    pub default: Option<Value>,
    pub optional: bool,
    /// `enum`.
    pub choices: Option<Vec<Value>>,
    pub pattern: Option<String>,
    /// The least value of a number, length of a text or list, or number of entries of a map.
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub items: Option<Box<Field>>,
    pub properties: Option<Fields>,
    pub secret: bool,
    pub verbatim: bool,
}

impl Field {
    /// A field of a type and nothing else.
    pub fn new(kind: Type) -> Field {
        Field {
            kind,
            description: None,
            default: None,
            optional: false,
            choices: None,
            pattern: None,
            min: None,
            max: None,
            items: None,
            properties: None,
            secret: false,
            verbatim: false,
        }
    }

    pub fn is_required(&self) -> bool {
        self.default.is_none() && !self.optional
    }

    /// The field as data, for people and programs that ask what is wanted.
    pub fn shown(&self) -> Value {
        let mut shown = Object::new();
        shown.insert("type".to_owned(), json!(self.kind.as_str()));
        let mut add = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                shown.insert(key.to_owned(), value);
            }
        };
        add("description", self.description.as_ref().map(|text| json!(text)));
        add("default", self.default.clone());
        add("optional", self.optional.then_some(json!(true)));
        add("enum", self.choices.as_ref().map(|choices| json!(choices)));
        add("pattern", self.pattern.as_ref().map(|text| json!(text)));
        add("min", self.min.map(|number| whole(self.kind.bound(), &json!(number))));
        add("max", self.max.map(|number| whole(self.kind.bound(), &json!(number))));
        add("items", self.items.as_ref().map(|field| field.shown()));
        add("properties", self.properties.as_ref().map(shown_fields));
        add("secret", self.secret.then_some(json!(true)));
        add("verbatim", self.verbatim.then_some(json!(true)));
        Value::Object(shown)
    }
}

/// Fields as data: name → `{type, description, ...}`.
pub fn shown_fields(fields: &Fields) -> Value {
    Value::Object(fields.iter().map(|(name, field)| (name.clone(), field.shown())).collect())
}

/// Holds what is given against the fields: defaults are filled in; unknown, missing and mistyped ones are refused, all at once. With
/// `lenient`, strings (from templates, chat, the command line) are read as the declared type; nothing else is coerced. Durations stay text.
/// A value with secrets in it counts as a string.
///
/// # Errors
/// One message per mistake.
pub fn accept(fields: &Fields, given: &Filled, lenient: bool) -> Result<Filled, Vec<String>> {
    let mut messages = Vec::new();
    let names: Vec<String> = match given {
        Filled::Plain(Value::Object(object)) => object.keys().cloned().collect(),
        Filled::Map(entries) => entries.iter().map(|(name, _)| name.clone()).collect(),
        Filled::Plain(Value::Null) => Vec::new(),
        Filled::Plain(_) | Filled::Text(_) | Filled::List(_) => {
            return Err(vec!["a map of values is wanted".to_owned()]);
        }
    };
    for name in names.iter().filter(|name| !fields.contains_key(*name)) {
        messages.push(unknown(name, fields));
    }
    let mut accepted = Vec::new();
    for (name, field) in fields {
        match given.get(name).filter(|value| *value != Filled::Plain(Value::Null)) {
            Some(value) => match accept_filled(name, field, &value, lenient) {
                Ok(value) => accepted.push((name.clone(), value)),
                Err(more) => messages.extend(more),
            },
            None if field.default.is_some() => {
                accepted.push((name.clone(), Filled::Plain(field.default.clone().unwrap_or_default())));
            }
            None if field.optional => (),
            // Null is a value of `any`.
            None if field.kind == Type::Any && names.contains(name) => {
                accepted.push((name.clone(), Filled::Plain(Value::Null)))
            }
            None => messages.push(format!("`{name}` is missing")),
        }
    }
    if messages.is_empty() { Ok(Filled::map(accepted)) } else { Err(messages) }
}

fn unknown(name: &str, fields: &Fields) -> String {
    match nearest(name, fields.keys().map(String::as_str)) {
        Some(near) => format!("there is no `{name}`; did you mean `{near}`?"),
        None => format!("there is no `{name}`"),
    }
}

fn accept_filled(name: &str, field: &Field, value: &Filled, lenient: bool) -> Result<Filled, Vec<String>> {
    let fits = match value {
        Filled::Plain(value) => return accept_value(name, field, value, lenient).map(Filled::Plain),
        Filled::Text(_) => matches!(field.kind, Type::Any | Type::String),
        Filled::List(_) => matches!(field.kind, Type::Any | Type::Array),
        Filled::Map(_) => matches!(field.kind, Type::Any | Type::Object),
    };
    if fits {
        Ok(value.clone())
    } else {
        Err(vec![format!("`{name}` must be {}, and a secret is text", article(field.kind))])
    }
}

/// A literal against its field: nothing is coerced.
pub(super) fn accept_one(name: &str, field: &Field, value: &Value) -> Result<Value, Vec<String>> {
    accept_value(name, field, value, false)
}

fn accept_value(name: &str, field: &Field, value: &Value, lenient: bool) -> Result<Value, Vec<String>> {
    let value = if lenient { parsed(field.kind, value) } else { value.clone() };
    let wrong = |message: String| Err(vec![format!("`{name}` {message}")]);
    if !is_of(field.kind, &value) {
        return wrong(format!("must be {}, not {}", article(field.kind), described(&value)));
    }
    if let (Type::Duration, Some(text)) = (field.kind, value.as_str())
        && let Err(message) = text.parse::<Span>()
    {
        return wrong(format!("must be a duration: {message}"));
    }
    if let Some(choices) = &field.choices
        && !choices.contains(&value)
    {
        let choices: Vec<String> = choices.iter().map(plain_text).collect();
        return wrong(format!("must be one of {}, not {}", choices.join(", "), described(&value)));
    }
    if let (Some(pattern), Some(text)) = (&field.pattern, value.as_str())
        && !regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
    {
        return wrong(format!("must match {pattern}, and {} does not", described(&value)));
    }
    if let Some(message) = out_of_bounds(field, &value) {
        return wrong(message);
    }
    match (value, &field.items, &field.properties) {
        (Value::Array(items), Some(inner), _) => {
            let items = items
                .iter()
                .enumerate()
                .map(|(index, item)| accept_value(&format!("{name}[{index}]"), inner, item, lenient));
            gather(items).map(Value::Array)
        }
        (Value::Object(object), _, Some(properties)) => accept_object(name, properties, &object, lenient),
        (value, _, _) => Ok(value),
    }
}

fn gather(results: impl Iterator<Item = Result<Value, Vec<String>>>) -> Result<Vec<Value>, Vec<String>> {
    let (mut values, mut messages) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(more) => messages.extend(more),
        }
    }
    if messages.is_empty() { Ok(values) } else { Err(messages) }
}

fn accept_object(
    name: &str,
    properties: &Fields,
    object: &Object,
    lenient: bool,
) -> Result<Value, Vec<String>> {
    match accept(properties, &Filled::Plain(Value::Object(object.clone())), lenient) {
        Ok(accepted) => Ok(accepted.masked()),
        Err(messages) => Err(messages.into_iter().map(|message| format!("in `{name}`: {message}")).collect()),
    }
}

/// A string read as the declared type; as it is when that fails.
fn parsed(kind: Type, value: &Value) -> Value {
    let Some(text) = value.as_str() else { return whole(kind, value) };
    let read = match kind {
        Type::Integer => text.trim().parse::<i64>().ok().map(Value::from),
        Type::Number => text.trim().parse::<i64>().ok().map(Value::from).or_else(|| {
            text.trim().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number)
        }),
        Type::Boolean => match text.trim() {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => None,
        },
        Type::Array | Type::Object => {
            serde_json::from_str::<Value>(text).ok().filter(|read| is_of(kind, read))
        }
        Type::Any | Type::String | Type::Duration | Type::File => None,
    };
    read.unwrap_or_else(|| value.clone())
}

/// A whole number as one: 3.0, as some write it, is 3.
fn whole(kind: Type, value: &Value) -> Value {
    let fits = |number: &f64| number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    match (kind, value.as_f64().filter(fits)) {
        (Type::Integer, Some(number)) if value.is_f64() => Value::from(number as i64),
        _ => value.clone(),
    }
}

fn is_of(kind: Type, value: &Value) -> bool {
    match kind {
        Type::Any => true,
        Type::String | Type::Duration => value.is_string(),
        Type::Integer => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        Type::Number => value.is_number(),
        Type::Boolean => value.is_boolean(),
        Type::Array => value.is_array(),
        Type::Object => value.is_object(),
        Type::File => value.is_string() || value.is_object(),
    }
}

fn out_of_bounds(field: &Field, value: &Value) -> Option<String> {
    let (size, what) = match value {
        Value::Number(number) => (number.as_f64()?, ""),
        Value::String(text) => (text.chars().count() as f64, " characters"),
        Value::Array(items) => (items.len() as f64, " items"),
        Value::Object(entries) => (entries.len() as f64, " entries"),
        Value::Null | Value::Bool(_) => return None,
    };
    match (field.min, field.max) {
        (Some(min), _) if size < min => Some(format!("must be at least {min}{what}, not {size}")),
        (_, Some(max)) if size > max => Some(format!("must be at most {max}{what}, not {size}")),
        _ => None,
    }
}

fn article(kind: Type) -> String {
    match kind {
        Type::Integer => "a whole number".to_owned(),
        Type::Boolean => "true or false".to_owned(),
        Type::Array => "a list".to_owned(),
        Type::Object => "a map".to_owned(),
        Type::Any => "any value".to_owned(),
        Type::String => "text".to_owned(),
        kind => format!("a {}", kind.as_str()),
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        Value::String(text) => format!("`{}` (text)", shortened(text)),
        other => format!("`{other}`"),
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(57).chain("...".chars()).collect()
}

fn plain_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

// Reading.

pub(super) const FIELD: Keys = Keys {
    of: "a field",
    built: &[
        "type",
        "default",
        "optional",
        "enum",
        "pattern",
        "min",
        "max",
        "items",
        "properties",
        "secret",
        "verbatim",
        "description",
    ],
    later: &[],
};

/// Names that people write for types out of habit.
const OTHER_NAMES: [(&str, &str); 10] = [
    ("str", "string"),
    ("text", "string"),
    ("int", "integer"),
    ("float", "number"),
    ("bool", "boolean"),
    ("list", "array"),
    ("map", "object"),
    ("dict", "object"),
    ("time", "duration"),
    ("path", "file"),
];

/// Reads `{app: string, bake: {type: duration, default: 15m}}`.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, what: &str) -> Fields {
    let mut fields = Fields::new();
    for entry in sheet.entries(node, &format!("`{what}`")).unwrap_or_default() {
        if !is_field_name(&entry.key) {
            let message = format!(
                "`{}` is no name of a field: those are letters, digits and `_`, a letter first",
                entry.key
            );
            sheet.report(entry.line, entry.column, message, None);
            continue;
        }
        if let Some(field) = read_field(sheet, &entry.value) {
            fields.insert(entry.key.clone(), field);
        }
    }
    fields
}

fn is_field_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn read_field(sheet: &Sheet<'_>, node: &Node) -> Option<Field> {
    if let Content::Scalar(scalar) = &node.content {
        return read_type(sheet, node, &scalar.text).map(Field::new);
    }
    let table = sheet.table(node, &FIELD)?;
    let kind = match table.get("type") {
        Some(kind) => read_type(sheet, kind, &sheet.text(kind, "type")?)?,
        None if table.get("properties").is_some() => Type::Object,
        None if table.get("items").is_some() => Type::Array,
        None => Type::Any,
    };
    let mut field = Field::new(kind);
    field.description = table.text("description");
    field.optional = table.boolean("optional").unwrap_or_default();
    field.secret = table.boolean("secret").unwrap_or_default();
    field.verbatim = table.boolean("verbatim").unwrap_or_default();
    field.pattern = table.get("pattern").and_then(|pattern| read_pattern(sheet, pattern, kind));
    field.min = table.get("min").and_then(|bound| read_bound(sheet, bound, "min", kind));
    field.max = table.get("max").and_then(|bound| read_bound(sheet, bound, "max", kind));
    if let Some(items) = table.get("items") {
        if kind != Type::Array {
            sheet.wrong(items, "`items` belongs to an array", None);
        }
        field.items = read_field(sheet, items).map(Box::new);
    }
    if let Some(properties) = table.get("properties") {
        if kind != Type::Object {
            sheet.wrong(properties, "`properties` belongs to an object", None);
        }
        field.properties = Some(read(sheet, properties, "properties"));
    }
    if let Some(choices) = table.get("enum") {
        field.choices = read_choices(sheet, choices, &field);
    }
    if let Some(default) = table.get("default") {
        field.default = read_default(sheet, default, &field);
    }
    Some(field)
}

fn read_type(sheet: &Sheet<'_>, node: &Node, name: &str) -> Option<Type> {
    let found = Type::ALL.into_iter().find(|kind| kind.as_str() == name);
    if found.is_none() {
        let known = Type::ALL.iter().map(|kind| kind.as_str());
        let meant = OTHER_NAMES.iter().find(|(other, _)| *other == name.to_lowercase());
        let help =
            meant.map(|(_, kind)| format!("did you mean `{kind}`?")).or_else(|| suggestion(name, known));
        sheet.wrong(node, format!("there is no type `{name}`"), help);
    }
    found
}

fn read_pattern(sheet: &Sheet<'_>, node: &Node, kind: Type) -> Option<String> {
    let text = sheet.text(node, "pattern")?;
    if !matches!(kind, Type::String | Type::Any) {
        sheet.wrong(node, "`pattern` belongs to a string", None);
    }
    match regex::Regex::new(&text) {
        Ok(_) => Some(text),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            sheet.wrong(node, format!("`pattern` is no regular expression: {reason}"), None);
            None
        }
    }
}

fn read_bound(sheet: &Sheet<'_>, node: &Node, what: &str, kind: Type) -> Option<f64> {
    if matches!(kind, Type::Boolean | Type::Duration | Type::File) {
        sheet.wrong(node, format!("`{what}` belongs to numbers, texts, lists and maps"), None);
    }
    sheet.number(node, what)
}

fn read_choices(sheet: &Sheet<'_>, node: &Node, field: &Field) -> Option<Vec<Value>> {
    let items = sheet.list(node, "enum")?;
    let mut choices = Vec::new();
    for item in items {
        let value = sheet.typed_value(item, Some(field));
        if let Err(messages) = accept_one("enum", &Field::new(field.kind), &value) {
            sheet.wrong(item, messages.join("; "), None);
        }
        choices.push(value);
    }
    Some(choices)
}

fn read_default(sheet: &Sheet<'_>, node: &Node, field: &Field) -> Option<Value> {
    if matches!(node.content, Content::Broken) {
        return None;
    }
    let value = sheet.typed_value(node, Some(field));
    if value.is_null() && field.kind != Type::Any {
        let help = Some("say `optional: true` for what may be missing".to_owned());
        sheet.wrong(node, "`default` is null", help);
        return None;
    }
    match accept_one("default", field, &value) {
        Ok(value) => Some(value),
        Err(messages) => {
            sheet.wrong(node, messages.join("; "), None);
            None
        }
    }
}
