//! The handler that Siskin's intake is held against: it parses the same bytes, commits them in groups to the same kind of store, and answers
//! with a number. It runs in a process of its own, as the server does.

use std::process::{Child, Command, Stdio};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::limits::{Place, Rows};
use crate::stand::Stand;

/// Serves until it is killed; says on stdout where.
pub(crate) fn serve(place: &Place) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let rows = Rows::open(place).await;
        let router = Router::new().route("/hooks/{*path}", post(take)).with_state(rows);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        axum::serve(listener, router).await.unwrap();
    });
}

async fn take(State(rows): State<Rows>, body: Bytes) -> (StatusCode, Json<Value>) {
    let Ok(Value::Object(event)) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, Json(Value::Null));
    };
    drop(event);
    let Ok(text) = String::from_utf8(body.into()) else {
        return (StatusCode::BAD_REQUEST, Json(Value::Null));
    };
    (StatusCode::ACCEPTED, Json(json!({"event": rows.add(text).await})))
}

/// The handler's process.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: String,
    _folder: tempfile::TempDir,
}

impl Bare {
    pub(crate) fn start(stand: &Stand) -> Bare {
        use std::io::{BufRead, BufReader};
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--bare")
            .arg(stand.place(folder.path()).to_text())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Bare { child, address: address.trim().to_owned(), _folder: folder }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
