//! A new key in place of the old one, without a moment at which a client of either is locked out.
//!
//! First the new key signs beside the old one: `InRelease` and `Release.gpg` have both signatures, `key.gpg` and `key.asc` both keys. When clients
//! have had the time to fetch the new key, the old one is dropped. The file of the key holds what signs, so publishers need not know of it. Each
//! half can be done again when it was interrupted: what is done already stays.

use std::path::Path;

use serde::Serialize;

use super::sign::{Key, PublicKeys, refuse_inside};
use super::{Error, Repository};
use crate::model::{Span, Timestamp};

/// What signs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rotation {
    /// Fingerprints, the eldest first.
    pub keys: Vec<String>,
    /// The suites that they sign.
    pub suites: Vec<String>,
}

impl Repository {
    /// Lets a new key sign beside the one in the file `key`.
    pub fn begin_rotation(&self, key: &Path, now: Timestamp) -> Result<Rotation, Error> {
        refuse_inside(&self.root, key)?;
        let mut signing = Key::load(key)?;
        self.check_key(&signing, now)?;
        if signing.fingerprints().len() == 1 {
            signing = signing.with_another(now)?;
        }
        self.publish_keys(&signing)?;
        self.sign_all_again(&signing, now)
    }

    /// Drops the old key. It is kept beside the file `key`, in one of its own, and signs nothing any more.
    pub fn finish_rotation(&self, key: &Path, overlap: Span, now: Timestamp) -> Result<Rotation, Error> {
        refuse_inside(&self.root, key)?;
        let mut signing = Key::load(key)?;
        self.check_key(&signing, now)?;
        if signing.fingerprints().len() > 1 {
            let since = signing.newest_made();
            if since.plus(overlap) > now {
                return Err(Error::Refused(format!(
                    "the new key signs since {since}, which is less than {overlap} ago: clients that have not fetched key.gpg since then would be \
                     locked out; wait until {}, or say a shorter overlap",
                    since.plus(overlap)
                )));
            }
            signing = signing.newest_alone()?;
        } else if self.published_keys()? == signing.fingerprints() {
            return Err(Error::Refused("no rotation is under way: begin one first".to_owned()));
        }
        let rotation = self.sign_all_again(&signing, now)?;
        self.publish_keys(&signing)?;
        Ok(rotation)
    }

    fn published_keys(&self) -> Result<Vec<String>, Error> {
        Ok(PublicKeys::of(&self.root)?.map(|keys| keys.fingerprints()).unwrap_or_default())
    }

    fn publish_keys(&self, key: &Key) -> Result<(), Error> {
        let _lock = self.lock()?;
        let (binary, armored) = key.public()?;
        self.replace(&self.root.join("key.asc"), armored.as_bytes())?;
        self.replace(&self.root.join("key.gpg"), &binary)
    }

    fn sign_all_again(&self, key: &Key, now: Timestamp) -> Result<Rotation, Error> {
        let suites = self.suites()?;
        for suite in &suites {
            self.refresh(suite, key, now)?;
        }
        Ok(Rotation { keys: key.fingerprints(), suites })
    }
}
