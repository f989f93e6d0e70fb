//! A real HAProxy for tests, in front of servers of 127.0.0.0/8, with its runtime socket in a directory of its own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// An HAProxy with one backend, `shop`, whose servers are checked by `GET /health`. It tries nothing twice: what fails, the client sees.
pub(crate) struct Haproxy {
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Haproxy {
    /// With these servers: name and address. `None` where HAProxy is not installed.
    pub(crate) fn start(servers: &[(&str, String)]) -> Option<Haproxy> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut text = format!(
            "global\n stats socket {}/admin.sock mode 600 level admin\ndefaults\n mode http\n retries 0\n timeout connect 2s\n timeout client 20s\n timeout server 20s\nfrontend f\n bind 127.0.0.1:{port}\n default_backend shop\nbackend shop\n option httpchk GET /health\n",
            folder.path().display()
        );
        for (name, address) in servers {
            text += &format!(" server {name} {address} check inter 200 fall 2 rise 1 weight 100\n");
        }
        std::fs::write(folder.path().join("haproxy.cfg"), text).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(["-db", "-f"])
            .arg(folder.path().join("haproxy.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let haproxy = Haproxy { folder, port, child: Some(child) };
        let up = until(PATIENCE, || haproxy.try_ask("show info").map(drop));
        let log = std::fs::read_to_string(haproxy.folder.path().join("log")).unwrap();
        assert!(up.is_some(), "HAProxy did not come up: {log}");
        Some(haproxy)
    }

    pub(crate) fn socket(&self) -> String {
        self.folder.path().join("admin.sock").display().to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.write_all(format!("{command}\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    /// How a server fares: its status and its weight, in the words of `show stat`.
    pub(crate) fn server(&self, name: &str) -> (String, String) {
        let text = self.ask("show stat");
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap().trim_start_matches("# ").split(',').collect();
        let column = |name: &str| header.iter().position(|column| *column == name).unwrap();
        let row: Vec<&str> = lines
            .map(|line| line.split(',').collect::<Vec<_>>())
            .find(|row| row[0] == "shop" && row[1] == name)
            .unwrap();
        (row[column("status")].to_owned(), row[column("weight")].to_owned())
    }

    /// Whether somebody wants it to have no new sessions, however it is.
    pub(crate) fn is_drained(&self, name: &str) -> bool {
        let text = self.ask("show servers state shop");
        let column = |name: &str, line: &str| line.split_whitespace().position(|word| word == name);
        let header = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap();
        let index = column("srv_admin_state", header).unwrap();
        let row = text.lines().find(|line| column(name, line) == Some(3)).unwrap();
        row.split_whitespace().nth(index).unwrap() == "8"
    }

    /// Waits until a server is as wanted: `UP`, `DOWN`, `MAINT`.
    pub(crate) fn until(&self, name: &str, status: &str) {
        let came = until(PATIENCE, || self.server(name).0.starts_with(status).then_some(()));
        assert!(came.is_some(), "{name} is {:?}, not {status}", self.server(name));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Where the program is, if it is installed.
pub(crate) fn program() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("haproxy")).find(|path| path.is_file())
}
