//! Maintainer scripts as rpm calls them: it says how many versions of the package there will be.

use super::super::package::scripts::{Code, Piece, Script, interpreter, wrap};
use super::super::package::{Build, Error};
use super::header::Header;
use super::relation::Relation;
use super::tag;

const SUBJECT: &str = "when=\"${1-}\"";
const ALWAYS: &str = "*";
const FIRST: &str = "1";
const FURTHER: &str = "[2-9]*|1[0-9]*";
const LAST_GOES: &str = "0";

/// One of them, with the tags that it stands under.
pub(super) struct Scriptlet {
    text: String,
    text_tag: u32,
    program_tag: u32,
    /// What the interpreter is needed for.
    needs: u32,
}

/// All that the order brings.
pub(super) fn scriptlets(build: &Build) -> Result<Vec<Scriptlet>, Error> {
    let scripts = &build.scripts;
    if scripts.after_purge.is_some() {
        return Err(Error::field("deb-after-purge", "rpm knows no purge; use --after-remove"));
    }
    let snippets = build.services.snippets()?;
    let upgrades_differ = scripts.upgrades_differ();
    let at = |moment: &'static str| if upgrades_differ { moment } else { ALWAYS };
    let given = Script::read_some;
    let before_install = vec![
        Piece::script(at(FIRST), given(&scripts.before_install)?),
        Piece::script(FURTHER, given(&scripts.before_upgrade)?),
    ];
    let after_install = vec![
        Piece::script(at(FIRST), given(&scripts.after_install)?),
        Piece::script(FURTHER, given(&scripts.after_upgrade)?),
        Piece::snippet(FIRST, &snippets.after_install),
        Piece::snippet(FURTHER, &snippets.after_upgrade),
    ];
    let before_remove = vec![
        Piece::snippet(LAST_GOES, &snippets.before_remove),
        Piece::script(at(LAST_GOES), given(&scripts.before_remove)?),
    ];
    let after_remove = vec![
        Piece::script(at(LAST_GOES), given(&scripts.after_remove)?),
        Piece::snippet(LAST_GOES, &snippets.after_remove),
    ];
    let alone = |path: &_| -> Result<Vec<Option<Piece<'static>>>, Error> {
        Ok(vec![Piece::script(ALWAYS, given(path)?)])
    };
    let all = [
        (
            "before-install",
            before_install,
            tag::BEFORE_INSTALL,
            tag::BEFORE_INSTALL_PROGRAM,
            tag::BEFORE_INSTALL_NEEDS,
        ),
        (
            "after-install",
            after_install,
            tag::AFTER_INSTALL,
            tag::AFTER_INSTALL_PROGRAM,
            tag::AFTER_INSTALL_NEEDS,
        ),
        (
            "before-remove",
            before_remove,
            tag::BEFORE_REMOVE,
            tag::BEFORE_REMOVE_PROGRAM,
            tag::BEFORE_REMOVE_NEEDS,
        ),
        ("after-remove", after_remove, tag::AFTER_REMOVE, tag::AFTER_REMOVE_PROGRAM, tag::AFTER_REMOVE_NEEDS),
        (
            "pretrans",
            alone(&build.rpm.pretrans)?,
            tag::BEFORE_TRANSACTION,
            tag::BEFORE_TRANSACTION_PROGRAM,
            tag::BEFORE_TRANSACTION_NEEDS,
        ),
        (
            "posttrans",
            alone(&build.rpm.posttrans)?,
            tag::AFTER_TRANSACTION,
            tag::AFTER_TRANSACTION_PROGRAM,
            tag::AFTER_TRANSACTION_NEEDS,
        ),
        (
            "verifyscript",
            alone(&build.rpm.verifyscript)?,
            tag::VERIFY_SCRIPT,
            tag::VERIFY_SCRIPT_PROGRAM,
            tag::VERIFY_NEEDS,
        ),
    ];
    let mut scriptlets = Vec::new();
    for (name, pieces, text_tag, program_tag, needs) in all {
        let mut pieces: Vec<Piece<'static>> = pieces.into_iter().flatten().collect();
        let text = match (pieces.len(), pieces.first().map(|piece| piece.moment)) {
            (0, _) => continue,
            (1, Some(ALWAYS)) => match pieces.remove(0).code {
                Code::Script(script) => script.into_text(),
                Code::Snippet(text) => text,
            },
            _ => wrap(name, SUBJECT, false, &pieces)?,
        };
        scriptlets.push(Scriptlet { text, text_tag, program_tag, needs });
    }
    Ok(scriptlets)
}

impl Scriptlet {
    pub(super) fn add_to(&self, header: &mut Header) {
        header.text(self.text_tag, &self.text);
        let words = interpreter(&self.text);
        match &words[..] {
            [] => header.text(self.program_tag, "/bin/sh"),
            [program] => header.text(self.program_tag, program),
            words => header.texts(self.program_tag, words),
        }
    }

    /// That its interpreter must be there by then.
    pub(super) fn requirement(&self) -> Relation {
        let program = interpreter(&self.text).into_iter().next().unwrap_or_else(|| "/bin/sh".to_owned());
        Relation { name: program, version: String::new(), flags: tag::OF_INTERPRETER | self.needs }
    }
}
