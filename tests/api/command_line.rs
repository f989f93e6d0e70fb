//! The command line against a server: what it says, and its exit status.

use std::process::Output;

use crate::support::server::{Server, siskin};

fn said(output: &Output) -> (i32, String) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

#[test]
fn exit_status_is_0_done_1_failed_2_bad_use() {
    let server = Server::start(&[]);
    for (arguments, status, text) in [
        (&["run", "core.echo", "value=hello"][..], 0, "succeeded"),
        (&["run", "core.fail", "message=no"], 1, "no"),
        (&["run", "core.ecko", "value=1"], 1, "did you mean `core.echo`?"),
        (&["run", "core.echo"], 1, "`value` is missing"),
        (&["run", "core.echo", "value"], 2, "is not name=value"),
        (&["run", "core.echo", "value:={"], 2, "is not JSON"),
        (&["run", "core.echo", "value=1", "value=2"], 2, "twice"),
        (&["runs", "99"], 1, "there is no run 99"),
        (&["runs", "x"], 2, "invalid value"),
        (&["cancel", "99"], 1, "there is no run 99"),
        (&["approve", "99"], 1, "there is no approval 99"),
        (&["nothing"], 2, "unrecognized"),
    ] {
        let (code, shown) = said(&server.cli(arguments));
        assert_eq!(code, status, "{arguments:?}: {shown}");
        assert!(shown.contains(text), "{arguments:?}: {shown}");
    }
}

#[test]
fn every_list_has_json() {
    let server = Server::start(&[]);
    for list in [
        &["runs"][..],
        &["events"],
        &["rules"],
        &["approvals"],
        &["actions"],
        &["workflows"],
        &["triggers"],
        &["sources"],
        &["packs"],
        &["apps"],
        &["deployments"],
        &["audit"],
        &["secret", "list"],
        &["kv", "list"],
        &["token", "list"],
    ] {
        let output = server.cli(&[list, &["--json"]].concat());
        assert!(output.status.success(), "{list:?}");
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(shown["items"].is_array(), "{list:?}: {shown}");
    }
}

#[test]
fn no_colour_of_a_program_comes_through_no_color() {
    let server = Server::start(&[]);
    let (_, shown) =
        said(&server.cli(&["run", "core.shell", "script=printf '\\033[31mred\\033[0m\\007\\n'"]));
    assert!(shown.contains("red") && !shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
}

#[test]
fn who_finds_no_server_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = siskin().arg("runs").env("SISKIN_DATA", folder.path()).output().unwrap();
    let (code, shown) = said(&output);
    assert_eq!(code, 1);
    assert!(shown.contains("siskin serve"), "{shown}");
    let output =
        siskin().arg("runs").env("SISKIN_URL", "nonsense").env("SISKIN_TOKEN", "x").output().unwrap();
    let (code, shown) = said(&output);
    assert_eq!(code, 2, "{shown}");
    assert!(shown.contains("http://127.0.0.1:8640"), "{shown}");
}

#[test]
fn who_has_a_wrong_token_is_told_so() {
    let server = Server::start(&[]);
    let output =
        siskin().arg("runs").env("SISKIN_DATA", server.data()).env("SISKIN_TOKEN", "wrong").output().unwrap();
    let (code, shown) = said(&output);
    assert_eq!(code, 1);
    assert!(shown.contains("does not know this token"), "{shown}");
}
