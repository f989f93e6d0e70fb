//! Maintainer scripts: the ones that were given, as they are, or, where something is to happen upon an upgrade only, a wrapper
//! that tells an installation from an upgrade by what dpkg says.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

const LONGEST_SCRIPT: u64 = 1 << 20;

/// Programs that dpkg runs around the package's coming and going; each begins with a `#!` line.
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
    /// The members of the control archive by name. Relative paths start at `base`.
    pub(super) fn read(&self, base: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
        let script =
            |path: &Option<PathBuf>| path.as_ref().map(|path| Script::read(&base.join(path))).transpose();
        let before_install = script(&self.before_install)?;
        let after_install = script(&self.after_install)?;
        let before_remove = script(&self.before_remove)?;
        let after_remove = script(&self.after_remove)?;
        let after_purge = script(&self.after_purge)?;
        let before_upgrade = script(&self.before_upgrade)?;
        let after_upgrade = script(&self.after_upgrade)?;
        let upgrades_differ = before_upgrade.is_some() || after_upgrade.is_some();
        let mut members = Vec::new();
        let mut add = |name, cases: Vec<(&str, Option<Script>)>, wrapped: bool| -> Result<(), Error> {
            let mut cases: Vec<(&str, Script)> =
                cases.into_iter().filter_map(|(pattern, script)| Some((pattern, script?))).collect();
            match (wrapped, cases.len()) {
                (_, 0) => {}
                (false, 1) => members.push((name, cases.remove(0).1.text.into_bytes())),
                _ => members.push((name, wrap(name, &cases)?)),
            }
            Ok(())
        };
        // A case is dpkg's first word, `/`, and `old` when an older version is named by its second.
        add("preinst", vec![("install/*", before_install), ("upgrade/*", before_upgrade)], upgrades_differ)?;
        add(
            "postinst",
            vec![("configure/", after_install), ("configure/old", after_upgrade)],
            upgrades_differ,
        )?;
        add("prerm", vec![("remove/*|deconfigure/*", before_remove)], upgrades_differ)?;
        let purges_differ = after_purge.is_some();
        add(
            "postrm",
            vec![("remove/*", after_remove), ("purge/*", after_purge)],
            upgrades_differ || purges_differ,
        )?;
        Ok(members)
    }
}

struct Script {
    path: PathBuf,
    text: String,
}

impl Script {
    fn read(path: &Path) -> Result<Script, Error> {
        let metadata = fs::metadata(path).map_err(|error| Error::input(path, error.to_string()))?;
        if !metadata.is_file() || metadata.len() > LONGEST_SCRIPT {
            return Err(Error::input(path, "a maintainer script must be a file of at most 1 MiB"));
        }
        let text = fs::read_to_string(path).map_err(|error| Error::input(path, error.to_string()))?;
        if !text.starts_with("#!") {
            return Err(Error::input(path, "a maintainer script must begin with a line like `#!/bin/sh`"));
        }
        Ok(Script { path: path.to_owned(), text })
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

fn wrap(member: &str, cases: &[(&str, Script)]) -> Result<Vec<u8>, Error> {
    let mut interpreter = "/bin/sh";
    let mut functions = String::new();
    let mut branches = String::new();
    for (number, (pattern, script)) in cases.iter().enumerate() {
        let (words, body) = script.split();
        match words.first().and_then(|program| program.rsplit('/').next()) {
            Some("sh" | "dash") => {}
            Some("bash") => interpreter = "/bin/bash",
            _ => {
                let reason = "it is joined with others, so it must be a script of sh or bash";
                return Err(Error::input(&script.path, reason));
            }
        }
        let strict = if words[1..].iter().any(|word| is_strict(word)) { "    set -e\n" } else { "" };
        // A subshell: what one script sets or leaves by `exit` is its own affair.
        functions.push_str(&format!("run_{number}() (\n{strict}{}\n)\n\n", body.trim_end()));
        branches.push_str(&format!("    {pattern}) run_{number} \"$@\" ;;\n"));
    }
    let second = "old=\nif [ -n \"${2-}\" ]; then old=old; fi";
    let text = format!(
        "#!{interpreter}\n# {member}: what is done depends on whether dpkg names a version that was there before.\nset -e\n\n\
         {functions}{second}\ncase \"${{1-}}/$old\" in\n{branches}esac\n"
    );
    Ok(text.into_bytes())
}

fn is_strict(option: &str) -> bool {
    option.starts_with('-') && !option.starts_with("--") && option.contains('e')
}
