//! Messages as bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::amqp::MESSAGE_BYTES;
use crate::model::message::{Envelope, VERSION};
use crate::model::{AttemptKey, Value};

pub(super) fn write<T: Serialize>(message: T) -> Vec<u8> {
    // Records of strings, numbers and JSON: what could fail is a map whose keys are no strings, and none has one.
    serde_json::to_vec(&Envelope { v: VERSION, message }).unwrap_or_default()
}

/// Why a message can't be read, and the attempt that it was about as far as that can be seen.
#[derive(Debug)]
pub(super) struct Poison {
    pub(super) why: String,
    pub(super) key: Option<AttemptKey>,
}

pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Poison> {
    if bytes.len() > MESSAGE_BYTES {
        let why =
            format!("it has {} bytes, more than the {MESSAGE_BYTES} that a message may have", bytes.len());
        return Err(Poison { why, key: None });
    }
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Err(Poison { why: format!("it is no JSON: {error}"), key: None }),
    };
    let poison = |why: String| Poison { why, key: key_in(&value) };
    match value.get("v").and_then(Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => (),
        Some(version) => {
            return Err(poison(format!(
                "it is of version {version}, and this program reads version {VERSION}"
            )));
        }
        None => return Err(poison("it says no version".to_owned())),
    }
    // Once more from the text: the value stays for the key.
    let envelope: Result<Envelope<T>, _> = serde_json::from_slice(bytes);
    envelope.map(|envelope| envelope.message).map_err(|error| poison(format!("it is none of ours: {error}")))
}

/// The key of the attempt that a message is about, wherever it stands near the top.
fn key_in(value: &Value) -> Option<AttemptKey> {
    let inner = || value.as_object()?.values().find_map(|inner| inner.get("key"));
    let key = value.get("key").or_else(inner)?;
    serde_json::from_value(key.clone()).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::message::{FromWorker, Said, ToWorker};
    use crate::model::worker::Claimant;
    use crate::model::{Outcome, RunId};

    fn key() -> AttemptKey {
        AttemptKey { run: RunId(7), step: "build".into(), visit: 1, item: Some(3), number: 2 }
    }

    #[test]
    fn what_is_written_is_read() {
        let said = FromWorker {
            by: Claimant { worker: "w".into(), session: Some("s".into()) },
            id: 3,
            key: key(),
            said: Said::Finished { outcome: Outcome::Succeeded { output: json!({"b": 1, "a": 2}) } },
        };
        assert_eq!(read::<FromWorker>(&write(&said)).unwrap(), said);
        let cancel = ToWorker::Cancel { key: key() };
        assert_eq!(read::<ToWorker>(&write(&cancel)).unwrap(), cancel);
    }

    #[test]
    fn poison_says_why_and_which_attempt_it_was_about() {
        let newer = json!({"v": 9, "do": {"key": key(), "attempt": {"new": true}}}).to_string();
        let poison = read::<ToWorker>(newer.as_bytes()).unwrap_err();
        assert!(poison.why.contains("version 9"), "{}", poison.why);
        assert_eq!(poison.key, Some(key()));
        let strange = json!({"v": 1, "do": {"key": key(), "attempt": {"new": true}}}).to_string();
        assert_eq!(read::<ToWorker>(strange.as_bytes()).unwrap_err().key, Some(key()));
        for text in ["", "nonsense", "[]", "{}", "{\"v\":1}", "{\"v\":1,\"dance\":{}}", "3"] {
            let poison = read::<ToWorker>(text.as_bytes()).unwrap_err();
            assert!(poison.key.is_none() && poison.why.starts_with("it "), "{text}: {}", poison.why);
        }
    }
}
