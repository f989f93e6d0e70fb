//! Reads templates as far as Siskin must know them beforehand: where expressions stand, which names, filters and functions they use,
//! and where secrets are. minijinja compiles and runs them; its own tree is not open to others.

use std::collections::HashSet;

/// Something wrong at a byte offset of the text.
pub(super) type Wrong = (usize, String);

/// A piece of a template without `{% %}`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    /// What stands between `{{` and `}}`, with its byte offset.
    Expression {
        code: String,
        offset: usize,
    },
}

/// How a template is built.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Pieces(Vec<Piece>),
    /// It has `{% %}`, `{# #}` or `{{-`, so minijinja must render it as a whole. The code of every tag, with its byte offset.
    Blocks(Vec<Tag>),
}

/// One `{{ }}` or `{% %}`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tag {
    pub(super) is_statement: bool,
    pub(super) code: String,
    pub(super) offset: usize,
}

/// Splits a template.
pub(super) fn split(text: &str) -> Result<Shape, Wrong> {
    let mut pieces = Vec::new();
    let mut tags = Vec::new();
    let mut is_blocks = false;
    let mut literal_from = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find('{') {
        let open = at + found;
        let end = match text.as_bytes().get(open + 1) {
            Some(b'{') => expression_end(text, open)?,
            Some(b'%') => statement_end(text, open)?,
            Some(b'#') => match text[open + 2..].find("#}") {
                Some(end) => open + 2 + end + 2,
                None => {
                    return Err((
                        open,
                        "`{#` begins a comment that never ends; write {{ '{#' }} for the characters"
                            .to_owned(),
                    ));
                }
            },
            _ => {
                at = open + 1;
                continue;
            }
        };
        let is_statement = text[open..].starts_with("{%");
        let inner = text[open + 2..end - 2].trim_start_matches(['-', '+']);
        let offset = end - 2 - inner.len();
        is_blocks |= !text[open..].starts_with("{{") || inner.ends_with('-') || offset != open + 2;
        if !text[open..].starts_with("{#") {
            let code = inner.trim_end_matches('-').to_owned();
            tags.push(Tag { is_statement, code: code.clone(), offset });
            if literal_from < open {
                pieces.push(Piece::Text(text[literal_from..open].to_owned()));
            }
            pieces.push(Piece::Expression { code, offset });
        }
        if is_statement && inner.trim_matches(['-', ' ']) == "raw" {
            let Some(raw) = raw_end(&text[end..]) else {
                return Err((open, "`{% raw %}` needs its `{% endraw %}`".to_owned()));
            };
            at = end + raw;
        } else {
            at = end;
        }
        literal_from = at;
    }
    if is_blocks {
        return Ok(Shape::Blocks(tags));
    }
    if literal_from < text.len() {
        pieces.push(Piece::Text(text[literal_from..].to_owned()));
    }
    Ok(Shape::Pieces(pieces))
}

/// The offset after `{% endraw %}`.
fn raw_end(text: &str) -> Option<usize> {
    text.match_indices("{%").find_map(|(open, _)| {
        let close = open + 2 + text[open + 2..].find("%}")?;
        (text[open + 2..close].trim_matches(['-', ' ']) == "endraw").then_some(close + 2)
    })
}

/// The offset after the `}}` that ends the expression which begins at `open`. Quotes and inner braces are passed over.
fn expression_end(text: &str, open: usize) -> Result<usize, Wrong> {
    let bytes = text.as_bytes();
    let mut depth = 0;
    let mut at = open + 2;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\'' | b'"' => at = quote_end(text, at)?,
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Ok(at + 2),
            _ => (),
        }
        at += 1;
    }
    Err((open, "`{{` has no `}}` after it; write {{ '{{' }} for the characters".to_owned()))
}

fn statement_end(text: &str, open: usize) -> Result<usize, Wrong> {
    let bytes = text.as_bytes();
    let mut at = open + 2;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\'' | b'"' => at = quote_end(text, at)?,
            b'%' if bytes.get(at + 1) == Some(&b'}') => return Ok(at + 2),
            _ => (),
        }
        at += 1;
    }
    Err((open, "`{%` has no `%}` after it; write {{ '{%' }} for the characters".to_owned()))
}

/// The offset of the quote that ends the one at `at`.
fn quote_end(text: &str, at: usize) -> Result<usize, Wrong> {
    let bytes = text.as_bytes();
    let quote = bytes[at];
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end) {
        match *byte {
            b'\\' => end += 1,
            byte if byte == quote => return Ok(end),
            _ => (),
        }
        end += 1;
    }
    Err((at, "a quote is missing here".to_owned()))
}

/// A token of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Name(String),
    Text(String),
    Number(String),
    Sign(&'static str),
}

/// A token and its byte offset in the template.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) offset: usize,
}

impl Token {
    fn is(&self, sign: &str) -> bool {
        matches!(&self.kind, Kind::Sign(own) if *own == sign)
    }

    fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Name(name) => Some(name),
            _ => None,
        }
    }
}

const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "**", "//", ".", ",", "|", "(", ")", "[", "]", "{", "}", ":", "=", "<", ">", "+",
    "-", "*", "/", "%", "~", "!",
];

/// Bounds on one expression and on statements inside one another: whoever reads or runs them recurses, and stacks are finite.
const TOKENS: usize = 600;
const DEPTH: i32 = 32;

/// The tokens of an expression that stands at `base` in its template.
pub(super) fn tokens(code: &str, base: usize) -> Result<Vec<Token>, Wrong> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut depth = 0;
    while let Some(first) = code[at..].chars().next() {
        let offset = base + at;
        let rest = &code[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (kind, length) = if first.is_alphabetic() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Kind::Name(rest[..length].to_owned()), length)
        } else if first.is_ascii_digit() {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Kind::Number(rest[..length].to_owned()), length)
        } else if first == '\'' || first == '"' {
            let end = quote_end(code, at).map_err(|(wrong, message)| (base + wrong, message))?;
            (Kind::Text(unescape(&code[at + 1..end])), end + 1 - at)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Kind::Sign(sign), sign.len())
        } else {
            return Err((offset, format!("`{first}` means nothing in a template")));
        };
        if tokens.len() == TOKENS {
            return Err((
                base,
                format!("this is too long for one expression: at most {TOKENS} words and signs"),
            ));
        }
        depth += match kind {
            Kind::Sign("(" | "[" | "{") => 1,
            Kind::Sign(")" | "]" | "}") => -1,
            _ => 0,
        };
        if depth > DEPTH {
            return Err((offset, format!("more than {DEPTH} brackets inside one another")));
        }
        tokens.push(Token { kind, offset });
        at += length;
    }
    Ok(tokens)
}

fn unescape(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => plain.push('\n'),
                Some('t') => plain.push('\t'),
                Some(other) => plain.push(other),
                None => (),
            },
            (c, false) => plain.push(c),
        }
    }
    plain
}

/// A name and the way into its value: `apps[input.app].environments`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) root: String,
    pub(super) offset: usize,
    pub(super) steps: Vec<Step>,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Key(String),
    Index(i64),
    Inner(Path),
}

impl Path {
    /// The keys up to the first step that is known only when it runs.
    pub(super) fn known_keys(&self) -> Vec<String> {
        let keys = self.steps.iter().map_while(|step| match step {
            Step::Key(key) => Some(key.clone()),
            Step::Index(_) | Step::Inner(_) => None,
        });
        keys.collect()
    }
}

const WORDS: &[&str] = &[
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "true",
    "false",
    "none",
    "True",
    "False",
    "None",
    "for",
    "recursive",
];

/// The path that begins at token `at`, and the token after it.
pub(super) fn path(tokens: &[Token], at: usize) -> Option<(Path, usize)> {
    let root = tokens.get(at)?.name().filter(|name| !WORDS.contains(name))?;
    let mut path = Path { root: root.to_owned(), offset: tokens[at].offset, steps: Vec::new() };
    let mut next = at + 1;
    loop {
        let sign = tokens.get(next);
        if sign.is_some_and(|token| token.is(".")) {
            let step = match &tokens.get(next + 1)?.kind {
                Kind::Name(name) => Step::Key(name.clone()),
                Kind::Number(number) => Step::Index(number.parse().ok()?),
                Kind::Text(_) | Kind::Sign(_) => return None,
            };
            path.steps.push(step);
            next += 2;
        } else if sign.is_some_and(|token| token.is("[")) {
            let (step, close) = match &tokens.get(next + 1)?.kind {
                Kind::Text(key) => (Some(Step::Key(key.clone())), next + 2),
                Kind::Number(number) => (number.parse().ok().map(Step::Index), next + 2),
                Kind::Name(_) => match self::path(tokens, next + 1) {
                    Some((inner, after)) => (Some(Step::Inner(inner)), after),
                    None => (None, next),
                },
                Kind::Sign(_) => (None, next),
            };
            match step {
                Some(step) if tokens.get(close).is_some_and(|token| token.is("]")) => {
                    path.steps.push(step);
                    next = close + 1;
                }
                // Any other index: the path that is known ends here.
                _ => return Some((path, next)),
            }
        } else {
            return Some((path, next));
        }
    }
}

/// What an expression uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Uses {
    pub(super) paths: Vec<(Path, bool)>,
    pub(super) filters: Vec<(String, usize)>,
    pub(super) tests: Vec<(String, usize)>,
    pub(super) calls: Vec<(String, usize)>,
}

/// Finds them.
pub(super) fn uses(tokens: &[Token]) -> Uses {
    let mut uses = Uses::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        let followed_by = |sign: &str| tokens.get(at + 1).is_some_and(|next| next.is(sign));
        let Some(name) = token.name() else {
            at += 1;
            continue;
        };
        let is_after = |sign: &str| before.is_some_and(|before| before.is(sign));
        let is_test = before.and_then(Token::name) == Some("is")
            || (before.and_then(Token::name) == Some("not")
                && at >= 2
                && tokens[at - 2].name() == Some("is"));
        if is_after("|") {
            uses.filters.push((name.to_owned(), token.offset));
        } else if is_test && name != "not" {
            uses.tests.push((name.to_owned(), token.offset));
        } else if is_after(".") || WORDS.contains(&name) {
            // A key or method of what came before, or a word of the language.
        } else if followed_by("(") {
            uses.calls.push((name.to_owned(), token.offset));
        } else if followed_by("=") && (is_after("(") || is_after(",")) {
            // The name of an argument.
        } else if let Some((found, next)) = path(tokens, at) {
            let optional = is_made_optional(&tokens[next..]);
            // Paths inside brackets are names of their own.
            let inner = found.steps.iter().filter_map(|step| match step {
                Step::Inner(inner) => Some((inner.clone(), false)),
                Step::Key(_) | Step::Index(_) => None,
            });
            let inner: Vec<_> = inner.collect();
            uses.paths.push((without_method(found, &tokens[next..]), optional));
            uses.paths.extend(inner);
            at = next;
            continue;
        }
        at += 1;
    }
    uses
}

/// `loop.index.cycle(...)`: the last key is a method.
fn without_method(mut path: Path, rest: &[Token]) -> Path {
    if rest.first().is_some_and(|token| token.is("(")) {
        path.steps.pop();
    }
    path
}

fn is_made_optional(rest: &[Token]) -> bool {
    let name = |at: usize| rest.get(at).and_then(Token::name);
    match rest.first() {
        Some(token) if token.is("|") => matches!(name(1), Some("default" | "d")),
        Some(token) if token.name() == Some("is") => {
            matches!(name(1), Some("defined" | "undefined"))
                || (name(1) == Some("not") && matches!(name(2), Some("defined" | "undefined")))
        }
        _ => false,
    }
}

/// The name in `secret(...)`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SecretName {
    Literal(String),
    Path(Path),
}

/// `secret(name)`, perhaps `| base64`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SecretUse {
    pub(super) name: SecretName,
    pub(super) base64: bool,
}

/// The secret that an expression is; none when it mentions none.
pub(super) fn secret(tokens: &[Token]) -> Result<Option<SecretUse>, Wrong> {
    let mentioned = uses(tokens).calls.into_iter().find(|(name, _)| name == "secret");
    let Some((_, offset)) = mentioned else { return Ok(None) };
    if tokens.first().and_then(Token::name) != Some("secret") {
        return Err((
            offset,
            "secret() must stand alone between `{{` and `}}`: no comparison, list or other text around it"
                .to_owned(),
        ));
    }
    let wrong_name = || {
        (
            offset,
            "secret() takes a name in quotes or a value from config or apps, never from event or input"
                .to_owned(),
        )
    };
    let (name, next) = match tokens.get(2).map(|token| &token.kind) {
        Some(Kind::Text(name)) if !name.is_empty() => (SecretName::Literal(name.clone()), 3),
        Some(Kind::Name(_)) => {
            let (path, next) = path(tokens, 2).ok_or_else(wrong_name)?;
            let begins_right = match path.root.as_str() {
                "config" => !path.steps.is_empty(),
                "apps" => path.steps.len() >= 2,
                _ => false,
            };
            if !begins_right {
                return Err(wrong_name());
            }
            (SecretName::Path(path), next)
        }
        _ => return Err(wrong_name()),
    };
    if !tokens.get(next).is_some_and(|token| token.is(")")) {
        return Err(wrong_name());
    }
    let rest = &tokens[next + 1..];
    let base64 = match rest {
        [] => false,
        [pipe, filter] if pipe.is("|") && filter.name() == Some("base64") => true,
        [pipe, ..] if pipe.is("|") => {
            return Err((pipe.offset, "a secret may pass no filter but base64".to_owned()));
        }
        [other, ..] => {
            return Err((
                other.offset,
                "secret() must stand alone between `{{` and `}}`; put other text outside".to_owned(),
            ));
        }
    };
    Ok(Some(SecretUse { name, base64 }))
}

const STATEMENTS: &[&str] =
    &["if", "elif", "else", "endif", "for", "endfor", "set", "with", "endwith", "raw", "endraw"];

/// What the `{% %}` of a template declare, checked for what templates may not do.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    pub(super) names: HashSet<String>,
}

/// Reads all statements.
///
/// Only `if`, `for`, `set` and `with` exist; and a name that was made longer by `~`, `+`, `*` or a filter can't be made longer again, since
/// doubling a text some forty times would take all memory, which neither fuel nor the cap on the output prevents.
pub(super) fn declared(tags: &[Tag]) -> Result<Declared, Wrong> {
    let mut declared = Declared::default();
    declared.names.insert("loop".to_owned());
    let mut assignments: Vec<(Vec<String>, Vec<Token>)> = Vec::new();
    let mut open: Vec<i32> = Vec::new();
    for tag in tags.iter().filter(|tag| tag.is_statement) {
        let tokens = tokens(&tag.code, tag.offset)?;
        let Some(word) = tokens.first().and_then(Token::name) else {
            return Err((tag.offset, "`{%` needs a word such as if or for after it".to_owned()));
        };
        if !STATEMENTS.contains(&word) {
            let message =
                format!("`{{% {word} %}}` is not for templates here: if, for, set, with and raw are");
            return Err((tokens[0].offset, message));
        }
        match word {
            "if" | "for" | "with" => open.push(1),
            // Each `elif` nests in the one before.
            "elif" => open.last_mut().into_iter().for_each(|levels| *levels += 1),
            "endif" | "endfor" | "endwith" => drop(open.pop()),
            _ => (),
        }
        if open.iter().sum::<i32>() > DEPTH {
            return Err((
                tokens[0].offset,
                format!("more than {DEPTH} if, elif, for and with inside one another"),
            ));
        }
        let (targets, source) = match word {
            "for" => {
                let Some(middle) = tokens.iter().position(|token| token.name() == Some("in")) else {
                    return Err((tag.offset, "`for` is written `{% for item in list %}`".to_owned()));
                };
                (targets(&tokens[1..middle]), tokens[middle + 1..].to_vec())
            }
            "set" | "with" => {
                let Some(middle) = tokens.iter().position(|token| token.is("=")) else {
                    return Err((tag.offset, format!("`{word}` is written `{{% {word} name = value %}}`")));
                };
                let all = if word == "with" { assigned(&tokens) } else { targets(&tokens[1..middle]) };
                (all, tokens[middle + 1..].to_vec())
            }
            _ => continue,
        };
        declared.names.extend(targets.iter().cloned());
        assignments.push((targets, source));
    }
    refuse_growth(&assignments)?;
    Ok(declared)
}

fn targets(tokens: &[Token]) -> Vec<String> {
    tokens.iter().filter_map(Token::name).map(str::to_owned).collect()
}

/// The names before `=` in `with a = 1, b = 2`.
fn assigned(tokens: &[Token]) -> Vec<String> {
    let pairs = tokens.windows(2).filter(|pair| pair[1].is("="));
    pairs.filter_map(|pair| pair[0].name()).map(str::to_owned).collect()
}

fn refuse_growth(assignments: &[(Vec<String>, Vec<Token>)]) -> Result<(), Wrong> {
    let grows = |source: &[Token]| {
        source
            .iter()
            .find(|token| ["~", "+", "*", "[", "{", "|"].iter().any(|sign| token.is(sign)))
            .map(|token| token.offset)
    };
    let mut grown: HashSet<&str> = HashSet::new();
    loop {
        let known = grown.len();
        for (targets, source) in assignments {
            let mentions = source.iter().filter_map(Token::name).any(|name| grown.contains(name));
            if mentions || grows(source).is_some() {
                grown.extend(targets.iter().map(String::as_str));
            }
        }
        if grown.len() == known {
            break;
        }
    }
    for (_, source) in assignments {
        let mentioned = source.iter().filter_map(Token::name).find(|name| grown.contains(name));
        if let (Some(name), Some(offset)) = (mentioned, grows(source)) {
            return Err((
                offset,
                format!(
                    "`{name}` is made from other values already and can't be built upon here; use it in {{{{ }}}} instead"
                ),
            ));
        }
    }
    Ok(())
}
