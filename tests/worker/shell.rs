//! Runner `shell`.

use base64::Engine as _;
use serde_json::{Value, json};
use siskin::model::{ErrorKind, Filled, Outcome, Span};

use super::bench::{Bench, alive, attempt, key, shell, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_script_gives_its_code_and_what_it_printed() {
    let mut bench = Bench::new();
    let seen = bench.done(shell("echo out; echo err >&2; echo")).await;
    assert_eq!(*seen.output(), json!({"code": 0, "stdout": "out", "stderr": "err"}));
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("out\n\n", "err\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_fails_with_the_last_words_and_shows_the_output() {
    let mut bench = Bench::new();
    let seen = bench.done(shell("echo partly\necho 'no such branch' >&2\nexit 3")).await;
    assert_eq!(seen.error().message, "exit status 3: no such branch");
    let Outcome::Failed { output, .. } = &seen.outcome else { unreachable!() };
    assert_eq!(*output, json!({"code": 3, "stdout": "partly", "stderr": "no such branch"}));
    assert!(seen.notes.contains("exit status 3"), "{}", seen.notes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_command_that_fails_ends_the_script() {
    let mut bench = Bench::new();
    for script in ["false\ntrue", "#!/bin/bash\nfalse\ntrue", "#!/usr/bin/env bash\nfalse\ntrue"] {
        let seen = bench.done(shell(script)).await;
        assert!(seen.error().message.starts_with("exit status 1"), "{script}: {}", seen.error());
        bench = Bench::new();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_values_stay_data() {
    let mut bench = Bench::new();
    let hostile = "$(touch hit) `touch hit`; touch hit\n'\"\\ -e {{ input.x }} ü";
    let mut attempt = shell("");
    attempt.work.section = json!({
        "script": "printf '%s' \"$BRANCH\"; test {{.Names}} = '{{.Names}}'; files=(1); : \"${#files[@]}\"",
        "env": {"BRANCH": "{{ input.branch }}", "LIST": "{{ input.list }}"},
    });
    // Braces and arrays of other languages stay as they are: the script is never rendered.
    attempt.work.section["script"] =
        json!("printf '%s' \"$BRANCH\"; echo '{{.Names}} ${#files[@]}' >&2; test \"$LIST\" = '[1,2]'");
    attempt.input = Filled::Plain(json!({"branch": hostile, "list": [1, 2]}));
    let seen = bench.done(attempt).await;
    assert_eq!(seen.output()["stdout"], hostile);
    assert_eq!(seen.output()["stderr"], "{{.Names}} ${#files[@]}");
    assert!(!bench.workspace().join("hit").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_in_the_workspace_and_the_server_s_environment_is_not_there() {
    let mut bench = Bench::new();
    let seen = bench
        .done(shell("pwd; echo x >file; env | grep -c CARGO || true; echo $SISKIN_RUN/$SISKIN_STEP"))
        .await;
    let workspace = bench.workspace().canonicalize().unwrap();
    assert_eq!(seen.output()["stdout"], format!("{}\n0\n7/build", workspace.display()));
    let entries = std::fs::read_dir(&workspace).unwrap().count();
    assert_eq!(entries, 1, "nothing but what the script wrote is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_named() {
    let mut bench = Bench::new();
    let seen = bench.done(attempt("shell", "core.shell", json!({}))).await;
    assert!(seen.error().message.contains("`script` is missing"), "{}", seen.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_the_whole_group() {
    let mut bench = Bench::new();
    let script = "sleep 1000 & echo $! >pid; (sleep 1000) & echo begun; wait";
    bench.order(shell(script), &[]).await;
    bench.grant().await;
    let pid_file = bench.workspace().join("pid");
    until("the script began", || std::fs::read_to_string(&pid_file).is_ok_and(|pid| pid.ends_with('\n')))
        .await;
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert!(alive(pid));
    bench.cancel(&key(1)).await;
    let seen = bench.seen().await;
    assert_eq!(seen.kind(), ErrorKind::Cancelled);
    assert!(!alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_it_and_says_so() {
    let mut bench = Bench::new();
    let mut attempt = shell("echo $$ >pid; echo before; sleep 1000");
    attempt.timeout = Span(300);
    let seen = bench.done(attempt).await;
    assert_eq!((seen.kind(), seen.error().message.as_str()), (ErrorKind::TimedOut, "timed out after 300ms"));
    assert_eq!(seen.stdout, "before\n");
    let pid: i32 = std::fs::read_to_string(bench.workspace().join("pid")).unwrap().trim().parse().unwrap();
    assert!(!alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaves_in_any_form() {
    let mut bench = Bench::new();
    let secret = "tr0ub4dor&3 \"x\"";
    let mut attempt = shell("");
    attempt.work.section = json!({
        "script": r#"
            echo "plain $KEY"; printf '%s' "$KEY" | head -c 5; sleep 0.2; printf '%s\n' "$KEY" | tail -c +6
            printf 'user:%s' "$KEY" | base64; printf 'a%s' "$KEY" | base64 >&2; echo "$KEY" >&2; exit 1"#,
        "env": {"KEY": "{{ secret('key') }}"},
    });
    let seen = bench.done_with(attempt, &[("key", secret)]).await;
    let everything = seen.everything();
    assert!(seen.stdout.starts_with("plain ***\n***\n"), "{}", seen.stdout);
    for form in [secret, "tr0ub4dor", "dHIwdWI0ZG9y", "RyMHViNGRvc", "0cjB1YjRkb3"] {
        assert!(!everything.contains(form), "{form} in {everything}");
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
    assert!(!everything.contains(&encoded[..12]), "{everything}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_set_is_named() {
    let mut bench = Bench::new();
    let mut attempt = shell("");
    attempt.work.section = json!({"script": "true", "env": {"KEY": "{{ secret('key') }}"}});
    let seen = bench.done(attempt).await;
    assert!(seen.error().message.contains("`key` is not set"), "{}", seen.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_too_large_and_can_not_be_kept_is_shortened_and_fails_nothing() {
    let mut bench = Bench::new();
    // Each of these bytes takes six in JSON.
    let seen = bench.done(shell("head -c 2000000 /dev/zero | tr '\\0' '\\001' | fold -w 99")).await;
    assert!(seen.output().to_string().len() < 1024 * 1024);
    assert!(seen.output()["stdout"]["note"].as_str().unwrap().contains("can't be kept"), "{}", seen.output());
    let mut bench = Bench::new();
    let seen = bench.done(shell("head -c 3000000 /dev/zero | tr '\\0' x | fold -w 99")).await;
    let stdout = seen.output()["stdout"].as_str().unwrap();
    assert!(stdout.len() < 300_000 && stdout.contains("not shown here"), "{}", stdout.len());
    assert!(seen.stdout.len() > 3_000_000, "the log has all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_templates_make_the_output() {
    let mut bench = Bench::new();
    let mut attempt = shell("");
    attempt.work.section = json!({"script": "echo 1.4.2"});
    attempt.work.output = json!({"version": "{{ result.stdout }}", "app": "{{ input.app }}", "suite": "{{ config.suite }}",
        "owner": "{{ apps[input.app].owner }}", "token": "abc"});
    attempt.work.config = json!({"suite": "canary"});
    attempt.work.secret_outputs = vec!["token".into()];
    attempt.apps = json!({"shop": {"owner": "team-shop"}});
    attempt.input = Filled::Plain(json!({"app": "shop"}));
    let seen = bench.done(attempt).await;
    let expected =
        json!({"version": "1.4.2", "app": "shop", "suite": "canary", "owner": "team-shop", "token": "***"});
    assert_eq!(*seen.output(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_printed_is_never_rendered_again() {
    let mut bench = Bench::new();
    let mut attempt = shell("");
    attempt.work.section = json!({"script": "echo '{{ config.suite }}'"});
    attempt.work.output = json!({"text": "{{ result.stdout }}"});
    let seen = bench.done(attempt).await;
    assert_eq!(seen.output()["text"], Value::from("{{ config.suite }}"));
}
