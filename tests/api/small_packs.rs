//! The small packs that ship: prometheus, alertmanager, http, haproxy and ssh, from a run's input to the wire.
//!
//! Prometheus and Alertmanager are stand-ins by their wire contract. HAProxy is the real one, where `haproxy` is in the PATH or `SISKIN_TEST_HAPROXY` names
//! it, and else a stand-in of its socket; sshd is real, and skipped where there is none.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use siskin::definitions::{Definitions, Files};

use crate::git_and_ssh::sshd;
use crate::support::server::{PATIENCE, Server, until};

/// A Prometheus, an Alertmanager and a service that comes up late, in one.
#[derive(Clone, Default)]
struct Monitoring {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    silences: Vec<Value>,
    /// Of the last request.
    authorization: Option<String>,
    looks: u32,
}

struct Stage {
    server: Server,
    monitoring: Monitoring,
    url: String,
    _runtime: tokio::runtime::Runtime,
}

/// A server whose packs speak with the stand-in; with a token where `token` says so.
fn stage(token: bool, files: &[(&str, &str)]) -> Stage {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let monitoring = Monitoring::default();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(monitoring.clone());
    runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let more = if token { ", token_secret: monitoring_token" } else { "" };
    let settings = format!(
        "config:\n  prometheus: {{url: \"{url}/\"{more}}}\n  alertmanager: {{url: \"{url}\"{more}}}\n"
    );
    let mut all = vec![("siskin.yaml", settings.as_str())];
    all.extend_from_slice(files);
    let server = Server::start(&all);
    if token {
        server.set_secret("monitoring_token", "t0ken-of-monitoring");
    }
    Stage { server, monitoring, url, _runtime: runtime }
}

async fn answer(State(monitoring): State<Monitoring>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut inner = monitoring.inner.lock().unwrap();
    inner.authorization = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let path = head.uri.path();
    let json = |value: Value| axum::Json(value).into_response();
    match (&head.method, path) {
        (&Method::POST, "/api/v1/query") => prometheus(std::str::from_utf8(&body).unwrap()),
        (&Method::GET, "/api/v1/alerts") => json(json!({"status": "success", "data": {"alerts": [
            {"labels": {"alertname": "Slow", "app": "shop"}, "annotations": {}, "state": "firing", "value": "1e+00"},
            {"labels": {"alertname": "Full", "app": "shop"}, "annotations": {}, "state": "pending", "value": "1e+00"},
            {"labels": {"alertname": "Down", "app": "blog"}, "annotations": {}, "state": "firing", "value": "1e+00"},
        ]}})),
        (&Method::GET, "/api/v2/alerts") => {
            assert!(head.uri.query().unwrap().contains("filter=app%3D%22shop%22"), "{}", head.uri);
            json(
                json!([{"labels": {"alertname": "Slow", "app": "shop"}, "fingerprint": "f", "status": {"state": "active"}}]),
            )
        }
        (&Method::GET, "/api/v2/silences") => json(Value::Array(inner.silences.clone())),
        (&Method::POST, "/api/v2/silences") => {
            let mut silence: Value = serde_json::from_slice(&body).unwrap();
            let id = format!("id-{}", inner.silences.len());
            silence["id"] = json!(id);
            silence["status"] = json!({"state": "active"});
            inner.silences.push(silence);
            json(json!({"silenceID": id}))
        }
        (_, "/late") => {
            inner.looks += 1;
            let status = if inner.looks < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            (status, "warming up").into_response()
        }
        (_, "/echo") => {
            let header = head.headers.get("x-who").map(|value| value.to_str().unwrap().to_owned());
            let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
            json(
                json!({"method": head.method.as_str(), "who": header, "sent": sent, "query": head.uri.query()}),
            )
        }
        (method, path) => match path.strip_prefix("/api/v2/silence/") {
            Some(id) => {
                let Some(silence) = inner.silences.iter_mut().find(|silence| silence["id"] == id) else {
                    return StatusCode::NOT_FOUND.into_response();
                };
                if method == Method::DELETE {
                    silence["status"]["state"] = json!("expired");
                }
                axum::Json(silence.clone()).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

fn prometheus(form: &str) -> Response {
    let series = |value: &str| json!({"metric": {"job": "shop"}, "value": [1.5, value]});
    let (kind, result) = match form {
        "query=one" => ("vector", json!([series("0.25")])),
        "query=two" => ("vector", json!([series("1"), series("2")])),
        "query=none" => ("vector", json!([])),
        "query=nan" => ("vector", json!([series("NaN")])),
        "query=scalar%283%29" => ("scalar", json!([1.5, "3"])),
        wrong => {
            let body =
                json!({"status": "error", "errorType": "bad_data", "error": format!("parse error: {wrong}")});
            return (StatusCode::BAD_REQUEST, axum::Json(body)).into_response();
        }
    };
    axum::Json(json!({"status": "success", "data": {"resultType": kind, "result": result}})).into_response()
}

/// The output of an action or workflow that must succeed.
fn output(server: &Server, run: &str, with: Value) -> Value {
    let done = server.run_to_end(run, with);
    assert_eq!(done["status"], "succeeded", "{run}: {done}");
    done["output"].clone()
}

/// Why one failed that must fail.
fn problem(server: &Server, run: &str, with: Value) -> String {
    let done = server.run_to_end(run, with);
    assert_eq!(done["status"], "failed", "{run}: {done}");
    done["error"]["message"].as_str().unwrap().to_owned()
}

const BAKE: &str = "steps:
  - id: bake
    watch:
      for: 30s
      check:
        run: prometheus.query
        with: {query: one}
        every: 1s
        healthy: output.is_empty || output.value < 0.1
";

#[test]
fn prometheus_is_asked_and_a_watch_ends_on_what_it_says() {
    let stage = stage(true, &[("workflows/bake.yaml", BAKE)]);
    let server = &stage.server;
    let query = |text: &str| output(server, "prometheus.query", json!({"query": text}));
    let one = query("one");
    assert_eq!((&one["value"], &one["is_empty"], &one["count"]), (&json!(0.25), &json!(false), &json!(1)));
    assert_eq!(one["result"][0]["metric"]["job"], "shop");
    let authorization = stage.monitoring.inner.lock().unwrap().authorization.clone();
    assert_eq!(authorization.as_deref(), Some("Bearer t0ken-of-monitoring"));
    assert_eq!((&query("two")["value"], &query("two")["count"]), (&Value::Null, &json!(2)));
    let none = query("none");
    assert_eq!((&none["value"], &none["is_empty"], &none["count"]), (&Value::Null, &json!(true), &json!(0)));
    assert_eq!((&query("nan")["value"], &query("nan")["is_empty"]), (&Value::Null, &json!(false)));
    assert_eq!((&query("scalar(3)")["value"], &query("scalar(3)")["count"]), (&json!(3.0), &json!(1)));
    let why = problem(server, "prometheus.query", json!({"query": "sum("}));
    assert!(why.contains("400") && why.contains("parse error"), "{why}");

    let alerts = output(server, "prometheus.alerts", json!({"labels": {"app": "shop"}}));
    assert_eq!((&alerts["names"], &alerts["count"]), (&json!(["Slow"]), &json!(1)), "{alerts}");
    let alerts = output(server, "prometheus.alerts", json!({"state": "any"}));
    assert_eq!((&alerts["count"], &alerts["is_empty"]), (&json!(3), &json!(false)));

    let bake = server.run_to_end("site.bake", json!({}));
    assert_eq!(bake["status"], "failed", "{bake}");
}

const QUIET: &str = "steps:
  - id: quiet
    run: alertmanager.silence_create
    with: {matchers: ['app=\"shop\"', 'instance=~\"web.*\"', severity!=page], for: 30m, comment: roll}
    undo: {run: alertmanager.silence_expire, with: {id: \"{{ steps.quiet.output.id }}\"}}
  - {id: broken, run: core.fail}
";

#[test]
fn alerts_are_listed_and_a_silence_goes_with_the_run_that_made_it() {
    let stage = stage(false, &[("workflows/quiet.yaml", QUIET)]);
    let server = &stage.server;
    let alerts = output(server, "alertmanager.alerts", json!({"filter": ["app=\"shop\""]}));
    assert_eq!((&alerts["names"], &alerts["count"]), (&json!(["Slow"]), &json!(1)));
    assert_eq!(stage.monitoring.inner.lock().unwrap().authorization, None, "no token is configured");

    let run = server.run_to_end("site.quiet", json!({}));
    assert_eq!((&run["status"], &run["undone"]), (&json!("failed"), &json!("all")), "{run}");
    let silence = stage.monitoring.inner.lock().unwrap().silences[0].clone();
    assert_eq!(silence["status"]["state"], "expired");
    let comment = format!("roll (run {}, step quiet)", run["id"]);
    assert_eq!((&silence["comment"], &silence["createdBy"]), (&json!(comment), &json!("siskin")));
    let matchers = json!([
        {"name": "app", "value": "shop", "isRegex": false, "isEqual": true},
        {"name": "instance", "value": "web.*", "isRegex": true, "isEqual": true},
        {"name": "severity", "value": "page", "isRegex": false, "isEqual": false},
    ]);
    assert_eq!(silence["matchers"], matchers);
    let time = |key: &str| silence[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time("endsAt").as_second() - time("startsAt").as_second(), 1800);

    let again = output(server, "alertmanager.silence_expire", json!({"id": "id-0"}));
    assert_eq!(again["expired"], false, "it had ended already");
    let why = problem(server, "alertmanager.silence_expire", json!({"id": "other"}));
    assert!(why.contains("knows no silence other"), "{why}");
    let why = problem(server, "alertmanager.silence_create", json!({"matchers": ["shop"]}));
    assert!(why.contains("`shop` is no matcher"), "{why}");
    let listed = output(server, "alertmanager.silences", json!({"state": "expired"}));
    assert_eq!((&listed["count"], &listed["silences"][0]["id"]), (&json!(1), &json!("id-0")));
}

const WAIT: &str = "input: {url: string}
steps:
  - id: up
    run: http.probe
    with: {url: \"{{ input.url }}\"}
    until: output.ok
    every: 1s
    timeout: 1m
output: {status: \"{{ steps.up.output.status }}\"}
";

#[test]
fn a_request_says_what_came_of_it_and_a_probe_waits_for_a_service() {
    let stage = stage(false, &[("workflows/wait.yaml", WAIT)]);
    let (server, url) = (&stage.server, &stage.url);
    let with = json!({"method": "PUT", "url": format!("{url}/echo"), "headers": {"X-Who": "ada"}, "json": {"a": [1]}, "query": {"q": "x y"}});
    let done = output(server, "http.request", with);
    let body = json!({"method": "PUT", "who": "ada", "sent": {"a": [1]}, "query": "q=x+y"});
    assert_eq!((&done["status"], &done["body"]), (&json!(200), &body));
    let why = problem(server, "http.request", json!({"url": format!("{url}/nothing")}));
    assert!(why.contains("404"), "{why}");
    let done = output(server, "http.request", json!({"url": format!("{url}/nothing"), "expect": [404]}));
    assert_eq!(done["status"], 404);

    assert_eq!(output(server, "site.wait", json!({"url": format!("{url}/late")}))["status"], 200);
    assert_eq!(stage.monitoring.inner.lock().unwrap().looks, 3);
    let look = |with: Value| output(server, "http.probe", with);
    let wrong = look(json!({"url": format!("{url}/late"), "contains": "ready"}));
    assert_eq!((&wrong["ok"], &wrong["problem"]), (&json!(false), &json!("the body does not hold `ready`")));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = look(json!({"url": format!("http://{closed}/")}));
    assert_eq!((&nobody["ok"], &nobody["status"]), (&json!(false), &Value::Null));
}

/// An HAProxy with a backend `shop` of `web1` (not checked) and `web2` (its check fails).
struct Haproxy {
    socket: String,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Haproxy {
    fn start() -> Haproxy {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock").display().to_string();
        let Some(program) = program() else {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = listener.local_addr().unwrap().to_string();
            std::thread::spawn(move || stand_in(&listener));
            return Haproxy { socket, folder, child: None };
        };
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "global\n stats socket {path} mode 600 level admin\n stats socket {path}.user mode 600 level user\ndefaults\n mode http\n timeout connect 1s\n timeout client 9s\n timeout server 9s\nfrontend f\n bind 127.0.0.1:{}\n default_backend shop\nbackend shop\n server web1 127.0.0.1:{} weight 100\n server web2 127.0.0.1:{} check inter 100 fall 1 weight 100\n",
            free(),
            free(),
            free()
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let child = Command::new(program)
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let haproxy = Haproxy { socket: path, folder, child: Some(child) };
        let up = until(PATIENCE, || {
            let mut stream = std::os::unix::net::UnixStream::connect(&haproxy.socket).ok()?;
            stream.write_all(b"show stat\n").ok()?;
            BufReader::new(stream)
                .lines()
                .map_while(Result::ok)
                .find(|line| line.starts_with("shop,web2") && line.contains(",DOWN,"))
        });
        assert!(up.is_some(), "HAProxy did not come up in {}", haproxy.folder.path().display());
        haproxy
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SISKIN_TEST_HAPROXY") {
        return Some(named.into());
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("haproxy")).find(|path| path.is_file())
}

/// HAProxy's socket: a line, an answer that ends with an empty line, and the end.
fn stand_in(listener: &TcpListener) {
    let mut servers: BTreeMap<String, (u8, u32)> =
        [("web1".to_owned(), (0, 100)), ("web2".to_owned(), (0, 100))].into();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words.as_slice() {
            ["show", "stat"] => statistics(&servers),
            ["show", "servers", "state", "shop"] => {
                let rows = servers.iter().map(|(name, (admin, weight))| {
                    format!(
                        "3 shop 1 {name} 127.0.0.1 2 {admin} {weight} 100 5 1 0 0 0 0 0 0 - 80 - 0 0 - - 0\n"
                    )
                });
                format!(
                    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n{}",
                    rows.collect::<String>()
                )
            }
            ["show", "servers", "state", _] => "Can't find backend.\n".to_owned(),
            ["set", "server", path, what, value] => {
                let server = servers.get_mut(path.strip_prefix("shop/").unwrap()).unwrap();
                match (*what, *value) {
                    ("state", state) => {
                        server.0 = [("maint", 1), ("drain", 8), ("ready", 0)]
                            .iter()
                            .find(|(name, _)| *name == state)
                            .unwrap()
                            .1
                    }
                    ("weight", "300") => {
                        stream
                            .write_all(b"Absolute weight can only be between 0 and 256 inclusive.\n\n")
                            .unwrap();
                        continue;
                    }
                    (_, weight) => server.1 = weight.trim_end_matches('%').parse().unwrap(),
                }
                String::new()
            }
            _ => "Unknown command\n".to_owned(),
        };
        stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
}

fn statistics(servers: &BTreeMap<String, (u8, u32)>) -> String {
    let mut text = "# pxname,svname,qcur,qmax,scur,status,weight,\n".to_owned();
    for (name, (admin, weight)) in servers {
        let status = match (*admin, name.as_str()) {
            (1, _) => "MAINT",
            (8, _) => "DRAIN",
            (_, "web2") => "DOWN",
            _ => "no check",
        };
        text += &format!("shop,{name},0,0,0,{status},{weight},\n");
    }
    text + "shop,BACKEND,0,0,0,UP,100,\n"
}

#[test]
fn servers_of_an_haproxy_are_drained_weighed_and_taken_back() {
    let haproxy = Haproxy::start();
    let settings = format!("config: {{haproxy: {{socket: \"{}\"}}}}\n", haproxy.socket);
    let server = Server::start(&[("siskin.yaml", &settings)]);
    let of = |name: &str, more: Value| {
        let mut with = json!({"backend": "shop", "server": name});
        with.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with
    };
    let states = || {
        let done = output(&server, "haproxy.servers", json!({"backend": "shop"}));
        let states: Vec<_> =
            done["servers"].as_array().unwrap().iter().map(|server| server["state"].clone()).collect();
        (states, done["up"].clone())
    };
    assert_eq!(states(), (vec![json!("up"), json!("down")], json!(["web1"])));
    let drained = output(&server, "haproxy.drain", of("web1", json!({})));
    assert_eq!((&drained["state"], &drained["changed"]), (&json!("drain"), &json!(true)), "{drained}");
    assert_eq!(drained["was"], json!({"state": "up", "weight": 100}));
    let again = output(&server, "haproxy.drain", of("web1", json!({})));
    assert_eq!(again["changed"], false);
    assert_eq!(states().1, json!([]));
    assert_eq!(output(&server, "haproxy.maint", of("web1", json!({})))["state"], "maint");
    assert_eq!(output(&server, "haproxy.ready", of("web1", json!({})))["state"], "up");
    assert_eq!(output(&server, "haproxy.weight", of("web1", json!({"weight": "25%"})))["weight"], 25);

    let why = problem(&server, "haproxy.ready", of("web2", json!({"wait": "1s"})));
    assert!(why.contains("`shop/web2` did not become as asked within 1s: it is DOWN"), "{why}");
    let why = problem(&server, "haproxy.weight", of("web1", json!({"weight": "300"})));
    assert!(why.contains("between 0 and 256"), "{why}");
    let why = problem(&server, "haproxy.drain", of("web9", json!({})));
    assert!(why.contains("has no server `web9`; it has web1, web2"), "{why}");
    let why = problem(&server, "haproxy.servers", json!({"backend": "shoe"}));
    assert!(why.contains("no backend `shoe`; it has shop"), "{why}");
    let why =
        problem(&server, "haproxy.servers", json!({"backend": "shop", "socket": "/nowhere/admin.sock"}));
    assert!(why.contains("/nowhere/admin.sock can't be used"), "{why}");
    if haproxy.child.is_some() {
        let user = format!("{}.user", haproxy.socket);
        let why = problem(&server, "haproxy.maint", of("web1", json!({"socket": user})));
        assert!(why.contains("needs `level admin`"), "{why}");
    }
    let two_commands = json!({"run": "haproxy.maint", "with": of("web1;shutdown", json!({}))});
    let (status, answer) = server.ask("POST", "/runs", Some(&two_commands));
    assert_eq!(status, 422, "{answer}");
}

#[test]
fn a_script_runs_over_ssh_with_data_as_data_and_the_key_from_a_secret() {
    let Some(sshd) = sshd::start() else { return };
    let known = sshd.path("known").display().to_string();
    let host_key = std::fs::read_to_string(sshd.path("host.pub")).unwrap();
    std::fs::write(&known, format!("[127.0.0.1]:{} {host_key}", sshd.port)).unwrap();
    let settings = format!("config: {{ssh: {{key_secret: deploy_key, known_hosts: \"{known}\"}}}}\n");
    let server = Server::start(&[("siskin.yaml", &settings)]);
    server.set_secret("deploy_key", &std::fs::read_to_string(sshd.path("id")).unwrap());
    let user = sshd.target().user.unwrap();
    let with = |command: &str, more: Value| {
        let mut with = json!({"host": "127.0.0.1", "port": sshd.port, "user": user, "command": command});
        with.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with
    };
    let data = "it's $(id) `id` \"\n{{ x }}";
    let done = output(
        &server,
        "ssh.run",
        with(
            "cat\nprintf '%s|%s|{{.Names}}' \"$DATA\" \"$COUNT\"",
            json!({"env": {"DATA": data, "COUNT": 3}}),
        ),
    );
    assert_eq!((&done["stdout"], &done["rc"]), (&json!(format!("{data}|3|{{{{.Names}}}}")), &json!(0)));
    let why = problem(&server, "ssh.run", with("echo why >&2\nexit 7", json!({})));
    assert!(why.contains('7') && why.contains("why"), "{why}");
    let why = problem(&server, "ssh.run", with("true", json!({"env": {"A; B": 1}})));
    assert!(why.contains("can't be the name of a variable"), "{why}");
    let why = problem(&server, "ssh.run", with("true", json!({"known_hosts": "/dev/null"})));
    assert!(why.contains("Host key verification failed") || why.contains("255"), "{why}");
    let option = json!({"run": "ssh.run", "with": {"host": "-oProxyCommand=id", "command": "true"}});
    let (status, answer) = server.ask("POST", "/runs", Some(&option));
    assert_eq!(status, 422, "{answer}");
}

#[test]
fn the_small_packs_describe_each_input_and_output() {
    let folder = tempfile::tempdir().unwrap();
    let files: Files = siskin::site::read(folder.path()).unwrap();
    let (definitions, mistakes) = Definitions::read(&files);
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    for pack in ["core", "http", "ssh", "prometheus", "alertmanager", "haproxy"] {
        for action in definitions.actions.values().filter(|action| action.pack == pack) {
            for (name, field) in action.input.iter().chain(action.returns.iter().flatten()) {
                assert!(field.description.is_some(), "{}: `{name}` has no description", action.name);
            }
        }
    }
}

/// The files that `docs/guide/write-a-pack.md` has one write, each as it stands at last: path below the site, and text.
fn files_of_the_guide() -> BTreeMap<String, String> {
    let guide = include_str!("../../docs/guide/write-a-pack.md");
    let mut files = BTreeMap::from([("siskin.yaml".to_owned(), String::new())]);
    for block in guide.split("\n```").skip(1).step_by(2) {
        let text = block.split_once('\n').unwrap().1;
        let named = text.lines().take(2).find_map(|line| {
            line.trim_start_matches(['#', '/', ' ']).strip_prefix("site/").map(str::to_owned)
        });
        match named.as_deref().map(|path| path.split_once(',').unwrap_or((path, ""))) {
            Some((path, "")) => drop(files.insert(path.to_owned(), format!("{text}\n"))),
            // "beside what is there"
            Some((path, _)) => files.get_mut(path).unwrap().push_str(&format!("{text}\n")),
            None => {}
        }
    }
    files
}

#[test]
fn the_pack_of_the_guide_works_as_the_guide_says() {
    let files = files_of_the_guide();
    assert!(files.len() >= 11, "{:#?}", files.keys());
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let server = Server::start(&files);
    let (definitions, mistakes) = Definitions::read(&siskin::site::read(&server.site()).unwrap());
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    for test in &definitions.tests {
        for report in siskin::rehearsal::rehearse(&definitions, test) {
            assert!(report.passed(), "{report:#?}");
        }
    }
    let percent = output(&server, "site.look", json!({"path": "/tmp", "most": 100}))["percent"].clone();
    assert!(percent.is_u64(), "{percent}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "1234").unwrap();
    let path = folder.path().display().to_string();
    let largest = output(&server, "disk.largest", json!({"path": path}));
    assert_eq!(largest["files"], json!([{"path": format!("{path}/a"), "bytes": 4}]));
    let why = problem(&server, "disk.largest", json!({"path": "/nowhere"}));
    assert!(why.contains("/nowhere is no folder"), "{why}");
}
