//! The two small languages: rhai decides, minijinja renders.
//!
//! Promises: nothing here does I/O, reads a clock or rolls dice; every script and template is stopped by its limits; a value that
//! came from outside is only ever data; a mistake or failure says its line and column within the text that was given.
//! Leaves to others: which names stand where (`definitions`), filling secrets (`worker`), what a condition means (`matching`,
//! `conductor`).
//!
//! `rhai.rs` evaluates scripts, `library.rs` is what they find there, `survey.rs` tells what they read, `explain.rs` words their errors,
//! `data.rs` shows them a payload without converting it; `template.rs` renders (`syntax.rs` reads
//! what stands between the braces), `functions.rs` has the functions that both see, `scope.rs` the names that both see.

pub mod condition;
mod data;
mod explain;
mod functions;
mod habits;
mod library;
mod rhai;
mod scope;
mod survey;
mod syntax;
mod template;
#[cfg(test)]
mod tests;

use std::fmt;

pub use rhai::Script;
pub use scope::{Parts, Scope};
pub use template::Template;

use crate::model::{Filled, Value};

/// The limits of both languages, in one place: the reference page prints this table.
pub mod limits {
    /// Steps of one script, its functions and closures included.
    pub const OPERATIONS: u64 = 1_000_000;
    /// Functions that call functions.
    pub const CALL_LEVELS: usize = 32;
    /// Expressions inside expressions.
    pub const EXPRESSION_DEPTH: usize = 64;
    /// Bytes of a string, and of all strings inside one list or map.
    pub const STRING_BYTES: usize = 1 << 20;
    /// Items of a list, inner lists included. rhai counts them all again at each change, so this bounds time too.
    pub const LIST_ITEMS: usize = 20_000;
    /// Entries of a map, inner maps included.
    pub const MAP_ENTRIES: usize = 10_000;
    /// Variables alive at once.
    pub const VARIABLES: usize = 128;
    /// `fn`s in one script.
    pub const FUNCTIONS: usize = 256;
    /// Bytes of stack for a script that loops or has functions: only there can values grow as deep as the other limits let them.
    pub const STACK_BYTES: usize = 256 << 20;
    /// Bytes of a script or template itself.
    pub const SOURCE_BYTES: usize = 256 << 10;
    /// Values inside what a script or template gives back.
    pub const RESULT_VALUES: usize = 1_000_000;
    /// Bytes of all strings inside what a script or template gives back. A payload may be passed on whole.
    pub const RESULT_BYTES: usize = 64 << 20;
    /// Lists and maps inside one another.
    pub const RESULT_DEPTH: usize = 128;
    /// Steps of one template.
    pub const TEMPLATE_FUEL: u64 = 200_000;
    /// Bytes that a template with text around its values may write.
    pub const OUTPUT_BYTES: usize = 1 << 20;
}

/// What is wrong with a text before it runs. The place counts from 1, in characters, within the text given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    pub message: String,
    pub line: usize,
    pub column: usize,
}

/// A mistake in the `functions.rhai` of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptMistake {
    pub pack: String,
    pub mistake: Mistake,
}

/// Why a script or template gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub message: String,
    /// From 1, within the text given.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub kind: FailureKind,
}

/// Sorts of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The text did not fit the data.
    Error,
    /// A limit was met: operations, depth, size.
    Limit,
}

/// A name that a text reads from its scope, with the part of the way after it that is known beforehand:
/// `steps.package.output.deb` is root `steps`, path `package output deb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub root: String,
    pub path: Vec<String>,
    pub line: usize,
    pub column: usize,
    /// It may be missing: read by `?.`, or with `default` or `is defined` after it.
    pub optional: bool,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)?;
        self.path.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

/// Both languages with their limits and functions, those of packs included. Made once per set of definitions, shared in an `Arc`.
pub struct Expr {
    scripts: rhai::Scripts,
    templates: template::Templates,
}

impl Default for Expr {
    fn default() -> Expr {
        Expr::new(&[]).0
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expr")
    }
}

impl Expr {
    /// Both languages with the functions of packs: pairs of a pack's name and the text of its `functions.rhai`. A pack with mistakes
    /// is left out, the others work.
    pub fn new(packs: &[(String, String)]) -> (Expr, Vec<ScriptMistake>) {
        let (scripts, mistakes) = rhai::Scripts::new(packs);
        let templates = template::Templates::new(&scripts);
        (Expr { scripts, templates }, mistakes)
    }

    /// Compiles a rhai script.
    ///
    /// # Errors
    /// The first mistake: of syntax, or a function that does not exist.
    pub fn script(&self, text: &str) -> Result<Script, Mistake> {
        self.scripts.compile(text)
    }

    /// The value of the script's last expression; `()` is null.
    ///
    /// # Errors
    /// It threw, met a limit, or read what is not there.
    pub fn evaluate(&self, script: &Script, scope: &Scope) -> Result<Value, Failure> {
        self.scripts.evaluate(script, scope)
    }

    /// The value of a condition, which must be a real boolean.
    ///
    /// # Errors
    /// As `evaluate`, and when the value is no boolean.
    pub fn condition(&self, script: &Script, scope: &Scope) -> Result<bool, Failure> {
        match self.evaluate(script, scope)? {
            Value::Bool(answer) => Ok(answer),
            other => Err(Failure {
                message: format!(
                    "a condition must be true or false, this one gives {}",
                    functions::describe(&other)
                ),
                line: 1,
                column: 1,
                kind: FailureKind::Error,
            }),
        }
    }

    /// Compiles a string that may hold `{{ }}` and `{% %}`.
    ///
    /// # Errors
    /// The first mistake: of syntax, an unknown filter or function, a secret where none may stand.
    pub fn template(&self, text: &str) -> Result<Template, Mistake> {
        self.templates.compile(text)
    }

    /// The rendered value; secrets stay holes.
    ///
    /// # Errors
    /// It read what is not there, printed null amid text, or met a limit.
    pub fn render(&self, template: &Template, scope: &Scope) -> Result<Filled, Failure> {
        self.templates.render(template, scope)
    }

    /// The rendered value, where secrets may not stand.
    ///
    /// # Errors
    /// As `render`, and when the template mentions a secret.
    pub fn render_plain(&self, template: &Template, scope: &Scope) -> Result<Value, Failure> {
        self.templates.render_plain(template, scope)
    }
}

/// ` ; did you mean ...` for the known name that is most like `name`, or nothing.
fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    }
}

/// The known name that is most like `name`, when one is like it at all.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Payloads can have very many keys; a suggestion is a courtesy that must stay cheap.
    let scored = known.into_iter().take(1000).filter(|candidate| *candidate != name && candidate.len() < 100);
    let scored = scored.map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    let best = scored.fold(None, |best: Option<(f64, &str)>, next| match best {
        Some(best) if best.0 >= next.0 => Some(best),
        _ => Some(next),
    });
    best.filter(|(score, _)| *score >= 0.75).map(|(_, candidate)| candidate)
}

/// Line and column, from 1 and in characters, of a byte offset.
fn place_of(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
