//! Debian versions, `[epoch:]upstream[-revision]`: read strictly, ordered exactly as dpkg orders them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A valid version. Two that dpkg calls equal are equal (`1.0`, `1.00` and `0:1.0-0`), though they print as they were written.
#[derive(Clone, Debug)]
pub struct Version {
    epoch: u32,
    upstream: String,
    revision: Option<String>,
}

impl Version {
    /// From a package's parts. A leading `v` before a digit is dropped, as in `v1.2` from a tag.
    pub fn from_parts(epoch: Option<u32>, version: &str, iteration: Option<&str>) -> Result<Version, String> {
        let bare =
            version.strip_prefix('v').filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
        let bare = bare.unwrap_or(version);
        if bare.is_empty() {
            return Err("the version is empty".to_owned());
        }
        check_characters("version", bare, "")?;
        let mut text = match epoch {
            Some(epoch) => format!("{epoch}:{bare}"),
            None => bare.to_owned(),
        };
        if let Some(iteration) = iteration {
            if iteration.is_empty() {
                return Err("the iteration is empty; leave it out instead".to_owned());
            }
            check_characters("iteration", iteration, "")?;
            text = format!("{text}-{iteration}");
        }
        text.parse()
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The version as it stands in file names: without its epoch.
    pub fn without_epoch(&self) -> String {
        match &self.revision {
            Some(revision) => format!("{}-{revision}", self.upstream),
            None => self.upstream.clone(),
        }
    }

    /// Whether it has a revision, which makes the package one that is not native to Debian.
    pub fn has_revision(&self) -> bool {
        self.revision.is_some()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epoch > 0 {
            write!(f, "{}:", self.epoch)?;
        }
        f.write_str(&self.without_epoch())
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let (epoch, rest) = match text.split_once(':') {
            None => (0, text),
            Some((epoch, rest)) => (parse_epoch(epoch, text)?, rest),
        };
        let (upstream, revision) = match rest.rsplit_once('-') {
            None => (rest, None),
            Some((_, "")) => return Err(format!("version `{text}` ends in `-`: its revision is empty")),
            Some((upstream, revision)) => (upstream, Some(revision)),
        };
        if !upstream.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(format!("version `{text}` does not begin with a digit, which dpkg demands"));
        }
        check_characters("version", upstream, if text.contains(':') { ":" } else { "" })?;
        if let Some(revision) = revision {
            check_characters("revision", revision, "")?;
        }
        Ok(Version { epoch, upstream: upstream.to_owned(), revision: revision.map(str::to_owned) })
    }
}

fn parse_epoch(epoch: &str, text: &str) -> Result<u32, String> {
    let digits_only = !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit());
    let number = epoch.parse::<u32>().ok().filter(|number| digits_only && i32::try_from(*number).is_ok());
    number.ok_or_else(|| {
        format!("version `{text}`: the epoch `{epoch}` is not a whole number below 2147483648")
    })
}

fn check_characters(what: &str, text: &str, also: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c) || also.contains(c);
    match text.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        Some(wrong) => Err(format!(
            "{what} `{}` holds {wrong:?}; Debian allows letters, digits and . + - ~ only",
            text.escape_debug()
        )),
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        let revision = |version: &Version| version.revision.clone().unwrap_or_default();
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream.as_bytes(), other.upstream.as_bytes()))
            .then_with(|| compare_part(revision(self).as_bytes(), revision(other).as_bytes()))
    }
}

/// Stretches of other characters and of digits, in turn. `~` comes before the end, the end before letters, letters before the rest.
fn compare_part(left: &[u8], right: &[u8]) -> Ordering {
    let (mut left, mut right) = (left, right);
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split_at_digit(left);
        let (right_text, right_rest) = split_at_digit(right);
        let longest = left_text.len().max(right_text.len());
        for place in 0..longest {
            let order = weight(left_text.get(place)).cmp(&weight(right_text.get(place)));
            if order != Ordering::Equal {
                return order;
            }
        }
        let (left_number, left_rest) = split_number(left_rest);
        let (right_number, right_rest) = split_number(right_rest);
        let order = left_number.len().cmp(&right_number.len()).then_with(|| left_number.cmp(right_number));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

fn split_at_digit(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().position(u8::is_ascii_digit).unwrap_or(bytes.len()))
}

/// The digits without leading zeros, and what comes after them.
fn split_number(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    let (digits, rest) = bytes.split_at(end);
    let zeros = digits.iter().position(|byte| *byte != b'0').unwrap_or(digits.len());
    (&digits[zeros..], rest)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn the_order_is_that_of_dpkg() {
        for (lower, higher) in [
            ("1.0~beta", "1.0"),
            ("1.0~~", "1.0~"),
            ("1.0", "1.0a"),
            ("1.0a", "1.0+a"),
            ("9", "10"),
            ("2", "1:1"),
            ("1.0-1", "1.0-2"),
            ("1.0", "1.0-1"),
            ("1.0-1421712345-abc", "1.0-1421712346-0ab"),
            ("0.9-later", "1.0-earlier"),
            ("1.0-09", "1.0-10"),
        ] {
            assert!(version(lower) < version(higher), "{lower} < {higher}");
        }
        for (one, other) in [("1.0", "1.00"), ("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.0-0", "1.0-00")] {
            assert_eq!(version(one), version(other));
        }
    }

    #[test]
    fn what_debian_has_no_place_for_is_refused() {
        for wrong in ["_", "1_2", "abc def", "%", "1^a", "", "1\n2", "1:2", "abc", "v", "-1", "1-", "ä"] {
            assert!(Version::from_parts(None, wrong, None).is_err(), "{wrong:?}");
        }
        for wrong in ["", "a b", "1_2", "1:2", "-"] {
            assert!(Version::from_parts(None, "1.0", Some(wrong)).is_err(), "{wrong:?}");
        }
        assert!("99999999999:1".parse::<Version>().is_err());
    }

    #[test]
    fn parts_become_one_version() {
        let text =
            |epoch, version, iteration| Version::from_parts(epoch, version, iteration).unwrap().to_string();
        assert_eq!(text(None, "1~beta", None), "1~beta");
        assert_eq!(text(None, "v1.2", None), "1.2");
        assert_eq!(text(Some(2), "1.2", Some("3")), "2:1.2-3");
        assert_eq!(text(Some(0), "1.2", None), "1.2");
        assert_eq!(text(None, "1.0", Some("1421712345-abcdef")), "1.0-1421712345-abcdef");
        assert_eq!(version("3:1.0-2").without_epoch(), "1.0-2");
    }
}
