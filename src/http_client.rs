//! What all clients of HTTP have in common that speak to servers of others: how they name themselves, and how they say what went wrong.
//!
//! Promise: nothing that is said shows a URL, whose query or password may be secret. Leaves timeouts, redirects and trust to each client.

use std::error::Error as _;

/// The beginning of a client that can speak TLS.
pub fn builder() -> reqwest::ClientBuilder {
    // An error means that it is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().user_agent(concat!("siskin/", env!("CARGO_PKG_VERSION")))
}

/// What went wrong: the innermost cause, since the outermost shows the URL.
pub fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match error.source() {
        Some(_) => innermost.to_string(),
        None => "the request failed".to_owned(),
    }
}

/// Host and port of an address, without the password that may stand before them.
pub fn host_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.rsplit('@').next().unwrap_or_default().to_owned()
}
