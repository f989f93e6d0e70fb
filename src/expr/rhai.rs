//! rhai, made safe: packages named one by one, limits on everything, no clock, files, `eval`, `print` or `import`.
//!
//! Beside that it differs from plain rhai in four ways: comparing values of different types is an error, reading a missing key is
//! one too (`?.` gives `()`), words that rhai reserves are names after a dot, and functions of strings return instead of changing.

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicFnPackage, BasicIteratorPackage, BasicMapPackage,
    BasicMathPackage, BasicStringPackage, BitFieldPackage, LogicPackage, Package,
};
use rhai::{
    AST, Dynamic, Engine, EvalAltResult, LexError, Map, Module, NativeCallContext, OptimizationLevel,
    Position, Stmt, Target, Token,
};

use super::data::{Outcome, error, from_value, to_dynamic, to_value};
use super::explain::explain;
use super::library::{TEXT_FUNCTIONS, register_comparisons, register_lists, register_maps, register_texts};
use super::survey::Survey;
use super::{
    Failure, FailureKind, Mistake, Reference, Scope, ScriptMistake, did_you_mean, functions, habits, limits,
};
use crate::model::Value;

/// A compiled script.
#[derive(Clone)]
pub struct Script {
    source: Arc<str>,
    tree: Arc<AST>,
    references: Arc<[Reference]>,
    /// It loops or has functions, so it needs a large stack.
    is_deep: bool,
    /// It has `name[...] = value`: then reading a missing entry of its own maps must make room for one.
    assigns_by_index: bool,
}

impl Script {
    /// The text that was compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names that it reads from its scope, in the order of the text.
    pub fn references(&self) -> Vec<Reference> {
        self.references.to_vec()
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Script").field(&self.source).finish()
    }
}

/// A `fn` of a pack, callable from templates as a filter.
#[derive(Clone)]
pub(super) struct PackFunction {
    pub(super) name: String,
    pub(super) parameters: usize,
    tree: Arc<AST>,
    engine: Arc<Engine>,
}

/// The engine, and what it knows.
pub(super) struct Scripts {
    engine: Arc<Engine>,
    known: HashSet<String>,
    pack_functions: Vec<PackFunction>,
}

/// Names of functions from rhai's packages that are registered below: rhai keeps its own list to itself.
pub(super) const PACKAGED: &[&str] = &[
    "abs",
    "sign",
    "is_zero",
    "is_odd",
    "is_even",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "asin",
    "acos",
    "atan",
    "asinh",
    "acosh",
    "atanh",
    "hypot",
    "sqrt",
    "exp",
    "ln",
    "log",
    "floor",
    "ceiling",
    "round",
    "int",
    "fraction",
    "is_nan",
    "is_finite",
    "is_infinite",
    "to_float",
    "to_int",
    "to_degrees",
    "to_radians",
    "parse_int",
    "parse_float",
    "PI",
    "E",
    "max",
    "min",
    "to_string",
    "to_debug",
    "to_hex",
    "to_octal",
    "to_binary",
    "range",
    "chars",
    "bits",
    "start",
    "end",
    "is_inclusive",
    "is_exclusive",
    "is_empty",
    "contains",
    "get_bit",
    "set_bit",
    "get_bits",
    "set_bits",
    "name",
    "is_anonymous",
    "len",
    "get",
    "set",
    "push",
    "append",
    "insert",
    "pad",
    "pop",
    "shift",
    "remove",
    "clear",
    "truncate",
    "chop",
    "reverse",
    "splice",
    "extract",
    "split",
    "for_each",
    "map",
    "filter",
    "index_of",
    "find",
    "find_map",
    "some",
    "all",
    "dedup",
    "reduce",
    "reduce_rev",
    "zip",
    "sort",
    "sort_by",
    "sort_desc",
    "order",
    "order_by",
    "order_desc",
    "drain",
    "retain",
    "mixin",
    "fill_with",
    "keys",
    "values",
    "to_json",
    // part of the language
    "call",
    "type_of",
    "is_shared",
    "is_def_var",
    "is_def_fn",
    "Fn",
];

/// Words that stay closed, with what to say.
pub(super) const CLOSED: &[(&str, &str)] = &[
    ("eval", "`eval` is switched off: text is never run as code"),
    ("print", "`print` is switched off: the last value of a script is its result"),
    ("debug", "`debug` is switched off: the last value of a script is its result"),
    ("curry", "`curry` is switched off: write |x| f.call(value, x)"),
    ("import", "`import` is switched off: put shared functions in a pack's functions.rhai"),
    ("export", "`export` is switched off: every `fn` of a pack's functions.rhai is shared"),
];

/// Marks a name after `?.`, and a name that is assigned to. Neither can stand in a name that a user writes there.
pub(super) const OPTIONAL: char = '?';
pub(super) const ASSIGNED: char = '=';

impl Scripts {
    pub(super) fn new(packs: &[(String, String)]) -> (Scripts, Vec<ScriptMistake>) {
        let mut known: HashSet<String> = PACKAGED.iter().map(|name| (*name).to_owned()).collect();
        let mut engine = new_engine(&mut known);
        let mut trees: Vec<Arc<AST>> = Vec::new();
        let mut mistakes = Vec::new();
        let mut owners: HashMap<(String, usize), String> = HashMap::new();
        for (pack, text) in packs {
            match load_functions(&mut engine, &mut known, &mut owners, pack, text) {
                Ok(tree) => trees.push(Arc::new(tree)),
                Err(mistake) => mistakes.push(ScriptMistake { pack: pack.clone(), mistake }),
            }
        }
        let engine = Arc::new(engine);
        let pack_functions = trees.iter().flat_map(|tree| {
            tree.iter_functions().filter(|function| !function.name.contains('$')).map(|function| {
                PackFunction {
                    name: function.name.to_owned(),
                    parameters: function.params.len(),
                    tree: tree.clone(),
                    engine: engine.clone(),
                }
            })
        });
        let pack_functions = pack_functions.collect();
        (Scripts { engine, known, pack_functions }, mistakes)
    }

    fn is_of_pack(&self, name: &str) -> bool {
        self.pack_functions.iter().any(|function| function.name == name)
    }

    pub(super) fn pack_functions(&self) -> &[PackFunction] {
        &self.pack_functions
    }

    pub(super) fn compile(&self, text: &str) -> Result<Script, Mistake> {
        let (tree, assigns_by_index) = parse(&self.engine, text)?;
        ends_with_a_value(&tree)?;
        let found = Survey::of(&tree, |name| self.known.contains(name), |name| self.is_of_pack(name))?;
        let Survey { references, is_deep, .. } = found;
        let references = references.into();
        Ok(Script { source: text.into(), references, tree: Arc::new(tree), is_deep, assigns_by_index })
    }

    pub(super) fn evaluate(&self, script: &Script, scope: &Scope) -> Result<Value, Failure> {
        let run = || {
            let result = guarded(script.assigns_by_index, || {
                let mut names = HashMap::new();
                for Reference { root, .. } in script.references.iter() {
                    if !names.contains_key(root)
                        && let Some(branch) = scope.branch(root)
                    {
                        names.insert(root.clone(), to_dynamic(&branch)?);
                    }
                }
                NAMES.set(names);
                self.engine.eval_ast_with_scope::<Dynamic>(&mut rhai::Scope::new(), &script.tree)
            });
            let value = result.map_err(|error| explain(&error, Some(scope)))?;
            to_value(&value).map_err(|message| Failure {
                message,
                line: 1,
                column: 1,
                kind: FailureKind::Limit,
            })
        };
        if !script.is_deep {
            return run();
        }
        on_large_stack(run)
            .unwrap_or_else(|message| Err(Failure { message, line: 1, column: 1, kind: FailureKind::Limit }))
    }
}

/// Runs where values that are nested a hundred thousand deep can still be dropped: rhai bounds sizes, not depths.
fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|threads| {
        let builder = std::thread::Builder::new().stack_size(limits::STACK_BYTES);
        let thread = builder
            .spawn_scoped(threads, run)
            .map_err(|error| format!("no stack for this script: {error}"))?;
        thread.join().map_err(|_| "rhai itself failed on this script".to_owned())
    })
}

impl PackFunction {
    /// Calls it with JSON values.
    pub(super) fn call(&self, arguments: &[Value]) -> Result<Value, String> {
        if arguments.len() != self.parameters {
            return Err(format!("{}() takes {} values, not {}", self.name, self.parameters, arguments.len()));
        }
        let run = || {
            let result = guarded(true, || {
                let arguments: Vec<Dynamic> = arguments
                    .iter()
                    .map(|value| from_value("value", value.clone()))
                    .collect::<Outcome<_>>()?;
                let options = rhai::CallFnOptions::new().eval_ast(false);
                let scope = &mut rhai::Scope::new();
                self.engine.call_fn_with_options::<Dynamic>(options, scope, &self.tree, &self.name, arguments)
            });
            let value = result.map_err(|error| explain(&error, None).message)?;
            to_value(&value)
        };
        let result = on_large_stack(run).and_then(|result| result);
        result.map_err(|message| format!("{}(): {message}", self.name))
    }
}

/// Runs rhai so that not even a bug in it harms more than this one script.
fn guarded<T>(assigns_by_index: bool, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    ASSIGNS_BY_INDEX.set(assigns_by_index);
    NAMES.take();
    let outcome = catch_unwind(AssertUnwindSafe(run));
    NAMES.take();
    outcome.unwrap_or_else(|_| error("rhai itself failed on this script"))
}

// ---- compiling ----

/// What the token hook must remember between two tokens.
#[derive(Default)]
struct Lexing {
    lines: Vec<Vec<char>>,
    before: Before,
    assigns_by_index: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Before {
    #[default]
    Other,
    Dot,
    OptionalDot,
    CloseBracket,
}

thread_local! {
    /// The text being compiled on this thread: the hook belongs to the engine, not to a text.
    static LEXING: RefCell<Lexing> = RefCell::default();
    /// The names that the script running on this thread sees. They are no variables of rhai's: a closure that used one would lock it,
    /// and `event.list.filter(|item| item != event.other)` fail.
    static NAMES: RefCell<HashMap<String, Dynamic>> = RefCell::default();
    /// Whether the script running on this thread assigns by index.
    static ASSIGNS_BY_INDEX: Cell<bool> = const { Cell::new(false) };
}

fn parse(engine: &Engine, text: &str) -> Result<(AST, bool), Mistake> {
    if text.len() > limits::SOURCE_BYTES {
        let message = format!("a script may have {} KB at most", limits::SOURCE_BYTES >> 10);
        return Err(Mistake { message, line: 1, column: 1 });
    }
    let lines = text.split('\n').map(|line| line.chars().collect()).collect();
    LEXING.replace(Lexing { lines, ..Lexing::default() });
    let parsed = catch_unwind(AssertUnwindSafe(|| engine.compile(text)));
    let lexing = LEXING.take();
    match parsed {
        Ok(Ok(tree)) => Ok((tree, lexing.assigns_by_index)),
        Ok(Err(error)) => {
            let (line, column) =
                place(error.position()).unwrap_or_else(|| super::place_of(text, text.trim_end().len()));
            Err(Mistake { message: mistaken(&error, text, line, column), line, column })
        }
        Err(_) => {
            Err(Mistake { message: "rhai itself failed on this script".to_owned(), line: 1, column: 1 })
        }
    }
}

/// rhai's own words for a mistake, or what was meant where they are about a habit from another language.
fn mistaken(error: &rhai::ParseError, text: &str, line: usize, column: usize) -> String {
    match habits::at(text, line, column) {
        Some(meant) => format!("this is not how rhai writes it: {meant}"),
        None => sentence(&error.err_type().to_string()),
    }
}

/// A script is for its value. One that ends by assigning has none, which is `event.status = "firing"` where `==` was meant: it would never be true.
fn ends_with_a_value(tree: &AST) -> Result<(), Mistake> {
    let (position, message) = match tree.statements().last() {
        Some(Stmt::Assignment(parts)) => {
            (parts.0.position(), "`=` sets a value, and the script ends without one; `==` compares")
        }
        Some(Stmt::Var(_, _, position)) => {
            (*position, "the script ends with a `let`; what it is for must stand last")
        }
        _ => return Ok(()),
    };
    let (line, column) = place(position).unwrap_or((1, 1));
    Err(Mistake { message: message.to_owned(), line, column })
}

/// rhai's own messages begin with a capital letter; ours don't.
pub(super) fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => message.to_owned(),
    }
}

pub(super) fn place(position: Position) -> Option<(usize, usize)> {
    Some((position.line()?, position.position().unwrap_or(1).max(1)))
}

/// Sees each token before the parser does.
fn on_token(token: Token, position: Position) -> Token {
    LEXING.with_borrow_mut(|lexing| {
        let before = std::mem::replace(
            &mut lexing.before,
            match token {
                Token::Period => Before::Dot,
                Token::Elvis => Before::OptionalDot,
                Token::RightBracket => Before::CloseBracket,
                _ => Before::Other,
            },
        );
        if before == Before::CloseBracket && matches!(token, Token::Equals) {
            lexing.assigns_by_index = true;
        }
        let Some(word) = word_of(&token) else { return token };
        if before == Before::Dot || before == Before::OptionalDot {
            return lexing.name_after_dot(&word, before == Before::OptionalDot, position);
        }
        let rest = lexing.rest_after(&word, position);
        if !matches!(token, Token::Identifier(_)) && rest.starts_with(&[':']) && rest.get(1) != Some(&':') {
            // The key of a map: `#{type: 1}`.
            return Token::Identifier(Box::new(word.into()));
        }
        match CLOSED.iter().find(|(closed, _)| *closed == word) {
            Some((_, why)) => Token::LexError(LexError::ImproperSymbol(word, (*why).to_owned()).into()),
            None => token,
        }
    })
}

/// The word that a token was written as: names, keywords, reserved words.
fn word_of(token: &Token) -> Option<String> {
    let word = match token {
        Token::Identifier(name) | Token::Reserved(name) | Token::Custom(name) => name.to_string(),
        Token::LexError(_) => return None,
        other if other.is_literal() => other.literal_syntax().to_owned(),
        _ => return None,
    };
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_').then_some(word)
}

impl Lexing {
    /// Any word is a name after a dot. Functions keep theirs; a property may carry a mark.
    fn name_after_dot(&self, word: &str, optional: bool, position: Position) -> Token {
        let rest = self.rest_after(word, position);
        let is_call = rest.starts_with(&['(']);
        let is_assigned = rest.starts_with(&['=']) && !matches!(rest.get(1), Some('=' | '>'));
        let name = match () {
            () if is_call => word.to_owned(),
            () if is_assigned => format!("{ASSIGNED}{word}"),
            () if optional => format!("{OPTIONAL}{word}"),
            () => word.to_owned(),
        };
        Token::Identifier(Box::new(name.into()))
    }

    /// What follows a word, spaces and line ends skipped (on this line and the next: enough for how people write).
    fn rest_after(&self, word: &str, position: Position) -> &[char] {
        let Some((line, column)) = place(position) else { return &[] };
        let skip = |line: usize, from: usize| -> &[char] {
            let Some(chars) = self.lines.get(line).and_then(|chars| chars.get(from..)) else { return &[] };
            let spaces = chars.iter().take_while(|c| c.is_whitespace()).count();
            chars.get(spaces..).unwrap_or_default()
        };
        let rest = skip(line - 1, column - 1 + word.chars().count());
        if rest.is_empty() { skip(line, 0) } else { rest }
    }
}

fn load_functions(
    engine: &mut Engine,
    known: &mut HashSet<String>,
    owners: &mut HashMap<(String, usize), String>,
    pack: &str,
    text: &str,
) -> Result<AST, Mistake> {
    let (tree, _) = parse(engine, text)?;
    if let Some(statement) = tree.statements().iter().find(|statement| !matches!(statement, Stmt::Noop(_))) {
        let (line, column) = place(statement.position()).unwrap_or((1, 1));
        let message = "only `fn`s may stand in functions.rhai".to_owned();
        return Err(Mistake { message, line, column });
    }
    let own: Vec<(String, usize)> = tree
        .iter_functions()
        .filter(|function| !function.name.contains('$'))
        .map(|function| (function.name.to_owned(), function.params.len()))
        .collect();
    for function in &own {
        let taken = match owners.get(function) {
            Some(owner) => format!("pack {owner} has a function of this name too"),
            None if known.contains(&function.0) && !owners.keys().any(|(name, _)| *name == function.0) => {
                "it is built in".to_owned()
            }
            None => continue,
        };
        let (line, column) = place_of_function(text, &function.0);
        return Err(Mistake { message: format!("`{}` is taken: {taken}", function.0), line, column });
    }
    let is_own = |name: &str| own.iter().any(|(own, _)| own == name);
    let is_of_pack = |name: &str| is_own(name) || owners.keys().any(|(taken, _)| taken == name);
    let reads = Survey::of(&tree, |name| known.contains(name) || is_own(name), is_of_pack)?;
    if let Some(Reference { root, line, column, .. }) = reads.references.first() {
        let message =
            format!("a function of a pack sees only what it is given, so there is no `{root}` here");
        return Err(Mistake { message, line: *line, column: *column });
    }
    let module = Module::eval_ast_as_new(rhai::Scope::new(), &tree, engine);
    let module = module.map_err(|error| {
        let Failure { message, line, column, .. } = explain(&error, None);
        Mistake { message, line, column }
    })?;
    engine.register_global_module(module.into());
    for function in own {
        known.insert(function.0.clone());
        owners.insert(function, pack.to_owned());
    }
    Ok(tree)
}

fn place_of_function(text: &str, name: &str) -> (usize, usize) {
    let declarations = text.match_indices("fn ").map(|(at, found)| at + found.len());
    let own = declarations.into_iter().find(|at| text[*at..].trim_start().starts_with(name));
    super::place_of(text, own.unwrap_or(0))
}

// ---- the engine ----

fn new_engine(known: &mut HashSet<String>) -> Engine {
    let mut engine = Engine::new_raw();
    ArithmeticPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BitFieldPackage::new().register_into_engine(&mut engine);
    BasicMathPackage::new().register_into_engine(&mut engine);
    BasicStringPackage::new().register_into_engine(&mut engine);
    BasicIteratorPackage::new().register_into_engine(&mut engine);
    BasicFnPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);

    engine.set_max_operations(limits::OPERATIONS);
    engine.set_max_call_levels(limits::CALL_LEVELS);
    engine.set_max_expr_depths(limits::EXPRESSION_DEPTH, limits::EXPRESSION_DEPTH);
    engine.set_max_string_size(limits::STRING_BYTES);
    engine.set_max_array_size(limits::LIST_ITEMS);
    engine.set_max_map_size(limits::MAP_ENTRIES);
    engine.set_max_variables(limits::VARIABLES);
    engine.set_max_functions(limits::FUNCTIONS);
    engine.set_max_modules(0);
    // Folding constants would decide `1 == "1"` before our comparison is asked, and lose references.
    engine.set_optimization_level(OptimizationLevel::None);
    engine.set_fast_operators(false);
    engine.set_fail_on_invalid_map_property(true);
    #[expect(deprecated, reason = "rhai marks what it may change so; these are its hooks")]
    {
        engine.on_parse_token(|token, position, _| on_token(token, position));
        engine.on_var(|name, _, context| match context.scope().get(name) {
            Some(value) if is_too_deep(value) => Err(Box::new(EvalAltResult::ErrorDataTooLarge(
                format!("more than {} lists and maps inside one another", limits::RESULT_DEPTH),
                Position::NONE,
            ))),
            Some(_) => Ok(None),
            None => Ok(known_name(name)),
        });
        engine.on_map_missing_property(|map, name, _| missing_entry(map, name));
    }
    register_comparisons(&mut engine);
    register_maps(&mut engine);
    register_lists(&mut engine);
    register_texts(&mut engine);
    for function in functions::ALL {
        known.insert(function.name.to_owned());
        let types = vec![TypeId::of::<Dynamic>(); function.arguments];
        engine.register_raw_fn(
            function.name,
            types,
            move |_: NativeCallContext, arguments: &mut [&mut Dynamic]| {
                let values =
                    arguments.iter().map(|argument| to_value(argument)).collect::<Result<Vec<_>, _>>();
                match values.and_then(|values| (function.call)(&values)) {
                    Ok(value) => from_value(function.name, value),
                    Err(message) => error(message),
                }
            },
        );
    }
    known.extend(TEXT_FUNCTIONS.iter().map(|name| (*name).to_owned()));
    engine
}

fn known_name(name: &str) -> Option<Dynamic> {
    NAMES.with_borrow(|names| names.get(name).cloned())
}

/// Whether a variable has grown inwards too far. Looks at a few items of each level only, since every reading of a variable asks: it is
/// to stop `loop { a = [a] }` while that is still cheap, the large stack stands behind it.
fn is_too_deep(value: &Dynamic) -> bool {
    is_deeper_than(limits::RESULT_DEPTH, value)
}

fn is_deeper_than(levels: usize, value: &Dynamic) -> bool {
    const LOOKED_AT: usize = 8;
    let Some(left) = levels.checked_sub(1) else { return true };
    let is_container = |value: &&Dynamic| value.is_array() || value.is_map();
    if let Ok(items) = value.as_array_ref() {
        return items
            .iter()
            .take(LOOKED_AT)
            .find(is_container)
            .is_some_and(|inner| is_deeper_than(left, inner));
    }
    if let Ok(map) = value.as_map_ref() {
        return map
            .values()
            .take(LOOKED_AT)
            .find(is_container)
            .is_some_and(|inner| is_deeper_than(left, inner));
    }
    false
}

/// A map that the script itself made has no such entry.
fn missing_entry<'a>(map: &'a mut Map, name: &str) -> Outcome<Target<'a>> {
    if let Some(name) = name.strip_prefix(OPTIONAL) {
        return Ok(Target::from(map.get(name).cloned().unwrap_or(Dynamic::UNIT)));
    }
    let assigned = name.strip_prefix(ASSIGNED);
    if assigned.is_none() && !ASSIGNS_BY_INDEX.get() {
        let hint = did_you_mean(name, map.keys().map(|key| key.as_str()));
        return error(format!("this map has no `{name}`{hint}"));
    }
    map.entry(assigned.unwrap_or(name).into()).or_insert(Dynamic::UNIT).try_into()
}
