//! What the repository ships: packs, and the reference pipeline.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;
use siskin::definitions::webhook::Verify;
use siskin::definitions::{Definitions, Files};
use siskin::expr::Scope;
use siskin::runners::native;

fn read_folder(folder: &Path, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => read_folder(&path, files),
            false => drop(files.texts.insert(path.display().to_string(), fs::read(&path).unwrap().into())),
        }
    }
}

fn shipped() -> Definitions {
    let mut files = Files::default();
    for folder in ["packs", "rules", "workflows", "apps"] {
        read_folder(Path::new(folder), &mut files);
    }
    let (definitions, mistakes) = Definitions::read(&files);
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    definitions
}

#[test]
fn all_that_is_shipped_is_without_a_mistake_and_says_what_it_is_for() {
    let definitions = shipped();
    for (name, action) in &definitions.actions {
        assert!(!action.description.is_empty(), "{name} has no description");
        assert!(action.returns.is_some(), "{name} does not say what it returns");
    }
    assert!(definitions.workflows.contains_key("site.ship"));
}

#[test]
fn native_actions_and_their_files_are_the_same() {
    let definitions = shipped();
    let in_files: BTreeSet<&str> = definitions
        .actions
        .values()
        .filter(|action| action.work.runner == "native")
        .map(|action| action.name.as_str())
        .collect();
    let in_binary: BTreeSet<&str> = native::ALL.iter().map(|entry| entry.name).collect();
    assert_eq!(in_files, in_binary);
}

#[test]
fn the_pipeline_s_own_actions_can_be_repeated_after_a_crash() {
    let definitions = shipped();
    for pack in ["ci", "package", "apt", "deploy", "chat"] {
        for action in definitions.actions.values().filter(|action| action.pack == pack) {
            assert!(action.idempotent, "{}", action.name);
        }
    }
}

#[test]
fn pushes_of_branches_of_our_apps_start_the_pipeline_and_nothing_else_does() {
    let definitions = shipped();
    let rule = &definitions.rules["site.ci_on_push"];
    let when = rule.when.as_ref().unwrap();
    let push = |git_ref: &str, deleted: bool, repository: &str| {
        let scope = Scope::new()
            .with("event", json!({"ref": git_ref, "deleted": deleted, "repository": {"name": repository}}))
            .with("apps", json!({"shop": {}}));
        definitions.expr.condition(when, &scope).unwrap()
    };
    assert!(push("refs/heads/main", false, "shop"));
    assert!(push("refs/heads/feature/a/b", false, "shop"));
    assert!(push("refs/heads/$(reboot)\n", false, "shop"));
    assert!(!push("refs/heads/main", true, "shop"), "a deleted branch");
    assert!(!push("refs/tags/heads", false, "shop"), "a tag");
    assert!(!push("refs/heads/main", false, "unknown"), "a repository that is no app");
    let short = Scope::new()
        .with("event", json!({"ref": "refs/heads/main", "repository": {"name": "shop"}}))
        .with("apps", json!({"shop": {}}));
    assert!(definitions.expr.condition(when, &short).unwrap(), "without `deleted`");
}

#[test]
fn sources_that_ship_are_verified_and_know_what_they_had() {
    let definitions = shipped();
    let hooks: Vec<_> =
        definitions.sources.values().filter_map(|source| Some((source, source.webhook()?))).collect();
    assert_eq!(hooks.len(), 9);
    for (source, hook) in hooks {
        assert!(hook.dedup.is_some(), "{}", source.name);
        assert_eq!(hook.verify == Verify::None, source.name == "alertmanager.webhook", "{}", source.name);
        assert!(!source.description.is_empty(), "{}", source.name);
    }
    for trigger in definitions.triggers.values() {
        assert!(!trigger.description.is_empty(), "{}", trigger.name);
    }
    let reference = fs::read_to_string("docs/reference/definitions.md").unwrap();
    for trigger in definitions.triggers.values().filter(|trigger| !trigger.name.starts_with("bitbucket.")) {
        let short = trigger.name.split('.').nth(1).unwrap();
        assert!(reference.contains(short), "the reference does not name {}", trigger.name);
    }
}

#[test]
fn the_tests_of_a_new_site_pass() {
    let folder = tempfile::tempdir().unwrap();
    siskin::site::init(folder.path()).unwrap();
    let (definitions, mistakes) = Definitions::read(&siskin::site::read(folder.path()).unwrap());
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    let reports: Vec<_> =
        definitions.tests.iter().flat_map(|test| siskin::rehearsal::rehearse(&definitions, test)).collect();
    let failed: Vec<_> = reports.iter().filter(|report| !report.passed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for name in ["site.ci_on_push", "site.ship"] {
        assert!(reports.iter().any(|report| report.of == name), "{name} has no test");
    }
}

/// docs/checks.md names the tests that prove each check; a name that no test has any more would prove nothing.
#[test]
fn the_tests_that_the_list_of_checks_names_exist() {
    let list = fs::read_to_string("docs/checks.md").unwrap();
    let mut sources = Files::default();
    read_folder(Path::new("src"), &mut sources);
    read_folder(Path::new("tests"), &mut sources);
    let sources: String =
        sources.texts.values().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let names: Vec<&str> =
        list.split('`').filter(|name| name.matches('_').count() > 2 && !name.contains(' ')).collect();
    let gone: Vec<&&str> = names.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(names.len() > 60 && gone.is_empty(), "{} names, gone: {gone:?}", names.len());
    for check in 1..=28 {
        assert!(list.contains(&format!("| C{check} |")), "C{check} is missing");
    }
}
