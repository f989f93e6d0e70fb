//! How a version is told to hosts that look for it themselves: a key holds it as plain text, so that whatever reads keys can go by it.
//!
//! A lower version than a host has is what a mistake looks like, and what a way back looks like. So whoever means a way back says it beforehand, in the
//! key beside: [`mark_of`] holds the one version that may be gone back to.

/// The key beside `key` that says to which version hosts may go back.
pub fn mark_of(key: &str) -> String {
    format!("{key}.rollback")
}

/// What a key says, without the space and the newline that editors and shells leave around it; none when that is nothing.
pub fn version_in(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}
