//! Runner `script`.

use serde_json::{Value, json};
use siskin::model::Attempt;

use super::bench::{Bench, attempt};

fn script(text: &str, input: Value) -> Attempt {
    let mut attempt = attempt("script", "shop.count", input);
    attempt.work.section =
        json!({"file": "bin/count", "args": ["{{ input.name }}", 2], "env": {"WHAT": "{{ input.name }}!"}});
    attempt.work.script = Some(text.to_owned());
    attempt
}

#[tokio::test(flavor = "multi_thread")]
async fn input_comes_on_stdin_and_as_variables_and_output_goes_by_descriptor_3() {
    let mut bench = Bench::new();
    let text =
        "cat; echo; echo \"$1 $2 $WHAT $INPUT_NAME\"; echo '{\"ignored\": 1}'\necho '{\"ok\": true}' >&3";
    let seen = bench.done(script(text, json!({"name": "a b", "list": [1]}))).await;
    assert_eq!(*seen.output(), json!({"ok": true}));
    assert_eq!(seen.stdout, "{\"name\":\"a b\",\"list\":[1]}\na b 2 a b! a b\n{\"ignored\": 1}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_language_will_do_and_the_last_line_may_be_the_output() {
    let mut bench = Bench::new();
    let text = "#!/usr/bin/env python3\nimport json, sys\nprint('working')\nprint(json.dumps({'n': len(json.load(sys.stdin)['name'])}))\n";
    let seen = bench.done(script(text, json!({"name": "shop"}))).await;
    assert_eq!(*seen.output(), json!({"n": 4}));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_means_an_empty_output() {
    let mut bench = Bench::new();
    assert_eq!(*bench.done(script("echo done", json!({"name": "x"}))).await.output(), json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_on_descriptor_3_fails() {
    for text in ["echo nonsense >&3", "echo '[1]' >&3"] {
        let seen = Bench::new().done(script(text, json!({"name": "x"}))).await;
        assert!(seen.error().message.contains("descriptor 3"), "{}", seen.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_interpreter_is_named() {
    let seen = Bench::new().done(script("#!/no/such/thing\n", json!({"name": "x"}))).await;
    assert!(seen.error().message.contains("/no/such/thing"), "{}", seen.error());
}
