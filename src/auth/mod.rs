//! Who talks to us: tokens, and the roles of their users.
//!
//! Promises: a token's text is never stored, only its SHA-256; it is compared in constant time; a revoked token opens nothing.
//! What a role allows is decided where the act is; who may decide an approval, by the approval.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::definitions::Definitions;
use crate::model::{Actor, Secret, Timestamp, Value};
use crate::store::{NewAudit, NewToken, Store, StoreError};

/// The role that may do everything that is not reserved to named people.
pub const ADMIN: &str = "admin";
/// The user to whom admin.token belongs.
pub const ADMIN_USER: &str = "admin";

const TOKEN_FILE: &str = "admin.token";
const PREFIX: &str = "ssk_";
/// 256 bits: guessing is hopeless, so a fast hash is enough.
const TOKEN_BYTES: usize = 32;
const LONGEST_TOKEN: usize = 200;
/// The last use of a token is written down at most this often.
const NOTE_USE_MILLIS: i64 = 60_000;

/// Someone whose token was good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    /// The token's own and those that siskin.yaml gives its user.
    pub roles: Vec<String>,
    /// Which token it was.
    pub token: i64,
}

/// Why someone was not let in.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("a token is needed: send `Authorization: Bearer TOKEN`")]
    Missing,
    #[error("this token is unknown or was revoked")]
    Unknown,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the admin token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("{} can't be used ({error}): make it readable and writable for this user alone", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the system gives no randomness: {0}")]
    Random(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Knows the tokens.
#[derive(Debug)]
pub struct Auth {
    store: Store,
    /// When a use of each token was last written down.
    noted: Mutex<HashMap<i64, Timestamp>>,
}

impl Auth {
    /// Ready to let people in. Makes `DATA/admin.token` when it is missing, and knows the one that is there.
    ///
    /// # Errors
    /// The file or the store can't be read or written.
    pub async fn open(data: &Path, store: Store, now: Timestamp) -> Result<Auth, AuthError> {
        let path = data.join(TOKEN_FILE);
        let unusable = |error| AuthError::File { path: path.clone(), error };
        let found = match std::fs::read_to_string(&path) {
            Ok(text) => Some(Secret::new(text.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(error)),
        };
        // A file that a crash left empty is no token.
        let (token, is_new) = match found.filter(|token| token.reveal().len() >= PREFIX.len() + TOKEN_BYTES) {
            Some(token) => (token, false),
            None => (random_token()?, true),
        };
        // The row first: a token that the file shows must open the door.
        let hash = hash(token.reveal());
        if store.token_by_hash(&hash).await?.is_none() {
            let row = NewToken {
                hash,
                name: TOKEN_FILE.to_owned(),
                user: ADMIN_USER.to_owned(),
                roles: vec![ADMIN.to_owned()],
                created_at: now,
            };
            store.add_token(row, audit(&Actor::System, "token.create", TOKEN_FILE, "local", now)).await?;
        }
        if is_new {
            write(&path, &token).map_err(unusable)?;
        }
        Ok(Auth { store, noted: Mutex::default() })
    }

    /// Whom an `Authorization` header names.
    ///
    /// # Errors
    /// There is none, or its token opens nothing.
    pub async fn authenticate(
        &self,
        authorization: Option<&str>,
        definitions: &Definitions,
        now: Timestamp,
    ) -> Result<Identity, Denied> {
        let token = authorization.and_then(bearer).ok_or(Denied::Missing)?;
        if token.len() > LONGEST_TOKEN {
            return Err(Denied::Unknown);
        }
        let hash = hash(token);
        let Some(found) = self.store.token_by_hash(&hash).await? else { return Err(Denied::Unknown) };
        // The index has compared it already, byte by byte, but a hash: its timing tells nothing about the token.
        if found.revoked_at.is_some() || !bool::from(found.hash.as_bytes().ct_eq(hash.as_bytes())) {
            return Err(Denied::Unknown);
        }
        self.note_use(found.id, now).await;
        let mut roles = found.roles;
        if let Some(user) = definitions.site.users.get(&found.user) {
            for role in &user.roles {
                if !roles.contains(role) {
                    roles.push(role.clone());
                }
            }
        }
        Ok(Identity { user: found.user, roles, token: found.id })
    }

    /// Makes a token. Its text is given once and nowhere kept.
    ///
    /// # Errors
    /// The store can't be written.
    pub async fn create(
        &self,
        user: &str,
        roles: Vec<String>,
        name: &str,
        by: &Actor,
        from: &str,
        now: Timestamp,
    ) -> Result<(i64, String), AuthError> {
        let token = random_token()?;
        let row = NewToken {
            hash: hash(token.reveal()),
            name: name.to_owned(),
            user: user.to_owned(),
            roles,
            created_at: now,
        };
        let id = self.store.add_token(row, audit(by, "token.create", user, from, now)).await?;
        Ok((id, token.reveal().to_owned()))
    }

    /// Ends a token. False: there is no such token that still opened anything.
    ///
    /// # Errors
    /// The store can't be written.
    pub async fn revoke(&self, id: i64, by: &Actor, from: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.store.revoke_token(id, audit(by, "token.revoke", &id.to_string(), from, now)).await
    }

    async fn note_use(&self, id: i64, now: Timestamp) {
        {
            let Ok(mut noted) = self.noted.lock() else { return };
            if noted.get(&id).is_some_and(|last| now.0 - last.0 < NOTE_USE_MILLIS) {
                return;
            }
            noted.insert(id, now);
        }
        // When a token was last used is a courtesy; nobody is turned away because it could not be written.
        if let Err(error) = self.store.token_used(id, now).await {
            tracing::debug!(%error, "the use of a token was not written down");
        }
    }
}

fn audit(by: &Actor, act: &str, subject: &str, from: &str, now: Timestamp) -> NewAudit {
    NewAudit {
        at: now,
        actor: by.clone(),
        act: act.to_owned(),
        subject: format!("token {subject}"),
        details: Value::Null,
        from: Some(from.to_owned()),
    }
}

/// The token in `Bearer TOKEN`; the word in any case.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

fn random_token() -> Result<Secret, AuthError> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| AuthError::Random(error.to_string()))?;
    Ok(Secret::new(format!("{PREFIX}{}", hex::encode(bytes))))
}

/// Whole or not at all, and never readable by others, not even for a moment.
fn write(path: &Path, token: &Secret) -> io::Result<()> {
    let scratch = path.with_extension("token.new");
    match std::fs::remove_file(&scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&scratch)?;
    file.write_all(token.reveal().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&scratch, path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_bearer_token_is_one() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for wrong in ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearerabc"] {
            assert_eq!(bearer(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_file_of_the_admin_token_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TOKEN_FILE);
        write(&path, &Secret::new("ssk_x")).unwrap();
        write(&path, &Secret::new("ssk_y")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ssk_y\n");
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(random_token().unwrap().reveal(), random_token().unwrap().reveal());
    }
}
