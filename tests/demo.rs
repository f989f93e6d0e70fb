//! `siskin demo`: the whole main job, as a newcomer sees it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::support::server::siskin;

const HOSTS: [(&str, &str); 5] = [
    ("canary-1", "canary"),
    ("canary-2", "canary"),
    ("web-1", "production"),
    ("web-2", "production"),
    ("web-3", "production"),
];

fn holds_version_2_everywhere(last: &Value) {
    let version = last["version"].as_str().unwrap();
    assert!(version.starts_with("2.0-"), "{last}");
    assert!(last["event"].is_i64() && last["run"].is_i64(), "{last}");
    let hosts: Vec<(&str, &str, &str)> = last["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| {
            let text = |key: &str| host[key].as_str().unwrap();
            (text("name"), text("environment"), text("version"))
        })
        .collect();
    let wanted: Vec<_> = HOSTS.iter().map(|(name, environment)| (*name, *environment, version)).collect();
    assert_eq!(hosts, wanted);
}

#[test]
fn the_demo_ships_version_2_everywhere_and_takes_version_3_back() {
    let output = siskin().args(["demo", "--yes", "--json"]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    holds_version_2_everywhere(lines.last().unwrap());
    let said: Vec<String> = lines
        .iter()
        .map(|line| {
            format!(
                "{} {}",
                line["what"].as_str().unwrap_or_default(),
                line["step"].as_str().unwrap_or_default()
            )
        })
        .collect();
    for (what, times) in [
        ("run.succeeded ", 2),
        ("run.failed ", 1),
        ("step.succeeded promote", 2),
        ("step.failed canary", 1),
        ("undo.succeeded canary", 1),
        ("step.succeeded production", 2),
    ] {
        assert_eq!(said.iter().filter(|line| *line == what).count(), times, "{what} in {said:#?}");
    }
}

#[test]
fn without_yes_the_demo_waits_until_somebody_approves_elsewhere_and_goes_on_in_its_folder_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = siskin()
        .args(["demo", "--json", "--dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = Value::Null;
    let mut approval = Value::Null;
    for line in BufReader::new(demo.stdout.take().unwrap()).lines() {
        last = serde_json::from_str(&line.unwrap()).unwrap();
        if last["what"] == "approval" {
            approval = last["approval"].clone();
        }
        if last["what"] == "approval.how" {
            let approved = siskin()
                .args(["approve", &approval.to_string(), "--data"])
                .arg(folder.path().join("data"))
                .output()
                .unwrap();
            assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
        }
    }
    assert!(demo.wait().unwrap().success());
    holds_version_2_everywhere(&last);

    let again = siskin().args(["demo", "--yes", "--json", "--dir"]).arg(folder.path()).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let text = String::from_utf8(again.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["version"].as_str().unwrap().starts_with("5.0-"), "{last}");
}

#[test]
fn a_folder_that_holds_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine"), "precious").unwrap();
    let refused = siskin().args(["demo", "--yes", "--dir"]).arg(folder.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("holds something else"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
