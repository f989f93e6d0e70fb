//! Files between workers that share no disk.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::stage::Stage;
use crate::support::worker::Worker;

#[test]
fn a_file_made_on_one_worker_is_read_on_another_that_shares_no_disk() {
    let make = "description: d\nrunner: shell\nreturns: {report: file}\nshell:\n  script: |\n    head -c 3000000 /dev/zero | tr '\\0' 'x' >report.txt\noutput: {report: report.txt}\n";
    let read = "description: d\nrunner: shell\ninput: {report: file}\nreturns: {sum: string, place: string}\nshell:\n  script: |\n    sha256sum <\"$REPORT\" | cut -d ' ' -f 1\n    pwd >&2\n  env: {REPORT: \"{{ input.report }}\"}\noutput: {sum: \"{{ result.stdout }}\", place: \"{{ result.stderr }}\"}\n";
    let workflow = "description: d\ninput: {folder: string}\nsteps:\n  - {id: make, run: make, worker: {pool: files_one}}\n  - id: read\n    run: read\n    with: {report: \"{{ steps.make.output.report }}\"}\n    worker: {pool: files_two}\noutput: {sum: \"{{ steps.read.output.sum }}\", place: \"{{ steps.read.output.place }}\", report: \"{{ steps.make.output.report }}\"}\n";
    let stage = Stage::new(&[
        ("actions/make.yaml", make),
        ("actions/read.yaml", read),
        ("workflows/both.yaml", workflow),
    ]);
    let _one = Worker::start_with(&stage.broker, &["--pool", "files_one"]);
    let two = Worker::start_with(&stage.broker, &["--pool", "files_two"]);
    let run = stage.run("site.both");
    assert_eq!(run["status"], "succeeded", "{run}");
    let sum = hex::encode(Sha256::digest(vec![b'x'; 3_000_000]));
    assert_eq!(run["output"]["sum"], sum.as_str());
    assert_eq!(run["output"]["report"]["artefact"], format!("sha256:{sum}").as_str());
    assert_eq!(run["output"]["report"]["size"], json!(3_000_000));
    assert!(run["output"]["place"].as_str().unwrap().starts_with(two.data().to_str().unwrap()), "{run}");
}
