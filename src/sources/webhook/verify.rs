//! Who sent it: a signature over the raw bytes, or a shared token. Compared in constant time.

use axum::http::{HeaderMap, StatusCode};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Refusal;
use crate::definitions::webhook::Verify;
use crate::model::Secret;
use crate::secrets::Secrets;

/// Lets pass what its sender signed with the source's secret.
pub(super) async fn check(
    verify: &Verify,
    headers: &HeaderMap,
    query: &[(String, String)],
    bytes: &[u8],
    secrets: &Secrets,
) -> Result<(), Refusal> {
    match verify {
        Verify::None => Ok(()),
        Verify::HmacSha256 { header, prefix, secret } => {
            let key = known(secrets, secret).await?;
            let given = only_header(headers, header)?;
            if is_signed(&key, prefix, given, bytes) {
                Ok(())
            } else {
                Err(refused("the signature is wrong"))
            }
        }
        Verify::Token { header, query: parameter, secret } => {
            let key = known(secrets, secret).await?;
            let given = match (header, parameter) {
                (Some(header), _) => only_header(headers, header)?,
                (None, Some(parameter)) => only_parameter(query, parameter)?,
                (None, None) => {
                    return Err(refused("this source says neither a header nor a parameter for its token"));
                }
            };
            if is_token(&key, given) { Ok(()) } else { Err(refused("the token is wrong")) }
        }
    }
}

async fn known(secrets: &Secrets, name: &str) -> Result<Secret, Refusal> {
    match secrets.get(name).await {
        Ok(Some(secret)) if !secret.reveal().is_empty() => Ok(secret),
        Ok(_) => Err(refused(format!("the secret `{name}` is not set: siskin secret set {name}"))),
        Err(error) => {
            tracing::error!(secret = name, %error, "a secret could not be read");
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the secret of this source can't be read now"))
        }
    }
}

fn refused(why: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, why)
}

/// The header's one value. Two of them: somebody between us and the sender adds headers, so none can be trusted.
fn only_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name.to_ascii_lowercase()).iter();
    let Some(value) = values.next() else { return Err(refused(format!("the header {name} is missing"))) };
    if values.next().is_some() {
        return Err(refused(format!("the header {name} is there twice")));
    }
    value.to_str().map_err(|_| refused(format!("the header {name} is not text")))
}

fn only_parameter<'a>(query: &'a [(String, String)], name: &str) -> Result<&'a str, Refusal> {
    let mut values = query.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let Some(value) = values.next() else { return Err(refused(format!("the parameter {name} is missing"))) };
    if values.next().is_some() {
        return Err(refused(format!("the parameter {name} is there twice")));
    }
    Ok(value)
}

/// Whether `given` is `prefix` and the hex HMAC-SHA-256 of `bytes`.
fn is_signed(key: &Secret, prefix: &str, given: &str, bytes: &[u8]) -> bool {
    let Some(signature) = given.strip_prefix(prefix).and_then(|digits| hex::decode(digits).ok()) else {
        return false;
    };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.reveal().as_bytes()) else { return false };
    mac.update(bytes);
    // In constant time, and only at full length.
    mac.verify_slice(&signature).is_ok()
}

fn is_token(key: &Secret, given: &str) -> bool {
    let given = match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => given,
    };
    bool::from(key.reveal().as_bytes().ct_eq(given.as_bytes()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const KEY: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn signed(given: &str, bytes: &[u8]) -> bool {
        is_signed(&Secret::new(KEY), "sha256=", given, bytes)
    }

    #[test]
    fn the_published_example_is_signed() {
        assert!(signed(SIGNATURE, BODY));
    }

    #[test]
    fn nothing_else_is_signed() {
        let digits = SIGNATURE.strip_prefix("sha256=").unwrap();
        let one_off = SIGNATURE.replace("757107", "757106");
        for wrong in [
            "",
            "sha256=",
            digits,
            &one_off,
            &SIGNATURE[..SIGNATURE.len() - 2],
            &format!("{SIGNATURE}00"),
            &format!(" {SIGNATURE}"),
            &SIGNATURE.replace("sha256", "SHA256"),
            // HMAC-SHA-1 where SHA-256 is demanded.
            "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59",
            "sha256=01dc10d0c83e72ed246219cdd91669667fe2ca59",
            "sha256=zz",
        ] {
            assert!(!signed(wrong, BODY), "{wrong}");
        }
        assert!(!signed(SIGNATURE, b"Hello, World! "));
        assert!(!is_signed(&Secret::new("another"), "sha256=", SIGNATURE, BODY));
    }

    #[test]
    fn a_json_text_written_again_is_not_what_was_signed() {
        let sent = br#"{"b": 1, "a":2}"#;
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
        mac.update(sent);
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        assert!(signed(&signature, sent));
        let again = serde_json::from_slice::<serde_json::Value>(sent).unwrap().to_string();
        assert!(!signed(&signature, again.as_bytes()));
    }

    #[test]
    fn header_names_are_found_in_any_case_and_twice_is_never() {
        let mut headers = HeaderMap::new();
        headers.append("x-hub-signature-256", SIGNATURE.parse().unwrap());
        assert_eq!(only_header(&headers, "X-Hub-Signature-256").unwrap(), SIGNATURE);
        headers.append("X-HUB-SIGNATURE-256", SIGNATURE.parse().unwrap());
        assert_eq!(
            only_header(&headers, "X-Hub-Signature-256").unwrap_err().status,
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(only_header(&headers, "X-Other").unwrap_err().status, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_token_comes_bare_or_as_a_bearer() {
        let key = Secret::new("t0ken");
        assert!(is_token(&key, "t0ken"));
        assert!(is_token(&key, "Bearer t0ken"));
        for wrong in ["", "t0ke", "t0kenn", "Basic t0ken"] {
            assert!(!is_token(&key, wrong), "{wrong}");
        }
    }
}
