//! The repository's key: made, kept at a place that only its owner reads, and signed with. No gpg is needed; gpgv of Debian 12
//! and later verifies what comes out.
//!
//! The file of the key holds more than one while they are rotated: then all of them sign, and a client that trusts one is content.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pgp::armor::BlockType;
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

/// What a key is called that we made.
const USER_ID: &str = "Siskin APT repository <apt@siskin.invalid>";

/// The private key that signs, or those that do, and where they lie.
pub struct Key {
    path: PathBuf,
    /// At least one; the eldest first.
    parts: Vec<Part>,
}

/// One private key.
#[derive(Clone)]
struct Part {
    secret: SignedSecretKey,
    /// The subkey that signs; the primary key when there is none.
    signer: Option<usize>,
}

impl Part {
    fn of(secret: SignedSecretKey) -> Result<Part, String> {
        secret.verify_bindings().map_err(|error| format!("it holds no private OpenPGP key: {error}"))?;
        if !secret.details.revocation_signatures.is_empty() {
            return Err("this key is revoked".to_owned());
        }
        let signer = find_signer(&secret).ok_or_else(|| "this key may not sign".to_owned())?;
        let part = Part { secret, signer };
        part.sign(SignatureType::Binary, b"probe", Timestamp(0))
            .map_err(|error| format!("it can't sign (a key with a passphrase can't be used): {error}"))?;
        Ok(part)
    }

    fn fingerprint(&self) -> String {
        hex::encode_upper(self.secret.fingerprint().as_bytes())
    }

    fn created(&self) -> Timestamp {
        Timestamp(i64::from(self.secret.primary_key.created_at().as_secs()).saturating_mul(1000))
    }

    /// When clients stop to believe it; never when nothing is said.
    fn ends(&self) -> Option<Timestamp> {
        let signatures = self.secret.details.users.iter().flat_map(|user| &user.signatures);
        let spans = signatures.filter_map(|signature| signature.key_expiration_time());
        let span = spans.map(|span| i64::from(span.as_secs())).filter(|span| *span > 0).max()?;
        Some(Timestamp(self.created().0.saturating_add(span.saturating_mul(1000))))
    }

    fn is_in_force(&self, now: Timestamp) -> bool {
        self.ends().is_none_or(|ends| now < ends)
    }

    fn sign(
        &self,
        kind: SignatureType,
        bytes: &[u8],
        now: Timestamp,
    ) -> pgp::errors::Result<pgp::packet::Signature> {
        match self.signer.and_then(|index| self.secret.secret_subkeys.get(index)) {
            Some(subkey) => sign_with(&subkey.key, kind, bytes, now),
            None => sign_with(&self.secret.primary_key, kind, bytes, now),
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("path", &self.path).field("fingerprints", &self.fingerprints()).finish()
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
        let (secrets, _) = SignedSecretKey::from_reader_many(content.as_slice()).map_err(malformed)?;
        let mut parts = Vec::new();
        for secret in secrets {
            parts.push(Part::of(secret.map_err(malformed)?).map_err(wrong)?);
        }
        match parts.is_empty() {
            true => Err(wrong("it holds no private OpenPGP key".to_owned())),
            false => Ok(Key { path: path.to_owned(), parts }),
        }
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
        Key::make(path, USER_ID, now)
    }

    /// Makes an Ed25519 key in a new file that only its owner may read. Another process that was quicker wins.
    pub fn make(path: &Path, user_id: &str, now: Timestamp) -> Result<Key, Error> {
        let wrong = |reason: String| Error::Key { path: path.to_owned(), reason };
        let secret =
            generate(user_id, now).map_err(|error| wrong(format!("no key could be made: {error}")))?;
        let file = write_private(path, &[&secret])?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(wrong(format!("the new key can't be kept: {}", error.error))),
        }
        sync_folder_of(path)?;
        Key::load(path)
    }

    /// The same with a new key behind those that there are; its file has it at once.
    pub(super) fn with_another(&self, now: Timestamp) -> Result<Key, Error> {
        let user_id = self.parts.first().and_then(|part| part.secret.details.users.first());
        let user_id = user_id.and_then(|user| user.id.as_str()).unwrap_or(USER_ID).to_owned();
        let secret =
            generate(&user_id, now).map_err(|error| self.wrong(format!("no key could be made: {error}")))?;
        let another = Part::of(secret).map_err(|error| self.wrong(error))?;
        self.replaced(self.parts.iter().cloned().chain([another]).collect())
    }

    /// The newest of them alone; the others are kept beside its file, which has only the newest from now on.
    pub(super) fn newest_alone(&self) -> Result<Key, Error> {
        let mut parts = self.parts.clone();
        let Some(newest) = parts.pop() else { return Err(self.wrong("it holds no key".to_owned())) };
        for old in &parts {
            let path = self.path.with_extension(format!("{}.asc", old.fingerprint()));
            match write_private(&path, &[&old.secret])?.persist_noclobber(&path) {
                Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(self.wrong(format!(
                        "the old key can't be kept as {}: {}",
                        path.display(),
                        error.error
                    )));
                }
                _ => {}
            }
        }
        self.replaced(vec![newest])
    }

    fn replaced(&self, parts: Vec<Part>) -> Result<Key, Error> {
        let secrets: Vec<&SignedSecretKey> = parts.iter().map(|part| &part.secret).collect();
        let file = write_private(&self.path, &secrets)?;
        file.persist(&self.path)
            .map_err(|error| self.wrong(format!("the key's file can't be replaced: {}", error.error)))?;
        sync_folder_of(&self.path)?;
        Ok(Key { path: self.path.clone(), parts })
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Key { path: self.path.clone(), reason }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fingerprint of the primary key, in capitals; of the eldest one where there are several.
    pub fn fingerprint(&self) -> String {
        self.fingerprints().swap_remove(0)
    }

    /// The fingerprints of all of them, that of the eldest first.
    pub fn fingerprints(&self) -> Vec<String> {
        self.parts.iter().map(Part::fingerprint).collect()
    }

    /// When the newest of them was made.
    pub(super) fn newest_made(&self) -> Timestamp {
        self.parts.last().map_or(Timestamp(0), Part::created)
    }

    /// Clients refuse what an expired key signs.
    pub(super) fn check_in_force(&self, now: Timestamp) -> Result<(), Error> {
        if self.parts.iter().any(|part| part.is_in_force(now)) {
            return Ok(());
        }
        let ended = self.parts.iter().filter_map(Part::ends).max().unwrap_or(now);
        Err(self.wrong(format!(
            "this key expired at {ended}; make its life longer with gpg and export it again, or rotate to a new one in time"
        )))
    }

    /// The fingerprints of those that have not expired.
    pub(super) fn in_force(&self, now: Timestamp) -> Vec<String> {
        self.parts.iter().filter(|part| part.is_in_force(now)).map(Part::fingerprint).collect()
    }

    /// What clients put in their keyring: binary and armored.
    pub(super) fn public(&self) -> Result<(Vec<u8>, String), Error> {
        let wrong = |error: pgp::errors::Error| self.wrong(error.to_string());
        let public: Vec<SignedPublicKey> =
            self.parts.iter().map(|part| part.secret.to_public_key()).collect();
        let binary = public.to_bytes().map_err(wrong)?;
        Ok((binary, armored(&public, BlockType::PublicKey).map_err(wrong)?))
    }

    /// `InRelease` for a `Release`, and `Release.gpg`: each with a signature by every key that has not expired.
    pub(super) fn sign(&self, release: &str, now: Timestamp) -> Result<(String, String), Error> {
        let wrong = |error: pgp::errors::Error| self.wrong(error.to_string());
        let signers: Vec<&Part> = self.parts.iter().filter(|part| part.is_in_force(now)).collect();
        let sign = |kind, bytes: &[u8]| signers.iter().map(|part| part.sign(kind, bytes, now)).collect();
        // The line break before the signature's armor is not signed.
        let text = release.trim_end_matches('\n');
        let inline =
            CleartextSignedMessage::new_many(text, |text| sign(SignatureType::Text, text.as_bytes()));
        let inline = inline.and_then(|message| message.to_armored_string(ArmorOptions::default()));
        let detached: pgp::errors::Result<Vec<_>> = sign(SignatureType::Binary, release.as_bytes());
        let detached = detached.and_then(|signatures| {
            let signatures: Vec<_> = signatures.into_iter().map(DetachedSignature::new).collect();
            armored(&signatures, BlockType::Signature)
        });
        Ok((inline.map_err(wrong)?, detached.map_err(wrong)?))
    }

    /// A detached signature of anything by the eldest key, in binary.
    pub fn sign_bytes(&self, bytes: &[u8], now: Timestamp) -> Result<Vec<u8>, Error> {
        let wrong = |error: pgp::errors::Error| self.wrong(error.to_string());
        let Some(eldest) = self.parts.first() else { return Err(self.wrong("it holds no key".to_owned())) };
        let signature = eldest.sign(SignatureType::Binary, bytes, now);
        signature.and_then(|signature| DetachedSignature::new(signature).to_bytes()).map_err(wrong)
    }
}

/// The keys in a new file beside `path`, which only its owner may read.
fn write_private(path: &Path, secrets: &[&SignedSecretKey]) -> Result<tempfile::NamedTempFile, Error> {
    let wrong = |reason: String| Error::Key { path: path.to_owned(), reason };
    let failed = |error: io::Error| wrong(format!("the key can't be kept: {error}"));
    let secrets: Vec<SignedSecretKey> = secrets.iter().map(|secret| (*secret).clone()).collect();
    let text = armored(&secrets, BlockType::PrivateKey).map_err(|error| wrong(error.to_string()))?;
    let folder = folder_of(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new().prefix(".key.").tempfile_in(folder).map_err(failed)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Key {
        path: path.to_owned(),
        reason: format!("the key can't be kept: {error}"),
    };
    fs::File::open(folder_of(path)).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn armored(content: &impl Serialize, kind: BlockType) -> pgp::errors::Result<String> {
    let mut text = Vec::new();
    pgp::armor::write(content, kind, &mut text, None, true)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn sign_with(
    key: &impl SigningKey,
    kind: SignatureType,
    bytes: &[u8],
    now: Timestamp,
) -> pgp::errors::Result<pgp::packet::Signature> {
    config(kind, key, now)?.sign(key, &Password::empty(), bytes)
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

fn generate(user_id: &str, now: Timestamp) -> Result<SignedSecretKey, String> {
    let mut parameters = SecretKeyParamsBuilder::default();
    parameters
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .created_at(seconds(now))
        .primary_user_id(user_id.to_owned());
    let parameters = parameters.build().map_err(|error| error.to_string())?;
    parameters.generate(rand_core::OsRng).map_err(|error| error.to_string())
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

pub(super) fn refuse_inside(repository: &Path, key: &Path) -> Result<(), Error> {
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
        let (signatures, _) =
            DetachedSignature::from_armor_many(signature.as_bytes()).map_err(|error| error.to_string())?;
        let signatures: Result<Vec<_>, _> = signatures.collect();
        let signatures = signatures.map_err(|error| error.to_string())?;
        let verified = signatures.iter().any(|signature| {
            self.any(
                |key| signature.verify(key, release).is_ok(),
                |key| signature.verify(key, release).is_ok(),
            )
        });
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
