//! Maintainer scripts: the ones that were given, as they are, or, where several things are to happen at one moment or only upon an upgrade, a
//! wrapper that tells the moments apart by what dpkg or rpm says.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

const LONGEST_SCRIPT: u64 = 1 << 20;

/// Programs that run around the package's coming and going; each begins with a `#!` line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scripts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_install: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_install: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_remove: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_remove: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_purge: Option<PathBuf>,
    /// With this or `after_upgrade`, the other scripts run on installation and removal only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_upgrade: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_upgrade: Option<PathBuf>,
}

impl Scripts {
    /// Whether an upgrade is a moment of its own.
    pub(in super::super) fn upgrades_differ(&self) -> bool {
        self.before_upgrade.is_some() || self.after_upgrade.is_some()
    }
}

/// One thing that a maintainer script does, and when.
pub(in super::super) struct Piece<'a> {
    /// A shell pattern of what dpkg or rpm says; the script alone knows what that is.
    pub(in super::super) moment: &'a str,
    pub(in super::super) code: Code,
}

pub(in super::super) enum Code {
    Script(Script),
    /// Shell of our own.
    Snippet(String),
}

impl<'a> Piece<'a> {
    pub(in super::super) fn script(moment: &'a str, script: Option<Script>) -> Option<Piece<'a>> {
        script.map(|script| Piece { moment, code: Code::Script(script) })
    }
    pub(in super::super) fn snippet(moment: &'a str, text: &str) -> Option<Piece<'a>> {
        (!text.is_empty()).then(|| Piece { moment, code: Code::Snippet(text.to_owned()) })
    }
}

/// A script that was given.
pub(in super::super) struct Script {
    path: PathBuf,
    text: String,
}

impl Script {
    pub(in super::super) fn read(path: &Path) -> Result<Script, Error> {
        let content = read_small(path, LONGEST_SCRIPT)?;
        let text = String::from_utf8(content).map_err(|_| Error::input(path, "it is no text in UTF-8"))?;
        if text.contains('\0') {
            return Err(Error::input(path, "it holds a zero byte, which no script has"));
        }
        if !text.starts_with("#!") {
            return Err(Error::input(path, "a maintainer script must begin with a line like `#!/bin/sh`"));
        }
        Ok(Script { path: path.to_owned(), text })
    }

    /// The one at `path`, when there is to be one.
    pub(in super::super) fn read_some(path: &Option<PathBuf>) -> Result<Option<Script>, Error> {
        path.as_deref().map(Script::read).transpose()
    }

    pub(in super::super) fn into_text(self) -> String {
        self.text
    }

    /// The interpreter's words, and what comes after the first line.
    fn split(&self) -> (Vec<&str>, &str) {
        let (first, body) = self.text.split_once('\n').unwrap_or((&self.text, ""));
        let mut words: Vec<&str> = first[2..].split_whitespace().collect();
        if words.first().is_some_and(|word| word.ends_with("/env")) {
            words.remove(0);
        }
        (words, body)
    }
}

/// The words of the `#!` line of a script.
pub(in super::super) fn interpreter(text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap_or_default();
    first.trim_start_matches("#!").split_whitespace().map(str::to_owned).collect()
}

/// A file that fits into memory easily.
pub(in super::super) fn read_small(path: &Path, largest: u64) -> Result<Vec<u8>, Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::input(path, error.to_string()))?;
    if !metadata.is_file() || metadata.len() > largest {
        return Err(Error::input(path, format!("it must be a file of at most {} KiB", largest >> 10)));
    }
    fs::read(path).map_err(|error| Error::input(path, error.to_string()))
}

/// Joins the pieces into one script. `subject` is shell that prints nothing and sets `when`, which the moments are compared with; with `strict`
/// a command that fails ends any piece.
pub(in super::super) fn wrap(
    name: &str,
    subject: &str,
    strict: bool,
    pieces: &[Piece<'_>],
) -> Result<String, Error> {
    let mut interpreter = "/bin/sh";
    let mut functions = String::new();
    let mut calls = String::new();
    for (number, piece) in pieces.iter().enumerate() {
        let (body, is_strict) = match &piece.code {
            Code::Snippet(text) => (text.as_str(), true),
            Code::Script(script) => {
                let (words, body) = script.split();
                match words.first().and_then(|program| program.rsplit('/').next()) {
                    Some("sh" | "dash") => {}
                    Some("bash") => interpreter = "/bin/bash",
                    _ => {
                        let reason = "it is joined with others, so it must be a script of sh or bash";
                        return Err(Error::input(&script.path, reason));
                    }
                }
                (body, strict || words[1..].iter().any(|word| is_strict_option(word)))
            }
        };
        let first = if is_strict { "set -e\n" } else { ":\n" };
        // A subshell: what one piece sets or leaves by `exit` is its own affair.
        functions.push_str(&format!("run_{number}() (\n{first}{}\n)\n\n", body.trim_end()));
        calls.push_str(&format!("case \"$when\" in {}) run_{number} \"$@\" ;; esac\n", piece.moment));
    }
    Ok(format!(
        "#!{interpreter}\n# {name}: what is done depends on whether this is an installation, an upgrade or a removal.\nset -e\n\n\
         {functions}{subject}\n{calls}"
    ))
}

fn is_strict_option(option: &str) -> bool {
    option.starts_with('-') && !option.starts_with("--") && option.contains('e')
}
