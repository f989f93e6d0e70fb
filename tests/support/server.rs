//! A real `siskin serve` in a process of its own, that can be killed and started again on the same data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::postgres;

/// How long a worker may be silent in tests.
pub(crate) const LEASE: &str = "6s";

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server with its site and its data, in a directory that goes with it.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    site: PathBuf,
    data: PathBuf,
    /// Where it keeps its state, when that is not a file in `data`.
    database: Option<String>,
    /// What else `serve` is told.
    more: Vec<String>,
    child: Option<Child>,
    http: reqwest::blocking::Client,
}

impl Server {
    /// Starts a server whose site has these files: pairs of path and text.
    ///
    /// With `SISKIN_TEST_BROKER=1` in the environment it does its work over RabbitMQ.
    pub(crate) fn start(files: &[(&str, &str)]) -> Server {
        Server::start_with(files, &over_broker())
    }

    /// As `start`, with more arguments of `serve`.
    pub(crate) fn start_with(files: &[(&str, &str)], more: &[String]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let database = database_for(&folder.path().join("data"));
        Server::start_in(folder, files, database, more)
    }

    /// As `start`, on this database.
    pub(crate) fn start_on(files: &[(&str, &str)], database: &str) -> Server {
        Server::start_in(tempfile::tempdir().unwrap(), files, Some(database.to_owned()), &over_broker())
    }

    fn start_in(
        folder: tempfile::TempDir,
        files: &[(&str, &str)],
        database: Option<String>,
        more: &[String],
    ) -> Server {
        let (site, data) = (folder.path().join("site"), folder.path().join("data"));
        let mut server =
            Server { folder, site, data, database, more: more.to_vec(), child: None, http: client() };
        fs::create_dir_all(server.site()).unwrap();
        for (path, text) in files {
            server.write(path, text);
        }
        server.run();
        server
    }

    /// Another server on the same database, with the same key of secrets.
    pub(crate) fn join(&self, files: &[(&str, &str)]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data")).unwrap();
        fs::copy(self.data.join("secret.key"), folder.path().join("data/secret.key")).unwrap();
        Server::start_in(folder, files, self.database.clone(), &self.more)
    }

    /// Starts a server on a site and data that are there already, and stay.
    pub(crate) fn over(site: &Path, data: &Path) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server {
            folder,
            site: site.to_owned(),
            data: data.to_owned(),
            database: database_for(data),
            more: over_broker(),
            child: None,
            http: client(),
        };
        server.run();
        server
    }

    /// As `over`, whatever store the tests are run on: on a file in `data`.
    pub(crate) fn over_file(site: &Path, data: &Path) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let (site, data) = (site.to_owned(), data.to_owned());
        let mut server =
            Server { folder, site, data, database: None, more: Vec::new(), child: None, http: client() };
        server.run();
        server
    }

    /// Writes a file of the site.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.site().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn site(&self) -> PathBuf {
        self.site.clone()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Starts the process, and waits until it answers.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "it is running");
        fs::remove_file(self.data().join("server.json")).ok();
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = siskin();
        if let Some(database) = &self.database {
            command.env("SISKIN_DATABASE", database);
        }
        let child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--site"])
            .arg(self.site())
            .arg("--data")
            .arg(self.data())
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let up = until(PATIENCE, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            self.data().join("server.json").exists().then_some(())
        });
        assert!(up.is_some(), "the server did not come up:\n{}", self.log());
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops the process where it is, as a paused machine (SIGSTOP), or lets it go on (SIGCONT).
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// SIGTERM; the exit status.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap()
    }

    /// What it wrote to stderr since it was first started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn url(&self) -> String {
        let said: Value =
            serde_json::from_str(&fs::read_to_string(self.data().join("server.json")).unwrap()).unwrap();
        said["url"].as_str().unwrap().to_owned()
    }

    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.data().join("admin.token")).unwrap().trim().to_owned()
    }

    /// A request below `/api/v1` as the admin: status and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request =
            self.http.request(method, format!("{}/api/v1{path}", self.url())).bearer_auth(self.token());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().unwrap()).unwrap_or(Value::Null))
    }

    /// GET that must succeed.
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, None);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// POST that must succeed.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, Some(body));
        assert!((200..300).contains(&status), "POST {path}: {status} {answer}");
        answer
    }

    pub(crate) fn set_secret(&self, name: &str, value: &str) {
        let (status, answer) = self.ask("PUT", &format!("/secrets/{name}"), Some(&json!({"value": value})));
        assert_eq!(status, 204, "{answer}");
    }

    /// Starts a run and waits for its end.
    pub(crate) fn run_to_end(&self, what: &str, with: Value) -> Value {
        let run = self.post("/runs", &json!({"run": what, "with": with}));
        self.wait_for_end(run["id"].as_i64().unwrap())
    }

    /// Waits until a run has ended.
    pub(crate) fn wait_for_end(&self, run: i64) -> Value {
        let last = |run: &Value| {
            ["succeeded", "failed", "rejected", "superseded", "cancelled"]
                .iter()
                .any(|end| run["status"] == *end)
        };
        self.wait_for(&format!("/runs/{run}"), last)
    }

    /// Waits until what the API says at `path` is as wanted.
    pub(crate) fn wait_for(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = until(PATIENCE, || Some(self.get(path)).filter(|value| wanted(value)));
        found.unwrap_or_else(|| panic!("{path} never became as wanted: {}\n{}", self.get(path), self.log()))
    }

    /// Runs `siskin` against this server.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        siskin()
            .args(args)
            .env("SISKIN_DATA", self.data())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// With SISKIN_TEST_STORE=postgres servers keep their state in a schema of its own: the same one for the same data directory.
fn database_for(data: &Path) -> Option<String> {
    if std::env::var("SISKIN_TEST_STORE").is_ok_and(|store| store == "postgres") {
        let path = data.join("test-schema");
        if let Ok(schema) = fs::read_to_string(&path) {
            return Some(postgres::shared(&schema));
        }
        fs::create_dir_all(data).unwrap();
        let schema = postgres::new_schema();
        fs::write(path, schema.split("search_path%3D").nth(1).unwrap()).unwrap();
        return Some(schema);
    }
    None
}

/// The arguments that have a server work over RabbitMQ, where the environment says so.
fn over_broker() -> Vec<String> {
    match std::env::var_os("SISKIN_TEST_BROKER") {
        Some(_) => {
            vec!["--broker".to_owned(), super::rabbitmq::shared(), "--lease".to_owned(), LEASE.to_owned()]
        }
        None => Vec::new(),
    }
}

/// The binary under test, without what the environment of the tests says about other servers.
pub(crate) fn siskin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_siskin"));
    for name in [
        "SISKIN_URL",
        "SISKIN_TOKEN",
        "SISKIN_DATA",
        "SISKIN_SITE",
        "SISKIN_LISTEN",
        "SISKIN_DATABASE",
        "SISKIN_BROKER",
        "SISKIN_LEASE",
        "SISKIN_ROLES",
    ] {
        command.env_remove(name);
    }
    command
}

/// An HTTP client that goes nowhere but where it is sent.
pub(crate) fn client() -> reqwest::blocking::Client {
    // The first test of the process installs it.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::blocking::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// Looks again and again until there is something, or `patience` is over.
pub(crate) fn until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The signature that GitHub sends for a body.
pub(crate) fn github_signature(secret: &str, body: &[u8]) -> String {
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// The path of a file below the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
