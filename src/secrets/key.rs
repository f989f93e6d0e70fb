//! The key file: 32 random bytes as hex, one line, for its owner only.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::SecretsError;

const KEY_BYTES: usize = 32;

pub(super) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// The key in the file, or `None` when there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Key>, SecretsError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, error)),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(unusable(path, "others may read it; make it private with chmod 600"));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unusable(path, error))?);
    let mut key = Key::default();
    hex::decode_to_slice(text.trim(), key.as_mut_slice())
        .map_err(|_| unusable(path, "it should hold 64 hexadecimal digits; put it back from a backup"))?;
    Ok(Some(key))
}

/// Makes a key file. It is complete and on disk before it has its name, and never replaces one.
pub(super) fn make(path: &Path) -> Result<Key, SecretsError> {
    let mut key = Key::default();
    getrandom::fill(key.as_mut_slice()).map_err(|error| SecretsError::Random(error.to_string()))?;
    write(path, &key).map_err(|error| unusable(path, error))?;
    Ok(key)
}

fn write(path: &Path, key: &Key) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Temporary files are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let text = Zeroizing::new(hex::encode(key.as_slice()));
    writeln!(file, "{}", text.as_str())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    std::fs::File::open(folder)?.sync_all()
}

fn unusable(path: &Path, why: impl ToString) -> SecretsError {
    SecretsError::KeyUnusable { path: path.to_owned(), why: why.to_string() }
}
