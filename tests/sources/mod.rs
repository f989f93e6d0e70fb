//! Sources that live in the server: nothing is missed and nothing comes twice, whoever is killed in between, and each says how it fares.

mod amqp;
mod clock;
mod cluster;
mod consul;
mod etcd;
mod github_releases;
mod looks;
mod programs;

use serde_json::Value;

use crate::support::server::Server;

/// A server with these files, and triggers for all that they send.
fn start(files: &[(&str, &str)]) -> Server {
    let triggers = [
        "tick", "tock", "kv", "service", "fired", "printed", "file", "polled", "branch", "message", "release",
    ];
    let triggers: Vec<String> = triggers.iter().map(|name| format!("triggers/{name}.yaml")).collect();
    let mut all = files.to_vec();
    all.extend(triggers.iter().map(|path| (path.as_str(), "description: It happened.\n")));
    Server::start(&all)
}

/// The payloads of a source's events, oldest first.
fn payloads(server: &Server, source: &str) -> Vec<Value> {
    let mut items =
        server.get(&format!("/events?source={source}&limit=500"))["items"].as_array().unwrap().clone();
    items.reverse();
    items.into_iter().map(|event| payload(server, event)).collect()
}

/// Lists may leave payloads out.
fn payload(server: &Server, event: Value) -> Value {
    match event.get("payload") {
        Some(payload) => payload.clone(),
        None => server.get(&format!("/events/{}", event["id"]))["payload"].clone(),
    }
}

/// Waits until a source has made so many events; gives their payloads.
fn wait_for_events(server: &Server, source: &str, count: usize) -> Vec<Value> {
    let enough = |list: &Value| list["items"].as_array().is_some_and(|items| items.len() >= count);
    server.wait_for(&format!("/events?source={source}&limit=500"), enough);
    payloads(server, source)
}

/// How a source fares, once it does as wanted.
fn wait_for_health(server: &Server, source: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let source = server.wait_for(&format!("/sources/{source}"), |source| wanted(&source["health"]));
    source["health"].clone()
}

/// Waits until it watches.
fn wait_until_watching(server: &Server, source: &str) {
    wait_for_health(server, source, |health| health["state"] == "watching");
}
