//! The pack `registry`, with real registries, and one in front of which everything goes wrong once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::docker::{PASSWORD, Registry, USER};
use crate::support::server::{Server, client};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layer of this many words: parts of an upload are of 8 MiB.
fn layer_of(words: u32) -> Vec<u8> {
    (0..words).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
}

/// Puts an image with these layers into a registry; its digest.
fn put_image(registry: &Registry, repository: &str, tag: &str, layers: &[&[u8]]) -> String {
    let base = format!("http://{}/v2/{repository}", registry.host);
    let put_blob = |bytes: &[u8]| {
        let begun =
            client().post(format!("{base}/blobs/uploads/")).basic_auth(USER, Some(PASSWORD)).send().unwrap();
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let url = format!("{location}&digest={}", digest_of(bytes));
        let done = client().put(url).basic_auth(USER, Some(PASSWORD)).body(bytes.to_vec()).send().unwrap();
        assert_eq!(done.status(), 201);
        json!({"mediaType": "application/octet-stream", "digest": digest_of(bytes), "size": bytes.len()})
    };
    let config = put_blob(format!("{{\"tag\": \"{tag}\"}}").as_bytes());
    let layers: Vec<Value> = layers.iter().map(|layer| put_blob(layer)).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    put_manifest(registry, repository, tag, &manifest, MANIFEST)
}

fn put_manifest(registry: &Registry, repository: &str, tag: &str, manifest: &Value, kind: &str) -> String {
    let text = format!("{manifest:#}");
    let url = format!("http://{}/v2/{repository}/manifests/{tag}", registry.host);
    let request = client().put(url).basic_auth(USER, Some(PASSWORD)).header("Content-Type", kind);
    let done = request.body(text.clone()).send().unwrap();
    assert_eq!(done.status(), 201, "{:?}", done.text());
    digest_of(text.as_bytes())
}

fn server() -> Server {
    let site = format!("config: {{registry: {{user: {USER}, password_secret: registry_password}}}}\n");
    let server = Server::start(&[("siskin.yaml", &site)]);
    server.set_secret("registry_password", PASSWORD);
    server
}

fn done(run: Value) -> Value {
    assert_eq!(run["status"], "succeeded", "{run}");
    run["output"].clone()
}

fn why(run: &Value) -> &str {
    assert_eq!(run["status"], "failed", "{run}");
    run["error"]["message"].as_str().unwrap()
}

/// M6: re-tagged, the image in production is the one that was tested, to the byte; a tag does not move.
#[test]
fn the_digest_that_was_tested_is_the_digest_in_production_and_its_tag_does_not_move() {
    let (one, two, server) = (Registry::start(), Registry::start(), server());
    let tested = put_image(&one, "team/shop", "1.0.dev", &[b"layer one", b"layer two"]);
    let copy = |from: &str, to: &str| server.run_to_end("registry.copy", json!({"from": from, "to": to}));
    let from = format!("{}/team/shop:1.0.dev", one.host);

    let mounted = done(copy(&from, &format!("{}/production/shop:1.0", one.host)));
    assert_eq!(mounted["digest"], tested);
    assert_eq!((&mounted["mounted"], &mounted["copied"]), (&json!(3), &json!(0)), "{mounted}");
    let to = format!("{}/production/shop:1.0", two.host);
    let copied = done(copy(&format!("{}/team/shop@{tested}", one.host), &to));
    assert_eq!((&copied["digest"], &copied["copied"]), (&json!(tested), &json!(3)), "{copied}");
    let again = done(copy(&from, &to));
    assert_eq!((&again["copied"], &again["known"]), (&json!(0), &json!(0)), "{again}");

    let other = put_image(&one, "team/shop", "1.1.dev", &[b"layer one", b"another"]);
    let refused = copy(&format!("{}/team/shop:1.1.dev", one.host), &to);
    assert!(why(&refused).contains("does not move") && why(&refused).contains(&tested), "{refused}");
    let looked = done(server.run_to_end("registry.digest", json!({"image": to})));
    assert_eq!((&looked["found"], &looked["digest"]), (&json!(true), &json!(tested)));
    let with = json!({"from": format!("{}/team/shop:1.1.dev", one.host), "to": to, "immutable": false});
    let moved = done(server.run_to_end("registry.copy", with));
    assert_eq!(
        (&moved["digest"], &moved["known"], &moved["copied"]),
        (&json!(other), &json!(1), &json!(2)),
        "{moved}"
    );

    // A list for several platforms comes with all that it names.
    let entries: Vec<Value> = [&tested, &other]
        .iter()
        .map(|digest| json!({"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}))
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let list = put_manifest(&one, "team/shop", "all", &index, INDEX);
    let all = done(copy(&format!("{}/team/shop:all", one.host), &format!("{}/lists/shop:all", two.host)));
    assert_eq!(all["digest"], list);

    let image = format!("{}/production/shop@{tested}", one.host);
    let tagged = done(server.run_to_end("registry.tag", json!({"image": image, "tags": ["stable", "1.0"]})));
    assert_eq!((&tagged["digest"], &tagged["changed"]), (&json!(tested), &json!(["stable"])));
    let listed = done(
        server.run_to_end("registry.list", json!({"repository": format!("{}/production/shop", one.host)})),
    );
    assert_eq!(listed["tags"], json!(["1.0", "stable"]));
    let taken = server.run_to_end(
        "registry.tag",
        json!({"image": format!("{}/team/shop:1.1.dev", one.host), "tags": ["new", "1.0.dev"]}),
    );
    assert!(why(&taken).contains("the tag `1.0.dev`"), "{taken}");
    let new =
        done(server.run_to_end("registry.digest", json!({"image": format!("{}/team/shop:new", one.host)})));
    assert_eq!(new["found"], false, "one of several tags can't be set, so none is");

    for bad in
        ["shop", "localhost/Shop:1", "localhost/shop:a b", "localhost/shop:feature/x", "localhost/../x:1"]
    {
        let run = copy(&from, bad);
        assert!(why(&run).contains("is no reference of an image"), "{bad}: {run}");
    }
    server.set_secret("registry_password", "wr0ng-password");
    let forbidden = copy(&from, &format!("{}/production/shop:2", two.host));
    assert!(why(&forbidden).contains("forbids the user `bob`"), "{forbidden}");
    assert!(!forbidden.to_string().contains("wr0ng"), "{forbidden}");
}

/// A registry behind a door that gives tokens and breaks everything once.
#[derive(Clone)]
struct Door {
    behind: String,
    http: reqwest::Client,
    own: String,
    broken: Arc<Mutex<Vec<&'static str>>>,
    tokens: Arc<AtomicUsize>,
    /// How many bytes of layers came to it.
    uploaded: Arc<AtomicUsize>,
}

impl Door {
    /// Whether this is the first time for this fault.
    fn first(&self, fault: &'static str) -> bool {
        let mut broken = self.broken.lock().unwrap();
        let is_first = !broken.contains(&fault);
        if is_first {
            broken.push(fault);
        }
        is_first
    }

    async fn through(
        &self,
        method: Method,
        path: &str,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Response {
        let mut request = self
            .http
            .request(method, format!("http://{}{path}", self.behind))
            .basic_auth(USER, Some(PASSWORD));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.body(body).send().await.unwrap();
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            let value = value.to_str().unwrap().replace(&self.behind, &self.own);
            if name != header::TRANSFER_ENCODING && name != header::CONNECTION {
                response = response.header(name, value);
            }
        }
        response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
    }
}

async fn door(State(door): State<Door>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().to_string();
    let authorization =
        parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    if path.starts_with("/token") {
        let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        if authorization.as_deref() != Some(&basic) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        if door.first("token 503") {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let number = door.tokens.fetch_add(1, Ordering::SeqCst);
        return axum::Json(json!({"token": format!("token-{number}")})).into_response();
    }
    if !authorization.is_some_and(|value| value.starts_with("Bearer token-")) {
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"tests\",scope=\"repository:x:pull,push\"",
            door.own
        );
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for name in ["accept", "content-type", "content-range", "range"] {
        if let Some(value) = parts.headers.get(name) {
            headers.push((name.to_owned(), value.to_str().unwrap().to_owned()));
        }
    }
    let is_layer = path.contains("/blobs/sha256:");
    if path.contains("/manifests/") && door.first("manifest 429") {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")]).into_response();
    }
    if is_layer && parts.method == Method::HEAD && door.first("head 500") {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap().to_vec();
    if parts.method == Method::PATCH {
        door.uploaded.fetch_add(body.len(), Ordering::SeqCst);
        let is_later =
            !headers.iter().any(|(name, value)| name == "content-range" && value.starts_with("0-"));
        if is_later && door.first("upload breaks") {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        if body.len() > 100_000 && body.len() < 8 << 20 && !is_later && door.first("part breaks") {
            // A part arrives; then the way is gone.
            let half = body.len() / 2;
            let range = ("content-range".to_owned(), format!("0-{}", half - 1));
            headers.retain(|(name, _)| name != "content-range");
            headers.push(range);
            let taken = door.through(Method::PATCH, &path, headers, body[..half].to_vec()).await;
            assert_eq!(taken.status(), 202);
            return StatusCode::BAD_GATEWAY.into_response();
        }
    }
    let answer = door.through(parts.method.clone(), &path, headers, body).await;
    if is_layer && parts.method == Method::GET && door.first("download breaks") {
        let (parts, body) = answer.into_parts();
        let whole = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        let half = whole.slice(..whole.len() / 2);
        let cut = futures::stream::iter([Ok(half), Err(std::io::Error::other("cut"))]);
        return Response::from_parts(parts, Body::from_stream(cut));
    }
    answer
}

/// M6: 401 and the token dance, 429, 5xx, a download and an upload that break off.
#[test]
fn a_copy_comes_through_tokens_that_are_wanted_and_everything_that_breaks_once() {
    let (one, two, server) = (Registry::start(), Registry::start(), server());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = |registry: &Registry| {
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let own = listener.local_addr().unwrap().to_string();
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let made = Door {
            behind: registry.host.clone(),
            http,
            own,
            broken: Arc::default(),
            tokens: Arc::default(),
            uploaded: Arc::default(),
        };
        let app = Router::new().fallback(door).with_state(made.clone());
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        made
    };
    let (here, there) = (open(&one), open(&two));
    let (large, middle) = (layer_of(6_000_000), layer_of(1_000_000));
    let tested = put_image(&one, "team/shop", "1.0.dev", &[&large, &middle, b"small"]);
    let with = json!({"from": format!("{}/team/shop:1.0.dev", here.own), "to": format!("{}/production/shop:1.0", there.own)});
    let copied = done(server.run_to_end("registry.copy", with));
    assert_eq!((&copied["digest"], &copied["copied"]), (&json!(tested), &json!(4)), "{copied}");
    let broken = |door: &Door| {
        let mut broken = door.broken.lock().unwrap().clone();
        broken.sort_unstable();
        broken
    };
    assert_eq!(broken(&here), ["download breaks", "manifest 429", "token 503"]);
    assert_eq!(broken(&there), ["head 500", "manifest 429", "part breaks", "token 503", "upload breaks"]);
    // Parts that had arrived were not sent again; of the middle one, which broke in the middle of a part, this registry keeps nothing.
    let uploaded = there.uploaded.load(Ordering::SeqCst);
    let most = large.len() + (8 << 20) + 2 * middle.len() + 1000;
    assert!(uploaded <= most, "{uploaded}, and not {most} at most");
    let stands = done(
        server.run_to_end("registry.digest", json!({"image": format!("{}/production/shop:1.0", two.host)})),
    );
    assert_eq!(stands["digest"], tested);
}
