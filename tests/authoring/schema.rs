//! `siskin schema` gives editors what `siskin check` knows.

use std::fs;

use serde_json::Value;

use crate::support::server::siskin;

#[test]
fn a_schema_refuses_what_check_refuses_for_its_form() {
    let folder = tempfile::tempdir().unwrap();
    let written = siskin().args(["schema", "--all"]).arg(folder.path().join("schemas")).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let said = String::from_utf8(written.stdout).unwrap();
    assert!(
        said.contains("# yaml-language-server: $schema=") && said.contains("packs/*/pack.yaml"),
        "{said}"
    );
    let table = [
        ("rule", "rules/a.yaml", r#"{"trigger": "github.push", "run": "core.noop"}"#, true),
        ("rule", "rules/a.yaml", r#"{"trigger": "github.push", "run": "core.noop", "wehn": "true"}"#, false),
        ("rule", "rules/a.yaml", r#"{"trigger": "github.push", "run": "core.noop", "enabled": "no"}"#, false),
        ("rule", "rules/a.yaml", r#"{"trigger": "github.push"}"#, false),
        (
            "rule",
            "rules/a.yaml",
            r#"{"trigger": "github.push", "run": "core.noop", "count": "many", "within": "1h"}"#,
            false,
        ),
        ("workflow", "workflows/a.yaml", r#"{"steps": [{"id": "a", "run": "core.noop"}]}"#, true),
        ("workflow", "workflows/a.yaml", r#"{"steps": {"id": "a", "run": "core.noop"}}"#, false),
        (
            "workflow",
            "workflows/a.yaml",
            r#"{"steps": [{"id": "a", "run": "core.noop", "sleep": "1m"}]}"#,
            false,
        ),
        (
            "workflow",
            "workflows/a.yaml",
            r#"{"steps": [{"id": "a", "run": "core.noop", "retry": {"attempts": 2, "dealy": "1s"}}]}"#,
            false,
        ),
        (
            "workflow",
            "workflows/a.yaml",
            r#"{"steps": [{"id": "a", "sleep": "1m", "undo": {"run": "core.noop"}}]}"#,
            false,
        ),
        (
            "workflow",
            "workflows/a.yaml",
            r#"{"input": {"a": "strnig"}, "steps": [{"id": "a", "run": "core.noop"}]}"#,
            false,
        ),
        ("action", "actions/a.yaml", r#"{"runner": "shell", "shell": {"script": "true"}}"#, true),
        ("action", "actions/a.yaml", r#"{"runner": "shel", "shell": {"script": "true"}}"#, false),
        (
            "source",
            "sources/a.yaml",
            r#"{"kind": "interval", "trigger": "github.push", "every": "1m"}"#,
            true,
        ),
        (
            "source",
            "sources/a.yaml",
            r#"{"kind": "interval", "trigger": "github.push", "every": "soon"}"#,
            false,
        ),
        (
            "source",
            "sources/a.yaml",
            r#"{"kind": "interval", "trigger": "github.push", "every": "1m", "path": "x"}"#,
            false,
        ),
        (
            "source",
            "sources/a.yaml",
            r#"{"kind": "webhook", "trigger": "github.push", "path": "x", "verify": "nnoe"}"#,
            false,
        ),
        ("trigger", "triggers/a.yaml", r#"{"payload": "string"}"#, false),
        (
            "app",
            "apps/a.yaml",
            r#"{"environments": {"p": {"hosts": [{"name": "a", "ssh": {"prt": 22}}]}}}"#,
            false,
        ),
        ("siskin", "siskin.yaml", r#"{"windows": {"office": {"opne": "* * * * *"}}}"#, false),
        ("pack", "packs/p/pack.yaml", r#"{"needs": {"packs": ["core"], "programms": ["git"]}}"#, false),
    ];
    for (kind, path, text, is_good) in table {
        let schema = fs::read(folder.path().join(format!("schemas/{kind}.json"))).unwrap();
        let validator =
            jsonschema::validator_for(&serde_json::from_slice::<Value>(&schema).unwrap()).unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(validator.is_valid(&value), is_good, "the schema: {path} {text}");
        let site = tempfile::tempdir().unwrap();
        let file = site.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        let check = siskin().args(["check", "--site"]).arg(site.path()).output().unwrap();
        assert_eq!(check.status.success(), is_good, "check: {path} {text}: {check:?}");
    }
}

#[test]
fn one_kind_is_printed_and_another_is_named() {
    let printed = siskin().args(["schema", "rule"]).output().unwrap();
    let schema: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(schema["definitions"]["rule"]["properties"]["enabled"]["type"], "boolean");
    let all = siskin().arg("schema").output().unwrap();
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!(all["rule"], schema);
    let wrong = siskin().args(["schema", "rul"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean `rule`?"));
}
