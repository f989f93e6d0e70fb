//! Maintainer scripts as dpkg calls them.

use super::super::package::scripts::{Code, Piece, Script, wrap};
use super::super::package::{Build, Error};

/// What dpkg says first, `/`, and `old` where it names a version that was there before.
const SUBJECT: &str = "when=\"${1-}/\"\nif [ -n \"${2-}\" ]; then when=\"$when\"old; fi";
const ALWAYS: &str = "*";

/// The members of the control archive by name.
pub(super) fn members(build: &Build) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let scripts = &build.scripts;
    let snippets = build.services.snippets()?;
    let upgrades_differ = scripts.upgrades_differ();
    let at = |moment: &'static str| if upgrades_differ { moment } else { ALWAYS };
    let given = Script::read_some;
    let purges_differ = scripts.after_purge.is_some();
    let strict = build.deb.maintainerscripts_force_errorchecks;
    let mut members = Vec::new();
    let mut add = |name: &'static str, pieces: Vec<Option<Piece<'static>>>| -> Result<(), Error> {
        if let Some(text) = joined(name, strict, pieces.into_iter().flatten().collect())? {
            members.push((name, text.into_bytes()));
        }
        Ok(())
    };
    add(
        "preinst",
        vec![
            Piece::script(at("install/*"), given(&scripts.before_install)?),
            Piece::script("upgrade/*", given(&scripts.before_upgrade)?),
        ],
    )?;
    add(
        "postinst",
        vec![
            Piece::script(at("configure/"), given(&scripts.after_install)?),
            Piece::script("configure/old", given(&scripts.after_upgrade)?),
            Piece::snippet("configure/", &snippets.after_install),
            Piece::snippet("configure/old", &snippets.after_upgrade),
        ],
    )?;
    add(
        "prerm",
        vec![
            Piece::snippet("remove/*", &snippets.before_remove),
            Piece::script(at("remove/*|deconfigure/*"), given(&scripts.before_remove)?),
        ],
    )?;
    let removal = if purges_differ { "remove/*" } else { at("remove/*") };
    add(
        "postrm",
        vec![
            Piece::script(removal, given(&scripts.after_remove)?),
            Piece::script("purge/*", given(&scripts.after_purge)?),
            Piece::snippet("remove/*", &snippets.after_remove),
        ],
    )?;
    Ok(members)
}

/// A script that is alone and runs always stays as it is.
fn joined(name: &str, strict: bool, mut pieces: Vec<Piece<'static>>) -> Result<Option<String>, Error> {
    if pieces.is_empty() {
        return Ok(None);
    }
    if pieces.len() == 1 && pieces[0].moment == ALWAYS && !strict {
        let Code::Script(script) = pieces.remove(0).code else { return Ok(None) };
        return Ok(Some(script.into_text()));
    }
    wrap(name, SUBJECT, strict, &pieces).map(Some)
}
