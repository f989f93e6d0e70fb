//! C16: a server that is killed in the middle of a build leaves no process, and, once the run has ended, no workspace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::server::{PATIENCE, Server, until};

/// Commits what stands there; the hash.
fn commit(folder: &Path) -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git")
            .current_dir(folder)
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet", "--initial-branch=main"]);
    git(&["add", "-A"]);
    git(&["commit", "--quiet", "-m", "first"]);
    git(&["rev-parse", "HEAD"])
}

fn entries(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).into_iter().flatten().flatten();
    items.map(|item| item.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_build_that_was_killed_leaves_no_workspace_and_is_done_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (origin, gate, begun) =
        (scratch.path().join("shop"), scratch.path().join("gate"), scratch.path().join("begun"));
    fs::create_dir_all(origin.join("script")).unwrap();
    let build = format!(
        "#!/bin/sh\necho $$ >>{}\nwhile [ ! -e {} ]; do sleep 0.05; done\nmkdir -p deps; echo made >deps/made\n",
        begun.display(),
        gate.display()
    );
    fs::write(origin.join("script/cibuild"), build).unwrap();
    fs::set_permissions(origin.join("script/cibuild"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(origin.join("fpm.json"), r#"{"version": "1"}"#).unwrap();
    let commit = commit(&origin);

    let mut server = Server::start(&[]);
    let with =
        json!({"repository": format!("file://{}", origin.display()), "commit": commit, "cache": ["deps"]});
    let run = server.post("/runs", &json!({"run": "ci.build", "with": with}))["id"].as_i64().unwrap();
    let pid =
        until(PATIENCE, || fs::read_to_string(&begun).ok().filter(|text| text.ends_with('\n'))).unwrap();
    server.kill();
    let is_gone = || (!Path::new("/proc").join(pid.trim()).exists()).then_some(());
    assert!(until(PATIENCE, is_gone).is_some(), "the build outlived its server");
    assert_eq!(entries(&server.data().join("workspaces")), [run.to_string()]);
    // One of a run that nobody knows any more: as after a database was put back.
    fs::create_dir_all(server.data().join("workspaces/0/source")).unwrap();
    fs::write(&gate, "").unwrap();
    server.run();
    let ended = server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let is_clean = || entries(&server.data().join("workspaces")).is_empty().then_some(());
    assert!(until(PATIENCE, is_clean).is_some(), "{:?}", entries(&server.data().join("workspaces")));
    assert_eq!(fs::read_to_string(&begun).unwrap().lines().count(), 2, "it was begun again once");
    let parts = entries(&server.data().join("cache/ci"));
    assert!(parts.len() == 1 && parts[0].ends_with(".tar.zst"), "{parts:?}");
}
