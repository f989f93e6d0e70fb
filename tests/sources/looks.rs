//! `file`, `http_poll` and `git_branch`: what is looked at every so often.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{payloads, start, wait_for_events, wait_for_health, wait_until_watching};

/// `WORD NAME` of each.
fn words(payloads: &[Value], name: &str) -> Vec<String> {
    let text = |payload: &Value, key: &str| payload[key].as_str().unwrap().to_owned();
    payloads.iter().map(|payload| format!("{} {}", text(payload, "change"), text(payload, name))).collect()
}

#[test]
fn files_that_come_change_and_go_are_seen_over_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("old.deb"), "1").unwrap();
    let text =
        format!("kind: file\ntrigger: file\npath: {}\nglob: \"*.deb\"\nevery: 1s\n", folder.path().display());
    let mut server = start(&[("sources/debs.yaml", &text)]);
    wait_until_watching(&server, "site.debs");
    fs::write(path("a.deb"), "1").unwrap();
    fs::write(path("a.txt"), "1").unwrap();
    assert_eq!(words(&wait_for_events(&server, "site.debs", 1), "name"), ["created a.deb"]);
    server.kill();
    fs::write(path("a.deb"), "22").unwrap();
    fs::remove_file(path("old.deb")).unwrap();
    server.run();
    let seen = wait_for_events(&server, "site.debs", 3);
    let mut last = words(&seen[1..], "name");
    last.sort();
    assert_eq!(last, ["changed a.deb", "deleted old.deb"]);

    // A disk that is gone is no deletion.
    let elsewhere = folder.path().with_extension("elsewhere");
    fs::rename(folder.path(), &elsewhere).unwrap();
    let health = wait_for_health(&server, "site.debs", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("can't be read"), "{health}");
    fs::rename(&elsewhere, folder.path()).unwrap();
    wait_for_health(&server, "site.debs", |health| health["state"] == "watching");
    assert_eq!(payloads(&server, "site.debs").len(), 3);
}

/// What a server answers, and what it was asked.
#[derive(Default)]
struct Page {
    body: String,
    status: u16,
    asked: Vec<String>,
}

/// A server whose answer has its own text as its tag; gives its URL.
fn serve(page: &Arc<Mutex<Page>>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let page = Arc::clone(page);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
            let head: Vec<String> =
                lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let head = head.join("\n").to_lowercase();
            let mut page = page.lock().unwrap();
            let tag = format!("\"{}\"", page.body.len());
            let (status, body) = match head.contains(&format!("if-none-match: {tag}")) {
                true => (304, String::new()),
                false => (page.status, page.body.clone()),
            };
            page.asked.push(head);
            let answer = format!(
                "HTTP/1.1 {status} X\r\nETag: {tag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            (&connection).write_all(answer.as_bytes()).ok();
        }
    });
    url
}

#[test]
fn new_elements_of_an_answer_are_events_once_and_nothing_new_is_not_fetched() {
    let page =
        Arc::new(Mutex::new(Page { body: json!([{"id": 1}]).to_string(), status: 200, asked: vec![] }));
    let url = serve(&page);
    let text = format!(
        "kind: http_poll\ntrigger: polled\nurl: {url}/feed\nheaders: {{X-Key: \"{{{{ secret('key') }}}}\"}}\nevery: 1s\n"
    );
    let mut server = start(&[
        ("sources/items.yaml", &format!("{text}each: body\ndedup: \"{{{{ item.id }}}}\"\n")),
        ("sources/whole.yaml", &text),
    ]);
    server.set_secret("key", "k3y");
    wait_until_watching(&server, "site.items");
    wait_until_watching(&server, "site.whole");
    let publish = |ids: &[u32]| {
        let items: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
        page.lock().unwrap().body = json!(items).to_string();
    };
    publish(&[2, 1]);
    assert_eq!(wait_for_events(&server, "site.items", 1), [json!({"id": 2})]);
    assert_eq!(wait_for_events(&server, "site.whole", 1), [json!([{"id": 2}, {"id": 1}])]);
    server.kill();
    publish(&[4, 3, 2, 1]);
    server.run();
    assert_eq!(wait_for_events(&server, "site.items", 3)[1..], [json!({"id": 4}), json!({"id": 3})]);

    page.lock().unwrap().status = 500;
    publish(&[5, 4, 3, 2, 1]);
    let health = wait_for_health(&server, "site.items", |health| health["state"] == "failing");
    assert_eq!(health["problem"], "127.0.0.1 answered 500 Internal Server Error");
    page.lock().unwrap().status = 200;
    assert_eq!(wait_for_events(&server, "site.items", 4)[3], json!({"id": 5}));
    let asked = page.lock().unwrap().asked.clone();
    assert!(asked.iter().all(|head| head.contains("x-key: k3y")));
    assert!(asked.iter().filter(|head| head.contains("if-none-match: ")).count() > 2, "{asked:?}");
}

fn git(folder: &Path, args: &[&str]) -> String {
    let done = Command::new("git")
        .args(["-c", "user.name=Ana", "-c", "user.email=ana@example.com", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[test]
fn branches_that_come_move_and_go_are_seen_over_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let commit = |message: &str| {
        git(folder.path(), &["commit", "--quiet", "--allow-empty", "-m", message]);
        git(folder.path(), &["rev-parse", "HEAD"])
    };
    git(folder.path(), &["init", "--quiet"]);
    let first = commit("one");
    let text = format!(
        "kind: git_branch\ntrigger: branch\nurl: {}\nbranch: [main, \"release/*\"]\nevery: 1s\n",
        folder.path().display()
    );
    let mut server = start(&[("sources/repo.yaml", &text)]);
    wait_until_watching(&server, "site.repo");
    let second = commit("two");
    git(folder.path(), &["branch", "other"]);
    let seen = wait_for_events(&server, "site.repo", 1);
    assert_eq!((&seen[0]["before"], &seen[0]["after"]), (&json!(first), &json!(second)));
    assert_eq!((&seen[0]["branch"], &seen[0]["ref"]), (&json!("main"), &json!("refs/heads/main")));
    server.kill();
    git(folder.path(), &["branch", "release/1"]);
    commit("three");
    server.run();
    let seen = wait_for_events(&server, "site.repo", 3);
    assert_eq!(words(&seen, "branch"), ["moved main", "moved main", "created release/1"]);
    git(folder.path(), &["branch", "--quiet", "-D", "release/1"]);
    assert_eq!(words(&wait_for_events(&server, "site.repo", 4), "branch")[3], "deleted release/1");
}
