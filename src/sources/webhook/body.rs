//! What a delivery says: JSON, bare or in a form, or the fields of a form, within bounds of depth and number.

use axum::http::{HeaderMap, StatusCode, header};

use super::Refusal;
use crate::model::{Object, Value};

/// More values than this take too much memory, however small the body.
const MOST_VALUES: usize = 1_000_000;
/// More fields than this has no form.
const MOST_FIELDS: usize = 10_000;
/// The parser's own bound: lists and maps inside one another.
const DEEPEST_READ: usize = 127;

/// Whether the body is a form; other types than JSON and forms are refused. None said: JSON. `text/plain` is JSON too: Jenkins says so.
pub(super) fn is_form(headers: &HeaderMap) -> Result<bool, Refusal> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let given = String::from_utf8_lossy(given.as_bytes()).to_ascii_lowercase();
    let mut pieces = given.split(';').map(str::trim);
    let essence = pieces.next().unwrap_or_default();
    let charset = pieces.find_map(|piece| piece.strip_prefix("charset=")).unwrap_or_default();
    if charset.trim_matches('"').starts_with("utf-16") || charset.trim_matches('"').starts_with("utf-32") {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be in UTF-8"));
    }
    match essence {
        "" | "application/json" | "text/json" | "text/plain" => Ok(false),
        "application/x-www-form-urlencoded" => Ok(true),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(false),
        other => {
            let shown: String = other.chars().take(80).collect();
            let detail = format!("`{shown}` is not understood; send application/json, or a form");
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

/// The value of a body: its JSON, that of a form's `payload`, or a form's fields. `deepest` is how deep it may nest.
pub(super) fn parse(bytes: &[u8], is_form: bool, deepest: Option<usize>) -> Result<Value, Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(bad("the body is empty"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| bad("the body is not UTF-8"))?;
    if !is_form {
        return parse_json(text, deepest);
    }
    if text.bytes().filter(|byte| *byte == b'&').count() >= MOST_FIELDS {
        return Err(unfit(format!("the form may have more than {MOST_FIELDS} fields")));
    }
    let pairs = pairs(text).ok_or_else(|| bad("the form can't be decoded to UTF-8"))?;
    let mut payloads = pairs.iter().filter(|(name, _)| name == "payload").map(|(_, value)| value);
    match (payloads.next(), payloads.next()) {
        (None, _) => Ok(fields(pairs)),
        (Some(payload), None) => parse_json(payload, deepest),
        (Some(_), Some(_)) => Err(bad("the form has `payload` twice")),
    }
}

/// A form as a map; of a name that comes again, the list of its texts.
fn fields(pairs: Vec<(String, String)>) -> Value {
    let mut object = Object::new();
    for (name, text) in pairs {
        match object.get_mut(&name) {
            None => drop(object.insert(name, Value::String(text))),
            Some(Value::Array(texts)) => texts.push(Value::String(text)),
            Some(first) => *first = Value::Array(vec![first.take(), Value::String(text)]),
        }
    }
    Value::Object(object)
}

fn parse_json(text: &str, deepest: Option<usize>) -> Result<Value, Refusal> {
    let deepest = deepest.unwrap_or(DEEPEST_READ).min(DEEPEST_READ);
    let size = Size::at_most(text.as_bytes());
    if size.values > MOST_VALUES {
        return Err(unfit(format!("the body may hold more than {MOST_VALUES} values")));
    }
    if size.depth > deepest {
        return Err(unfit(format!("the body nests deeper than {deepest} lists and maps")));
    }
    serde_json::from_str(text)
        .map_err(|error| bad(&format!("the body is not JSON that is taken here: {error}")))
}

fn bad(detail: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, detail)
}

fn unfit(detail: String) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// What a JSON text holds at most, counted without reading it.
struct Size {
    /// One more than its commas and opening brackets outside strings.
    values: usize,
    /// Brackets that are open at once.
    depth: usize,
}

impl Size {
    fn at_most(bytes: &[u8]) -> Size {
        let mut size = Size { values: 1, depth: 0 };
        let mut open: usize = 0;
        let (mut in_string, mut escaped) = (false, false);
        for byte in bytes {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b',' => size.values += 1,
                b'[' | b'{' => {
                    size.values += 1;
                    open += 1;
                    size.depth = size.depth.max(open);
                }
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
        }
        size
    }
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
    use proptest::strategy::Strategy as _;
    use serde_json::json;

    use super::*;

    fn typed(content_type: &str) -> Result<bool, StatusCode> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        is_form(&headers).map_err(|refusal| refusal.status)
    }

    fn parsed(bytes: &[u8], is_form: bool) -> Result<Value, StatusCode> {
        parse(bytes, is_form, None).map_err(|refusal| refusal.status)
    }

    #[test]
    fn json_and_forms_are_taken_and_nothing_else() {
        assert_eq!(is_form(&HeaderMap::new()), Ok(false));
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset=iso-8859-1",
            "application/cloudevents+json",
            "text/plain",
            "text/plain; charset=us-ascii",
            "text/json",
        ] {
            assert_eq!(typed(json), Ok(false), "{json}");
        }
        assert_eq!(typed("application/x-www-form-urlencoded"), Ok(true));
        for other in [
            "application/xml",
            "multipart/form-data; boundary=x",
            "text/html",
            "x",
            "application/json; charset=utf-16",
            "application/json; boundary=x; charset=\"UTF-32LE\"",
        ] {
            assert_eq!(typed(other), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{other}");
        }
    }

    #[test]
    fn what_is_not_json_is_400_and_never_a_crash() {
        for wrong in ["", "  ", "{", "hello", "{} {}", "{\"a\": 1e999}", "\"\\ud800\"", "NaN", "\u{feff}{}"] {
            assert_eq!(parsed(wrong.as_bytes(), false), Err(StatusCode::BAD_REQUEST), "{wrong}");
        }
        assert_eq!(parsed(b"{\"a\": \"\xff\"}", false), Err(StatusCode::BAD_REQUEST));
        assert_eq!(parsed(b"{\0\"\0a\0", false), Err(StatusCode::BAD_REQUEST), "UTF-16");
        assert_eq!(parse(b" \n", false, None).unwrap_err().detail, "the body is empty");
        assert_eq!(parse(b"", true, None).unwrap_err().detail, "the body is empty");
    }

    #[test]
    fn what_nests_too_deep_is_422() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parsed(nested(127).as_bytes(), false).is_ok());
        let deep_maps = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        for deep in [nested(128), nested(10_000), deep_maps, "[".repeat(1_000_000)] {
            assert_eq!(parsed(deep.as_bytes(), false), Err(StatusCode::UNPROCESSABLE_ENTITY));
        }
        let shallow = |text: &str| parse(text.as_bytes(), false, Some(2)).map_err(|refusal| refusal.status);
        assert!(shallow(&nested(2)).is_ok());
        assert!(shallow(r#"[["[[[", "\"[[", {}, []]]"#).is_err_and(|status| status == 422));
        assert!(shallow(r#"["[[[[[", "\"[[\\", {}, []]"#).is_ok());
    }

    #[test]
    fn a_small_body_cannot_take_much_memory() {
        let many = format!("[{}0]", "0,".repeat(MOST_VALUES + 1));
        assert_eq!(parsed(many.as_bytes(), false), Err(StatusCode::UNPROCESSABLE_ENTITY));
        let commas = json!({"text": ",[{".repeat(MOST_VALUES)}).to_string();
        assert!(parsed(commas.as_bytes(), false).is_ok());
        assert_eq!(parsed("a&".repeat(MOST_FIELDS).as_bytes(), true), Err(StatusCode::UNPROCESSABLE_ENTITY));
    }

    #[test]
    fn a_form_carries_json_in_payload() {
        let form = b"a=b&payload=%7B%22ref%22%3A+%22refs%2Fheads%2Fb%C3%BC%22%7D";
        assert_eq!(parsed(form, true), Ok(json!({"ref": "refs/heads/bü"})));
        for wrong in [
            &b""[..],
            b"payload",
            b"payload=",
            b"payload=%7B",
            b"payload={}&payload={}",
            b"payload=%ff",
            b"\xff",
        ] {
            assert_eq!(parsed(wrong, true), Err(StatusCode::BAD_REQUEST), "{wrong:?}");
        }
    }

    #[test]
    fn a_form_without_payload_is_its_fields() {
        assert_eq!(
            parsed(b"command=%2Fdeploy&text=shop+now&empty=&flag", true),
            Ok(json!({"command": "/deploy", "text": "shop now", "empty": "", "flag": ""}))
        );
        assert_eq!(parsed(b"a=1&b=2&a=3&a=4", true), Ok(json!({"a": ["1", "3", "4"], "b": "2"})));
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

    proptest::proptest! {
        #[test]
        fn whatever_is_sent_is_a_value_or_a_4xx(
            bytes in proptest::prop_oneof![
                proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
                "[\\[\\]{}\",:a0 \\\\]{0,60}".prop_map(String::into_bytes),
                "(payload|a|%[0-9a-f]{0,2}|=|&|\\+){0,20}".prop_map(String::into_bytes),
            ],
            is_form: bool,
            deepest in proptest::option::of(0_usize..70),
        ) {
            let answered = parse(&bytes, is_form, deepest);
            proptest::prop_assert!(answered.is_ok() || answered.is_err_and(|refusal| refusal.status.is_client_error()));
        }
    }
}
