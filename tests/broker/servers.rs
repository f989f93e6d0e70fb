//! Several servers over one database and one broker.

use std::fs;

use serde_json::json;

use super::stage::{PACK, action, arguments};
use crate::support::server::{PATIENCE, Server, until};
use crate::support::worker::Worker;
use crate::support::{postgres, rabbitmq};

const WORK: &str = "echo begun >>\"$FOLDER/begun\"\nuntil test -e \"$FOLDER/go\"; do sleep 0.05; done\necho done >>\"$FOLDER/done\"";

#[test]
fn when_a_server_dies_another_takes_what_workers_say() {
    let (broker, database) = (rabbitmq::shared(), postgres::new_schema());
    let mut told = arguments(&broker);
    told.extend(["--database".to_owned(), database]);
    let work = action(false, WORK);
    let then = "input: {folder: string}\nsteps:\n  - {id: a, run: local.work, with: {folder: \"{{ input.folder }}\"}}\n  - {id: b, run: local.work, with: {folder: \"{{ input.folder }}\"}}\n";
    let files = [PACK, ("packs/local/actions/work.yaml", &*work), ("workflows/w.yaml", then)];
    let mut first = Server::start_with(&files, &told);
    let second = first.join(&files);
    let _workers = [Worker::start(&broker), Worker::start(&broker)];
    let folder = tempfile::tempdir().unwrap();
    let start = |server: &Server| {
        let with = json!({"folder": folder.path()});
        server.post("/runs", &json!({"run": "site.w", "with": with}))["id"].as_i64().unwrap()
    };
    let count = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default().lines().count();
    // Whichever server takes what workers say: runs of both are begun.
    let mut runs: Vec<i64> = (0..3).flat_map(|_| [start(&first), start(&second)]).collect();
    assert!(until(PATIENCE, || (count("begun") == 6).then_some(())).is_some());
    first.kill();
    fs::write(folder.path().join("go"), "").unwrap();
    runs.push(start(&second));
    for run in &runs {
        let ended = second.wait_for_end(*run);
        assert_eq!(ended["status"], "succeeded", "{ended}\n{}", second.log());
    }
    assert_eq!((count("begun"), count("done")), (2 * runs.len(), 2 * runs.len()));
    // The one that died comes back, and has a part in it again.
    first.run();
    let run = start(&first);
    assert_eq!(second.wait_for_end(run)["status"], "succeeded");
}
