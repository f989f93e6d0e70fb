//! What stands beside a package for those who do not want to believe it: a bill of materials (CycloneDX), and its provenance (an in-toto
//! statement of SLSA's kind in a DSSE envelope), signed by an Ed25519 key or by the repository's OpenPGP key.
//!
//! Both are made of the order and the package alone, without a clock: the same input gives the same bytes here, too.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Build, Built, Format};
use crate::delivery::apt;
use crate::model::Timestamp;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// How `externalParameters` are to be read: they are an order as this module's [`Build`] has it.
const BUILD_TYPE: &str = "https://siskin.dev/package-build/v1";
/// The bytes before an Ed25519 seed in PKCS #8, and before a public key in its own form.
const PRIVATE_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const LARGEST_KEY: u64 = 64 << 10;
const LARGEST_ENVELOPE: u64 = 16 << 20;

/// Why there is no statement, or none that can be believed.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    #[error("{}: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("can't write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Refused { path: PathBuf, reason: String },
    #[error(transparent)]
    Repository(#[from] apt::Error),
}

/// Who signs.
pub enum Signer {
    Ed25519 {
        pair: Box<Ed25519KeyPair>,
        id: String,
    },
    /// The key of an APT repository; who has its public part can verify with gpgv.
    OpenPgp(Box<apt::Key>),
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.id()).finish()
    }
}

impl Signer {
    /// Reads a private key: Ed25519 in PKCS #8 (PEM), or OpenPGP. With `make`, a missing file becomes a new Ed25519 key that only its owner reads,
    /// with its public part in `FILE.pub`.
    pub fn load(path: &Path, make: bool) -> Result<Signer, AttestError> {
        let wrong = |reason: String| AttestError::Key { path: path.to_owned(), reason };
        if make && matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
        {
            make_key(path)?;
        }
        let content = read_bounded(path, LARGEST_KEY).map_err(wrong)?;
        let text = String::from_utf8_lossy(&content);
        if !text.contains("-----BEGIN PRIVATE KEY-----") {
            return Ok(Signer::OpenPgp(Box::new(apt::Key::load(path)?)));
        }
        let der = from_pem(&text, "PRIVATE KEY").ok_or_else(|| wrong("its PEM is damaged".to_owned()))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| {
            wrong("it holds no Ed25519 key; `openssl genpkey -algorithm ed25519` makes one".to_owned())
        })?;
        let id = key_id(pair.public_key().as_ref());
        Ok(Signer::Ed25519 { pair: Box::new(pair), id })
    }

    /// The SHA-256 of the public key, or the fingerprint.
    pub fn id(&self) -> String {
        match self {
            Signer::Ed25519 { id, .. } => id.clone(),
            Signer::OpenPgp(key) => key.fingerprint(),
        }
    }

    fn sign(&self, bytes: &[u8], at: Timestamp) -> Result<Vec<u8>, AttestError> {
        match self {
            Signer::Ed25519 { pair, .. } => Ok(pair.sign(bytes).as_ref().to_vec()),
            Signer::OpenPgp(key) => Ok(key.sign_bytes(bytes, at)?),
        }
    }
}

/// Something that the package was made from: where it was, and the sum by which it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    pub uri: String,
    /// The sum's name and its value, as `gitCommit` or `sha256`.
    pub digest: (String, String),
}

/// Who made the package, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// A URI that says which builder this is.
    pub builder: String,
    /// The run and step, where there is one.
    pub invocation: Option<String>,
    pub materials: Vec<Material>,
}

/// The bill of materials: the package, its files with their sums, and what it depends on.
pub fn bill_of_materials(build: &Build, built: &Built) -> Value {
    let purl = package_url(built);
    let mut component = json!({
        "type": "application",
        "bom-ref": purl,
        "name": built.name,
        "version": built.version,
        "hashes": [{"alg": "SHA-256", "content": built.sha256}],
        "purl": purl,
    });
    if let Some(description) = build.description.as_deref().and_then(|text| text.trim().lines().next()) {
        component["description"] = json!(description);
    }
    if let Some(license) = &build.license {
        component["licenses"] = json!([{"license": {"name": license.trim()}}]);
    }
    if let Some(vendor) = &build.vendor {
        component["supplier"] = json!({"name": vendor.trim()});
    }
    if let Some(url) = &build.url {
        component["externalReferences"] = json!([{"type": "website", "url": url.trim()}]);
    }
    let files = built.files.iter().map(|file| {
        json!({
            "type": "file",
            "bom-ref": format!("file:{}", file.path),
            "name": file.path,
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            "properties": [{"name": "siskin:mode", "value": format!("{:04o}", file.mode)}, {"name": "siskin:size", "value": file.size.to_string()}],
        })
    });
    let mut components: Vec<Value> = files.collect();
    let needs: Vec<&String> = build.pre_depends.iter().chain(&build.depends).collect();
    let mut needed: Vec<String> = Vec::new();
    for need in needs {
        let reference = format!("needs:{}", need.trim());
        if needed.contains(&reference) {
            continue;
        }
        let name = need.trim().split([' ', '(', '<', '>', '=']).next().unwrap_or_default();
        components.push(json!({
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "scope": "required",
            "properties": [{"name": "siskin:relation", "value": need.trim()}],
        }));
        needed.push(reference);
    }
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": format!("urn:uuid:{}", uuid_of(&built.sha256)),
        "version": 1,
        "metadata": {
            "timestamp": jiff::Timestamp::from_second(i64::try_from(built.time).unwrap_or(0)).unwrap_or_default().to_string(),
            "tools": {"components": [{"type": "application", "name": "siskin", "version": env!("CARGO_PKG_VERSION")}]},
            "component": component,
        },
        "components": components,
        "dependencies": [{"ref": purl, "dependsOn": needed}],
    })
}

/// The statement of who made the package, how and of what.
pub fn statement(build: &Build, built: &Built, origin: &Origin) -> Value {
    let materials = origin.materials.iter().map(|material| {
        let (kind, sum) = &material.digest;
        json!({"uri": material.uri, "digest": {kind: sum}})
    });
    let mut run = json!({
        "builder": {"id": origin.builder, "version": {"siskin": env!("CARGO_PKG_VERSION")}},
    });
    if let Some(invocation) = &origin.invocation {
        run["metadata"] = json!({"invocationId": invocation});
    }
    json!({
        "_type": STATEMENT_TYPE,
        "subject": [{
            "name": built.path.file_name().unwrap_or_default().to_string_lossy(),
            "digest": {"sha256": built.sha256},
        }],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters(build),
                "resolvedDependencies": materials.collect::<Vec<_>>(),
            },
            "runDetails": run,
        },
    })
}

/// What was said of the package: the order without what is as it always is, and without places of this machine.
fn parameters(build: &Build) -> Value {
    let said = |order: &Build| serde_json::to_value(order).unwrap_or(Value::Null);
    let (mut all, defaults) = (said(build), said(&Build::default()));
    if let (Value::Object(all), Value::Object(defaults)) = (&mut all, defaults) {
        all.retain(|name, value| {
            defaults.get(name) != Some(value) && !matches!(name.as_str(), "chdir" | "overwrite")
        });
    }
    for place in FILES {
        if let Some(value) = all.pointer_mut(place) {
            shorten(value);
        }
    }
    all
}

/// Where an order names files of this machine.
const FILES: [&str; 13] = [
    "/scripts",
    "/services/systemd",
    "/services/init",
    "/services/default",
    "/changelog",
    "/deb/config",
    "/deb/templates",
    "/deb/meta_files",
    "/deb/custom_control",
    "/deb/upstream_changelog",
    "/rpm/pretrans",
    "/rpm/posttrans",
    "/rpm/verifyscript",
];

/// Of a file only its name is said: where it lay is nobody's business, and differs from one checkout to the next.
fn shorten(value: &mut Value) {
    match value {
        Value::String(path) => {
            let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
            *path = name.unwrap_or_default();
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(entries) => entries.values_mut().for_each(shorten),
        _ => {}
    }
}

/// The statement in its envelope: one line of JSON.
pub fn envelope(statement: &Value, signer: &Signer, at: Timestamp) -> Result<String, AttestError> {
    let payload = statement.to_string();
    let signature = signer.sign(&signed_bytes(payload.as_bytes()), at)?;
    let envelope = json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": STANDARD.encode(payload),
        "signatures": [{"keyid": signer.id(), "sig": STANDARD.encode(signature)}],
    });
    Ok(format!("{envelope}\n"))
}

/// DSSE's way of saying what is signed, so that no payload can be taken for one of another type.
fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// The statement in the envelope at `path`, when the key in `public` signed it and it speaks of the package at `package`.
pub fn verify(path: &Path, public: &Path, package: &Path) -> Result<Value, AttestError> {
    let refused = |reason: &str| AttestError::Refused { path: path.to_owned(), reason: reason.to_owned() };
    let content = read_bounded(path, LARGEST_ENVELOPE).map_err(|reason| refused(&reason))?;
    let damaged = || refused("it is no signed statement");
    let envelope: Value = serde_json::from_slice(&content).map_err(|_| damaged())?;
    let decode =
        |value: Option<&Value>| value.and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    let payload = decode(envelope.get("payload")).ok_or_else(damaged)?;
    if envelope.get("payloadType").and_then(Value::as_str) != Some(PAYLOAD_TYPE) {
        return Err(refused("what it holds is no in-toto statement"));
    }
    let signatures = envelope.get("signatures").and_then(Value::as_array).ok_or_else(damaged)?;
    let bytes = signed_bytes(&payload);
    let keys = PublicKey::load(public)?;
    let is_signed =
        signatures.iter().filter_map(|one| decode(one.get("sig"))).any(|one| keys.verifies(&bytes, &one));
    if !is_signed {
        return Err(refused(&format!("the key in {} did not sign it", public.display())));
    }
    let statement: Value = serde_json::from_slice(&payload).map_err(|_| damaged())?;
    let sum = sha256_of(package)
        .map_err(|source| AttestError::Refused { path: package.to_owned(), reason: source.to_string() })?;
    let subjects = statement.get("subject").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let speaks = |subject: &Value| subject.pointer("/digest/sha256").and_then(Value::as_str) == Some(&sum);
    match subjects.iter().any(speaks) {
        true => Ok(statement),
        false => {
            Err(refused(&format!("it speaks of another package: the sum of {} is {sum}", package.display())))
        }
    }
}

enum PublicKey {
    Ed25519(Vec<u8>),
    OpenPgp(Box<apt::Public>),
}

impl PublicKey {
    fn load(path: &Path) -> Result<PublicKey, AttestError> {
        let wrong = |reason: String| AttestError::Key { path: path.to_owned(), reason };
        let content = read_bounded(path, LARGEST_KEY).map_err(wrong)?;
        let text = String::from_utf8_lossy(&content);
        if !text.contains("-----BEGIN PUBLIC KEY-----") {
            return Ok(PublicKey::OpenPgp(Box::new(apt::Public::load(path)?)));
        }
        let der = from_pem(&text, "PUBLIC KEY").ok_or_else(|| wrong("its PEM is damaged".to_owned()))?;
        match der.strip_prefix(&PUBLIC_PREFIX[..]) {
            Some(key) => Ok(PublicKey::Ed25519(key.to_vec())),
            None => Err(wrong("it holds no public Ed25519 key".to_owned())),
        }
    }

    fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        match self {
            PublicKey::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(bytes, signature).is_ok(),
            PublicKey::OpenPgp(keys) => keys.verifies(bytes, signature),
        }
    }
}

/// Writes a bill or an envelope at `path`, whole or not at all.
pub fn write(path: &Path, content: &str) -> Result<(), AttestError> {
    let failed = |source: io::Error| AttestError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".attest.").tempfile_in(folder).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Where what is said of a package stands: beside it.
pub fn beside(package: &Path, ending: &str) -> PathBuf {
    let mut path = package.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// The ending of the file of a bill of materials, and that of a signed statement.
pub const BILL_ENDING: &str = ".cdx.json";
pub const STATEMENT_ENDING: &str = ".intoto.jsonl";

fn package_url(built: &Built) -> String {
    let kind = match built.format {
        Format::Deb => "deb",
        Format::Rpm => "rpm",
    };
    let plain = |text: &str| {
        text.bytes().fold(String::new(), |mut encoded, byte| {
            match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                true => encoded.push(char::from(byte)),
                false => encoded.push_str(&format!("%{byte:02X}")),
            }
            encoded
        })
    };
    format!("pkg:{kind}/{}@{}?arch={}", plain(&built.name), plain(&built.version), plain(&built.architecture))
}

/// An identifier made of a sum, with the bits that say so (RFC 9562, version 8).
fn uuid_of(sum: &str) -> String {
    let mut digits: Vec<u8> = sum.bytes().take(32).collect();
    digits.resize(32, b'0');
    digits[12] = b'8';
    digits[16] = b'a';
    let text = String::from_utf8_lossy(&digits).into_owned();
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

fn key_id(public: &[u8]) -> String {
    hex::encode(Sha256::digest([&PUBLIC_PREFIX[..], public].concat()))
}

fn make_key(path: &Path) -> Result<(), AttestError> {
    let wrong = |reason: String| AttestError::Key { path: path.to_owned(), reason };
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut seed[..]).map_err(|error| wrong(error.to_string()))?;
    let der = zeroize::Zeroizing::new([&PRIVATE_PREFIX[..], &seed[..]].concat());
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
        .map_err(|_| wrong("no key could be made".to_owned()))?;
    let failed = |error: io::Error| wrong(format!("the new key can't be kept: {error}"));
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    // tempfile's files are their owner's alone from the first moment.
    let mut file = tempfile::Builder::new().prefix(".key.").tempfile_in(folder).map_err(failed)?;
    file.write_all(to_pem("PRIVATE KEY", &der).as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed(error.error)),
    }
    let public = [&PUBLIC_PREFIX[..], pair.public_key().as_ref()].concat();
    write(&beside(path, ".pub"), &to_pem("PUBLIC KEY", &public))
}

fn to_pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn from_pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    STANDARD.decode(body).ok()
}

fn read_bounded(path: &Path, largest: u64) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > largest {
        return Err(format!("it must be a file of at most {} KiB", largest >> 10));
    }
    fs::read(path).map_err(|error| error.to_string())
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut sum = super::Summing::new(io::sink());
    io::copy(&mut fs::File::open(path)?, &mut sum)?;
    let (_, sum, _) = sum.finish();
    Ok(sum)
}
