//! The repository's key: made, kept at a place that only its owner reads, and signed with. No gpg is needed; gpgv of Debian 12
//! and later verifies what comes out.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, Deserializable, DetachedSignature, KeyType, SecretKeyParamsBuilder,
    SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, KeyVersion, Password, SigningKey};

use super::Error;
use crate::model::Timestamp;

/// A private key that signs, and where it lies.
pub struct Key {
    path: PathBuf,
    secret: SignedSecretKey,
    /// The subkey that signs; the primary key when there is none.
    signer: Option<usize>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("path", &self.path).field("fingerprint", &self.fingerprint()).finish()
    }
}

impl Key {
    /// Reads a private OpenPGP key, armored or not, without a passphrase, and tries it.
    pub fn load(path: &Path) -> Result<Key, Error> {
        let wrong = |reason: String| Error::Key { path: path.to_owned(), reason };
        let content =
            fs::read(path).map_err(|error| wrong(format!("the signing key can't be read: {error}")))?;
        let malformed =
            |error: pgp::errors::Error| wrong(format!("it holds no private OpenPGP key: {error}"));
        let (secret, _) = SignedSecretKey::from_reader_single(content.as_slice()).map_err(malformed)?;
        secret.verify_bindings().map_err(malformed)?;
        if !secret.details.revocation_signatures.is_empty() {
            return Err(wrong("this key is revoked".to_owned()));
        }
        let signer = find_signer(&secret).ok_or_else(|| wrong("this key may not sign".to_owned()))?;
        let key = Key { path: path.to_owned(), secret, signer };
        let probe = key.detached_signature("probe", Timestamp(0));
        probe.map_err(|error| {
            wrong(format!("it can't sign (a key with a passphrase can't be used): {error}"))
        })?;
        Ok(key)
    }

    /// The key for the repository in `repository`. Made at `path` when neither of them has one; never made when clients trust
    /// another already, and never inside the repository, from where it would be published.
    pub fn for_repository(repository: &Path, path: &Path, now: Timestamp) -> Result<Key, Error> {
        refuse_inside(repository, path)?;
        match fs::symlink_metadata(path) {
            Ok(_) => return Key::load(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Key { path: path.to_owned(), reason: error.to_string() });
            }
            Err(_) => {}
        }
        if let Some(public) = PublicKeys::of(repository)? {
            // Another publisher may have made both since we looked.
            if path.exists() {
                return Key::load(path);
            }
            let reason = format!(
                "there is no key here, but the repository is signed by {}; restore that key, or name its file with --key",
                public.fingerprints().join(", ")
            );
            return Err(Error::Key { path: path.to_owned(), reason });
        }
        Key::make(path, "Siskin APT repository <apt@siskin.invalid>", now)
    }

    /// Makes an Ed25519 key in a new file that only its owner may read. Another process that was quicker wins.
    pub fn make(path: &Path, user_id: &str, now: Timestamp) -> Result<Key, Error> {
        let wrong = |reason: String| Error::Key { path: path.to_owned(), reason };
        let armored =
            generate(user_id, now).map_err(|error| wrong(format!("no key could be made: {error}")))?;
        let failed = |error: io::Error| wrong(format!("the new key can't be kept: {error}"));
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let mut file = tempfile::Builder::new().prefix(".key.").tempfile_in(folder).map_err(failed)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
        file.write_all(armored.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error.error)),
        }
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Key::load(path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fingerprint of the primary key, in capitals.
    pub fn fingerprint(&self) -> String {
        hex::encode_upper(self.secret.fingerprint().as_bytes())
    }

    /// Clients refuse what an expired key signs.
    pub(super) fn check_in_force(&self, now: Timestamp) -> Result<(), Error> {
        let created = i64::from(self.secret.primary_key.created_at().as_secs());
        let signatures = self.secret.details.users.iter().flat_map(|user| &user.signatures);
        let spans = signatures.filter_map(|signature| signature.key_expiration_time());
        let Some(span) = spans.map(|span| i64::from(span.as_secs())).filter(|span| *span > 0).max() else {
            return Ok(());
        };
        let ends = Timestamp(created.saturating_add(span).saturating_mul(1000));
        if now < ends {
            return Ok(());
        }
        Err(Error::Key { path: self.path.clone(), reason: format!("this key expired at {ends}") })
    }

    /// What clients put in their keyring: binary and armored.
    pub(super) fn public(&self) -> Result<(Vec<u8>, String), Error> {
        let wrong =
            |error: pgp::errors::Error| Error::Key { path: self.path.clone(), reason: error.to_string() };
        let public = self.secret.to_public_key();
        let binary = public.to_bytes().map_err(wrong)?;
        Ok((binary, public.to_armored_string(ArmorOptions::default()).map_err(wrong)?))
    }

    /// `InRelease` for a `Release`, and `Release.gpg`.
    pub(super) fn sign(&self, release: &str, now: Timestamp) -> Result<(String, String), Error> {
        let wrong =
            |error: pgp::errors::Error| Error::Key { path: self.path.clone(), reason: error.to_string() };
        let inline = self.clear_signature(release, now).map_err(wrong)?;
        let detached = self.detached_signature(release, now).map_err(wrong)?;
        Ok((inline, detached))
    }

    fn clear_signature(&self, text: &str, now: Timestamp) -> pgp::errors::Result<String> {
        // The line break before the signature's armor is not signed.
        let text = text.trim_end_matches('\n');
        let message = match self.signer.and_then(|index| self.secret.secret_subkeys.get(index)) {
            Some(subkey) => clear(text, &subkey.key, now)?,
            None => clear(text, &self.secret.primary_key, now)?,
        };
        message.to_armored_string(ArmorOptions::default())
    }

    /// A detached signature of anything, in binary.
    pub fn sign_bytes(&self, bytes: &[u8], now: Timestamp) -> Result<Vec<u8>, Error> {
        let wrong =
            |error: pgp::errors::Error| Error::Key { path: self.path.clone(), reason: error.to_string() };
        let signature = match self.signer.and_then(|index| self.secret.secret_subkeys.get(index)) {
            Some(subkey) => detach(bytes, &subkey.key, now),
            None => detach(bytes, &self.secret.primary_key, now),
        };
        signature.and_then(|signature| signature.to_bytes()).map_err(wrong)
    }

    fn detached_signature(&self, text: &str, now: Timestamp) -> pgp::errors::Result<String> {
        let signature = match self.signer.and_then(|index| self.secret.secret_subkeys.get(index)) {
            Some(subkey) => detach(text.as_bytes(), &subkey.key, now)?,
            None => detach(text.as_bytes(), &self.secret.primary_key, now)?,
        };
        signature.to_armored_string(ArmorOptions::default())
    }
}

fn clear(text: &str, key: &impl SigningKey, now: Timestamp) -> pgp::errors::Result<CleartextSignedMessage> {
    CleartextSignedMessage::new(text, config(SignatureType::Text, key, now)?, key, &Password::empty())
}

fn detach(bytes: &[u8], key: &impl SigningKey, now: Timestamp) -> pgp::errors::Result<DetachedSignature> {
    let signature = config(SignatureType::Binary, key, now)?.sign(key, &Password::empty(), bytes)?;
    Ok(DetachedSignature::new(signature))
}

fn config(
    kind: SignatureType,
    key: &impl SigningKey,
    now: Timestamp,
) -> pgp::errors::Result<SignatureConfig> {
    let mut config = match key.version() {
        KeyVersion::V6 => {
            SignatureConfig::v6(rand_core::OsRng, kind, key.algorithm(), HashAlgorithm::Sha512)?
        }
        _ => SignatureConfig::v4(kind, key.algorithm(), HashAlgorithm::Sha512),
    };
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(seconds(now)))?,
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
    ];
    if key.version() <= KeyVersion::V4 {
        config.unhashed_subpackets =
            vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))?];
    }
    Ok(config)
}

fn seconds(at: Timestamp) -> pgp::types::Timestamp {
    pgp::types::Timestamp::from_secs(u32::try_from(at.0.max(0) / 1000).unwrap_or(u32::MAX))
}

fn generate(user_id: &str, now: Timestamp) -> Result<String, String> {
    let mut parameters = SecretKeyParamsBuilder::default();
    parameters
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .created_at(seconds(now))
        .primary_user_id(user_id.to_owned());
    let parameters = parameters.build().map_err(|error| error.to_string())?;
    let secret = parameters.generate(rand_core::OsRng).map_err(|error| error.to_string())?;
    secret.to_armored_string(ArmorOptions::default()).map_err(|error| error.to_string())
}

/// A subkey that signs comes before a primary key that may.
fn find_signer(secret: &SignedSecretKey) -> Option<Option<usize>> {
    let signs = |subkey: &pgp::composed::SignedSecretSubKey| {
        subkey.signatures.iter().any(|signature| signature.key_flags().sign())
    };
    if let Some(index) = secret.secret_subkeys.iter().position(signs) {
        return Some(Some(index));
    }
    let mut signatures = secret.details.users.iter().flat_map(|user| &user.signatures);
    let direct = &mut secret.details.direct_signatures.iter();
    (signatures.any(|signature| signature.key_flags().sign())
        || direct.any(|signature| signature.key_flags().sign()))
    .then_some(None)
}

fn refuse_inside(repository: &Path, key: &Path) -> Result<(), Error> {
    let real = |path: &Path| {
        // What does not exist yet is judged by the nearest folder that does.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let known = absolute.ancestors().find_map(|part| Some((part, fs::canonicalize(part).ok()?)));
        match known {
            Some((part, real)) => real.join(absolute.strip_prefix(part).unwrap_or(Path::new(""))),
            None => absolute,
        }
    };
    if real(key).starts_with(real(repository)) {
        let reason =
            "the private key must not lie in the repository, which others read; put it elsewhere".to_owned();
        return Err(Error::Key { path: key.to_owned(), reason });
    }
    Ok(())
}

/// Public keys in a file, armored or not, to verify with.
pub struct Public(PublicKeys);

impl Public {
    pub fn load(path: &Path) -> Result<Public, Error> {
        let wrong = |reason: String| Error::Key { path: path.to_owned(), reason };
        let content = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let malformed = |error: pgp::errors::Error| wrong(format!("it holds no public key: {error}"));
        let (keys, _) = SignedPublicKey::from_reader_many(content.as_slice()).map_err(malformed)?;
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        match keys.is_empty() {
            true => Err(wrong("it holds no public key".to_owned())),
            false => Ok(Public(PublicKeys { keys })),
        }
    }

    /// Whether one of the keys made this detached signature, which is in binary.
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = DetachedSignature::from_bytes(signature) else { return false };
        self.0.any(|key| signature.verify(key, bytes).is_ok(), |key| signature.verify(key, bytes).is_ok())
    }
}

/// The keys that a repository tells its clients to trust.
pub(super) struct PublicKeys {
    keys: Vec<SignedPublicKey>,
}

impl PublicKeys {
    /// Those in `key.gpg`; nothing when the repository has none yet.
    pub(super) fn of(repository: &Path) -> Result<Option<PublicKeys>, Error> {
        let path = repository.join("key.gpg");
        let wrong = |reason: String| Error::Key { path: path.clone(), reason };
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let keys = SignedPublicKey::from_bytes_many(content.as_slice());
        let keys: Result<Vec<_>, _> = keys.map_err(|error| wrong(error.to_string()))?.collect();
        let keys = keys.map_err(|error| wrong(format!("it holds no public OpenPGP key: {error}")))?;
        if keys.is_empty() {
            return Err(wrong("it holds no public OpenPGP key".to_owned()));
        }
        Ok(Some(PublicKeys { keys }))
    }

    pub(super) fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(|key| hex::encode_upper(key.fingerprint().as_bytes())).collect()
    }

    /// The text that `in_release` signs, when one of the keys made the signature.
    pub(super) fn verify_inline(&self, in_release: &str) -> Result<String, String> {
        let (message, _) =
            CleartextSignedMessage::from_string(in_release).map_err(|error| error.to_string())?;
        if !self.any(|key| message.verify(key).is_ok(), |key| message.verify(key).is_ok()) {
            return Err("no key of key.gpg made its signature".to_owned());
        }
        Ok(message.signed_text().replace("\r\n", "\n"))
    }

    pub(super) fn verify_detached(&self, release: &[u8], signature: &str) -> Result<(), String> {
        let (signature, _) = DetachedSignature::from_string(signature).map_err(|error| error.to_string())?;
        let verified = self
            .any(|key| signature.verify(key, release).is_ok(), |key| signature.verify(key, release).is_ok());
        if verified { Ok(()) } else { Err("no key of key.gpg made its signature".to_owned()) }
    }

    fn any(
        &self,
        primary: impl Fn(&pgp::packet::PublicKey) -> bool,
        subkey: impl Fn(&pgp::packet::PublicSubkey) -> bool,
    ) -> bool {
        self.keys
            .iter()
            .any(|key| primary(&key.primary_key) || key.public_subkeys.iter().any(|sub| subkey(&sub.key)))
    }
}
