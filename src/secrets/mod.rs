//! Secrets at rest: sealed with the key in `DATA/secret.key`, each bound to its name, so that a row copied over another does not open.
//!
//! Promises: no secret is in the store in clear; the server does not start with a key that is missing or is another one while there are
//! secrets. Who gets a secret, and when, is decided by others.

mod key;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce};
use zeroize::Zeroizing;

use crate::model::{Actor, Secret, Timestamp, Value};
use crate::store::{NewAudit, SealedSecret, Store, StoreError};

/// The file beside the database that holds the key.
pub const KEY_FILE: &str = "secret.key";
/// The longest secret: keys and certificates fit, files do not.
pub const LONGEST: usize = 64 * 1024;
/// Where the store keeps something sealed with the key, so that another key is noticed at the start.
const PROOF: &str = "secret_key_proof";
/// What the proof is bound to; no secret can have this name.
const PROOF_NAME: &str = "proof of the key";
const NONCE_BYTES: usize = 12;

/// Why a secret cannot be had or kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    #[error("the key of the secrets, {path}, is missing: put it back from a backup, copy it from another server on the same database, or delete the secrets' rows", path = .0.display())]
    KeyMissing(PathBuf),
    #[error("{path} is not the key that the secrets are sealed with: put the right one back from a backup, or copy it from another server on the same database", path = .0.display())]
    KeyWrong(PathBuf),
    #[error("{path} cannot be used as a key ({why})", path = .path.display())]
    KeyUnusable { path: PathBuf, why: String },
    #[error("`{0}` is no name for a secret: use small letters, digits and _, and begin with a letter")]
    Name(String),
    #[error("a secret may hold at most {LONGEST} bytes")]
    TooLong,
    #[error("the secret `{0}` cannot be opened: its row was changed; set it again")]
    Damaged(String),
    #[error("this machine gives no random numbers: {0}")]
    Random(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The secrets of one data directory. Cheap to clone.
#[derive(Clone)]
pub struct Secrets {
    store: Store,
    cipher: Arc<ChaCha20Poly1305>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(***)")
    }
}

impl Secrets {
    /// Reads the key, or makes one when there is none and nothing was sealed yet.
    ///
    /// # Errors
    /// `KeyMissing` or `KeyWrong` when secrets exist that could not be opened; `KeyUnusable` when the file can't be read, written or
    /// understood, or others may read it.
    pub async fn open(data: &Path, store: Store) -> Result<Secrets, SecretsError> {
        let path = data.join(KEY_FILE);
        // Who comes to others must have their key, also before the first secret is set.
        let has_secrets = !store.secret_names().await?.is_empty() || store.has_living_nodes().await?;
        let found = key::read(&path)?;
        if found.is_none() && has_secrets {
            return Err(SecretsError::KeyMissing(path));
        }
        let is_new = found.is_none();
        let key = match found {
            Some(key) => key,
            None => key::make(&path)?,
        };
        let cipher = ChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| {
            SecretsError::KeyUnusable { path: path.clone(), why: "it has the wrong length".to_owned() }
        })?;
        let secrets = Secrets { store, cipher: Arc::new(cipher) };
        secrets.prove(&path, is_new || !has_secrets).await?;
        Ok(secrets)
    }

    /// Seals a secret and stores it over what had its name.
    ///
    /// # Errors
    /// `Name`, `TooLong`, or the store cannot be written.
    pub async fn set(
        &self,
        name: &str,
        secret: &Secret,
        actor: &Actor,
        from: Option<&str>,
        now: Timestamp,
    ) -> Result<(), SecretsError> {
        refuse_name(name)?;
        if secret.reveal().len() > LONGEST {
            return Err(SecretsError::TooLong);
        }
        let (nonce, ciphertext) = self.seal(name, secret.reveal().as_bytes())?;
        let sealed = SealedSecret { name: name.to_owned(), nonce, ciphertext, updated_at: now };
        self.store.put_secret(sealed, audit("secret.set", name, actor, from, now)).await?;
        Ok(())
    }

    /// A secret in clear; `None` when it was never set.
    ///
    /// # Errors
    /// `Damaged` when its row was changed; the store cannot be read.
    pub async fn get(&self, name: &str) -> Result<Option<Secret>, SecretsError> {
        let Some(sealed) = self.store.sealed_secret(name).await? else { return Ok(None) };
        let damaged = || SecretsError::Damaged(name.to_owned());
        let clear = self.unseal(name, &sealed.nonce, &sealed.ciphertext).ok_or_else(damaged)?;
        let text = std::str::from_utf8(&clear).map_err(|_| damaged())?;
        Ok(Some(Secret::new(text)))
    }

    /// The names of all secrets in order, and when each was set.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn names(&self) -> Result<Vec<(String, Timestamp)>, SecretsError> {
        Ok(self.store.secret_names().await?)
    }

    /// Deletes a secret. False when there was none.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn delete(
        &self,
        name: &str,
        actor: &Actor,
        from: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, SecretsError> {
        Ok(self.store.delete_secret(name, audit("secret.delete", name, actor, from, now)).await?)
    }

    /// Opens what this key, and no other, has sealed; writes it where nothing depends on an earlier key.
    async fn prove(&self, path: &Path, may_write: bool) -> Result<(), SecretsError> {
        let stored = self.store.meta(PROOF).await?;
        if stored.as_deref().is_some_and(|text| self.is_proof(text)) {
            return Ok(());
        }
        if !may_write {
            return Err(SecretsError::KeyWrong(path.to_owned()));
        }
        let (nonce, ciphertext) = self.seal(PROOF_NAME, b"siskin")?;
        let text = format!("{}:{}", hex::encode(nonce), hex::encode(ciphertext));
        Ok(self.store.set_meta(PROOF, &text).await?)
    }

    fn is_proof(&self, text: &str) -> bool {
        let Some((nonce, ciphertext)) = text.split_once(':') else { return false };
        let (Ok(nonce), Ok(ciphertext)) = (hex::decode(nonce), hex::decode(ciphertext)) else { return false };
        self.unseal(PROOF_NAME, &nonce, &ciphertext).is_some()
    }

    fn seal(&self, name: &str, clear: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SecretsError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| SecretsError::Random(error.to_string()))?;
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: clear, aad: name.as_bytes() })
            .map_err(|_| SecretsError::TooLong)?;
        Ok((nonce.to_vec(), sealed))
    }

    fn unseal(&self, name: &str, nonce: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
        let payload = Payload { msg: ciphertext, aad: name.as_bytes() };
        self.cipher.decrypt(&Nonce::from(nonce), payload).ok().map(Zeroizing::new)
    }
}

fn refuse_name(name: &str) -> Result<(), SecretsError> {
    let begins_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    let is_plain =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if begins_well && is_plain && name.len() <= 128 {
        return Ok(());
    }
    Err(SecretsError::Name(name.to_owned()))
}

fn audit(act: &str, name: &str, actor: &Actor, from: Option<&str>, at: Timestamp) -> NewAudit {
    NewAudit {
        at,
        actor: actor.clone(),
        act: act.to_owned(),
        subject: format!("secret {name}"),
        details: Value::Null,
        from: from.map(str::to_owned),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    async fn store(data: &Path) -> Store {
        Store::open(&crate::store::Location::file(data.join("siskin.db")), NOW).await.unwrap()
    }

    async fn set(secrets: &Secrets, name: &str, text: &str) -> Result<(), SecretsError> {
        secrets.set(name, &Secret::new(text), &Actor::user("ana"), Some("127.0.0.1"), NOW).await
    }

    #[tokio::test]
    async fn a_secret_comes_back_after_a_restart_and_is_nowhere_in_clear() {
        let data = tempfile::tempdir().unwrap();
        let opened = store(data.path()).await;
        let secrets = Secrets::open(data.path(), opened.clone()).await.unwrap();
        set(&secrets, "github_webhook", "not-to-be-seen").await.unwrap();
        opened.close().await;
        for entry in std::fs::read_dir(data.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(14).any(|window| window == b"not-to-be-seen"));
        }
        let opened = store(data.path()).await;
        let secrets = Secrets::open(data.path(), opened.clone()).await.unwrap();
        assert_eq!(secrets.get("github_webhook").await.unwrap().unwrap().reveal(), "not-to-be-seen");
        assert_eq!(secrets.names().await.unwrap(), [("github_webhook".to_owned(), NOW)]);
        let acts = opened.audit(&crate::store::AuditFilter { limit: 9, ..Default::default() }).await.unwrap();
        assert_eq!((acts[0].act.as_str(), acts[0].subject.as_str()), ("secret.set", "secret github_webhook"));
        assert!(!format!("{secrets:?} {acts:?}").contains("not-to-be-seen"));
    }

    #[tokio::test]
    async fn the_key_is_for_its_owner_only() {
        let data = tempfile::tempdir().unwrap();
        let opened = store(data.path()).await;
        Secrets::open(data.path(), opened.clone()).await.unwrap();
        let key = data.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Secrets::open(data.path(), opened).await.unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[tokio::test]
    async fn with_secrets_a_missing_or_other_key_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let opened = store(data.path()).await;
        let secrets = Secrets::open(data.path(), opened.clone()).await.unwrap();
        set(&secrets, "a", "b").await.unwrap();
        let key = data.path().join(KEY_FILE);
        std::fs::rename(&key, data.path().join("elsewhere")).unwrap();
        let error = Secrets::open(data.path(), opened.clone()).await.unwrap_err();
        assert_eq!(error, SecretsError::KeyMissing(key.clone()));
        key::make(&key).unwrap();
        let error = Secrets::open(data.path(), opened.clone()).await.unwrap_err();
        assert_eq!(error, SecretsError::KeyWrong(key.clone()));
        std::fs::rename(data.path().join("elsewhere"), &key).unwrap();
        Secrets::open(data.path(), opened).await.unwrap();
    }

    #[tokio::test]
    async fn without_secrets_a_lost_key_is_made_anew() {
        let data = tempfile::tempdir().unwrap();
        let opened = store(data.path()).await;
        Secrets::open(data.path(), opened.clone()).await.unwrap();
        std::fs::remove_file(data.path().join(KEY_FILE)).unwrap();
        let secrets = Secrets::open(data.path(), opened.clone()).await.unwrap();
        set(&secrets, "a", "b").await.unwrap();
        assert!(Secrets::open(data.path(), opened).await.is_ok());
    }

    #[tokio::test]
    async fn a_row_copied_over_another_name_does_not_open() {
        let data = tempfile::tempdir().unwrap();
        let opened = store(data.path()).await;
        let secrets = Secrets::open(data.path(), opened.clone()).await.unwrap();
        set(&secrets, "mine", "harmless").await.unwrap();
        let mut row = opened.sealed_secret("mine").await.unwrap().unwrap();
        row.name = "root_password".to_owned();
        opened.put_secret(row, audit("test", "x", &Actor::System, None, NOW)).await.unwrap();
        let error = secrets.get("root_password").await.unwrap_err();
        assert_eq!(error, SecretsError::Damaged("root_password".to_owned()));
    }

    #[tokio::test]
    async fn names_are_plain_and_deleting_is_noticed() {
        let data = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(data.path(), store(data.path()).await).await.unwrap();
        for name in ["", "A", "1a", "a-b", "a b", "_a", "é", "a\n"] {
            assert_eq!(set(&secrets, name, "x").await, Err(SecretsError::Name(name.to_owned())));
        }
        set(&secrets, "a_1", "x").await.unwrap();
        assert!(secrets.delete("a_1", &Actor::System, None, NOW).await.unwrap());
        assert!(!secrets.delete("a_1", &Actor::System, None, NOW).await.unwrap());
        assert!(secrets.get("a_1").await.unwrap().is_none());
        assert_eq!(set(&secrets, "a", &"x".repeat(LONGEST + 1)).await, Err(SecretsError::TooLong));
    }
}
