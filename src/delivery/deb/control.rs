//! Paragraphs of Debian's control format, and the rules for names, architectures and relations that stand in them.
//!
//! Text goes in only checked: no value can begin a field of its own.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

/// Fields in the order in which they were written; names are compared without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paragraph {
    fields: Vec<(String, String)>,
}

impl Paragraph {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Adds a field at the end, or replaces the one of that name. Continuation lines of `value` must begin with a space.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.fields.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name.to_owned(), value)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The one paragraph of `text`.
    pub fn parse(text: &str) -> Result<Paragraph, String> {
        let mut all = Paragraph::parse_all(text)?;
        match (all.pop(), all.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err("it holds no field".to_owned()),
            (Some(_), others) => Err(format!("it holds {} paragraphs in place of one", others + 1)),
        }
    }

    /// All paragraphs of `text`, which empty lines part.
    pub fn parse_all(text: &str) -> Result<Vec<Paragraph>, String> {
        let mut all = Vec::new();
        let mut current = Paragraph::default();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                if !current.is_empty() {
                    all.push(std::mem::take(&mut current));
                }
                continue;
            }
            current.add_line(line).map_err(|reason| format!("line {}: {reason}", index + 1))?;
        }
        if !current.is_empty() {
            all.push(current);
        }
        Ok(all)
    }

    fn add_line(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with([' ', '\t']) {
            let Some((_, value)) = self.fields.last_mut() else {
                return Err("a continuation line without a field before it".to_owned());
            };
            value.push('\n');
            value.push_str(line);
            return Ok(());
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!("`{}` is no field: it has no colon", line.escape_debug()));
        };
        check_field_name(name)?;
        if self.get(name).is_some() {
            return Err(format!("field `{name}` stands there twice"));
        }
        self.fields.push((name.to_owned(), value.trim().to_owned()));
        Ok(())
    }
}

impl fmt::Display for Paragraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.fields {
            let space = if value.is_empty() || value.starts_with('\n') { "" } else { " " };
            writeln!(f, "{name}:{space}{value}")?;
        }
        Ok(())
    }
}

/// A field's name by Debian's rule.
pub fn check_field_name(name: &str) -> Result<(), String> {
    let printable = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b':';
    if name.is_empty() || name.starts_with(['-', '#']) || !name.bytes().all(printable) {
        return Err(format!("`{}` is no name of a field", name.escape_debug()));
    }
    Ok(())
}

/// A value of one line: no line break or other control character can slip in and begin another field.
pub fn check_one_line(value: &str) -> Result<String, String> {
    if let Some(wrong) = value.chars().find(|c| c.is_control()) {
        return Err(format!("`{}` holds {wrong:?}; it must be one line of text", value.escape_debug()));
    }
    let value = value.trim();
    if value.is_empty() {
        return Err("it is empty; leave it out instead".to_owned());
    }
    Ok(value.to_owned())
}

/// A package's name: lower case, `_` and spaces become `-`, and the rest must keep Debian's rule.
pub fn package_name(name: &str) -> Result<String, String> {
    let normal = name.to_lowercase().replace(['_', ' '], "-");
    if is_package_name(&normal) {
        return Ok(normal);
    }
    Err(format!(
        "`{}` can't be a package's name: Debian wants two or more of a-z 0-9 + - . and a letter or digit first",
        name.escape_debug()
    ))
}

/// Whether `name` is a package's name as it stands.
pub fn is_package_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    name.len() >= 2
        && name.bytes().all(allowed)
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
}

/// Debian's name for an architecture: `x86_64` is `amd64`, `noarch` is `all`, `native` is this machine's.
pub fn architecture(name: &str) -> Result<String, String> {
    let known = match name {
        "native" => return Ok(native_architecture().to_owned()),
        "noarch" => "all",
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i686" | "i586" => "i386",
        "ppc64le" => "ppc64el",
        "any" | "source" => return Err(format!("`{name}` is no architecture of a finished package")),
        other => other,
    };
    if is_architecture(known) {
        return Ok(known.to_owned());
    }
    Err(format!("`{}` can't be an architecture; say amd64, arm64, all or native", name.escape_debug()))
}

/// Whether `name` can be an architecture: letters, digits and inner hyphens.
pub fn is_architecture(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(allowed) && !name.starts_with('-') && !name.ends_with('-')
}

/// The architecture of the machine that this program was built for.
pub fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "i386",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

static RELATION: LazyLock<Regex> = LazyLock::new(|| {
    let name = r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?P<qualifier>:[a-z0-9-]+)?";
    let bare = r"\s*(?P<bare_operator><<|<=|>=|>>|=|<|>)\s*(?P<bare_version>[^\s()]+)";
    let bracketed = r"\s*\(\s*(?P<operator><<|<=|>=|>>|=|<|>)\s*(?P<version>[^\s()]+)\s*\)";
    Regex::new(&format!("^{name}(?:{bare}|{bracketed})?$")).expect("a constant expression")
});

/// One entry of `Depends` and its kin in Debian's spelling: `foo >= 1.0` becomes `foo (>= 1.0)`.
pub fn relation(text: &str) -> Result<String, String> {
    let text = check_one_line(text)?;
    let groups = text.split(',').map(|group| {
        let alternatives: Result<Vec<_>, _> = group.split('|').map(single_relation).collect();
        alternatives.map(|names| names.join(" | "))
    });
    let groups: Result<Vec<_>, String> = groups.collect();
    Ok(groups?.join(", "))
}

fn single_relation(text: &str) -> Result<String, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is no relation; write it like `libc6 (>= 2.36)` or `mta | postfix`");
    // The operator stands after the name, so only the name is put in lower case and freed of `_`.
    let name_end = text.find([' ', '(', '<', '=', '>']).unwrap_or(text.len());
    let normal = format!("{}{}", text[..name_end].to_lowercase().replace('_', "-"), &text[name_end..]);
    let found = RELATION.captures(&normal).ok_or_else(wrong)?;
    let part = |one: &str, other: &str| found.name(one).or(found.name(other)).map(|part| part.as_str());
    let qualifier = found.name("qualifier").map_or("", |part| part.as_str());
    let (Some(operator), Some(version)) =
        (part("operator", "bare_operator"), part("version", "bare_version"))
    else {
        return Ok(format!("{}{qualifier}", &found["name"]));
    };
    let operator = match operator {
        "<" => "<<",
        ">" => ">>",
        other => other,
    };
    version.parse::<super::Version>().map_err(|reason| format!("`{text}`: {reason}"))?;
    Ok(format!("{}{qualifier} ({operator} {version})", &found["name"]))
}

/// A relation to exactly a version, `a1 (= 1.0-2)`, as one to all of its revisions: fpm's --deb-ignore-iteration-in-dependencies.
pub(super) fn without_revision(relation: &str) -> String {
    let alternatives = relation.split(", ").map(|one| {
        let exact = one.strip_suffix(')').and_then(|rest| rest.split_once(" (= "));
        let Some((name, version)) = exact.filter(|_| !one.contains('|')) else { return one.to_owned() };
        let upstream = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
        format!("{name} (>= {upstream}), {name} (<< {upstream}.0~)")
    });
    alternatives.collect::<Vec<_>>().join(", ")
}

/// The value of `Description`: a synopsis, then its continuation lines. An empty line becomes ` .`.
pub fn description(text: &str) -> Result<String, String> {
    let text = text.replace("\r\n", "\n");
    if let Some(wrong) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(format!("it holds {wrong:?}, which is no text"));
    }
    let mut lines = text.trim().lines().map(str::trim_end);
    let Some(synopsis) = lines.next().filter(|line| !line.is_empty()) else {
        return Err("it is empty; leave it out instead".to_owned());
    };
    let mut value = synopsis.trim().to_owned();
    for line in lines.skip_while(|line| line.is_empty()) {
        value.push('\n');
        match line {
            "" => value.push_str(" ."),
            // A line that is a single dot would read as an empty one.
            "." => value.push_str("  ."),
            line => {
                value.push(' ');
                value.push_str(line);
            }
        }
    }
    Ok(value)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_reads_and_prints_the_same() {
        let text = "Package: a\nDescription: short\n long\n .\n  verbatim\nConffiles:\n /etc/x\n";
        let paragraph = Paragraph::parse(text).unwrap();
        assert_eq!(paragraph.get("package"), Some("a"));
        assert_eq!(paragraph.get("Description"), Some("short\n long\n .\n  verbatim"));
        assert_eq!(paragraph.to_string(), text);
        for wrong in ["", " x\n", "A: 1\na: 2\n", "no colon\n", "A: 1\n\nB: 2\n"] {
            assert!(Paragraph::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_are_normalised_and_then_judged() {
        for (given, normal) in [("My_App", "my-app"), ("a b", "a-b"), ("lib+x.y", "lib+x.y"), ("0ad", "0ad")]
        {
            assert_eq!(package_name(given).as_deref(), Ok(normal));
        }
        for wrong in ["", "a", "-a", "a/b", "a\nb", "ä1", "a$b", "..", "a:b"] {
            assert!(package_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn relations_take_debians_spelling() {
        for (given, normal) in [
            ("libc6", "libc6"),
            ("Foo_Bar >= 1.0", "foo-bar (>= 1.0)"),
            ("foo(<1)", "foo (<< 1)"),
            ("a1 | b1 (= 1:2-3), c1:any", "a1 | b1 (= 1:2-3), c1:any"),
        ] {
            assert_eq!(relation(given).as_deref(), Ok(normal));
        }
        for wrong in ["", "a1,", "a1 (>= )", "a1\nEssential: yes", "$(x)", "a1 (== 2)", "a1 (>= 1_2)"] {
            assert!(relation(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_description_can_not_begin_a_field() {
        let value = description("Short\n\nLong\n\nEssential: yes\n.\nend  \n").unwrap();
        assert_eq!(value, "Short\n Long\n .\n Essential: yes\n  .\n end");
        assert!(description("a\rEssential: yes").is_err());
        assert!(description(" \n ").is_err());
    }
}
