//! What an input takes.

use serde_json::json;

use crate::definitions::Definitions;
use crate::definitions::fields::{Fields, accept};
use crate::model::filled::Part;
use crate::model::{Filled, Value};

/// The fields of a workflow's `input`.
fn fields(input: &str) -> Fields {
    let text = format!("input: {input}\nsteps:\n  - {{id: a, run: core.noop}}\n");
    let (definitions, mistakes) = Definitions::read(&super::with_packs(&[("workflows/w.yaml", &text)]));
    assert_eq!(mistakes, []);
    definitions.input_of("site.w").unwrap().clone()
}

fn accepted(input: &str, given: Value, lenient: bool) -> Result<Value, Vec<String>> {
    accept(&fields(input), &Filled::Plain(given), lenient).map(|filled| filled.masked())
}

#[test]
fn defaults_are_filled_in_and_what_is_missing_is_named() {
    let input = "{a: string, b: {type: integer, default: 3}, c: {type: string, optional: true}, d: boolean}";
    assert_eq!(
        accepted(input, json!({"d": true, "a": "x"}), false),
        Ok(json!({"a": "x", "b": 3, "d": true}))
    );
    assert_eq!(
        accepted(input, json!({"e": 1, "dd": 1}), false).unwrap_err(),
        ["there is no `e`", "there is no `dd`; did you mean `d`?", "`a` is missing", "`d` is missing"]
    );
    assert_eq!(
        accepted(input, json!({"a": "x", "d": false, "b": null, "c": null}), false),
        Ok(json!({"a": "x", "b": 3, "d": false}))
    );
    assert_eq!(accepted("{a: any}", json!({"a": null}), false), Ok(json!({"a": null})));
    assert!(accepted(input, json!([1]), false).is_err());
}

#[test]
fn strings_are_read_as_the_declared_type_only_when_lenient() {
    let input = "{i: {type: integer, optional: true}, n: {type: number, optional: true}, b: {type: boolean, optional: true}, l: {type: array, items: integer, optional: true}, o: {type: object, optional: true}, s: {type: string, optional: true}, d: {type: duration, optional: true}}";
    let texts = json!({"i": "3", "n": "1.5", "b": "true", "l": "[1, \"2\"]", "o": "{\"a\": 1}", "s": "3", "d": "15m"});
    assert_eq!(
        accepted(input, texts.clone(), true),
        Ok(json!({"i": 3, "n": 1.5, "b": true, "l": [1, 2], "o": {"a": 1}, "s": "3", "d": "15m"}))
    );
    assert_eq!(accepted(input, texts, false).unwrap_err().len(), 5);
    // Nothing else is coerced.
    assert_eq!(accepted(input, json!({"s": 3}), true).unwrap_err(), ["`s` must be text, not `3`"]);
    assert_eq!(
        accepted(input, json!({"b": "yes"}), true).unwrap_err(),
        ["`b` must be true or false, not `yes` (text)"]
    );
    assert_eq!(
        accepted(input, json!({"i": 1.5}), true).unwrap_err(),
        ["`i` must be a whole number, not `1.5`"]
    );
    assert!(accepted(input, json!({"d": "soon"}), true).is_err());
}

#[test]
fn choices_patterns_and_bounds_hold() {
    let input = "{e: {type: string, enum: [a, b], optional: true}, p: {type: string, pattern: '^x', max: 3, optional: true}, n: {type: integer, min: 1, max: 5, optional: true}, l: {type: array, min: 1, optional: true}}";
    assert_eq!(
        accepted(input, json!({"e": "c"}), false).unwrap_err(),
        ["`e` must be one of a, b, not `c` (text)"]
    );
    assert_eq!(
        accepted(input, json!({"p": "y"}), false).unwrap_err(),
        ["`p` must match ^x, and `y` (text) does not"]
    );
    assert_eq!(
        accepted(input, json!({"p": "xüüü"}), false).unwrap_err(),
        ["`p` must be at most 3 characters, not 4"]
    );
    assert_eq!(accepted(input, json!({"n": 6}), false).unwrap_err(), ["`n` must be at most 5, not 6"]);
    assert_eq!(
        accepted(input, json!({"l": []}), false).unwrap_err(),
        ["`l` must be at least 1 items, not 0"]
    );
    assert!(accepted(input, json!({"e": "a", "p": "xüü", "n": 5, "l": [0]}), false).is_ok());
}

#[test]
fn inner_values_are_held_against_inner_fields() {
    let input = "{o: {type: object, properties: {a: integer, b: {type: string, default: x}}}, l: {type: array, items: {type: object, properties: {c: boolean}}, default: []}}";
    assert_eq!(
        accepted(input, json!({"o": {"a": "1"}}), true),
        Ok(json!({"o": {"a": 1, "b": "x"}, "l": []}))
    );
    assert_eq!(
        accepted(input, json!({"o": {"d": 1}, "l": [{"c": 1}]}), true).unwrap_err(),
        [
            "in `o`: there is no `d`",
            "in `o`: `a` is missing",
            "in `l[0]`: `c` must be true or false, not `1`"
        ]
    );
}

#[test]
fn a_value_with_a_secret_counts_as_text() {
    let secret = Filled::Text(vec![Part::Secret { name: "t".to_owned(), base64: false }]);
    let given = Filled::Map(vec![
        ("a".to_owned(), secret.clone()),
        ("b".to_owned(), Filled::Map(vec![("c".to_owned(), secret.clone())])),
    ]);
    let taken =
        accept(&fields("{a: string, b: object, c: {type: integer, default: 1}}"), &given, true).unwrap();
    assert_eq!(taken.masked(), json!({"a": "***", "b": {"c": "***"}, "c": 1}));
    assert_eq!(taken.secrets(), ["t"]);
    let wrong = accept(&fields("{a: integer, b: object}"), &given, true).unwrap_err();
    assert_eq!(wrong, ["`a` must be a whole number, and a secret is text"]);
}
