//! Files that runs keep: between steps, and where an output is too large to stand in a run.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::server::{Server, client};

const MAKE: &str = "description: d\nrunner: shell\nreturns: {report: file}\nshell:\n  script: |\n    mkdir out\n    printf 'all is %s\\n' well > out/report.txt\noutput: {report: out/report.txt}\n";
const READ: &str = "description: d\nrunner: shell\ninput:\n  report: file\n  others: {type: array, items: {type: file}, default: []}\nreturns: {text: string, path: string}\nshell:\n  script: |\n    echo \"$REPORT\"\n    cat \"$REPORT\"\n  env: {REPORT: \"{{ input.report }}\"}\noutput: {text: \"{{ result.stdout }}\"}\n";

/// Bytes of an artefact: status, headers, body.
fn fetch(server: &Server, hash: &str, range: Option<&str>) -> (u16, reqwest::header::HeaderMap, Vec<u8>) {
    let mut request =
        client().get(format!("{}/api/v1/artefacts/{hash}", server.url())).bearer_auth(server.token());
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let answer = request.send().unwrap();
    (answer.status().as_u16(), answer.headers().clone(), answer.bytes().unwrap().to_vec())
}

#[test]
fn a_file_goes_from_step_to_step_and_can_be_fetched_afterwards() {
    let workflow = "description: d\nsteps:\n  - {id: make, run: make}\n  - id: read\n    run: read\n    with: {report: \"{{ steps.make.output.report }}\", others: [\"{{ steps.make.output.report }}\"]}\noutput: {report: \"{{ steps.make.output.report }}\"}\n";
    let mut server = Server::start(&[
        ("actions/make.yaml", MAKE),
        ("actions/read.yaml", READ),
        ("workflows/both.yaml", workflow),
    ]);
    let run = server.run_to_end("site.both", json!({}));
    assert_eq!(run["status"], "succeeded", "{run}");
    let report = &run["output"]["report"];
    assert_eq!((&report["name"], &report["size"]), (&json!("report.txt"), &json!(12)));
    let text = run["steps"][1]["output"]["text"].as_str().unwrap();
    assert!(text.contains("/.artefacts/") && text.ends_with("report.txt\nall is well"), "{text}");

    let hash = report["artefact"].as_str().unwrap().to_owned();
    assert_eq!(hash, format!("sha256:{}", hex::encode(Sha256::digest("all is well\n"))));
    server.kill();
    server.run();
    let (status, headers, body) = fetch(&server, &hash, None);
    assert_eq!((status, body.as_slice()), (200, b"all is well\n".as_slice()));
    assert_eq!(headers["etag"], format!("\"{hash}\""));
    let (status, headers, body) = fetch(&server, &hash, Some("bytes=7-10"));
    assert_eq!((status, body.as_slice()), (206, b"well".as_slice()));
    assert_eq!(headers["content-range"], "bytes 7-10/12");
    assert_eq!(fetch(&server, &hash, Some("bytes=12-")).0, 416);
    assert_eq!(fetch(&server, &"0".repeat(64), None).0, 404);
    assert_eq!(fetch(&server, "..%2Fsiskin.db", None).0, 404);

    let target = server.data().join("fetched");
    let done = server.cli(&["artefact", "get", &hash, "-o", target.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(std::fs::read(&target).unwrap(), b"all is well\n");
    let done = server.cli(&["artefact", "get", hash.trim_start_matches("sha256:"), "-o", "-"]);
    assert_eq!(done.stdout, b"all is well\n");
    assert_eq!(server.cli(&["artefact", "get", "nonsense", "-o", "-"]).status.code(), Some(2));
}

#[test]
fn an_output_that_is_too_large_is_a_file_with_its_secrets_hidden_and_fails_nothing() {
    let action = "description: d\nrunner: shell\nshell:\n  script: |\n    i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo \"begin $PASSWORD end\"; done\n    head -c 20000000 /dev/zero | tr '\\0' 'x'\n    echo; echo the end\n  env: {PASSWORD: \"{{ secret('password') }}\"}\n";
    let server = Server::start(&[("actions/print.yaml", action)]);
    server.set_secret("password", "correct horse");
    let run = server.run_to_end("site.print", json!({}));
    assert_eq!(run["status"], "succeeded", "{run}");
    let stdout = &run["output"]["stdout"];
    assert_eq!((&stdout["name"], &run["output"]["stderr"]), (&json!("stdout.txt"), &json!("")));
    assert!(stdout["note"].as_str().unwrap().contains("kept as a file"), "{stdout}");
    assert!(stdout["tail"].as_str().unwrap().ends_with("the end"), "{stdout}");
    let (status, _, body) = fetch(&server, stdout["artefact"].as_str().unwrap(), None);
    assert_eq!((status, body.len() as u64), (200, stdout["size"].as_u64().unwrap()));
    let text = String::from_utf8(body).unwrap();
    assert!(text.starts_with("begin *** end\nbegin *** end\n") && !text.contains("correct horse"));
    assert!(text.ends_with("xxx\nthe end\n"));
}

#[test]
fn a_declared_file_that_is_not_there_fails_the_step_and_says_which() {
    let missing = MAKE.replace("output: {report: out/report.txt}", "output: {report: out/other.txt}");
    let server = Server::start(&[("actions/make.yaml", &missing), ("actions/read.yaml", READ)]);
    let run = server.run_to_end("site.make", json!({}));
    let message = run["error"]["message"].as_str().unwrap();
    assert!(message.contains("`report`") && message.contains("other.txt"), "{message}");
    let gone = json!({"artefact": format!("sha256:{}", "0".repeat(64)), "name": "x", "size": 1});
    let run = server.run_to_end("site.read", json!({"report": gone}));
    assert!(run["error"]["message"].as_str().unwrap().contains("not kept any more"), "{run}");
    assert_eq!(run["steps"][0]["output"], Value::Null);
}
