//! minijinja, made strict: unknown names are errors, a value that is exactly one `{{ }}` keeps its type, text around values prints
//! booleans as `true` and lists as JSON, secrets stay holes. Results are data: nothing here is rendered twice.
//!
//! A template without `{% %}` is cut into pieces and each `{{ }}` evaluated for itself: so types, places and secrets are exact.
//! Plain paths, which most are, don't need minijinja at all.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectExt, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::data::Budget;
use super::functions::{self, describe};
use super::rhai::Scripts;
use super::scope::{Branch, Way};
use super::syntax::{self, Path, Piece, SecretName, SecretUse, Shape, Step, Tag, Uses, Wrong};
use super::{Failure, FailureKind, Mistake, Reference, Scope, did_you_mean, limits, place_of};
use crate::model::filled::Part;
use crate::model::{Filled, Value};

/// A compiled template.
#[derive(Clone)]
pub struct Template {
    text: Arc<str>,
    body: Body,
    references: Arc<[Reference]>,
    secrets: Arc<[String]>,
    mentions_secret: bool,
}

#[derive(Clone)]
enum Body {
    Literal,
    Whole(Arc<Segment>),
    Mixed(Arc<[Fragment]>),
    Blocks(Arc<Environment<'static>>),
}

enum Fragment {
    Text(String),
    Segment(Segment),
}

/// One `{{ }}`.
struct Segment {
    code: String,
    offset: usize,
    kind: SegmentKind,
}

enum SegmentKind {
    Path(Path),
    Secret(SecretUse),
    Code,
}

impl Template {
    /// The text that was compiled.
    pub fn source(&self) -> &str {
        &self.text
    }

    /// The names that it reads from its scope, in the order of the text.
    pub fn references(&self) -> Vec<Reference> {
        self.references.to_vec()
    }

    /// The secrets that it names in quotes.
    pub fn secrets(&self) -> Vec<String> {
        self.secrets.to_vec()
    }

    /// Whether it has a `secret()` at all.
    pub fn mentions_secret(&self) -> bool {
        self.mentions_secret
    }

    /// Whether it is one `{{ }}` and nothing else: its value keeps its type.
    pub fn is_whole(&self) -> bool {
        matches!(self.body, Body::Whole(_))
    }

    /// Whether it is only text, with nothing to render.
    pub fn is_literal(&self) -> bool {
        matches!(self.body, Body::Literal)
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Template").field(&self.text).finish()
    }
}

/// minijinja with our filters, and the names that templates may use.
pub(super) struct Templates {
    environment: Environment<'static>,
    filters: Vec<String>,
}

const FILTERS: &[&str] = &[
    "default",
    "d",
    "length",
    "count",
    "lower",
    "upper",
    "title",
    "capitalize",
    "trim",
    "lines",
    "split",
    "join",
    "replace",
    "first",
    "last",
    "min",
    "max",
    "sort",
    "unique",
    "reverse",
    "list",
    "items",
    "dictsort",
    "abs",
    "int",
    "float",
    "round",
    "bool",
    "string",
    "tojson",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "map",
    "sum",
    "groupby",
    "indent",
];
const TESTS: &[&str] = &[
    "defined",
    "undefined",
    "none",
    "true",
    "false",
    "boolean",
    "odd",
    "even",
    "divisibleby",
    "number",
    "integer",
    "float",
    "string",
    "sequence",
    "iterable",
    "mapping",
    "startingwith",
    "endingwith",
    "eq",
    "equalto",
    "ne",
    "lt",
    "lessthan",
    "le",
    "gt",
    "greaterthan",
    "ge",
    "in",
    "lower",
    "upper",
];
const CALLS: &[&str] = &["range"];
const RANGE_NUMBERS: i64 = 10_000;

impl Templates {
    pub(super) fn new(scripts: &Scripts) -> Templates {
        let mut environment = new_environment();
        let mut filters: Vec<String> = FILTERS.iter().map(|name| (*name).to_owned()).collect();
        for function in functions::ALL {
            filters.push(function.name.to_owned());
            environment.add_filter(
                function.name,
                move |first: minijinja::Value, rest: Rest<minijinja::Value>| {
                    apply(&first, &rest, function.call)
                },
            );
        }
        let mut by_name: HashMap<String, Vec<super::rhai::PackFunction>> = HashMap::new();
        for function in scripts.pack_functions() {
            by_name.entry(function.name.clone()).or_default().push(function.clone());
        }
        for (name, variants) in by_name {
            filters.push(name.clone());
            environment.add_filter(name, move |first: minijinja::Value, rest: Rest<minijinja::Value>| {
                apply(&first, &rest, |arguments| {
                    let fitting = variants.iter().find(|variant| variant.parameters == arguments.len());
                    fitting.unwrap_or(&variants[0]).call(arguments)
                })
            });
        }
        Templates { environment, filters }
    }

    pub(super) fn compile(&self, text: &str) -> Result<Template, Mistake> {
        self.read(text).map_err(|(offset, message)| {
            let (line, column) = place_of(text, offset);
            Mistake { message, line, column }
        })
    }

    fn read(&self, text: &str) -> Result<Template, Wrong> {
        if text.len() > limits::SOURCE_BYTES {
            return Err((0, format!("a template may have {} KB at most", limits::SOURCE_BYTES >> 10)));
        }
        match syntax::split(text)? {
            Shape::Blocks(tags) => self.read_blocks(text, &tags),
            Shape::Pieces(pieces) => self.read_pieces(text, pieces),
        }
    }

    fn read_pieces(&self, text: &str, pieces: Vec<Piece>) -> Result<Template, Wrong> {
        let mut fragments = Vec::new();
        let mut references = Vec::new();
        let mut secrets = Vec::new();
        let mut mentions_secret = false;
        for piece in pieces {
            let (code, offset) = match piece {
                Piece::Text(text) => {
                    fragments.push(Fragment::Text(text));
                    continue;
                }
                Piece::Expression { code, offset } => (code, offset),
            };
            let tokens = syntax::tokens(&code, offset)?;
            if tokens.is_empty() {
                return Err((offset, "there is nothing between `{{` and `}}`".to_owned()));
            }
            let secret = syntax::secret(&tokens)?;
            mentions_secret |= secret.is_some();
            let uses = syntax::uses(&tokens);
            self.check_names(&uses, secret.is_some())?;
            references.extend(as_references(text, uses));
            let kind = match (secret, syntax::path(&tokens, 0)) {
                (Some(secret), _) => {
                    if let SecretName::Literal(name) = &secret.name {
                        secrets.push(name.clone());
                    }
                    SegmentKind::Secret(secret)
                }
                (None, Some((path, next))) if next == tokens.len() => SegmentKind::Path(path),
                (None, _) => {
                    let compiled = self.environment.compile_expression_owned(code.clone());
                    compiled.map_err(|error| (offset + start_of(&error, &code), syntax_message(&error)))?;
                    SegmentKind::Code
                }
            };
            fragments.push(Fragment::Segment(Segment { code, offset, kind }));
        }
        let body = match fragments.len() {
            0 => Body::Literal,
            1 => match fragments.remove(0) {
                Fragment::Text(_) => Body::Literal,
                Fragment::Segment(segment) => Body::Whole(Arc::new(segment)),
            },
            _ => Body::Mixed(fragments.into()),
        };
        Ok(finished(text, body, references, secrets, mentions_secret))
    }

    fn read_blocks(&self, text: &str, tags: &[Tag]) -> Result<Template, Wrong> {
        let declared = syntax::declared(tags)?;
        let mut references = Vec::new();
        for tag in tags {
            let tokens = syntax::tokens(&tag.code, tag.offset)?;
            // The first word of a statement is no name.
            let skipped = usize::from(tag.is_statement).min(tokens.len());
            let mut uses = syntax::uses(&tokens[skipped..]);
            if let Some((_, offset)) = uses.calls.iter().find(|(name, _)| name == "secret") {
                return Err((
                    *offset,
                    "secret() may not stand in a template with {% %}, {# #} or {{-".to_owned(),
                ));
            }
            self.check_names(&uses, false)?;
            uses.paths.retain(|(path, _)| !declared.names.contains(&path.root));
            references.extend(as_references(text, uses));
        }
        let mut environment = self.environment.clone();
        environment
            .add_template_owned("template", text.to_owned())
            .map_err(|error| (start_of(&error, text), syntax_message(&error)))?;
        Ok(finished(text, Body::Blocks(Arc::new(environment)), references, Vec::new(), false))
    }

    fn check_names(&self, uses: &Uses, is_secret: bool) -> Result<(), Wrong> {
        for (name, offset) in &uses.filters {
            if !self.filters.contains(name) {
                let hint = did_you_mean(name, self.filters.iter().map(String::as_str));
                return Err((*offset, format!("there is no filter `{name}`{hint}")));
            }
        }
        for (name, offset) in &uses.tests {
            if !TESTS.contains(&name.as_str()) {
                let hint = did_you_mean(name, TESTS.iter().copied());
                return Err((*offset, format!("there is no test `{name}`{hint}")));
            }
        }
        for (name, offset) in &uses.calls {
            if is_secret || CALLS.contains(&name.as_str()) {
                continue;
            }
            let message = match self.filters.contains(name) {
                true => format!("`{name}` is a filter: write {{{{ value | {name} }}}}"),
                false => {
                    format!(
                        "there is no function `{name}`{}",
                        did_you_mean(name, CALLS.iter().copied().chain(["secret"]))
                    )
                }
            };
            return Err((*offset, message));
        }
        Ok(())
    }

    pub(super) fn render(&self, template: &Template, scope: &Scope) -> Result<Filled, Failure> {
        let renderer = Renderer { templates: self, template, scope };
        match &template.body {
            Body::Literal => Ok(Filled::Plain(Value::from(&*template.text))),
            Body::Whole(segment) => match &segment.kind {
                SegmentKind::Secret(secret) => Ok(Filled::Text(vec![renderer.hole(secret, segment)?])),
                SegmentKind::Path(_) | SegmentKind::Code => Ok(Filled::Plain(renderer.value(segment)?)),
            },
            Body::Mixed(fragments) => renderer.mixed(fragments),
            Body::Blocks(environment) => {
                renderer.blocks(environment).map(|text| Filled::Plain(Value::from(text)))
            }
        }
    }

    pub(super) fn render_plain(&self, template: &Template, scope: &Scope) -> Result<Value, Failure> {
        if template.mentions_secret {
            let message = "secret() may not stand here".to_owned();
            return Err(Failure { message, line: 1, column: 1, kind: FailureKind::Error });
        }
        match self.render(template, scope)? {
            Filled::Plain(value) => Ok(value),
            other => Ok(other.masked()),
        }
    }
}

fn finished(
    text: &str,
    body: Body,
    mut references: Vec<Reference>,
    mut secrets: Vec<String>,
    mentions_secret: bool,
) -> Template {
    references.sort_by_key(|reference| (reference.line, reference.column));
    secrets.sort();
    secrets.dedup();
    Template {
        text: text.into(),
        body,
        references: references.into(),
        secrets: secrets.into(),
        mentions_secret,
    }
}

fn as_references(text: &str, uses: Uses) -> impl Iterator<Item = Reference> {
    uses.paths.into_iter().map(|(path, optional)| {
        let (line, column) = place_of(text, path.offset);
        Reference { path: path.known_keys(), root: path.root, line, column, optional }
    })
}

/// One rendering.
struct Renderer<'a> {
    templates: &'a Templates,
    template: &'a Template,
    scope: &'a Scope,
}

impl Renderer<'_> {
    fn failure(&self, offset: usize, message: impl Into<String>, kind: FailureKind) -> Failure {
        let (line, column) = place_of(&self.template.text, offset);
        Failure { message: message.into(), line, column, kind }
    }

    fn error(&self, offset: usize, message: impl Into<String>) -> Failure {
        self.failure(offset, message, FailureKind::Error)
    }

    fn mixed(&self, fragments: &[Fragment]) -> Result<Filled, Failure> {
        let mut parts = Vec::new();
        let mut text = String::new();
        for fragment in fragments {
            let segment = match fragment {
                Fragment::Text(piece) => {
                    text.push_str(piece);
                    continue;
                }
                Fragment::Segment(segment) => segment,
            };
            if let SegmentKind::Secret(secret) = &segment.kind {
                let hole = self.hole(secret, segment)?;
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(hole);
                continue;
            }
            let value = self.value(segment)?;
            let printed = print(&value).ok_or_else(|| {
                let code = segment.code.trim();
                self.error(start_of_code(segment), format!("`{code}` is null here, which can't stand in a text; `{code} | default('', true)` would be empty"))
            })?;
            text.push_str(&printed);
            if text.len() > limits::OUTPUT_BYTES {
                return Err(self.failure(start_of_code(segment), too_long(), FailureKind::Limit));
            }
        }
        if parts.is_empty() {
            return Ok(Filled::Plain(Value::from(text)));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Filled::Text(parts))
    }

    fn hole(&self, secret: &SecretUse, segment: &Segment) -> Result<Part, Failure> {
        let name = match &secret.name {
            SecretName::Literal(name) => name.clone(),
            SecretName::Path(path) => match self.walk(path)?.value() {
                Value::String(name) => name.clone(),
                other => {
                    let message = format!("secret() takes the name of a secret, not {}", describe(other));
                    return Err(self.error(start_of_code(segment), message));
                }
            },
        };
        Ok(Part::Secret { name, base64: secret.base64 })
    }

    /// The value of one `{{ }}`.
    fn value(&self, segment: &Segment) -> Result<Value, Failure> {
        if let SegmentKind::Path(path) = &segment.kind {
            return Ok(self.walk(path)?.value().clone());
        }
        let result =
            self.templates.environment.compile_expression_owned(segment.code.clone()).and_then(
                |expression| expression.eval(minijinja::Value::from_object(Names(self.scope.clone()))),
            );
        let value = result.map_err(|error| self.explain(&error, &segment.code, segment.offset))?;
        let mut budget = Budget::default();
        from_jinja(&value, &mut budget, 0).map_err(|problem| match problem {
            Problem::Undefined => {
                self.undefined(segment.offset..segment.offset + segment.code.len(), start_of_code(segment))
            }
            Problem::Limit(message) => self.failure(start_of_code(segment), message, FailureKind::Limit),
            Problem::Error(message) => self.error(start_of_code(segment), message),
        })
    }

    /// Walks a plain path.
    fn walk(&self, path: &Path) -> Result<Branch, Failure> {
        let mut branch = self
            .scope
            .branch(&path.root)
            .ok_or_else(|| self.error(path.offset, self.scope.unknown(&path.root)))?;
        for step in &path.steps {
            let way = match step {
                Step::Key(key) => Way::Key(key.as_str().into()),
                Step::Index(index) => self.way_of_index(&branch, *index, path)?,
                Step::Inner(inner) => match self.walk(inner)?.value() {
                    Value::String(key) => Way::Key(key.as_str().into()),
                    Value::Number(number) if number.is_i64() => {
                        self.way_of_index(&branch, number.as_i64().unwrap_or_default(), path)?
                    }
                    other => return Err(self.error(inner.offset, format!("{} is no key", describe(other)))),
                },
            };
            branch = self.step(&branch, way, path)?;
        }
        Ok(branch)
    }

    fn way_of_index(&self, branch: &Branch, index: i64, path: &Path) -> Result<Way, Failure> {
        let Some(items) = branch.value().as_array() else {
            return Err(self.error(
                path.offset,
                format!("{branch} is {}, it has no [{index}]", describe(branch.value())),
            ));
        };
        let found = match usize::try_from(index) {
            Ok(index) => Some(index),
            Err(_) => items.len().checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
        };
        let found = found.filter(|found| *found < items.len());
        found.map(Way::Index).ok_or_else(|| {
            self.error(path.offset, format!("{branch} has {} items, there is no [{index}]", items.len()))
        })
    }

    fn step(&self, branch: &Branch, way: Way, path: &Path) -> Result<Branch, Failure> {
        if let Way::Key(key) = &way {
            let missing = || self.error(path.offset, branch.missing(key));
            return branch.child(key).ok_or_else(missing);
        }
        Ok(branch.down(way))
    }

    fn blocks(&self, environment: &Environment<'static>) -> Result<String, Failure> {
        let names = minijinja::Value::from_object(Names(self.scope.clone()));
        let mut output = Limited(Vec::new());
        let result = environment
            .get_template("template")
            .and_then(|template| template.render_captured_to(names, &mut output).map(|_| ()));
        match result {
            Ok(()) => Ok(String::from_utf8_lossy(&output.0).into_owned()),
            Err(error) => Err(self.explain(&error, &self.template.text, 0)),
        }
    }

    /// An error of minijinja in our words.
    fn explain(&self, error: &minijinja::Error, code: &str, offset: usize) -> Failure {
        let start = offset + start_of(error, code);
        match error.kind() {
            ErrorKind::UndefinedError => {
                let range = error.range().map_or(offset..offset + code.len(), |range| {
                    (offset + range.start).saturating_sub(1)..offset + range.end
                });
                self.undefined(range, start)
            }
            ErrorKind::OutOfFuel => self.failure(
                start,
                format!("the template did more than {} steps", limits::TEMPLATE_FUEL),
                FailureKind::Limit,
            ),
            ErrorKind::WriteFailure => self.failure(start, too_long(), FailureKind::Limit),
            _ => {
                let message = message_of(error);
                if message.contains("undefined") {
                    return self.undefined(start..start + 1, start);
                }
                self.error(start, message)
            }
        }
    }

    /// Which name was missing: minijinja says only that one was.
    fn undefined(&self, within: std::ops::Range<usize>, otherwise: usize) -> Failure {
        let (start, end) =
            (place_of(&self.template.text, within.start), place_of(&self.template.text, within.end));
        let inside = |reference: &&Reference| {
            let place = (reference.line, reference.column);
            start <= place && place <= end
        };
        let references = self.template.references.iter();
        for reference in
            references.clone().filter(inside).chain(references).filter(|reference| !reference.optional)
        {
            if let Some(message) = self.missing(reference) {
                return Failure {
                    message,
                    line: reference.line,
                    column: reference.column,
                    kind: FailureKind::Error,
                };
            }
        }
        self.error(otherwise, "this reads a value that is not there")
    }

    fn missing(&self, reference: &Reference) -> Option<String> {
        let Some(mut branch) = self.scope.branch(&reference.root) else {
            return Some(self.scope.unknown(&reference.root));
        };
        for key in &reference.path {
            let Some(child) = branch.child(key) else { return Some(branch.missing(key)) };
            branch = child;
        }
        None
    }
}

fn start_of_code(segment: &Segment) -> usize {
    segment.offset + segment.code.len() - segment.code.trim_start().len()
}

fn too_long() -> String {
    format!("the template writes more than {} bytes", limits::OUTPUT_BYTES)
}

/// A value amid text; null has no text.
fn print(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => Some(error_message(object).map_or_else(|| value.to_string(), str::to_owned)),
        other => Some(other.to_string()),
    }
}

/// An error, `{kind, message, step?, place?}`, prints as its message.
fn error_message(object: &crate::model::Object) -> Option<&str> {
    let is_error = object.contains_key("kind")
        && object.keys().all(|key| ["kind", "message", "step", "place"].contains(&key.as_str()));
    object.get("message").filter(|_| is_error)?.as_str()
}

/// Where in its text an error of minijinja stands.
fn start_of(error: &minijinja::Error, code: &str) -> usize {
    if let Some(range) = error.range() {
        return range.start.min(code.len());
    }
    let Some(line) = error.line() else { return 0 };
    code.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum()
}

fn syntax_message(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| message_of(error), str::to_owned)
}

fn message_of(error: &minijinja::Error) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.downcast_ref::<minijinja::Error>().is_none() {
            return inner.to_string();
        }
        source = inner.source();
    }
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

// ---- minijinja ----

fn new_environment() -> Environment<'static> {
    use minijinja::{filters, tests};
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(limits::TEMPLATE_FUEL));
    environment.set_recursion_limit(64);
    environment.set_debug(true);
    environment.set_syntax(kept_newlines());
    environment.set_formatter(|output, _, value| {
        let text = match from_jinja(value, &mut Budget::default(), 0) {
            Ok(value) => {
                print(&value).ok_or_else(|| failed("a value is null here, which can't stand in a text"))?
            }
            Err(Problem::Undefined) => return Err(minijinja::Error::from(ErrorKind::UndefinedError)),
            Err(Problem::Limit(message) | Problem::Error(message)) => return Err(failed(message)),
        };
        output.write_str(&text).map_err(minijinja::Error::from)
    });

    environment.add_filter("default", filters::default);
    environment.add_filter("d", filters::default);
    environment.add_filter("length", filters::length);
    environment.add_filter("count", filters::length);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("title", filters::title);
    environment.add_filter("capitalize", filters::capitalize);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("lines", filters::lines);
    environment.add_filter("split", filters::split);
    environment.add_filter("join", join);
    environment.add_filter("replace", replace);
    environment.add_filter("first", filters::first);
    environment.add_filter("last", filters::last);
    environment.add_filter("min", filters::min);
    environment.add_filter("max", filters::max);
    environment.add_filter("sort", filters::sort);
    environment.add_filter("unique", filters::unique);
    environment.add_filter("reverse", filters::reverse);
    environment.add_filter("list", filters::list);
    environment.add_filter("items", filters::items);
    environment.add_filter("dictsort", filters::dictsort);
    environment.add_filter("abs", filters::abs);
    environment.add_filter("int", filters::int);
    environment.add_filter("float", filters::float);
    environment.add_filter("round", filters::round);
    environment.add_filter("bool", filters::bool);
    environment.add_filter("string", |value: &minijinja::Value| {
        let value = from_jinja(value, &mut Budget::default(), 0).map_err(as_error)?;
        print(&value).ok_or_else(|| failed("string: null has no text"))
    });
    environment.add_filter("tojson", |value: &minijinja::Value| {
        Ok::<_, minijinja::Error>(from_jinja(value, &mut Budget::default(), 0).map_err(as_error)?.to_string())
    });
    environment.add_filter("select", filters::select);
    environment.add_filter("reject", filters::reject);
    environment.add_filter("selectattr", filters::selectattr);
    environment.add_filter("rejectattr", filters::rejectattr);
    environment.add_filter("map", filters::map);
    environment.add_filter("sum", filters::sum);
    environment.add_filter("groupby", filters::groupby);
    environment.add_filter("indent", indent);

    environment.add_test("defined", tests::is_defined);
    environment.add_test("undefined", tests::is_undefined);
    environment.add_test("none", tests::is_none);
    environment.add_test("true", tests::is_true);
    environment.add_test("false", tests::is_false);
    environment.add_test("boolean", tests::is_boolean);
    environment.add_test("odd", tests::is_odd);
    environment.add_test("even", tests::is_even);
    environment.add_test("divisibleby", tests::is_divisibleby);
    environment.add_test("number", tests::is_number);
    environment.add_test("integer", tests::is_integer);
    environment.add_test("float", tests::is_float);
    environment.add_test("string", tests::is_string);
    environment.add_test("sequence", tests::is_sequence);
    environment.add_test("iterable", tests::is_iterable);
    environment.add_test("mapping", tests::is_mapping);
    environment.add_test("startingwith", tests::is_startingwith);
    environment.add_test("endingwith", tests::is_endingwith);
    for name in ["eq", "equalto"] {
        environment.add_test(name, tests::is_eq);
    }
    environment.add_test("ne", tests::is_ne);
    for name in ["lt", "lessthan"] {
        environment.add_test(name, tests::is_lt);
    }
    environment.add_test("le", tests::is_le);
    for name in ["gt", "greaterthan"] {
        environment.add_test(name, tests::is_gt);
    }
    environment.add_test("ge", tests::is_ge);
    environment.add_test("in", tests::is_in);
    environment.add_test("lower", tests::is_lower);
    environment.add_test("upper", tests::is_upper);
    environment.add_function("range", range);
    environment
}

/// Jinja drops a newline at the end of a template unless told not to.
fn kept_newlines() -> minijinja::syntax::SyntaxConfig {
    let mut builder = minijinja::syntax::SyntaxConfig::builder();
    builder.keep_trailing_newline(true);
    builder.build().unwrap_or_default()
}

fn failed(message: impl Into<String>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, message.into())
}

fn as_error(problem: Problem) -> minijinja::Error {
    match problem {
        Problem::Undefined => minijinja::Error::from(ErrorKind::UndefinedError),
        Problem::Limit(message) | Problem::Error(message) => failed(message),
    }
}

/// Whole numbers from `start` up to but without `end`; or up to `start` when it stands alone.
fn range(start: i64, end: Option<i64>) -> Result<Vec<i64>, minijinja::Error> {
    let (start, end) = end.map_or((0, start), |end| (start, end));
    if end.saturating_sub(start) > RANGE_NUMBERS {
        return Err(failed(format!("range() gives {RANGE_NUMBERS} numbers at most")));
    }
    Ok((start..end).collect())
}

fn replace(text: &str, old: &str, new: &str) -> Result<String, minijinja::Error> {
    let growth = text.matches(old).count().saturating_mul(new.len());
    if text.len().saturating_add(growth) > limits::OUTPUT_BYTES {
        return Err(failed("replace: the text gets too long"));
    }
    Ok(text.replace(old, new))
}

fn join(list: &minijinja::Value, between: Option<String>) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    for (index, item) in list.try_iter()?.enumerate() {
        if index > 0 {
            text.push_str(between.as_deref().unwrap_or_default());
        }
        let item = from_jinja(&item, &mut Budget::default(), 0).map_err(as_error)?;
        text.push_str(&print(&item).ok_or_else(|| failed(format!("join: item {index} is null")))?);
        if text.len() > limits::OUTPUT_BYTES {
            return Err(failed("join: the text gets too long"));
        }
    }
    Ok(text)
}

/// Indents every line but the first by so many spaces.
fn indent(text: &str, width: usize) -> Result<String, minijinja::Error> {
    let lines = text.matches('\n').count();
    if lines.saturating_mul(width).saturating_add(text.len()) > limits::OUTPUT_BYTES {
        return Err(failed("indent: the text gets too long"));
    }
    Ok(text.replace('\n', &format!("\n{}", " ".repeat(width))))
}

/// Calls a function of values as a filter.
fn apply(
    first: &minijinja::Value,
    rest: &[minijinja::Value],
    call: impl Fn(&[Value]) -> Result<Value, String>,
) -> Result<minijinja::Value, minijinja::Error> {
    let mut budget = Budget::default();
    let values = std::iter::once(first).chain(rest).map(|value| from_jinja(value, &mut budget, 0));
    let values = values.collect::<Result<Vec<_>, _>>().map_err(as_error)?;
    let result = call(&values).map_err(failed)?;
    Ok(to_jinja(&Branch::new("value", Arc::new(result))))
}

/// What stops the writing of a template that has no end.
struct Limited(Vec<u8>);

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > limits::OUTPUT_BYTES {
            return Err(std::io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The scope as minijinja sees it.
struct Names(Scope);

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Object for Names {
    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        let name = key.as_str()?;
        self.0.branch(name).map(|branch| to_jinja(&branch))
    }
}

/// The value at a place, for minijinja: lists and maps stay where they are.
fn to_jinja(branch: &Branch) -> minijinja::Value {
    if branch.is_parts() {
        return minijinja::Value::from_object(branch.clone());
    }
    match branch.value() {
        Value::Null => ().into(),
        Value::Bool(value) => (*value).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), ..) => whole.into(),
            (_, Some(whole), _) => whole.into(),
            (.., float) => float.unwrap_or(f64::NAN).into(),
        },
        Value::Array(_) | Value::Object(_) => minijinja::Value::from_object(branch.clone()),
    }
}

impl Object for Branch {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if !self.is_parts() && self.value().is_array() { ObjectRepr::Seq } else { ObjectRepr::Map }
    }

    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        if self.is_parts() {
            return self.child(key.as_str()?).map(|child| to_jinja(&child));
        }
        let way = match self.value() {
            Value::Object(map) => {
                let key = key.as_str()?;
                map.get(key)?;
                Way::Key(key.into())
            }
            Value::Array(items) => Way::Index(key.as_usize().filter(|index| *index < items.len())?),
            _ => return None,
        };
        Some(to_jinja(&self.down(way)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        if self.is_parts() {
            return self
                .mapped_enumerator(|branch| Box::new(branch.keys().into_iter().map(minijinja::Value::from)));
        }
        match self.value() {
            Value::Array(items) => Enumerator::Seq(items.len()),
            _ => self.mapped_enumerator(|branch| match branch.value() {
                Value::Object(map) => Box::new(map.keys().map(|key| minijinja::Value::from(key.as_str()))),
                _ => Box::new(std::iter::empty()),
            }),
        }
    }
}

/// Why a value of minijinja is none of ours.
enum Problem {
    Undefined,
    Limit(String),
    Error(String),
}

/// A value of minijinja as JSON.
fn from_jinja(value: &minijinja::Value, budget: &mut Budget, depth: usize) -> Result<Value, Problem> {
    if let Some(branch) = value.downcast_object_ref::<Branch>() {
        budget.spend_all(branch.value(), depth).map_err(Problem::Limit)?;
        return Ok(branch.value().clone());
    }
    if let Some(text) = value.as_str() {
        budget.spend(text.len(), depth).map_err(Problem::Limit)?;
        return Ok(Value::from(text));
    }
    budget.spend(0, depth).map_err(Problem::Limit)?;
    let invalid = |error: minijinja::Error| Problem::Error(message_of(&error));
    match value.kind() {
        ValueKind::Undefined => Err(Problem::Undefined),
        ValueKind::None => Ok(Value::Null),
        ValueKind::Bool => Ok(Value::Bool(value.is_true())),
        ValueKind::Number => number_from(value),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(invalid)?;
            items
                .map(|item| from_jinja(&item, budget, depth + 1))
                .collect::<Result<Vec<_>, _>>()
                .map(Value::Array)
        }
        ValueKind::Map => {
            let mut map = crate::model::Object::new();
            for key in value.try_iter().map_err(invalid)? {
                let item = value.get_item(&key).map_err(invalid)?;
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                budget.spend(name.len(), depth).map_err(Problem::Limit)?;
                map.insert(name, from_jinja(&item, budget, depth + 1)?);
            }
            Ok(Value::Object(map))
        }
        other => Err(Problem::Error(format!("a value of type {other} can't leave a template"))),
    }
}

fn number_from(value: &minijinja::Value) -> Result<Value, Problem> {
    if let Some(whole) = value.as_i64() {
        // Floats without a fraction pass as whole numbers here, but 1.0 is to stay 1.0.
        if value.is_integer() {
            return Ok(Value::from(whole));
        }
    }
    if value.is_integer()
        && let Ok(whole) = u64::try_from(value.clone())
    {
        return Ok(Value::from(whole));
    }
    let float = f64::try_from(value.clone()).ok().and_then(serde_json::Number::from_f64);
    float.map(Value::Number).ok_or_else(|| Problem::Error(format!("{value} is no number that JSON can hold")))
}
