//! How a step of a run is named wherever something is said of it: in attempts, approvals, waits, locks, inputs. `build`, its undo `build/undo`, its
//! item `build[3]`, the item's undo `build[3]/undo`. No step id can hold `[` or `/`.

use std::fmt;

/// The suffix that makes a step's key the key of its undo.
pub const UNDO_SUFFIX: &str = "/undo";

/// A key, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepKey<'a> {
    /// The step's id in its workflow.
    pub id: &'a str,
    /// Of a step with `for_each`.
    pub item: Option<u32>,
    pub undo: bool,
}

impl<'a> StepKey<'a> {
    /// What `key` names. A key that names nothing gives an id that no step has.
    pub fn parse(key: &'a str) -> StepKey<'a> {
        let (rest, undo) = match key.strip_suffix(UNDO_SUFFIX) {
            Some(rest) => (rest, true),
            None => (key, false),
        };
        let item = rest.strip_suffix(']').and_then(|rest| rest.split_once('['));
        match item.and_then(|(id, number)| Some((id, number.parse().ok()?))) {
            Some((id, item)) => StepKey { id, item: Some(item), undo },
            None => StepKey { id: rest, item: None, undo },
        }
    }

    /// The key of the whole step that an item belongs to, or of the step itself.
    pub fn whole(self) -> StepKey<'a> {
        StepKey { item: None, ..self }
    }
}

impl fmt::Display for StepKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)?;
        if let Some(item) = self.item {
            write!(f, "[{item}]")?;
        }
        if self.undo { f.write_str(UNDO_SUFFIX) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_as_it_is_written() {
        for (id, item, undo, text) in [
            ("build", None, false, "build"),
            ("build", None, true, "build/undo"),
            ("build", Some(3), false, "build[3]"),
            ("build", Some(3), true, "build[3]/undo"),
        ] {
            let key = StepKey { id, item, undo };
            assert_eq!(key.to_string(), text);
            assert_eq!(StepKey::parse(text), key);
        }
        assert_eq!(StepKey::parse("build[x]").id, "build[x]");
        assert_eq!(StepKey::parse("build[3]/undo").whole().to_string(), "build/undo");
    }
}
