//! The pack `kubernetes`, against a stand-in for the API by its wire contract.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::support::server::Server;

const TOKEN: &str = "t0ken-of-the-cluster";

/// A cluster with objects by path; what its Deployments do is told.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Answers that come before the true one.
    faults: Vec<(Method, StatusCode)>,
    patches: Vec<(String, Value)>,
    /// Pods never come up, and the deadline passes.
    is_stuck: bool,
    pods: Vec<Value>,
}

impl Inner {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// What the controller would do by the next look.
    fn progress(&mut self, path: &str) {
        let is_stuck = self.is_stuck;
        let Some(object) = self.objects.get_mut(path).filter(|object| object["kind"] == "Deployment") else {
            return;
        };
        let generation = object["metadata"]["generation"].clone();
        let seen = object["status"]["observedGeneration"] == generation;
        object["status"] = match (seen, is_stuck) {
            (false, _) => {
                json!({"observedGeneration": generation, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2, "readyReplicas": 2})
            }
            (true, true) => {
                json!({"observedGeneration": generation, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2, "readyReplicas": 2,
                "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]})
            }
            (true, false) => {
                json!({"observedGeneration": generation, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2})
            }
        };
    }
}

async fn answer(State(cluster): State<Cluster>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method, parts.uri.path().to_owned());
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let kind = parts.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
    let refused = |status: StatusCode, message: &str| {
        let said =
            json!({"kind": "Status", "status": "Failure", "message": message, "code": status.as_u16()});
        (status, axum::Json(said)).into_response()
    };
    let ok = |value: Value| axum::Json(value).into_response();
    let authorized =
        parts.headers.get(header::AUTHORIZATION).is_some_and(|value| value == &format!("Bearer {TOKEN}"));
    if !authorized {
        return refused(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let mut inner = cluster.0.lock().unwrap();
    if let Some(found) = inner.faults.iter().position(|(of, _)| *of == method) {
        let (_, status) = inner.faults.remove(found);
        let mut answer = refused(status, "come again");
        answer.headers_mut().insert(header::RETRY_AFTER, "0".parse().unwrap());
        return answer;
    }
    let resources = |kinds: &[(&str, &str, bool)]| {
        let of = |(kind, name, namespaced): &(&str, &str, bool)| json!({"kind": kind, "name": name, "namespaced": namespaced});
        json!({"resources": kinds.iter().map(of).collect::<Vec<_>>()})
    };
    match (method.as_str(), path.as_str()) {
        ("GET", "/api/v1") => {
            return ok(resources(&[
                ("ConfigMap", "configmaps", true),
                ("Namespace", "namespaces", false),
                ("Pod", "pods", true),
            ]));
        }
        ("GET", "/apis/apps/v1") => {
            return ok(resources(&[
                ("Deployment", "deployments", true),
                ("Deployment", "deployments/status", true),
            ]));
        }
        ("GET", path) if path.ends_with("/pods") => return ok(json!({"items": inner.pods})),
        ("GET", path) if path.ends_with('s') => {
            let label = query.split("labelSelector=app%3D").nth(1).unwrap_or_default();
            let below = format!("{path}/");
            let is_meant = |(at, object): &(&String, &Value)| {
                at.starts_with(&below) && object["metadata"]["labels"]["app"] == label
            };
            let items: Vec<Value> =
                inner.objects.iter().filter(is_meant).map(|(_, object)| object.clone()).collect();
            return ok(json!({"items": items}));
        }
        _ => {}
    }
    let there = inner.objects.get(&path).cloned();
    match (method.as_str(), there) {
        ("GET", Some(object)) => {
            inner.progress(&path);
            ok(object)
        }
        ("PATCH", there) if kind.as_deref() == Some("application/apply-patch+yaml") => {
            inner.patches.push((path.clone(), body.clone()));
            if query.contains("force=false") && body["data"]["taken"] == "yes" {
                return refused(
                    StatusCode::CONFLICT,
                    "Apply failed with 1 conflict: conflict with \"kubectl\": .data.taken",
                );
            }
            let is_same = there
                .as_ref()
                .is_some_and(|there| there["data"] == body["data"] && there["spec"] == body["spec"]);
            if query.contains("dryRun") {
                return ok(body);
            }
            ok(there.filter(|_| is_same).unwrap_or_else(|| inner.put(&path, body)))
        }
        ("PATCH", Some(mut object)) => {
            assert_eq!(kind.as_deref(), Some("application/strategic-merge-patch+json"));
            inner.patches.push((path.clone(), body.clone()));
            if body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                return refused(StatusCode::CONFLICT, "the object has been modified");
            }
            for change in body["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
                let containers = object["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
                let container = containers.iter_mut().find(|found| found["name"] == change["name"]).unwrap();
                container["image"] = change["image"].clone();
            }
            object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
            ok(inner.put(&path, object))
        }
        ("DELETE", Some(object)) => {
            assert_eq!(body["preconditions"]["uid"], object["metadata"]["uid"]);
            if body["dryRun"].is_null() {
                inner.objects.remove(&path);
            }
            ok(json!({"status": "Success"}))
        }
        _ => refused(StatusCode::NOT_FOUND, "not found"),
    }
}

struct Stage {
    cluster: Cluster,
    server: Server,
    _runtime: tokio::runtime::Runtime,
}

/// Takes back what it rolled out, when that does not come up.
const SHIP: &str = r#"
steps:
  - id: roll
    run: kubernetes.set_image
    with: {deployment: web, containers: {web: "r/web:4"}, within: 5s}
    undo:
      run: kubernetes.set_image
      with: {deployment: web, containers: "{{ steps.roll.output.previous }}", wait: false}
"#;

const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

fn deployment(images: &[(&str, &str)]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .map(|(name, image)| json!({"name": name, "image": image, "env": [{"name": "A", "value": "b"}]}))
        .collect();
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "generation": 1},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": containers}}},
        "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2}})
}

fn stage() -> Stage {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::default();
    cluster.0.lock().unwrap().put(WEB, deployment(&[("web", "r/web:1"), ("proxy", "r/proxy:1")]));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(cluster.clone());
    runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let site = format!(
        "config: {{kubernetes: {{server: '{url}', token_secret: cluster_token, namespace: shop}}}}\n"
    );
    let server = Server::start(&[("siskin.yaml", &site), ("workflows/ship.yaml", SHIP)]);
    server.set_secret("cluster_token", TOKEN);
    Stage { cluster, server, _runtime: runtime }
}

impl Stage {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.cluster.0.lock().unwrap()
    }

    fn set(&self, name: &str, containers: &Value) -> Value {
        self.server.run_to_end(
            "kubernetes.set_image",
            json!({"deployment": name, "containers": containers, "within": "5s"}),
        )
    }
}

fn why(run: &Value) -> &str {
    assert_eq!(run["status"], "failed", "{run}");
    run["error"]["message"].as_str().unwrap()
}

/// Y9: named containers only; conflict, 429 and 503 are lived through; 401, 404, and pods that do not come up say so.
#[test]
fn named_containers_get_their_images_and_a_roll_out_that_does_not_come_about_says_what_the_pods_say() {
    let stage = stage();
    stage.inner().faults = vec![
        (Method::PATCH, StatusCode::CONFLICT),
        (Method::PATCH, StatusCode::TOO_MANY_REQUESTS),
        (Method::GET, StatusCode::SERVICE_UNAVAILABLE),
    ];
    let done = stage.set("web", &json!({"web": "r/web@sha256:2"}));
    assert_eq!(done["status"], "succeeded", "{done}");
    let output = &done["output"];
    assert_eq!(
        (&output["changed"], &output["previous"], &output["ready"]),
        (&json!(true), &json!({"web": "r/web:1"}), &json!(2)),
        "{output}"
    );
    let patches = std::mem::take(&mut stage.inner().patches);
    assert_eq!(patches.len(), 1);
    let change = json!({"template": {"spec": {"containers": [{"name": "web", "image": "r/web@sha256:2"}]}}});
    assert_eq!(patches[0].1["spec"], change);
    assert_eq!(stage.inner().objects[WEB]["spec"]["template"]["spec"]["containers"][1]["image"], "r/proxy:1");
    let same = stage.set("web", &json!({"web": "r/web@sha256:2"}));
    assert_eq!(same["output"]["changed"], false, "{same}");
    assert!(stage.inner().patches.is_empty());

    assert!(
        why(&stage.set("web", &json!({"wbe": "x"}))).contains("has no container `wbe`; it has proxy, web")
    );
    assert!(
        why(&stage.set("wbe", &json!({"web": "x"})))
            .contains("there is no Deployment `wbe` in the namespace `shop`")
    );
    assert!(why(&stage.set("../x", &json!({"web": "x"}))).contains("can't be the name"));

    stage.inner().is_stuck = true;
    stage.inner().pods = vec![json!({"metadata": {"name": "web-7f"}, "status": {"containerStatuses": [
        {"name": "web", "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, "lastState": {"terminated": {"exitCode": 137}}},
        {"name": "proxy", "ready": true, "state": {"running": {}}}]}})];
    let stuck = stage.set("web", &json!({"web": "r/web:3", "proxy": "r/proxy:3"}));
    let said = why(&stuck);
    assert!(said.contains("made no progress within its deadline of 600 s (1 of 2 pods are new"), "{said}");
    assert!(
        said.contains("web-7f/web: CrashLoopBackOff (back-off 10s; it last ended with exit status 137)"),
        "{said}"
    );
    // The way back is known although it failed.
    let back = stage.server.run_to_end("site.ship", json!({}));
    assert_eq!(back["status"], "failed", "{back}");
    let images = |stage: &Stage| {
        let containers = stage.inner().objects[WEB]["spec"]["template"]["spec"]["containers"].clone();
        [containers[0]["image"].clone(), containers[1]["image"].clone()]
    };
    assert_eq!(images(&stage), ["r/web:3", "r/proxy:3"], "{back}");

    stage.server.set_secret("cluster_token", "wr0ng-t0ken");
    let unknown = stage.set("web", &json!({"web": "r/web:4"}));
    assert!(why(&unknown).contains("does not know our token (401)"), "{unknown}");
    assert!(!unknown.to_string().contains("wr0ng-t0ken") && !back.to_string().contains(TOKEN));
}

#[test]
fn manifests_are_applied_and_what_is_among_them_no_more_is_pruned_within_bounds() {
    let stage = stage();
    let map = |name: &str, value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "shop"}}, "data": {"a": value}});
    let apply = |objects: &[Value], more: Value| {
        let mut with = json!({"objects": objects});
        with.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stage.server.run_to_end("kubernetes.apply", with)
    };
    let changes = |run: &Value| -> Vec<String> {
        assert_eq!(run["status"], "succeeded", "{run}");
        let of = |entry: &Value| {
            format!("{} {}", entry["name"].as_str().unwrap(), entry["change"].as_str().unwrap_or("pruned"))
        };
        let (applied, pruned) =
            (run["output"]["applied"].as_array().unwrap(), run["output"]["pruned"].as_array().unwrap());
        applied.iter().chain(pruned).map(of).collect()
    };
    let prune = json!({"prune": {"labels": {"app": "shop"}, "max": 1}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"app": "shop"}}});
    let run = apply(&[map("one", "1"), map("two", "1"), namespace], prune.clone());
    assert_eq!(changes(&run), ["shop created", "one created", "two created"]);
    assert_eq!(stage.inner().patches[0].0, "/api/v1/namespaces/shop");
    let run = apply(&[map("one", "1"), map("two", "2")], prune.clone());
    assert_eq!(changes(&run), ["one same", "two changed"]);
    let run =
        apply(&[map("one", "1")], json!({"prune": {"labels": {"app": "shop"}, "max": 1}, "dry_run": true}));
    assert_eq!(run["output"]["pruned"][0]["name"], "two", "{run}");
    let run = apply(&[map("one", "1")], prune.clone());
    assert_eq!(changes(&run), ["one same", "two pruned"]);

    // What looks like a mistake is refused before anything is changed.
    for name in ["two", "three"] {
        stage.inner().put(&format!("/api/v1/namespaces/shop/configmaps/{name}"), map(name, "1"));
    }
    stage.inner().patches.clear();
    let many = apply(&[map("one", "9")], prune.clone());
    assert!(
        why(&many).contains(
            "2 objects would be deleted, and `prune.max` is 1; nothing was changed. They are: ConfigMap"
        ),
        "{many}"
    );
    assert!(why(&apply(&[], prune.clone())).contains("an empty folder deletes nothing"));
    let without = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bare"}});
    assert!(why(&apply(&[without], prune)).contains("ConfigMap bare lacks the labels"));
    let all = json!({"prune": {"labels": {}}});
    assert!(why(&apply(&[map("one", "9")], all)).contains("without them everything would go"));
    let strange = json!({"apiVersion": "v2", "kind": "Gone", "metadata": {"name": "x"}});
    assert!(why(&apply(&[strange], json!({}))).contains("does not know v2 Gone"));
    assert!(stage.inner().patches.is_empty());

    let mut taken = map("one", "1");
    taken["data"]["taken"] = json!("yes");
    let conflict = apply(&[taken.clone()], json!({}));
    assert!(
        why(&conflict).contains("somebody else manages") && why(&conflict).contains("kubectl"),
        "{conflict}"
    );
    assert_eq!(changes(&apply(&[taken], json!({"force": true}))), ["one changed"]);
}
