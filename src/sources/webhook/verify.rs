//! Who sent it: a signature over the raw bytes, a shared token, or a password. Compared in constant time.
//!
//! A source may name several ways, and several secrets for each: one that fits is enough. Nothing that the body says is looked at.

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Refusal;
use crate::definitions::webhook::{Proof, TokenPlace, Verify, Way};
use crate::model::{Secret, Span, Timestamp};
use crate::secrets::{Secrets, SecretsError};

/// How far the time in a signature may be from ours, before or after.
const TOLERANCE: Span = Span::minutes(5);
/// What the secrets of standardwebhooks.com begin with.
const STANDARD_PREFIX: &str = "whsec_";

/// What came, before anything in it is believed.
pub(super) struct Sent<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) query: &'a [(String, String)],
    pub(super) bytes: &'a [u8],
    pub(super) now: Timestamp,
}

/// Lets pass what its sender proved with a secret of the source.
pub(super) async fn check(verify: &Verify, sent: &Sent<'_>, secrets: &Secrets) -> Result<(), Refusal> {
    let Verify::AnyOf(ways) = verify else { return Ok(()) };
    let mut doubts = Vec::new();
    for way in ways {
        let claim = match claim(&way.proof, sent) {
            Ok(claim) => claim,
            Err(doubt) => {
                doubts.push(doubt);
                continue;
            }
        };
        let keys = known(secrets, way).await.map_err(|error| {
            tracing::error!(%error, "a secret could not be read");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the secret of this source can't be read now")
        })?;
        if keys.iter().any(|key| claim.is_proved_by(key, sent.bytes)) {
            return Ok(());
        }
        doubts.push(match keys.is_empty() {
            true => Doubt::NotSet(not_set(way)),
            false => Doubt::Wrong(claim.is_wrong().to_owned()),
        });
    }
    Err(refusal(doubts, ways))
}

/// Whether one of the ways is proved with this key.
pub(super) fn is_proved(verify: &Verify, sent: &Sent<'_>, key: &Secret) -> bool {
    let Verify::AnyOf(ways) = verify else { return true };
    ways.iter()
        .filter_map(|way| claim(&way.proof, sent).ok())
        .any(|claim| claim.is_proved_by(key, sent.bytes))
}

/// What is wrong with the secrets: none is set for any way, or one can't be a key.
pub(super) async fn problem(verify: &Verify, secrets: &Secrets) -> Option<String> {
    let Verify::AnyOf(ways) = verify else { return None };
    let (mut is_open, mut missing) = (false, Vec::new());
    for way in ways {
        let keys = match known(secrets, way).await {
            Ok(keys) => keys,
            Err(error) => return Some(error.to_string()),
        };
        let is_standard = way.proof == Proof::StandardWebhooks;
        if is_standard && keys.iter().any(|key| standard_key(key).is_none()) {
            let names = way.secrets.join("` or `");
            let why =
                format!("the secret `{names}` is no signing key: those are base64, perhaps after whsec_");
            return Some(why);
        }
        is_open |= !keys.is_empty();
        let said = not_set(way);
        if !missing.contains(&said) {
            missing.push(said);
        }
    }
    (!is_open).then(|| missing.join(", or "))
}

/// Why a way does not let a delivery in. The last of them says most about what its sender did wrong.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Missing(String),
    NotSet(String),
    Wrong(String),
}

fn refusal(doubts: Vec<Doubt>, ways: &[Way]) -> Refusal {
    let challenge = ways.iter().any(|way| matches!(way.proof, Proof::Basic { .. }));
    let why = match doubts.into_iter().max() {
        Some(Doubt::Missing(why) | Doubt::NotSet(why) | Doubt::Wrong(why)) => why,
        None => "this source lets nobody in".to_owned(),
    };
    Refusal { challenge, ..Refusal::new(StatusCode::UNAUTHORIZED, why) }
}

/// The secrets of a way that are set.
async fn known(secrets: &Secrets, way: &Way) -> Result<Vec<Secret>, SecretsError> {
    let mut keys = Vec::new();
    for name in &way.secrets {
        keys.extend(secrets.get(name).await?.filter(|secret| !secret.reveal().is_empty()));
    }
    Ok(keys)
}

fn not_set(way: &Way) -> String {
    let names = way.secrets.join("` or `");
    let first = way.secrets.first().map(String::as_str).unwrap_or_default();
    format!("the secret `{names}` is not set: siskin secret set {first}")
}

/// What a delivery says to prove itself, not yet held against a key.
#[derive(Debug, PartialEq, Eq)]
enum Claim<'a> {
    /// HMAC-SHA-256 of `before` and the body: any of these is right.
    Signed {
        signatures: Vec<Vec<u8>>,
        before: String,
        key: KeyForm,
    },
    Token(&'a str),
    /// `user:password`, and the user that is let in.
    Basic {
        given: Vec<u8>,
        user: &'a str,
    },
}

/// How a secret is a key.
#[derive(Debug, PartialEq, Eq)]
enum KeyForm {
    Text,
    /// In base64, perhaps after `whsec_`.
    Standard,
}

impl Claim<'_> {
    fn is_proved_by(&self, key: &Secret, bytes: &[u8]) -> bool {
        match self {
            Claim::Signed { signatures, before, key: KeyForm::Text } => {
                is_signed(key.reveal().as_bytes(), signatures, before, bytes)
            }
            Claim::Signed { signatures, before, key: KeyForm::Standard } => {
                standard_key(key).is_some_and(|key| is_signed(&key, signatures, before, bytes))
            }
            Claim::Token(given) => bool::from(key.reveal().as_bytes().ct_eq(given.as_bytes())),
            Claim::Basic { given, user } => {
                let wanted = format!("{user}:{}", key.reveal());
                bool::from(wanted.as_bytes().ct_eq(given))
            }
        }
    }

    fn is_wrong(&self) -> &'static str {
        match self {
            Claim::Signed { .. } => "the signature is wrong",
            Claim::Token(_) => "the token is wrong",
            Claim::Basic { .. } => "the user or password is wrong",
        }
    }
}

fn claim<'a>(proof: &'a Proof, sent: &Sent<'a>) -> Result<Claim<'a>, Doubt> {
    let headers = sent.headers;
    match proof {
        Proof::HmacSha256 { header, prefix } => {
            let given = only_header(headers, header)?;
            let signature = given.strip_prefix(prefix.as_str()).and_then(|digits| hex::decode(digits).ok());
            signed(signature.into_iter().collect(), String::new(), KeyForm::Text)
        }
        Proof::CircleCi => {
            let signatures = of_version(only_header(headers, "circleci-signature")?, ',', "v1=");
            let signatures = signatures.filter_map(|digits| hex::decode(digits).ok()).collect();
            signed(signatures, String::new(), KeyForm::Text)
        }
        Proof::Slack => {
            let signatures = of_version(only_header(headers, "X-Slack-Signature")?, ',', "v0=");
            let signatures = signatures.filter_map(|digits| hex::decode(digits).ok()).collect();
            let time = only_header(headers, "X-Slack-Request-Timestamp")?;
            is_fresh(time, sent.now)?;
            signed(signatures, format!("v0:{time}:"), KeyForm::Text)
        }
        Proof::StandardWebhooks => {
            let signatures = of_version(only_header(headers, "webhook-signature")?, ' ', "v1,");
            let signatures = signatures.filter_map(|text| BASE64_STANDARD.decode(text).ok()).collect();
            let id = only_header(headers, "webhook-id")?;
            let time = only_header(headers, "webhook-timestamp")?;
            is_fresh(time, sent.now)?;
            signed(signatures, format!("{id}.{time}."), KeyForm::Standard)
        }
        Proof::Token(TokenPlace::Header(name)) => Ok(Claim::Token(bare(only_header(headers, name)?))),
        Proof::Token(TokenPlace::Query(name)) => Ok(Claim::Token(only_parameter(sent.query, name)?)),
        Proof::Basic { user } => {
            let given = only_header(headers, header::AUTHORIZATION.as_str())?;
            let decoded = given
                .split_once(' ')
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
                .and_then(|(_, text)| BASE64_STANDARD.decode(text.trim()).ok());
            let Some(given) = decoded else {
                return Err(Doubt::Wrong(
                    "the header Authorization holds no basic authentication".to_owned(),
                ));
            };
            Ok(Claim::Basic { given, user })
        }
    }
}

/// Signatures of the right form; none is a wrong one.
fn signed(signatures: Vec<Vec<u8>>, before: String, key: KeyForm) -> Result<Claim<'static>, Doubt> {
    if signatures.is_empty() {
        return Err(Doubt::Wrong("the signature is wrong: it has another form or version".to_owned()));
    }
    Ok(Claim::Signed { signatures, before, key })
}

/// The signatures of one version among several in a header.
fn of_version<'a>(text: &'a str, between: char, version: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(between).filter_map(move |piece| piece.trim().strip_prefix(version))
}

/// Holds the time in a signature against the clock.
fn is_fresh(time: &str, now: Timestamp) -> Result<(), Doubt> {
    let at = time.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(1000)).map(Timestamp);
    let Some(at) = at else { return Err(Doubt::Wrong("the time of the signature is no time".to_owned())) };
    if now.since(at) > TOLERANCE || at.since(now) > TOLERANCE {
        let why = format!("the time of the signature is more than {TOLERANCE} from this server's clock");
        return Err(Doubt::Wrong(why));
    }
    Ok(())
}

/// The header's one value. Two of them: somebody between us and the sender adds headers, so none can be trusted.
fn only_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Doubt> {
    let mut values = headers.get_all(name.to_ascii_lowercase()).iter();
    let Some(value) = values.next() else {
        return Err(Doubt::Missing(format!("the header {name} is missing")));
    };
    if values.next().is_some() {
        return Err(Doubt::Wrong(format!("the header {name} is there twice")));
    }
    value.to_str().map_err(|_| Doubt::Wrong(format!("the header {name} is not text")))
}

fn only_parameter<'a>(query: &'a [(String, String)], name: &str) -> Result<&'a str, Doubt> {
    let mut values = query.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let Some(value) = values.next() else {
        return Err(Doubt::Missing(format!("the parameter {name} is missing")));
    };
    if values.next().is_some() {
        return Err(Doubt::Wrong(format!("the parameter {name} is there twice")));
    }
    Ok(value)
}

/// Whether one of `signatures` is the HMAC-SHA-256 of `before` and `bytes`.
fn is_signed(key: &[u8], signatures: &[Vec<u8>], before: &str, bytes: &[u8]) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
    mac.update(before.as_bytes());
    mac.update(bytes);
    let right = mac.finalize().into_bytes();
    // Each in constant time, and only at full length.
    signatures.iter().any(|given| bool::from(right.as_slice().ct_eq(given)))
}

/// The key in a secret of standardwebhooks.com; none where it is not base64, or nothing.
fn standard_key(secret: &Secret) -> Option<Vec<u8>> {
    let text = secret.reveal().trim();
    let key = BASE64_STANDARD.decode(text.strip_prefix(STANDARD_PREFIX).unwrap_or(text)).ok()?;
    (!key.is_empty()).then_some(key)
}

/// A token, bare or as a bearer.
fn bare(given: &str) -> &str {
    match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => given,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const KEY: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    const NOW: i64 = 1_531_420_618;

    /// What `proof` makes of headers and a body at `NOW`, with this secret.
    fn proved(proof: &Proof, key: &str, headers: &[(&str, &str)], bytes: &[u8]) -> Result<(), Doubt> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let sent = Sent { headers: &map, query: &[], bytes, now: Timestamp(NOW * 1000) };
        let claim = claim(proof, &sent)?;
        match claim.is_proved_by(&Secret::new(key), bytes) {
            true => Ok(()),
            false => Err(Doubt::Wrong(claim.is_wrong().to_owned())),
        }
    }

    fn mac(key: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        for piece in pieces {
            mac.update(piece);
        }
        mac.finalize().into_bytes().to_vec()
    }

    fn github() -> Proof {
        Proof::HmacSha256 { header: "X-Hub-Signature-256".to_owned(), prefix: "sha256=".to_owned() }
    }

    fn is_missing(result: Result<(), Doubt>) -> bool {
        matches!(result, Err(Doubt::Missing(_)))
    }

    fn is_wrong(result: Result<(), Doubt>) -> bool {
        matches!(result, Err(Doubt::Wrong(_)))
    }

    #[test]
    fn the_published_example_of_github_is_signed() {
        assert_eq!(proved(&github(), KEY, &[("x-hub-signature-256", SIGNATURE)], BODY), Ok(()));
        assert!(is_missing(proved(&github(), KEY, &[], BODY)));
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
            &SIGNATURE.replace("sha256", "SHA256"),
            &format!("{SIGNATURE}, {SIGNATURE}"),
            // HMAC-SHA-1 where SHA-256 is demanded.
            "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59",
            "sha256=01dc10d0c83e72ed246219cdd91669667fe2ca59",
            "sha256=zz",
        ] {
            assert!(is_wrong(proved(&github(), KEY, &[("X-Hub-Signature-256", wrong)], BODY)), "{wrong}");
        }
        let right = [("X-Hub-Signature-256", SIGNATURE)];
        assert!(is_wrong(proved(&github(), KEY, &right, b"Hello, World! ")));
        assert!(is_wrong(proved(&github(), "another", &right, BODY)));
    }

    #[test]
    fn a_json_text_written_again_is_not_what_was_signed() {
        let sent = br#"{"b": 1, "a":2}"#;
        let signature = format!("sha256={}", hex::encode(mac(KEY.as_bytes(), &[sent])));
        let headers = [("X-Hub-Signature-256", signature.as_str())];
        assert_eq!(proved(&github(), KEY, &headers, sent), Ok(()));
        let again = serde_json::from_slice::<serde_json::Value>(sent).unwrap().to_string();
        assert!(is_wrong(proved(&github(), KEY, &headers, again.as_bytes())));
    }

    #[test]
    fn a_header_is_found_in_any_case_and_twice_is_never() {
        for name in ["x-hub-signature-256", "X-HUB-SIGNATURE-256", "X-Hub-Signature-256"] {
            assert_eq!(proved(&github(), KEY, &[(name, SIGNATURE)], BODY), Ok(()), "{name}");
        }
        let twice = [("x-hub-signature-256", SIGNATURE), ("X-Hub-Signature-256", SIGNATURE)];
        assert!(is_wrong(proved(&github(), KEY, &twice, BODY)));
    }

    #[test]
    fn gitea_s_signature_has_no_prefix() {
        let gitea = Proof::HmacSha256 { header: "X-Gitea-Signature".to_owned(), prefix: String::new() };
        let digits = SIGNATURE.strip_prefix("sha256=").unwrap();
        assert_eq!(proved(&gitea, KEY, &[("X-Gitea-Signature", digits)], BODY), Ok(()));
        assert!(is_wrong(proved(&gitea, KEY, &[("X-Gitea-Signature", SIGNATURE)], BODY)));
        assert!(is_wrong(proved(&gitea, KEY, &[("X-Gitea-Signature", "")], BODY)));
    }

    #[test]
    fn slack_s_published_example_is_signed_for_five_minutes_only() {
        let key = "8f742231b10e8888abcd99yyyzzz85a5";
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let published = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
        let with = |time: &str, signature: &str| {
            let headers = [("x-slack-request-timestamp", time), ("X-SLACK-SIGNATURE", signature)];
            proved(&Proof::Slack, key, &headers, body)
        };
        assert_eq!(with(&NOW.to_string(), published), Ok(()));
        assert!(is_wrong(with(&(NOW + 1).to_string(), published)), "another time than was signed");
        assert!(is_wrong(with(&NOW.to_string(), &published.replace("v0", "v1"))));
        let signed_at = |time: &str| {
            let before = format!("v0:{time}:");
            format!("v0={}", hex::encode(mac(key.as_bytes(), &[before.as_bytes(), body])))
        };
        for (seconds, fits) in [(-301, false), (-300, true), (300, true), (301, false), (i64::MAX / 2, false)]
        {
            let time = NOW.saturating_add(seconds).to_string();
            assert_eq!(with(&time, &signed_at(&time)).is_ok(), fits, "{seconds}");
        }
        for time in ["", "now", "1e9", "99999999999999999999", &i64::MAX.to_string(), &i64::MIN.to_string()] {
            assert!(is_wrong(with(time, &signed_at(time))), "{time}");
        }
        assert!(is_missing(proved(&Proof::Slack, key, &[("X-Slack-Signature", published)], body)));
        let time = NOW.to_string();
        assert!(is_missing(proved(&Proof::Slack, key, &[("X-Slack-Request-Timestamp", &time)], body)));
    }

    #[test]
    fn a_standard_signature_covers_id_time_and_body() {
        let raw = b"0123456789abcdef0123456789abcdef";
        let secret = BASE64_STANDARD.encode(raw);
        let time = NOW.to_string();
        let before = format!("msg_1.{time}.");
        let right = BASE64_STANDARD.encode(mac(raw, &[before.as_bytes(), BODY]));
        let with = |key: &str, id: &str, signature: &str| {
            let headers =
                [("Webhook-Id", id), ("webhook-timestamp", time.as_str()), ("WEBHOOK-SIGNATURE", signature)];
            proved(&Proof::StandardWebhooks, key, &headers, BODY)
        };
        for key in [secret.clone(), format!("whsec_{secret}"), format!("whsec_{secret}\n")] {
            assert_eq!(with(&key, "msg_1", &format!("v1,{right}")), Ok(()), "{key}");
        }
        let other = BASE64_STANDARD.encode([7; 32]);
        for several in [
            format!("v1,{other} v1,{right}"),
            format!("v1a,{other} v1,{right} v2,{other}"),
            format!("v1,!!! v1,{right}"),
        ] {
            assert_eq!(with(&secret, "msg_1", &several), Ok(()), "{several}");
        }
        for wrong in
            ["", "v1,", &right, &format!("v1a,{right}"), &format!("v1,{other}"), &format!("v1={right}")]
        {
            assert!(is_wrong(with(&secret, "msg_1", wrong)), "{wrong}");
        }
        assert!(is_wrong(with(&secret, "msg_2", &format!("v1,{right}"))), "another id");
        assert!(is_wrong(with("not base64!", "msg_1", &format!("v1,{right}"))));
        assert!(is_wrong(with("whsec_", "msg_1", &format!("v1,{right}"))));
        let old = (NOW - 301).to_string();
        let before = format!("msg_1.{old}.");
        let signature = format!("v1,{}", BASE64_STANDARD.encode(mac(raw, &[before.as_bytes(), BODY])));
        let headers =
            [("webhook-id", "msg_1"), ("webhook-timestamp", &old), ("webhook-signature", &signature)];
        assert!(is_wrong(proved(&Proof::StandardWebhooks, &secret, &headers, BODY)), "old");
        for left_out in 0..3 {
            let mut headers = vec![
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", time.as_str()),
                ("webhook-signature", signature.as_str()),
            ];
            headers.remove(left_out);
            assert!(is_missing(proved(&Proof::StandardWebhooks, &secret, &headers, BODY)), "{left_out}");
        }
    }

    #[test]
    fn circleci_s_first_version_is_found_among_others() {
        let right = hex::encode(mac(KEY.as_bytes(), &[BODY]));
        let with = |given: &str| proved(&Proof::CircleCi, KEY, &[("Circleci-Signature", given)], BODY);
        for fits in [
            format!("v1={right}"),
            format!("v2={right}x,v1={right}"),
            format!("v1={},v1={right}", "0".repeat(64)),
            format!("v1={right}, v3=x"),
        ] {
            assert_eq!(with(&fits), Ok(()), "{fits}");
        }
        for wrong in ["", "v1=", &right, &format!("v2={right}"), &format!("v1={}", "0".repeat(64))] {
            assert!(is_wrong(with(wrong)), "{wrong}");
        }
        assert!(is_missing(proved(&Proof::CircleCi, KEY, &[], BODY)));
    }

    #[test]
    fn a_token_comes_bare_or_as_a_bearer() {
        let proof = Proof::Token(TokenPlace::Header("X-Gitlab-Token".to_owned()));
        let with = |given: &str| proved(&proof, "t0ken", &[("x-gitlab-token", given)], BODY);
        assert_eq!(with("t0ken"), Ok(()));
        assert_eq!(with("Bearer t0ken"), Ok(()));
        for wrong in ["", "t0ke", "t0kenn", "Basic t0ken"] {
            assert!(is_wrong(with(wrong)), "{wrong}");
        }
        assert!(is_missing(proved(&proof, "t0ken", &[], BODY)));
    }

    #[test]
    fn a_token_in_the_address_is_there_once() {
        let proof = Proof::Token(TokenPlace::Query("token".to_owned()));
        let with = |pairs: &[(&str, &str)]| {
            let query: Vec<_> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let headers = HeaderMap::new();
            let sent = Sent { headers: &headers, query: &query, bytes: BODY, now: Timestamp(0) };
            claim(&proof, &sent).is_ok_and(|claim| claim.is_proved_by(&Secret::new("t"), BODY))
        };
        assert!(with(&[("a", "b"), ("token", "t")]));
        for wrong in [&[][..], &[("token", "x")], &[("Token", "t")], &[("token", "t"), ("token", "t")]] {
            assert!(!with(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn basic_authentication_is_a_user_and_a_password() {
        let proof = Proof::Basic { user: "jenkins".to_owned() };
        let with = |given: &str| proved(&proof, "pa:ss", &[("authorization", given)], BODY);
        let basic = |text: &str| BASE64_STANDARD.encode(text);
        assert_eq!(with(&format!("Basic {}", basic("jenkins:pa:ss"))), Ok(()));
        assert_eq!(with(&format!("basic {}", basic("jenkins:pa:ss"))), Ok(()));
        for wrong in [
            String::new(),
            "Basic".to_owned(),
            "Basic !!".to_owned(),
            format!("Bearer {}", basic("jenkins:pa:ss")),
            format!("Basic {}", basic("jenkins:pass")),
            format!("Basic {}", basic("other:pa:ss")),
            format!("Basic {}", basic("jenkins")),
            format!("Basic {}", basic("")),
        ] {
            assert!(is_wrong(with(&wrong)), "{wrong}");
        }
        assert!(is_missing(proved(&proof, "pa:ss", &[], BODY)));
    }

    proptest::proptest! {
        #[test]
        fn whatever_stands_in_headers_proves_nothing(
            given in "(v0=|v1=|v1,|sha256=|Basic |Bearer |whsec_|[0-9a-f]{0,8}|[ -~]{0,20}|,| ){0,6}",
            time in "-?[0-9]{0,20}",
            key in "(whsec_)?[ -~]{1,20}",
        ) {
            let names = ["x-hub-signature-256", "webhook-signature", "x-slack-signature", "circleci-signature", "authorization"];
            let mut headers: Vec<(&str, &str)> = names.map(|name| (name, given.as_str())).to_vec();
            let time = if time.is_empty() { NOW.to_string() } else { time };
            headers.extend([("webhook-id", "1"), ("webhook-timestamp", &time), ("x-slack-request-timestamp", &time)]);
            let basic = Proof::Basic { user: "user".to_owned() };
            for proof in [github(), Proof::StandardWebhooks, Proof::Slack, Proof::CircleCi, basic] {
                proptest::prop_assert!(is_wrong(proved(&proof, &key, &headers, BODY)));
            }
        }
    }
}
