//! A disk that fills: nothing that was answered is lost, what can't be kept is refused with 503 and says why, and once there is room all goes on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::server::{PATIENCE, Server, until};

const WORKFLOW: &str = "description: Two steps, the first of which takes as long as there is no room.
input: {gate: string}
steps:
  - {id: first, shell: 'while [ ! -e \"$GATE\" ]; do sleep 0.05; done; echo done', env: {GATE: '{{ input.gate }}'}}
  - {id: second, run: core.echo, with: {value: after}}
";
const RULE: &str =
    "description: Counts.\ntrigger: site.count\nrun: core.echo\nwith: {value: '{{ event.number }}'}\n";

/// A small disk of its own, in memory.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// `None` where nobody may mount anything.
    fn of_megabytes(megabytes: u32, below: &Path) -> Option<Disk> {
        let folder = below.join("disk");
        fs::create_dir(&folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "siskin-test"]).arg(&folder);
        mount.output().unwrap().status.success().then_some(Disk { folder })
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        let mut piece = vec![0_u8; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.folder).status().unwrap();
    }
}

/// Sends an event; what it was answered.
fn send(server: &Server, number: usize) -> (u16, Value) {
    let payload = json!({"number": number, "text": "x".repeat(10_000)});
    server.ask("POST", "/events", Some(&json!({"trigger": "site.count", "payload": payload})))
}

#[test]
fn a_disk_that_fills_refuses_what_is_new_loses_nothing_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::of_megabytes(48, folder.path()) else {
        return println!("nothing can be mounted here: not tried");
    };
    let (site, data) = (folder.path().join("site"), disk.folder.join("data"));
    for (path, text) in [
        ("workflows/gated.yaml", WORKFLOW),
        ("rules/count.yaml", RULE),
        ("triggers/count.yaml", "description: d\n"),
    ] {
        fs::create_dir_all(site.join(path).parent().unwrap()).unwrap();
        fs::write(site.join(path), text).unwrap();
    }
    let mut server = Server::over_file(&site, &data);
    let gate = folder.path().join("gate");
    let run =
        server.post("/runs", &json!({"run": "site.gated", "with": {"gate": gate}}))["id"].as_i64().unwrap();
    server.wait_for(&format!("/runs/{run}"), |run| run["steps"][0]["status"] == "running");

    let mut accepted: Vec<i64> =
        (0..20).map(|number| send(&server, number).1["event"].as_i64().unwrap()).collect();
    disk.fill();
    // The database may have some pages left.
    let refused = until(PATIENCE, || match send(&server, accepted.len()) {
        (201 | 202, event) => {
            accepted.push(event["event"].as_i64().unwrap());
            None
        }
        other => Some(other),
    });
    let (status, problem) = refused.unwrap();
    assert_eq!(status, 503, "{problem}");
    let text = problem.to_string();
    assert!(text.contains("disk") && text.contains("full"), "{text}");
    let (status, problem) = server.ask("POST", "/runs", Some(&json!({"run": "core.noop"})));
    assert_eq!(status, 503, "{problem}");
    // What is there can be read, and the step that ends now is not forgotten.
    assert_eq!(server.get(&format!("/runs/{run}"))["status"], "running");
    fs::write(&gate, "").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(send(&server, 0).0, 503);

    disk.make_room();
    let after = until(PATIENCE, || Some(send(&server, accepted.len())).filter(|(status, _)| *status < 300));
    accepted.push(after.unwrap().1["event"].as_i64().unwrap());
    assert_eq!(server.wait_for_end(run)["status"], "succeeded");
    let assert_all_there = |server: &Server| {
        for event in &accepted {
            let event =
                server.wait_for(&format!("/events/{event}"), |event| event["matches"][0]["run"].is_i64());
            assert_eq!(event["matches"].as_array().unwrap().len(), 1, "{event}");
            let of_event = event["matches"][0]["run"].as_i64().unwrap();
            assert_eq!(server.wait_for_end(of_event)["status"], "succeeded");
        }
    };
    assert_all_there(&server);
    let events = server.get("/events?trigger=site.count&limit=500");
    assert_eq!(events["items"].as_array().unwrap().len(), accepted.len());

    server.kill();
    server.run();
    assert_all_there(&server);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    drop(server);
}
