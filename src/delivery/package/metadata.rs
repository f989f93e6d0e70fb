//! `fpm.json`: what a repository says of its package, as fpm's options without their dashes. Every value is one that an option of the command
//! line could have.

use std::path::Path;

use serde_json::Value;

use super::Build;
use crate::delivery::ci::{self, CiError, Metadata};
use crate::model::Object;

/// What goes to the package under its own name, beside what the convention of [`ci`] reads itself.
pub const PASSED_ON: [&str; 21] = [
    "iteration",
    "architecture",
    "epoch",
    "priority",
    "pre_depends",
    "conflicts",
    "breaks",
    "provides",
    "replaces",
    "recommends",
    "suggests",
    "config_files",
    "directories",
    "attributes",
    "prefix",
    "exclude",
    "excludes",
    "user",
    "group",
    "deb",
    "rpm",
];
/// What of `deb` and `rpm` names files of this machine: a repository names only its own, which the convention reads.
const FILES_OF_DEB: [&str; 5] = ["config", "templates", "meta_files", "custom_control", "upstream_changelog"];
const FILES_OF_RPM: [&str; 3] = ["pretrans", "posttrans", "verifyscript"];

const LARGEST: u64 = 1 << 20;

/// Why a file of metadata can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error(transparent)]
    Convention(#[from] CiError),
    #[error("`{key}` in fpm.json is not known; beside the usual fields there may be {}", PASSED_ON.join(", "))]
    Unknown { key: String },
    #[error("fpm.json: `{section}.{key}` names a file, which only an option can; leave it out")]
    File { section: &'static str, key: String },
    #[error("fpm.json: {0}")]
    Value(String),
}

/// Reads a file in the form of `fpm.json`, wherever it lies.
pub fn read(path: &Path) -> Result<Metadata, MetadataError> {
    let unreadable = |source| CiError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > LARGEST {
        return Err(CiError::InvalidMetadata("it is larger than 1 MiB".to_owned()).into());
    }
    Ok(ci::parse_metadata(&std::fs::read(path).map_err(unreadable)?)?)
}

/// An order with what the metadata says and nothing else. `after_install` is left to who knows where the tree is.
pub fn order(metadata: &Metadata) -> Result<Build, MetadataError> {
    if let Some(unknown) = metadata.other.keys().find(|key| !PASSED_ON.contains(&key.as_str())) {
        return Err(MetadataError::Unknown { key: unknown.clone() });
    }
    for (section, files) in [("deb", &FILES_OF_DEB[..]), ("rpm", &FILES_OF_RPM[..])] {
        let named = metadata.other.get(section).and_then(Value::as_object);
        if let Some(key) = named.and_then(|options| options.keys().find(|key| files.contains(&key.as_str())))
        {
            return Err(MetadataError::File { section, key: key.clone() });
        }
    }
    let fields: Object = metadata.other.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let order: Build = serde_json::from_value(Value::Object(fields))
        .map_err(|error| MetadataError::Value(error.to_string()))?;
    Ok(Build {
        name: metadata.name.clone().unwrap_or_default(),
        version: metadata.version.clone(),
        maintainer: metadata.maintainer.clone(),
        description: metadata.description.clone(),
        license: metadata.license.clone(),
        vendor: metadata.vendor.clone(),
        url: metadata.homepage.clone(),
        category: metadata.section.clone(),
        depends: metadata.depends.clone(),
        ..order
    })
}
