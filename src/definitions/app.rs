//! `apps/*.yaml`: what is deployed, and where to. What the file says is what `apps.NAME` is in expressions; a host that is only a name becomes
//! `{name, ssh: {host}}`, so that readers meet one form.

use std::collections::BTreeSet;

use serde_json::json;

use super::check::no_window;
use super::sheet::{Keys, Sheet, Table};
use super::yaml::{Content, Entry, Node};
use crate::model::{Object, Value};

pub(super) const APP: Keys = Keys {
    of: "an app",
    built: &["description", "owner", "repository", "package", "environments"],
    later: &["notify"],
};
pub(super) const ENVIRONMENT: Keys = Keys {
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
        "balancer",
        "analysis",
        "advertise",
        "source_list",
        "window",
    ],
    later: &["notify"],
};
pub(super) const HOST: Keys = Keys { of: "a host", built: &["name", "ssh", "root", "address"], later: &[] };
pub(super) const SSH: Keys =
    Keys { of: "`ssh`", built: &["host", "port", "user", "key", "known_hosts", "host_keys"], later: &[] };
pub(super) const CHECK: Keys =
    Keys { of: "`check`", built: &["script", "tries", "interval", "timeout"], later: &[] };
pub(super) const CHECK_HTTP: Keys = Keys {
    of: "`check` over HTTP",
    built: &["http", "port", "host", "expect", "contains", "tries", "interval", "timeout"],
    later: &[],
};
pub(super) const CHECK_TCP: Keys =
    Keys { of: "`check` over TCP", built: &["tcp", "tries", "interval", "timeout"], later: &[] };
pub(super) const CHECK_CONSUL: Keys = Keys {
    of: "`check` in Consul",
    built: &["consul", "tag", "address", "datacenter", "tries", "interval", "timeout"],
    later: &[],
};
pub(super) const ANALYSIS: Keys = Keys {
    of: "`analysis`",
    built: &["queries", "alerts", "failure_limit", "inconclusive_limit"],
    later: &[],
};
pub(super) const QUERY: Keys =
    Keys { of: "a query", built: &["name", "query", "max", "min", "empty", "nan"], later: &[] };
pub(super) const VERDICTS: &[&str] = &["healthy", "unhealthy", "inconclusive"];
pub(super) const BALANCER: Keys =
    Keys { of: "`balancer`", built: &["haproxy", "backend", "server", "drain", "ready"], later: &[] };
pub(super) const IN_CONSUL: Keys =
    Keys { of: "`advertise` in Consul", built: &["consul", "address", "datacenter"], later: &[] };
pub(super) const IN_ETCD: Keys = Keys { of: "`advertise` in etcd", built: &["etcd", "address"], later: &[] };
pub(super) const IN_KV: Keys = Keys { of: "`advertise`", built: &["kv"], later: &[] };
pub(super) const OF_CONSUL: Keys = Keys {
    of: "`hosts` from Consul",
    built: &["consul", "tag", "role", "canary", "address", "datacenter", "at_least", "ssh", "roots"],
    later: &[],
};
pub(super) const OF_FILE: Keys =
    Keys { of: "`hosts` from a file", built: &["file", "at_least", "ssh", "roots"], later: &[] };
pub(super) const OF_COMMAND: Keys =
    Keys { of: "`hosts` from a command", built: &["command", "at_least", "ssh", "roots"], later: &[] };
/// What hosts that are found elsewhere have in common.
pub(super) const COMMON_SSH: Keys =
    Keys { of: "`ssh` of hosts", built: &["port", "user", "key", "known_hosts", "host_keys"], later: &[] };

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
        environment.insert("hosts".to_owned(), hosts(sheet, node));
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
    if let Some(balancer) = table.get("balancer").and_then(|node| balancer(sheet, node)) {
        environment.insert("balancer".to_owned(), balancer);
    }
    if let Some(analysis) = table.get("analysis").and_then(|node| analysis(sheet, node)) {
        environment.insert("analysis".to_owned(), analysis);
    }
    if let Some(advertise) = table.get("advertise").and_then(|node| advertise(sheet, node)) {
        environment.insert("advertise".to_owned(), advertise);
    }
    Some(Value::Object(environment))
}

/// Where the version that is to be there is told: a key of Consul, of etcd, or of Siskin's own store.
fn advertise(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    let Content::Map(entries) = &node.content else {
        let help = Some(
            "advertise: {consul: \"{app}::version\"}, {etcd: \"/{app}/version\"} or {kv: \"{app}/version\"}"
                .to_owned(),
        );
        sheet.wrong(node, "`advertise` must say where: a map", help);
        return None;
    };
    let kinds = [("consul", &IN_CONSUL), ("etcd", &IN_ETCD), ("kv", &IN_KV)];
    let said = kinds.into_iter().find(|(kind, _)| entries.iter().any(|entry| entry.key == *kind));
    let (kind, keys) = said.unwrap_or(("kv", &IN_KV));
    let table = sheet.table(node, keys)?;
    let mut advertise = Object::new();
    for key in [kind, "datacenter"] {
        if let Some(node) = table.get(key) {
            advertise.insert(key.to_owned(), json!(sheet.name(node, key)?));
        }
    }
    if let Some(node) = table.get("address") {
        // etcd has several members.
        let addresses = match (kind, &node.content) {
            ("etcd", Content::List(items)) => {
                items.iter().map(|item| sheet.name(item, "address")).collect::<Option<Vec<_>>>()?.join(",")
            }
            _ => sheet.name(node, "address")?,
        };
        advertise.insert("address".to_owned(), json!(addresses));
    }
    table.need(kind)?;
    Some(Value::Object(advertise))
}

/// How a host's health is asked: a shell script, verbatim, or a map that says how, and how often it is tried.
fn check(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    let Content::Map(entries) = &node.content else {
        return sheet.text(node, "check").map(|script| json!({"script": script}));
    };
    let kinds = [("script", &CHECK), ("http", &CHECK_HTTP), ("tcp", &CHECK_TCP), ("consul", &CHECK_CONSUL)];
    let Some((kind, keys)) =
        kinds.into_iter().find(|(kind, _)| entries.iter().any(|entry| entry.key == *kind))
    else {
        let help = Some(
            "check: {http: /health, port: 8080}, {tcp: 8080}, {consul: SERVICE} or {script: ..}".to_owned(),
        );
        sheet.wrong(node, "`check` must say how a host is asked: `http`, `tcp`, `consul` or `script`", help);
        return None;
    };
    let table = sheet.table(node, keys)?;
    let mut check = Object::new();
    let asked = table.need(kind)?;
    let asked = match kind {
        "script" => json!(sheet.text(asked, "script")?),
        "http" => json!(address_to_ask(sheet, asked, table.get("port"))?),
        "tcp" => json!(port(sheet, asked, "tcp")?),
        _ => json!(sheet.name(asked, "consul")?),
    };
    check.insert(kind.to_owned(), asked);
    if let Some(node) = table.get("port") {
        check.insert("port".to_owned(), json!(port(sheet, node, "port")?));
    }
    for key in ["host", "contains", "address", "datacenter"] {
        if let Some(node) = table.get(key) {
            check.insert(key.to_owned(), json!(sheet.name(node, key)?));
        }
    }
    if let Some(node) = table.get("expect") {
        let codes: Vec<u32> = sheet.one_or_list(node).iter().filter_map(|node| status(sheet, node)).collect();
        check.insert("expect".to_owned(), json!(codes));
    }
    if let Some(node) = table.get("tag") {
        let tags: Vec<String> =
            sheet.one_or_list(node).iter().filter_map(|node| sheet.name(node, "tag")).collect();
        check.insert("tag".to_owned(), json!(tags));
    }
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

/// The address that a check asks over HTTP: a path on the host, or a whole one.
fn address_to_ask(sheet: &Sheet<'_>, node: &Node, port: Option<&Node>) -> Option<String> {
    let text = sheet.name(node, "http")?;
    let is_whole = text.starts_with("http://") || text.starts_with("https://");
    if !is_whole && !text.starts_with('/') {
        let help = Some(
            "http: /health asks the host itself; http: \"https://{name}.example.org/health\" says it all"
                .to_owned(),
        );
        sheet.wrong(node, format!("`http` must be a path or an address, not `{text}`"), help);
    }
    if let (true, Some(port)) = (is_whole, port) {
        sheet.wrong(port, "`port` is for a path; an address has its port in itself", None);
    }
    Some(text)
}

fn port(sheet: &Sheet<'_>, node: &Node, what: &str) -> Option<u32> {
    let port = sheet.whole(node, what, 1)?;
    if port > u32::from(u16::MAX) {
        sheet.wrong(node, format!("`{what}` must be a port: 1 to 65535"), None);
    }
    Some(port)
}

fn status(sheet: &Sheet<'_>, node: &Node) -> Option<u32> {
    let code = sheet.whole(node, "expect", 100)?;
    if code > 599 {
        sheet.wrong(node, format!("`expect` must be statuses of HTTP such as 200, not {code}"), None);
    }
    Some(code)
}

/// What is measured of a version there: queries with their bounds, and alerts that must not fire.
fn analysis(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    let table = sheet.table(node, &ANALYSIS)?;
    let mut analysis = Object::new();
    if let Some(node) = table.get("queries") {
        let queries = sheet.list(node, "queries").unwrap_or_default();
        let queries: Vec<Value> = queries.iter().filter_map(|node| query(sheet, node)).collect();
        analysis.insert("queries".to_owned(), json!(queries));
    }
    if let Some(node) = table.get("alerts") {
        let alerts: Vec<String> =
            sheet.one_or_list(node).iter().filter_map(|node| sheet.name(node, "alerts")).collect();
        analysis.insert("alerts".to_owned(), json!(alerts));
    }
    for key in ["failure_limit", "inconclusive_limit"] {
        if let Some(limit) = table.get(key).and_then(|node| sheet.whole(node, key, 0)) {
            analysis.insert(key.to_owned(), json!(limit));
        }
    }
    Some(Value::Object(analysis))
}

fn query(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    let table = sheet.table(node, &QUERY)?;
    let text = sheet.name(table.need("query")?, "query")?;
    let name = table.text("name").unwrap_or_else(|| text.clone());
    let mut query = Object::new();
    query.insert("name".to_owned(), json!(name));
    query.insert("query".to_owned(), json!(text));
    for key in ["max", "min"] {
        if let Some(number) = table.get(key).and_then(|node| sheet.number(node, key)) {
            query.insert(key.to_owned(), json!(number));
        }
    }
    if table.get("max").is_none() && table.get("min").is_none() {
        let help = Some("max: 0.01".to_owned());
        sheet.wrong(node, format!("the query `{name}` says neither `max` nor `min`: what it may be"), help);
    }
    for key in ["empty", "nan"] {
        if let Some(word) = table.get(key).and_then(|node| sheet.word(node, key, VERDICTS)) {
            query.insert(key.to_owned(), json!(word));
        }
    }
    Some(Value::Object(query))
}

/// What gives the hosts their traffic: the sockets of HAProxys, and what the hosts are called there.
fn balancer(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    let table = sheet.table(node, &BALANCER)?;
    let sockets = table.need("haproxy")?;
    let mut balancer = Object::new();
    let mut texts = |key: &'static str, node: &Node| -> Vec<String> {
        let texts: Vec<String> =
            sheet.one_or_list(node).iter().filter_map(|node| sheet.name(node, key)).collect();
        if texts.is_empty() {
            sheet.wrong(node, format!("`{key}` names none"), None);
        }
        balancer.insert(key.to_owned(), json!(texts));
        texts
    };
    for socket in texts("haproxy", sockets) {
        let is_tcp = socket
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !socket.starts_with('/') && !is_tcp {
            let help = Some("haproxy: [/run/haproxy/admin.sock, \"lb2.example.org:9999\"]".to_owned());
            sheet.wrong(sockets, format!("`{socket}` is no socket: the path of one, or HOST:PORT"), help);
        }
    }
    if let Some(node) = table.get("backend") {
        texts("backend", node);
    }
    if let Some(node) = table.get("server") {
        balancer.insert("server".to_owned(), json!(sheet.name(node, "server")?));
    }
    for key in ["drain", "ready"] {
        if let Some(span) = table.get(key).and_then(|node| sheet.span(node, key)) {
            balancer.insert(key.to_owned(), json!(span.to_string()));
        }
    }
    Some(Value::Object(balancer))
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

/// A list of hosts, or a map that says where they are found: `consul`, `file` or `command`.
fn hosts(sheet: &Sheet<'_>, node: &Node) -> Value {
    if let Content::Map(entries) = &node.content {
        let kinds = ["consul", "file", "command"];
        let kind = entries.iter().find_map(|entry| kinds.into_iter().find(|kind| *kind == entry.key));
        let found = match kind {
            Some("consul") => of_consul(sheet, node),
            Some("file") => of_file(sheet, node),
            Some(_) => of_command(sheet, node),
            None => {
                let help = Some("hosts: {consul: shop, tag: app}, {file: PATH} or {command: ...}".to_owned());
                sheet.wrong(node, "`hosts` must be a list, or say where they are found", help);
                None
            }
        };
        return found.map_or(Value::Array(Vec::new()), Value::Object);
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
    Value::Array(hosts)
}

fn of_consul(sheet: &Sheet<'_>, node: &Node) -> Option<Object> {
    let table = sheet.table(node, &OF_CONSUL)?;
    let mut found = Object::new();
    for key in ["consul", "role", "address", "datacenter"] {
        if let Some(node) = table.get(key) {
            found.insert(key.to_owned(), json!(sheet.name(node, key)?));
        }
    }
    if let Some(node) = table.get("tag") {
        let tags: Vec<String> =
            sheet.one_or_list(node).iter().filter_map(|node| sheet.name(node, "tag")).collect();
        found.insert("tag".to_owned(), json!(tags));
    }
    if let (Some(node), Some(_)) = (table.get("role"), table.get("tag")) {
        let help = Some("`role` gives the tag by the convention, `tag` says it".to_owned());
        sheet.wrong(node, "`hosts` have either a `role` or a `tag`", help);
    }
    if let Some(node) = table.get("canary") {
        if table.get("role").is_none() {
            sheet.wrong(node, "`canary` says which tag a `role` has; there is no `role` here", None);
        }
        found.insert("canary".to_owned(), json!(sheet.boolean(node, "canary")));
    }
    with_common(&table, found)
}

fn of_file(sheet: &Sheet<'_>, node: &Node) -> Option<Object> {
    let table = sheet.table(node, &OF_FILE)?;
    let node = table.need("file")?;
    let path = sheet.name(node, "file")?;
    if !path.starts_with('/') {
        sheet.wrong(node, "`file` must be an absolute path: it is read where the work is done", None);
    }
    with_common(&table, [("file".to_owned(), json!(path))].into_iter().collect())
}

fn of_command(sheet: &Sheet<'_>, node: &Node) -> Option<Object> {
    let table = sheet.table(node, &OF_COMMAND)?;
    let node = table.need("command")?;
    // A text is for the shell, a list is a program with its arguments.
    let command = match &node.content {
        Content::List(items) => {
            json!(items.iter().map(|item| sheet.text(item, "command")).collect::<Option<Vec<String>>>()?)
        }
        _ => json!(sheet.text(node, "command")?),
    };
    if command.as_array().is_some_and(Vec::is_empty) || command == "" {
        sheet.wrong(node, "`command` names no program", None);
    }
    with_common(&table, [("command".to_owned(), command)].into_iter().collect())
}

/// How hosts that are found elsewhere are reached, and how few are too few.
fn with_common(table: &Table<'_>, mut found: Object) -> Option<Object> {
    let sheet = table.sheet;
    if let Some(node) = table.get("at_least") {
        found.insert("at_least".to_owned(), json!(sheet.whole(node, "at_least", 1)?));
    }
    if let Some(node) = table.get("roots") {
        let path = sheet.name(node, "roots")?;
        if !path.starts_with('/') {
            sheet.wrong(node, "`roots` must be an absolute path", None);
        }
        found.insert("roots".to_owned(), json!(path));
    }
    if let Some(node) = table.get("ssh") {
        found.insert("ssh".to_owned(), Value::Object(ssh(&sheet.table(node, &COMMON_SSH)?)));
    }
    Some(found)
}

/// The keys of `ssh` but for the host.
fn ssh(table: &Table<'_>) -> Object {
    let sheet = table.sheet;
    let mut ssh = Object::new();
    if let Some(port) = table.get("port").and_then(|node| sheet.whole(node, "port", 1)) {
        ssh.insert("port".to_owned(), json!(port));
    }
    for key in ["user", "key", "known_hosts"] {
        if let Some(text) = table.text(key) {
            ssh.insert(key.to_owned(), json!(text));
        }
    }
    let host_keys = table.get("host_keys");
    if let Some(word) = host_keys.and_then(|node| sheet.word(node, "host_keys", &["strict", "accept_new"])) {
        ssh.insert("host_keys".to_owned(), json!(word));
    }
    ssh
}

fn host(sheet: &Sheet<'_>, node: &Node) -> Option<Value> {
    if matches!(node.content, Content::Scalar(_)) {
        let name = sheet.name(node, "hosts")?;
        return Some(json!({"name": name, "ssh": {"host": name}}));
    }
    let table = sheet.table(node, &HOST)?;
    let name = sheet.name(table.need("name")?, "name")?;
    let mut host = match (table.get("ssh"), table.get("root")) {
        (None, None) => json!({"name": name, "ssh": {"host": name}}),
        (Some(node), None) => {
            let table = sheet.table(node, &SSH)?;
            let mut found = Object::new();
            found.insert("host".to_owned(), json!(table.text("host").unwrap_or_else(|| name.clone())));
            found.extend(ssh(&table));
            json!({"name": name, "ssh": found})
        }
        (None, Some(node)) => json!({"name": name, "root": sheet.name(node, "root")?}),
        (Some(_), Some(root)) => {
            sheet.wrong(root, "a host is reached by `ssh` or is a `root` on this machine, not both", None);
            return None;
        }
    };
    if let Some(node) = table.get("address") {
        host["address"] = json!(sheet.name(node, "address")?);
    }
    Some(host)
}
