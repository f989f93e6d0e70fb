//! `apps/*.yaml`: what is deployed, and where to. What the file says is what `apps.NAME` is in expressions; a host that is only a name becomes
//! `{name, ssh: {host}}`, so that readers meet one form.

use std::collections::BTreeSet;

use serde_json::json;

use super::check::no_window;
use super::sheet::{Keys, Sheet};
use super::yaml::{Content, Entry, Node};
use crate::model::{Object, Value};

const APP: Keys = Keys {
    of: "an app",
    built: &["description", "owner", "repository", "package", "environments"],
    later: &["notify"],
};
const ENVIRONMENT: Keys = Keys {
    of: "an environment",
    built: &[
        "description",
        "hosts",
        "suite",
        "batch",
        "max_unavailable",
        "approvers",
        "bake",
        "check",
        "source_list",
        "window",
    ],
    later: &["notify"],
};
const HOST: Keys = Keys { of: "a host", built: &["name", "ssh", "root"], later: &[] };
const SSH: Keys =
    Keys { of: "`ssh`", built: &["host", "port", "user", "key", "known_hosts", "host_keys"], later: &[] };
const CHECK: Keys = Keys { of: "`check`", built: &["script", "tries", "interval", "timeout"], later: &[] };
const HOSTS_LATER: [&str; 3] = ["consul", "file", "command"];

/// Reads an app file. `windows` are those of siskin.yaml, if that could be read.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, windows: Option<&BTreeSet<String>>) -> Option<Value> {
    let table = sheet.table(node, &APP)?;
    let mut app = Object::new();
    for key in ["description", "owner", "repository", "package"] {
        if let Some(node) = table.get(key) {
            app.insert(key.to_owned(), json!(sheet.name(node, key)));
        }
    }
    if let Some(node) = table.get("environments") {
        let mut environments = Object::new();
        for entry in sheet.entries(node, "`environments`").unwrap_or_default() {
            check_name(sheet, entry);
            if let Some(environment) = environment(sheet, &entry.value, windows) {
                environments.insert(entry.key.clone(), environment);
            }
        }
        app.insert("environments".to_owned(), Value::Object(environments));
    }
    Some(Value::Object(app))
}

fn check_name(sheet: &Sheet<'_>, entry: &Entry) {
    if !super::is_app_name(&entry.key) {
        let message = format!(
            "`{}` is no name of an environment: small letters, digits, `_` and `-`, a letter first",
            entry.key
        );
        sheet.report(entry.line, entry.column, message, None);
    }
}

fn environment(sheet: &Sheet<'_>, node: &Node, windows: Option<&BTreeSet<String>>) -> Option<Value> {
    let table = sheet.table(node, &ENVIRONMENT)?;
    let mut environment = Object::new();
    if let Some(node) = table.need("hosts") {
        environment.insert("hosts".to_owned(), Value::Array(hosts(sheet, node)));
    }
    for key in ["description", "suite", "source_list"] {
        if let Some(node) = table.get(key) {
            environment.insert(key.to_owned(), json!(sheet.name(node, key)));
        }
    }
    for key in ["batch", "max_unavailable"] {
        if let Some(node) = table.get(key) {
            environment.insert(key.to_owned(), share(sheet, node, key));
        }
    }
    if let Some(node) = table.get("approvers") {
        let names: Vec<String> =
            sheet.one_or_list(node).iter().filter_map(|node| sheet.name(node, "approvers")).collect();
        environment.insert("approvers".to_owned(), json!(names));
    }
    if let Some(span) = table.get("bake").and_then(|node| sheet.span(node, "bake")) {
        environment.insert("bake".to_owned(), json!(span.to_string()));
    }
    if let Some(node) = table.get("window") {
        let name = sheet.name(node, "window")?;
        if let Some(windows) = windows.filter(|windows| !windows.contains(&name)) {
            sheet.wrong(node, format!("there is no window `{name}`"), no_window(&name, windows));
        }
        environment.insert("window".to_owned(), json!(name));
    }
    if let Some(check) = table.get("check").and_then(|node| check(sheet, node)) {
        environment.insert("check".to_owned(), check);
    }
    Some(Value::Object(environment))
}

/// How a host's health is asked: a shell script, verbatim, or that and how often it is tried.
fn check(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    if matches!(node.content, Content::Scalar(_)) {
        return sheet.text(node, "check").map(|script| json!({"script": script}));
    }
    let table = sheet.table(node, &CHECK)?;
    let mut check = Object::new();
    check.insert("script".to_owned(), json!(sheet.text(table.need("script")?, "script")?));
    if let Some(tries) = table.get("tries").and_then(|node| sheet.whole(node, "tries", 1)) {
        check.insert("tries".to_owned(), json!(tries));
    }
    for key in ["interval", "timeout"] {
        if let Some(span) = table.get(key).and_then(|node| sheet.span(node, key)) {
            check.insert(key.to_owned(), json!(span.to_string()));
        }
    }
    Some(Value::Object(check))
}

/// A number of hosts, or a percentage of them.
fn share(sheet: &Sheet<'_>, node: &Node, what: &str) -> Value {
    let Some(text) = sheet.name(node, what) else { return Value::Null };
    if let Ok(number) = text.parse::<u32>()
        && number > 0
    {
        return json!(number);
    }
    let percent = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
    if !percent.is_some_and(|percent| (1..=100).contains(&percent)) {
        sheet.wrong(
            node,
            format!("`{what}` must be a number of hosts or a percentage such as 25%, not `{text}`"),
            None,
        );
    }
    Value::String(text)
}

fn hosts(sheet: &Sheet<'_>, node: &Node) -> Vec<Value> {
    if let Content::Map(entries) = &node.content {
        match entries.iter().find(|entry| HOSTS_LATER.contains(&entry.key.as_str())) {
            Some(entry) => {
                let message = format!("hosts from `{}` are not built yet in this version", entry.key);
                sheet.report(entry.line, entry.column, message, Some("name the hosts in a list".to_owned()));
            }
            None => sheet.wrong(node, "`hosts` must be a list", None),
        }
        return Vec::new();
    }
    let mut hosts: Vec<Value> = Vec::new();
    for item in sheet.list(node, "hosts").unwrap_or_default() {
        let Some(host) = host(sheet, item) else { continue };
        if hosts.iter().any(|other| other["name"] == host["name"]) {
            let name = host["name"].as_str().unwrap_or_default();
            sheet.wrong(item, format!("the host `{name}` stands here twice"), None);
        }
        hosts.push(host);
    }
    hosts
}

fn host(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    if matches!(node.content, Content::Scalar(_)) {
        let name = sheet.name(node, "hosts")?;
        return Some(json!({"name": name, "ssh": {"host": name}}));
    }
    let table = sheet.table(node, &HOST)?;
    let name = sheet.name(table.need("name")?, "name")?;
    match (table.get("ssh"), table.get("root")) {
        (None, None) => Some(json!({"name": name, "ssh": {"host": name}})),
        (Some(node), None) => {
            let table = sheet.table(node, &SSH)?;
            let mut ssh = Object::new();
            ssh.insert("host".to_owned(), json!(table.text("host").unwrap_or_else(|| name.clone())));
            if let Some(port) = table.get("port").and_then(|node| sheet.whole(node, "port", 1)) {
                ssh.insert("port".to_owned(), json!(port));
            }
            for key in ["user", "key", "known_hosts"] {
                if let Some(text) = table.text(key) {
                    ssh.insert(key.to_owned(), json!(text));
                }
            }
            let host_keys = table.get("host_keys");
            if let Some(word) =
                host_keys.and_then(|node| sheet.word(node, "host_keys", &["strict", "accept_new"]))
            {
                ssh.insert("host_keys".to_owned(), json!(word));
            }
            Some(json!({"name": name, "ssh": ssh}))
        }
        (None, Some(node)) => Some(json!({"name": name, "root": sheet.name(node, "root")?})),
        (Some(_), Some(root)) => {
            sheet.wrong(root, "a host is reached by `ssh` or is a `root` on this machine, not both", None);
            None
        }
    }
}
