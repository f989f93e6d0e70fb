//! Modes and owners that an order names, in fpm's spelling: `MODE,USER,GROUP:PATH`.

use globset::{GlobBuilder, GlobMatcher};

use super::Error;
use super::tree::{Kind, Owner, Tree};

/// What is said of the entries that a glob meets.
struct Attribute {
    paths: GlobMatcher,
    mode: Option<u32>,
    user: Option<String>,
    group: Option<String>,
}

/// Gives the entries of `tree` the owners and modes that the order names. One that meets nothing is a mistake.
pub(super) fn apply(
    attributes: &[String],
    user: Option<&str>,
    group: Option<&str>,
    tree: &mut Tree,
) -> Result<(), Error> {
    let everywhere = Owner {
        user: user.map(|name| account("user", name)).transpose()?,
        group: group.map(|name| account("group", name)).transpose()?,
    };
    if everywhere != Owner::default() {
        for entry in tree.values_mut() {
            entry.owner = everywhere.clone();
        }
    }
    for text in attributes {
        let attribute = parse(text)?;
        let mut met = false;
        for (path, entry) in tree.iter_mut() {
            if !attribute.paths.is_match(String::from_utf8_lossy(path).as_ref()) {
                continue;
            }
            met = true;
            if let Some(mode) = attribute.mode.filter(|_| !matches!(entry.kind, Kind::Symlink(_))) {
                entry.mode = mode;
            }
            entry.owner.user = attribute.user.clone().or(entry.owner.user.take());
            entry.owner.group = attribute.group.clone().or(entry.owner.group.take());
        }
        if !met {
            return Err(Error::field(
                "attr",
                format!("`{}`: no such file is in the package", text.escape_debug()),
            ));
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Attribute, Error> {
    let wrong = |reason: &str| {
        Error::field(
            "attr",
            format!("`{}`: {reason}; write it as 0750,user,group:/path", text.escape_debug()),
        )
    };
    let (words, path) = text.split_once(':').ok_or_else(|| wrong("it names no path"))?;
    let [mode, user, group] = words.split(',').collect::<Vec<_>>()[..] else {
        return Err(wrong("three words stand before the colon"));
    };
    let said = |word: &str| !matches!(word, "-" | "");
    let mode = match mode {
        "-" | "" => None,
        digits => Some(
            u32::from_str_radix(digits, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| wrong("the mode is octal, of at most four digits"))?,
        ),
    };
    let bare = path.trim_matches('/');
    let paths = GlobBuilder::new(bare)
        .literal_separator(true)
        .build()
        .map_err(|error| wrong(&error.to_string()))?
        .compile_matcher();
    Ok(Attribute {
        paths,
        mode,
        user: Some(user).filter(|word| said(word)).map(|name| account("attr", name)).transpose()?,
        group: Some(group).filter(|word| said(word)).map(|name| account("attr", name)).transpose()?,
    })
}

/// The longest name of a user or group that a tar header holds.
const LONGEST_ACCOUNT: usize = 31;

/// A name that a user or group can have on any system, or its number.
pub(super) fn account(field: &str, name: &str) -> Result<String, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let fine = !name.is_empty()
        && name.len() <= LONGEST_ACCOUNT
        && !name.starts_with('-')
        && name.bytes().all(allowed);
    match fine {
        true => Ok(name.to_owned()),
        false => Err(Error::field(
            field,
            format!(
                "`{}` is no name of a user or group; it has up to 31 letters, digits and . _ -",
                name.escape_debug()
            ),
        )),
    }
}
