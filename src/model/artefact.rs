//! Artefacts: files that are kept by what is in them. A value of a run only names one: `{"artefact": "sha256:..", "name", "size"}`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Value;

/// How much of a file travels at once, at most.
pub const PIECE_BYTES: usize = 512 * 1024;

/// The hash that an artefact is known by: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtefactHash(String);

impl ArtefactHash {
    /// The hash of these 32 bytes of SHA-256.
    pub fn of(sha256: &[u8; 32]) -> ArtefactHash {
        ArtefactHash(hex::encode(sha256))
    }

    /// The digits alone.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArtefactHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// It is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no artefact: that is `sha256:` and 64 digits of 0-9 and a-f")]
pub struct NoHash(String);

impl FromStr for ArtefactHash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<ArtefactHash, NoHash> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if digits.len() == 64 && digits.bytes().all(is_digit) {
            return Ok(ArtefactHash(digits.to_owned()));
        }
        Err(NoHash(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for ArtefactHash {
    type Error = NoHash;

    fn try_from(text: String) -> Result<ArtefactHash, NoHash> {
        text.parse()
    }
}

impl From<ArtefactHash> for String {
    fn from(hash: ArtefactHash) -> String {
        hash.to_string()
    }
}

/// A file that is kept, as a value of a run names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    pub artefact: ArtefactHash,
    /// How the file is called where it is fetched.
    pub name: String,
    pub size: u64,
    /// Where a large output was moved here: what it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Its end, where it is a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<String>,
}

impl Artefact {
    /// The artefact that a value names.
    pub fn named_by(value: &Value) -> Option<Artefact> {
        value.get("artefact")?;
        serde_json::from_value(value.clone()).ok()
    }

    /// The value that names it. A record of plain data always has one.
    pub fn value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// Bytes inside JSON, as base64.
pub mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes them.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads them.
    ///
    /// # Errors
    /// The text is no base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_artefact_is_known_by_its_hash_and_nothing_else_passes_for_one() {
        let hash = ArtefactHash::of(&[0xab; 32]);
        assert_eq!(hash.to_string(), format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(hash.digits().parse::<ArtefactHash>().unwrap(), hash);
        for wrong in ["", "sha256:", "sha256:../../etc/passwd", &"AB".repeat(32), &"a".repeat(65)] {
            assert!(wrong.parse::<ArtefactHash>().is_err(), "{wrong}");
        }
        let value = json!({"artefact": hash.to_string(), "name": "a.txt", "size": 3});
        let named = Artefact::named_by(&value).unwrap();
        assert_eq!((named.size, named.value()), (3, value));
        assert_eq!(Artefact::named_by(&json!({"artefact": "x", "name": "a", "size": 1})), None);
        assert_eq!(Artefact::named_by(&json!("sha256:")), None);
    }
}
