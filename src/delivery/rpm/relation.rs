//! Names, versions, architectures and relations in RPM's spelling, from fpm's and Debian's.

use std::sync::LazyLock;

use regex::Regex;

use super::super::package::Error;
use super::tag;

/// One entry of requires, provides and their kin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Relation {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) flags: u32,
}

impl Relation {
    pub(super) fn equal(name: impl Into<String>, version: impl Into<String>) -> Relation {
        Relation { name: name.into(), version: version.into(), flags: tag::EQUAL }
    }

    /// Something that rpm itself must be able to do.
    pub(super) fn feature(name: &str, version: &str) -> Relation {
        let flags = tag::OF_RPM | tag::LESS | tag::EQUAL;
        Relation { name: format!("rpmlib({name})"), version: version.to_owned(), flags }
    }
}

/// The version or release: no `-` may be in it, as it parts the two; a leading `v` before a digit is dropped.
pub(super) fn version(field: &str, text: &str) -> Result<String, Error> {
    let bare = text.strip_prefix('v').filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    let normal = bare.unwrap_or(text).replace('-', "_");
    let wrong = |reason: &str| {
        Error::field(
            field,
            format!("`{}` {reason}; RPM allows letters, digits and . _ + ~ ^ only", text.escape_debug()),
        )
    };
    if normal.is_empty() {
        return Err(wrong("is empty"));
    }
    if let Some(other) = normal.chars().find(|c| !(c.is_ascii_alphanumeric() || "._+~^".contains(*c))) {
        return Err(wrong(&format!("holds {other:?}")));
    }
    if field == "version" && !normal.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong("does not begin with a digit"));
    }
    Ok(normal)
}

/// A package's name: spaces become `-`, and the rest must keep RPM's rule.
pub(super) fn package_name(name: &str) -> Result<String, Error> {
    let normal = name.trim().replace(' ', "-");
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    let fine = normal.starts_with(|first: char| first.is_ascii_alphanumeric())
        && normal.bytes().all(allowed)
        && normal.len() <= 200;
    match fine {
        true => Ok(normal),
        false => Err(Error::field(
            "name",
            format!(
                "`{}` can't be a package's name: RPM wants letters, digits and + - . _ and a letter or digit first",
                name.escape_debug()
            ),
        )),
    }
}

/// RPM's name for an architecture: `amd64` is `x86_64`, `all` is `noarch`, `native` is this machine's.
pub(super) fn architecture(name: &str) -> Result<String, Error> {
    let known = match name {
        "native" => match std::env::consts::ARCH {
            "x86" => "i686",
            "arm" => "armv7hl",
            "powerpc64" => "ppc64le",
            other => other,
        },
        "all" => "noarch",
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "x86" => "i686",
        "armhf" => "armv7hl",
        "armel" => "armv5tel",
        "ppc64el" => "ppc64le",
        other => other,
    };
    let fine = !known.is_empty() && known.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match fine && !matches!(known, "any" | "src" | "source") {
        true => Ok(known.to_owned()),
        false => Err(Error::field(
            "architecture",
            format!(
                "`{}` can't be an architecture; say x86_64, aarch64, noarch or native",
                name.escape_debug()
            ),
        )),
    }
}

/// What stands behind a name to mean that of one machine: `shop(x86-64)`.
pub(super) fn machine(architecture: &str) -> Option<&'static str> {
    Some(match architecture {
        "x86_64" => "x86-64",
        "aarch64" => "aarch-64",
        "i386" | "i486" | "i586" | "i686" => "x86-32",
        "armv7hl" => "armv7hl-32",
        "ppc64le" => "ppc-64",
        "s390x" => "s390-64",
        "riscv64" => "riscv-64",
        _ => return None,
    })
}

static RELATION: LazyLock<Regex> = LazyLock::new(|| {
    let operator = "<<|<=|>=|>>|==|=|<|>";
    Regex::new(&format!(
        r"^(?P<name>[A-Za-z0-9_./][^\s<>=]*?)\s*(?:\(\s*(?P<inner>{operator})\s*(?P<inner_version>[^\s()]+)\s*\)|(?P<operator>{operator})\s*(?P<version>[^\s()]+))?$"
    ))
    .expect("a constant expression")
});

static EVR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:[0-9]+:)?[A-Za-z0-9][A-Za-z0-9._+~^]*(?:-[A-Za-z0-9._+~^]+)?$")
        .expect("a constant expression")
});

/// What one option names: `a >= 1, b` are two, and `a | b` is either, which RPM says as `(a or b)`.
pub(super) fn relations(field: &str, text: &str) -> Result<Vec<Relation>, Error> {
    let wrong = || {
        let shown = text.escape_debug();
        Error::field(
            field,
            format!("`{shown}` is no relation; write it like `glibc >= 2.36` or `postfix | exim`"),
        )
    };
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(wrong());
    }
    let mut found = Vec::new();
    for group in text.split(',') {
        let alternatives: Option<Vec<Relation>> = group.split('|').map(single).collect();
        let mut alternatives = alternatives.ok_or_else(wrong)?;
        if alternatives.len() == 1 {
            found.append(&mut alternatives);
            continue;
        }
        let names: Vec<String> = alternatives.iter().map(shown).collect();
        found.push(Relation { name: format!("({})", names.join(" or ")), version: String::new(), flags: 0 });
    }
    Ok(found)
}

fn single(text: &str) -> Option<Relation> {
    let found = RELATION.captures(text.trim())?;
    let part = |one: &str, other: &str| found.name(one).or(found.name(other)).map(|part| part.as_str());
    let (Some(operator), Some(version)) = (part("inner", "operator"), part("inner_version", "version"))
    else {
        return Some(Relation { name: found["name"].to_owned(), version: String::new(), flags: 0 });
    };
    let flags = match operator {
        "<" | "<<" => tag::LESS,
        ">" | ">>" => tag::GREATER,
        "<=" => tag::LESS | tag::EQUAL,
        ">=" => tag::GREATER | tag::EQUAL,
        _ => tag::EQUAL,
    };
    EVR.is_match(version).then(|| Relation {
        name: found["name"].to_owned(),
        version: version.to_owned(),
        flags,
    })
}

/// As rpm writes it: `glibc >= 2.36`.
pub(super) fn shown(relation: &Relation) -> String {
    let mut operator = String::new();
    for (flag, sign) in [(tag::LESS, '<'), (tag::GREATER, '>'), (tag::EQUAL, '=')] {
        if relation.flags & flag != 0 {
            operator.push(sign);
        }
    }
    match operator.is_empty() {
        true => relation.name.clone(),
        false => format!("{} {operator} {}", relation.name, relation.version),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn relations_of_either_spelling_become_rpms() {
        let spelled = |text: &str| relations("depends", text).unwrap().iter().map(shown).collect::<Vec<_>>();
        assert_eq!(spelled("glibc"), ["glibc"]);
        assert_eq!(spelled("glibc>=2.3"), ["glibc >= 2.3"]);
        assert_eq!(spelled("libc6 (>= 2.3), b1"), ["libc6 >= 2.3", "b1"]);
        assert_eq!(spelled("foo << 1:2-3"), ["foo < 1:2-3"]);
        assert_eq!(spelled("mta | postfix >= 3"), ["(mta or postfix >= 3)"]);
        assert_eq!(spelled("perl(Foo::Bar)"), ["perl(Foo::Bar)"]);
        assert_eq!(spelled("/bin/sh"), ["/bin/sh"]);
        for wrong in ["", " ", "a >= ", "a b", "a >= 1 2", "a\nb", "a ? 1", "-x", ">= 1", "a >= $(x)"] {
            assert!(relations("depends", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn versions_and_names_are_normalised_or_refused() {
        assert_eq!(version("version", "v1.0-rc1").unwrap(), "1.0_rc1");
        assert_eq!(version("version", "1~beta^3+git").unwrap(), "1~beta^3+git");
        for wrong in ["", "a", "1 2", "1/2", "1%", "ä", "1\n"] {
            assert!(version("version", wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(package_name("My App").unwrap(), "My-App");
        for wrong in ["", "-a", "a/b", "a\nb", "a$b", ".a"] {
            assert!(package_name(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(architecture("amd64").unwrap(), "x86_64");
        assert_eq!(architecture("all").unwrap(), "noarch");
        assert!(architecture("a/b").is_err());
    }
}
