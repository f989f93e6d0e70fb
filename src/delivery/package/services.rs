//! Services that come with a package: where their files go, and what the maintainer scripts do about them. The snippets run on hosts without
//! systemd, in chroots and in images that are being made, and never fail a package for it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::{Entry, Tree};
use super::{Error, scripts};

/// fpm's `--deb-systemd`, `--deb-init`, `--deb-default` and their kin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Services {
    /// Unit files; one without an ending is a service.
    pub systemd: Vec<PathBuf>,
    /// Enable the units when the package is installed.
    pub enable: bool,
    /// Start them, too.
    pub auto_start: bool,
    /// Do not restart them upon an upgrade.
    pub no_restart_after_upgrade: bool,
    /// Scripts for /etc/init.d.
    pub init: Vec<PathBuf>,
    /// Files for /etc/default.
    pub default: Vec<PathBuf>,
}

const UNITS: &str = "usr/lib/systemd/system";
const LARGEST: u64 = 1 << 20;
/// The endings by which systemd knows what a unit is.
const KINDS: [&str; 6] = [".service", ".socket", ".timer", ".path", ".target", ".mount"];

/// What the scripts of a package do about its units, as shell; nothing where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Snippets {
    pub(in super::super) after_install: String,
    pub(in super::super) after_upgrade: String,
    pub(in super::super) before_remove: String,
    pub(in super::super) after_remove: String,
}

impl Services {
    /// Puts the files into the tree.
    pub(in super::super) fn add(&self, tree: &mut Tree) -> Result<(), Error> {
        for (files, folder, mode) in [
            (&self.systemd, UNITS, 0o644),
            (&self.init, "etc/init.d", 0o755),
            (&self.default, "etc/default", 0o644),
        ] {
            for file in files {
                let name = if folder == UNITS { unit_name(file)? } else { plain_name(file)? };
                let content = scripts::read_small(file, LARGEST)?;
                let path = format!("{folder}/{name}").into_bytes();
                let entry = Entry { mode, ..Entry::made(content) };
                if tree.insert(path, entry).is_some() {
                    return Err(Error::input(file, format!("the inputs hold /{folder}/{name} already")));
                }
            }
        }
        Ok(())
    }

    /// What is to be done about the units when the package comes and goes.
    pub(in super::super) fn snippets(&self) -> Result<Snippets, Error> {
        if self.systemd.is_empty() {
            return Ok(Snippets::default());
        }
        let units: Result<Vec<String>, Error> = self.systemd.iter().map(|file| unit_name(file)).collect();
        let units = units?.join(" ");
        let reload = "systemctl --system daemon-reload >/dev/null 2>&1 || true\n";
        let enable = match self.enable || self.auto_start {
            true => format!(
                "    systemctl ${{DPKG_ROOT:+--root=\"$DPKG_ROOT\"}} enable {units} >/dev/null 2>&1 || true\n"
            ),
            false => String::new(),
        };
        let running = "[ -z \"${DPKG_ROOT:-}\" ] && [ -d /run/systemd/system ]";
        let act = |verb: &str| format!("        systemctl {verb} {units} || true\n");
        let coming = |enable: &str, verb: Option<&str>| {
            let act = verb.map(act).unwrap_or_default();
            format!(
                "if command -v systemctl >/dev/null 2>&1; then\n{enable}    if {running}; then\n        {reload}{act}    fi\nfi\n"
            )
        };
        Ok(Snippets {
            after_install: coming(&enable, self.auto_start.then_some("start")),
            after_upgrade: coming("", (!self.no_restart_after_upgrade).then_some("try-restart")),
            before_remove: format!(
                "if command -v systemctl >/dev/null 2>&1; then\n    if {running}; then\n{}    fi\n    \
                 systemctl ${{DPKG_ROOT:+--root=\"$DPKG_ROOT\"}} disable {units} >/dev/null 2>&1 || true\nfi\n",
                act("stop")
            ),
            after_remove: format!("if {running}; then\n    {reload}fi\n"),
        })
    }
}

fn unit_name(file: &Path) -> Result<String, Error> {
    let name = plain_name(file)?;
    match KINDS.iter().any(|kind| name.ends_with(kind)) {
        true => Ok(name),
        false => Ok(format!("{name}.service")),
    }
}

/// The file's own name, which is going to stand in shell scripts.
fn plain_name(file: &Path) -> Result<String, Error> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    match !name.is_empty() && !name.starts_with(['-', '.']) && name.bytes().all(allowed) {
        true => Ok(name.to_owned()),
        false => Err(Error::input(file, "the name of a service has letters, digits and . _ @ - only")),
    }
}
