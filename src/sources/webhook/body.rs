//! What a delivery says: JSON, bare or in a form, within bounds of depth and number.

use axum::http::{HeaderMap, StatusCode, header};

use super::Refusal;
use crate::model::{Object, Value};

/// More values than this take too much memory, however small the body.
const MOST_VALUES: usize = 1_000_000;

/// Whether the body is a form; other types than JSON and forms are refused. None said: JSON.
pub(super) fn is_form(headers: &HeaderMap) -> Result<bool, Refusal> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let given = String::from_utf8_lossy(given.as_bytes()).to_ascii_lowercase();
    let essence = given.split(';').next().unwrap_or_default().trim();
    match essence {
        "" | "application/json" => Ok(false),
        "application/x-www-form-urlencoded" => Ok(true),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(false),
        other => {
            let shown: String = other.chars().take(80).collect();
            let detail =
                format!("`{shown}` is not understood; send application/json, or a form with `payload=`");
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
        }
    }
}

/// Turns away a body that came compressed: nobody who signs sends one, and what it unpacks to has no bound.
pub(super) fn refuse_encoded(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    if encoding.as_bytes().eq_ignore_ascii_case(b"identity") || encoding.is_empty() {
        return Ok(());
    }
    let detail = "a body is taken as it is, without Content-Encoding";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// The JSON value of a body.
pub(super) fn parse(bytes: &[u8], is_form: bool) -> Result<Value, Refusal> {
    if !is_form {
        return parse_json(bytes);
    }
    let bad = |detail: &str| Refusal::new(StatusCode::BAD_REQUEST, detail);
    let text = std::str::from_utf8(bytes).map_err(|_| bad("the form is not UTF-8"))?;
    let pairs = pairs(text).ok_or_else(|| bad("the form can't be decoded"))?;
    let mut payloads = pairs.into_iter().filter(|(name, _)| name == "payload").map(|(_, value)| value);
    let Some(payload) = payloads.next() else { return Err(bad("the form has no `payload`")) };
    if payloads.next().is_some() {
        return Err(bad("the form has `payload` twice"));
    }
    parse_json(payload.as_bytes())
}

fn parse_json(bytes: &[u8]) -> Result<Value, Refusal> {
    if values_at_most(bytes) > MOST_VALUES {
        let detail = format!("the body may hold more than {MOST_VALUES} values");
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    // The parser stops at 128 lists and maps inside one another.
    serde_json::from_slice(bytes).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not JSON that is taken here: {error}"))
    })
}

/// How many values a JSON text holds at most: one more than its commas and opening brackets outside strings.
fn values_at_most(bytes: &[u8]) -> usize {
    let mut count = 1;
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// The pairs of a query or form; `None` where it can't be decoded to text.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pieces = text.split('&').filter(|piece| !piece.is_empty());
    pieces
        .map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            Some((percent_decode(name, true)?, percent_decode(value, true)?))
        })
        .collect()
}

/// Text with its `%XX` decoded, in a form also `+` as a space. A `%` that begins no such thing stays, as browsers do it.
pub(super) fn percent_decode(text: &str, is_form: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, left @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(16 * digit(*high) + digit(*low));
                rest = left;
            }
            (b'+', _) if is_form => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn digit(hex: u8) -> u8 {
    match hex {
        b'0'..=b'9' => hex - b'0',
        b'a'..=b'f' => hex - b'a' + 10,
        _ => hex.saturating_sub(b'A').saturating_add(10),
    }
}

/// Headers as templates see them: small letters; several of one name joined by `, `.
pub(super) fn headers(headers: &HeaderMap) -> Value {
    let mut object = Object::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        object.insert(name.as_str().to_owned(), Value::String(values.join(", ")));
    }
    Value::Object(object)
}

/// Pairs as a map; of a name that comes twice the last counts.
pub(super) fn object(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn typed(content_type: &str) -> Result<bool, StatusCode> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        is_form(&headers).map_err(|refusal| refusal.status)
    }

    #[test]
    fn json_and_forms_are_taken_and_nothing_else() {
        assert_eq!(is_form(&HeaderMap::new()), Ok(false));
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"] {
            assert_eq!(typed(json), Ok(false), "{json}");
        }
        assert_eq!(typed("application/x-www-form-urlencoded"), Ok(true));
        for other in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "text/json", "x"] {
            assert_eq!(typed(other), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{other}");
        }
    }

    #[test]
    fn what_is_not_json_is_400_and_never_a_crash() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let deep_maps = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        for wrong in [
            "",
            "  ",
            "{",
            "hello",
            "{} {}",
            "{\"a\": 1e999}",
            "\"\\ud800\"",
            "NaN",
            &deep,
            &deep_maps,
            &"[".repeat(1_000_000),
        ] {
            let refusal = parse(wrong.as_bytes(), false).unwrap_err();
            assert!(refusal.status.is_client_error(), "{}", &wrong[..wrong.len().min(20)]);
        }
        assert_eq!(parse(b"{\"a\": \"\xff\"}", false).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(parse(deep.as_bytes(), false).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_small_body_cannot_take_much_memory() {
        let many = format!("[{}0]", "0,".repeat(MOST_VALUES + 1));
        assert_eq!(parse(many.as_bytes(), false).unwrap_err().status, StatusCode::UNPROCESSABLE_ENTITY);
        let commas = json!({"text": ",[{".repeat(MOST_VALUES)}).to_string();
        assert!(parse(commas.as_bytes(), false).is_ok());
    }

    #[test]
    fn a_form_carries_json_in_payload() {
        let form = b"a=b&payload=%7B%22ref%22%3A+%22refs%2Fheads%2Fb%C3%BC%22%7D";
        assert_eq!(parse(form, true).unwrap(), json!({"ref": "refs/heads/bü"}));
        for wrong in [
            &b""[..],
            b"a=b",
            b"payload",
            b"payload=",
            b"payload=%7B",
            b"payload={}&payload={}",
            b"payload=%ff",
            b"\xff",
        ] {
            assert_eq!(parse(wrong, true).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong:?}");
        }
    }

    #[test]
    fn percent_signs_are_decoded_once() {
        assert_eq!(percent_decode("a%2Fb+c%", true).as_deref(), Some("a/b c%"));
        assert_eq!(percent_decode("a+b%2525", false).as_deref(), Some("a+b%25"));
        assert_eq!(percent_decode("%ff", false), None);
    }

    #[test]
    fn headers_have_small_names() {
        let mut given = HeaderMap::new();
        given.append("X-GitHub-Event", "push".parse().unwrap());
        given.append("accept", "a".parse().unwrap());
        given.append("accept", "b".parse().unwrap());
        assert_eq!(headers(&given), json!({"x-github-event": "push", "accept": "a, b"}));
    }
}
