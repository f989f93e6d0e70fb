//! What people write in a script out of habit from another language, and what is meant in rhai: `and`, `null`, 'texts in single quotes', `any()`.
//!
//! Only the words for a mistake that the compiler has found come from here; nothing is accepted or refused by it.

/// What a word or sign of other languages is in rhai.
const WORDS: &[(&str, &str)] = &[
    ("and", "`&&` is and"),
    ("or", "`||` is or"),
    ("not", "`!` is not: `!event.draft`, `!(a in b)`"),
    ("is", "`==` compares"),
    ("equals", "`==` compares"),
    ("eq", "`==` compares"),
    ("<>", "`!=` is not equal"),
    ("===", "`==` compares"),
    ("!==", "`!=` is not equal"),
    ("=~", PATTERN),
    ("!~", PATTERN),
    ("~", PATTERN),
    ("matches", PATTERN),
    ("like", PATTERN),
    ("null", NOTHING),
    ("nil", NOTHING),
    ("none", NOTHING),
    ("undefined", NOTHING),
    ("true", "truths are `true` and `false`, in small letters"),
    ("false", "truths are `true` and `false`, in small letters"),
    ("then", "`if a { b } else { c }`"),
    ("elif", "`else if`"),
    ("elsif", "`else if`"),
    ("lambda", "a function without a name is `|x| x + 1`"),
    ("=>", "a function without a name is `|x| x + 1`"),
    ("->", "`.` reads a key: `event.repository.name`"),
    ("?", "there is no `a ? b : c`; write `if a { b } else { c }`"),
    ("$", "names stand there as they are: `event.ref`"),
    ("@", "names stand there as they are: `event.ref`"),
    ("'", "texts stand in double quotes"),
];
const PATTERN: &str = "a pattern is tried with `event.name.matches(\"^v[0-9]+\")`";
const NOTHING: &str = "nothing is `()`: `event.labels?.app == ()`";

/// What functions of other languages are called here.
const FUNCTIONS: &[(&str, &str)] = &[
    ("any", "some"),
    ("every", "all"),
    ("size", "len"),
    ("length", "len"),
    ("count", "len"),
    ("strlen", "len"),
    ("startswith", "starts_with"),
    ("startsWith", "starts_with"),
    ("has_prefix", "starts_with"),
    ("endswith", "ends_with"),
    ("endsWith", "ends_with"),
    ("has_suffix", "ends_with"),
    ("includes", "contains"),
    ("has", "contains"),
    ("indexOf", "index_of"),
    ("find_index", "index_of"),
    ("lower", "to_lower"),
    ("lowercase", "to_lower"),
    ("toLowerCase", "to_lower"),
    ("to_lowercase", "to_lower"),
    ("upper", "to_upper"),
    ("uppercase", "to_upper"),
    ("toUpperCase", "to_upper"),
    ("to_uppercase", "to_upper"),
    ("strip", "trim"),
    ("match", "matches"),
    ("regex", "matches"),
    ("search", "matches"),
    ("substr", "sub_string"),
    ("substring", "sub_string"),
    ("slice", "extract"),
    ("int", "parse_int"),
    ("parseInt", "parse_int"),
    ("str", "to_string"),
    ("string", "to_string"),
    ("toString", "to_string"),
];

/// What is meant where a script can't be read: by what stands at the place of the mistake (`line` and `column` from 1, in characters), or right before it.
pub(super) fn at(text: &str, line: usize, column: usize) -> Option<&'static str> {
    let line: Vec<char> = text.split('\n').nth(line.checked_sub(1)?)?.chars().collect();
    let at = column.checked_sub(1)?.min(line.len());
    let around = [piece(&line, at), before(&line, at).and_then(|at| piece(&line, at))];
    around.into_iter().flatten().find_map(|(begin, end)| {
        let piece: String = line[begin..end].iter().collect();
        named(&piece)
    })
}

/// What a name that is none is in rhai.
pub(super) fn named(word: &str) -> Option<&'static str> {
    let word = if word.starts_with('\'') { "'" } else { word };
    WORDS.iter().find(|(known, _)| word.eq_ignore_ascii_case(known)).map(|(_, meant)| *meant)
}

/// What a function is called here that other languages call `name`, if there is one.
pub(super) fn function(name: &str, known: impl Fn(&str) -> bool) -> Option<&'static str> {
    let (_, ours) = FUNCTIONS.iter().find(|(theirs, ours)| *theirs == name && known(ours))?;
    Some(ours)
}

/// The whole word, or the whole run of signs, that holds this place.
fn piece(line: &[char], at: usize) -> Option<(usize, usize)> {
    let kind = kind_of(*line.get(at)?)?;
    let begin = (0..at).rev().take_while(|&at| kind_of(line[at]) == Some(kind)).last().unwrap_or(at);
    let end = (at..line.len()).take_while(|&at| kind_of(line[at]) == Some(kind)).last().unwrap_or(at);
    Some((begin, end + 1))
}

/// The last letter of what stands before this place.
fn before(line: &[char], at: usize) -> Option<usize> {
    let begin = piece(line, at).map_or(at, |(begin, _)| begin);
    (0..begin).rev().find(|&at| !line[at].is_whitespace())
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Word,
    Sign,
    Quote,
}

fn kind_of(letter: char) -> Option<Kind> {
    match letter {
        '\'' => Some(Kind::Quote),
        letter if letter.is_alphanumeric() || letter == '_' => Some(Kind::Word),
        '=' | '!' | '~' | '<' | '>' | '-' | '?' | '$' | '@' => Some(Kind::Sign),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::Expr;

    #[test]
    fn what_other_languages_write_is_answered_with_what_is_meant() {
        for (text, meant) in [
            ("event.s == 'firing'", "double quotes"),
            ("event.a and event.b", "`&&`"),
            ("event.a OR event.b", "`||`"),
            ("not event.a", "`!` is not"),
            ("event.a == 1 and not event.b", "`&&`"),
            ("event.s not in [\"x\"]", "`!(a in b)`"),
            ("event.a is true", "`==`"),
            ("event.a === 1", "`==`"),
            ("event.a <> 1", "`!=`"),
            ("event.s =~ \"x\"", ".matches("),
            ("event.s !~ \"x\"", ".matches("),
            ("event.s like \"x%\"", ".matches("),
            ("event.s == null", "`()`"),
            ("event.s == nil", "`()`"),
            ("event.s == None", "`()`"),
            ("event.s == undefined", "`()`"),
            ("event.s == True", "small letters"),
            ("event.s ? 1 : 2", "`if a { b } else { c }`"),
            ("if event.s then 1", "`if a { b } else { c }`"),
            ("$event.s == 1", "as they are"),
            ("event->s == 1", "`.` reads a key"),
            ("event.list.any(|x| x == 1)", "`some`"),
            ("event.list.size() > 1", "`len`"),
            ("event.s.toLowerCase() == \"x\"", "`to_lower`"),
        ] {
            let mistake = Expr::default().script(text).unwrap_err();
            assert!(mistake.message.contains(meant), "{text}: {}", mistake.message);
        }
    }

    #[test]
    fn names_that_only_look_so_are_left_alone() {
        for text in
            ["event.and", "event.not == \"null\"", "let none = 1; none", "event.list.some(|eq| eq == 1)"]
        {
            assert!(Expr::default().script(text).is_ok(), "{text}");
        }
    }
}
