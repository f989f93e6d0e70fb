//! Seals secrets to the key of one claim (RFC 9180). Whoever reads the broker's queues sees neither names nor values.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use zeroize::Zeroizing;

use crate::model::message::Sealed;
use crate::model::{AttemptKey, Secret};

type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type EncapsulatedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Why secrets could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct SealingError(&'static str);

/// The key of one claim; its private half never leaves the worker, and goes with it.
pub(super) struct ClaimKey {
    private: PrivateKey,
    public: PublicKey,
}

impl ClaimKey {
    pub(super) fn new() -> ClaimKey {
        let (private, public) = X25519HkdfSha256::gen_keypair();
        ClaimKey { private, public }
    }

    /// What the claim carries.
    pub(super) fn public(&self) -> String {
        BASE64.encode(self.public.to_bytes())
    }

    pub(super) fn open(
        &self,
        key: &AttemptKey,
        sealed: &Sealed,
    ) -> Result<BTreeMap<String, Secret>, SealingError> {
        let bad = |_| SealingError("sealed secrets came damaged");
        let encapsulated = BASE64
            .decode(&sealed.encapsulated_key)
            .map_err(|_| SealingError("sealed secrets came damaged"))?;
        let encapsulated = EncapsulatedKey::from_bytes(&encapsulated).map_err(bad)?;
        let ciphertext =
            BASE64.decode(&sealed.ciphertext).map_err(|_| SealingError("sealed secrets came damaged"))?;
        let context = context(key);
        let mut receiver = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            &context,
        )
        .map_err(bad)?;
        let opened = Zeroizing::new(receiver.open(&ciphertext, &context).map_err(bad)?);
        let texts: BTreeMap<String, String> =
            serde_json::from_slice(&opened).map_err(|_| SealingError("sealed secrets came damaged"))?;
        Ok(texts.into_iter().map(|(name, text)| (name, Secret::new(text))).collect())
    }
}

/// Seals secrets so that only the worker that claimed this attempt with this key can open them.
pub(super) fn seal(
    key: &AttemptKey,
    public_key: &str,
    secrets: &BTreeMap<String, Secret>,
) -> Result<Sealed, SealingError> {
    let bad = |_| SealingError("the claim's key is none");
    let public = BASE64.decode(public_key).map_err(|_| SealingError("the claim's key is none"))?;
    let public = PublicKey::from_bytes(&public).map_err(bad)?;
    let texts: BTreeMap<&str, &str> =
        secrets.iter().map(|(name, secret)| (name.as_str(), secret.reveal())).collect();
    let plain = serde_json::to_vec(&texts).map_err(|_| SealingError("the secrets are no JSON"))?;
    let plain = Zeroizing::new(plain);
    let context = context(key);
    let (encapsulated, mut sender) = hpke::setup_sender::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        &context,
    )
    .map_err(bad)?;
    let ciphertext = sender.seal(&plain, &context).map_err(bad)?;
    Ok(Sealed {
        encapsulated_key: BASE64.encode(encapsulated.to_bytes()),
        ciphertext: BASE64.encode(ciphertext),
    })
}

/// What the secrets are for: sealed for one attempt, they open for no other.
fn context(key: &AttemptKey) -> Vec<u8> {
    format!("siskin attempt {key}").into_bytes()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::RunId;

    fn key(number: u32) -> AttemptKey {
        AttemptKey { run: RunId(7), step: "build".into(), visit: 1, item: None, number }
    }

    fn secrets() -> BTreeMap<String, Secret> {
        BTreeMap::from([("token".to_owned(), Secret::new("hunter2"))])
    }

    #[test]
    fn only_the_claim_that_asked_opens_them_and_only_for_its_attempt() {
        let (mine, other) = (ClaimKey::new(), ClaimKey::new());
        let sealed = seal(&key(1), &mine.public(), &secrets()).unwrap();
        assert_eq!(mine.open(&key(1), &sealed).unwrap()["token"].reveal(), "hunter2");
        assert!(other.open(&key(1), &sealed).is_err());
        assert!(mine.open(&key(2), &sealed).is_err());
        let mut damaged = sealed.clone();
        damaged.ciphertext.replace_range(0..1, if sealed.ciphertext.starts_with('A') { "B" } else { "A" });
        assert!(mine.open(&key(1), &damaged).is_err());
        assert!(!serde_json::to_string(&sealed).unwrap().contains("token"));
    }

    #[test]
    fn a_claim_without_a_key_is_told_so() {
        for none in ["", "AAAA", "not base64!"] {
            assert!(seal(&key(1), none, &secrets()).is_err());
        }
    }
}
