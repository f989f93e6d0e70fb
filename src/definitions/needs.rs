//! What a pack needs to work: other packs, programs, a version of siskin.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::mistake::{Mistake, suggestion};
use super::sheet::{Keys, Sheet};
use super::site;
use super::yaml::{Content, Node, Source};

/// As `needs` in pack.yaml says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub packs: Vec<String>,
    /// Where its actions are done.
    pub programs: Vec<String>,
    pub siskin: Option<Versions>,
}

/// Which versions will do: `>=0.1, <2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    text: String,
    bounds: Vec<(Bound, Vec<u64>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
}

/// Longer ones are tried first.
const BOUNDS: [(&str, Bound); 5] = [
    (">=", Bound::AtLeast),
    ("<=", Bound::AtMost),
    (">", Bound::Above),
    ("<", Bound::Below),
    ("=", Bound::Equal),
];

pub(super) const NEEDS: Keys = Keys { of: "`needs`", built: &["packs", "programs", "siskin"], later: &[] };

impl Versions {
    /// Reads `>=0.1, <2`; a version alone is the least.
    pub fn parse(text: &str) -> Option<Versions> {
        let bounds = text.split(',').map(|part| {
            let part = part.trim();
            let sign = BOUNDS.iter().find(|(sign, _)| part.starts_with(sign));
            let (sign, bound) = sign.copied().unwrap_or(("", Bound::AtLeast));
            Some((bound, version(&part[sign.len()..])?))
        });
        Some(Versions { text: text.to_owned(), bounds: bounds.collect::<Option<_>>()? })
    }

    /// Whether this version will do.
    pub fn allow(&self, given: &str) -> bool {
        // What stands after the numbers (`-rc.1`) does not count.
        let numbers = given.split(['-', '+']).next().unwrap_or(given);
        let Some(given) = version(numbers) else { return false };
        self.bounds.iter().all(|(bound, version)| {
            let order = compare(&given, version);
            match bound {
                Bound::AtLeast => order != Ordering::Less,
                Bound::Above => order == Ordering::Greater,
                Bound::AtMost => order != Ordering::Greater,
                Bound::Below => order == Ordering::Less,
                Bound::Equal => order == Ordering::Equal,
            }
        })
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn version(text: &str) -> Option<Vec<u64>> {
    text.trim().split('.').map(|part| part.parse().ok()).collect()
}

/// 1.2 is 1.2.0.
fn compare(one: &[u64], other: &[u64]) -> Ordering {
    let at = |version: &[u64], index: usize| version.get(index).copied().unwrap_or(0);
    let length = one.len().max(other.len());
    (0..length)
        .map(|index| at(one, index).cmp(&at(other, index)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Reads `needs`: packs, or a map. `known` are the packs that are there.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, known: Option<&BTreeSet<&str>>) -> Needs {
    let names = |node: &Node, what: &str| -> Vec<String> {
        sheet.one_or_list(node).iter().filter_map(|node| sheet.name(node, what)).collect()
    };
    let packs = |node: &Node, what: &str| -> Vec<String> {
        for node in sheet.one_or_list(node) {
            let Some(name) = sheet.name(node, what) else { continue };
            if let Some(known) = known.filter(|known| !known.contains(name.as_str())) {
                let help = suggestion(&name, known.iter().copied())
                    .or_else(|| Some("siskin packs install GIT-URL".to_owned()));
                sheet.wrong(node, format!("there is no pack `{name}`, which this pack needs"), help);
            }
        }
        names(node, what)
    };
    if !matches!(node.content, Content::Map(_)) {
        return Needs { packs: packs(node, "needs"), ..Needs::default() };
    }
    let Some(table) = sheet.table(node, &NEEDS) else { return Needs::default() };
    let siskin = table.get("siskin").and_then(|node| {
        let text = sheet.name(node, "siskin")?;
        let versions = Versions::parse(&text);
        match &versions {
            None => {
                let help = "siskin: \">=0.1, <2\"".to_owned();
                sheet.wrong(node, format!("`{text}` says no versions"), Some(help));
            }
            Some(versions) if !versions.allow(env!("CARGO_PKG_VERSION")) => {
                let message =
                    format!("this pack needs siskin {versions}, and this is {}", env!("CARGO_PKG_VERSION"));
                sheet.wrong(node, message, None);
            }
            Some(_) => (),
        }
        versions
    });
    Needs {
        packs: table.get("packs").map(|node| packs(node, "packs")).unwrap_or_default(),
        programs: table.get("programs").map(|node| names(node, "programs")).unwrap_or_default(),
        siskin,
    }
}

/// What a pack.yaml says that its pack is called.
pub fn name_of_pack(bytes: &[u8]) -> Option<String> {
    let source = Source::new(Arc::from("pack.yaml"), bytes).ok()?;
    let (nodes, _) = source.parse();
    let Content::Map(entries) = &nodes.first()?.content else { return None };
    match &entries.iter().find(|entry| entry.key == "name")?.value.content {
        Content::Scalar(scalar) => Some(scalar.text.clone()),
        _ => None,
    }
}

/// What the pack.yaml of a pack says that it needs, and its mistakes.
pub fn of_pack(pack: &str, file: &str, bytes: &[u8]) -> (Needs, Vec<Mistake>) {
    let source = match Source::new(Arc::from(file), bytes) {
        Ok(source) => source,
        Err(mistake) => return (Needs::default(), vec![mistake]),
    };
    let (nodes, mut mistakes) = source.parse();
    let Some(node) = nodes.first() else { return (Needs::default(), mistakes) };
    let sheet = Sheet::new(&source, pack);
    site::read_pack(&sheet, node, None);
    let needs = match &node.content {
        Content::Map(entries) => entries.iter().find(|entry| entry.key == "needs"),
        _ => None,
    };
    let needs = needs.map(|entry| read(&sheet, &entry.value, None)).unwrap_or_default();
    mistakes.extend(sheet.into_mistakes());
    (needs, mistakes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn versions_are_held_against_their_bounds() {
        let table = [
            (">=0.1, <2", "0.1.0", true),
            (">=0.1, <2", "2.0.0", false),
            ("0.2", "0.1.9", false),
            ("0.2", "0.10", true),
            ("=1.2", "1.2.0", true),
            (">1.2", "1.2.0", false),
            ("<=1.2", "1.2.0-rc.1", true),
        ];
        for (versions, given, wanted) in table {
            assert_eq!(Versions::parse(versions).unwrap().allow(given), wanted, "{versions} {given}");
        }
        for wrong in ["", "new", ">=", "1..2", "~1"] {
            assert_eq!(Versions::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn needs_are_packs_or_a_map() {
        let of = |text: &str| of_pack("p", "pack.yaml", text.as_bytes());
        let (needs, mistakes) = of("needs: [core, chat]\n");
        assert_eq!((needs.packs.join(" ").as_str(), mistakes.len()), ("core chat", 0));
        let (needs, mistakes) = of("needs: {packs: core, programs: [git, jq], siskin: \">=0.1\"}\n");
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!((needs.packs.len(), needs.programs.join(" ").as_str()), (1, "git jq"));
        let (_, mistakes) = of("needs: {siskin: \">=99\", program: git}\n");
        let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(mistakes.len(), 2, "{said:?}");
        assert!(said.iter().any(|said| said.contains("this pack needs siskin >=99")), "{said:?}");
    }
}
