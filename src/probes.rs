//! Everything that reads what others write, as functions that anything may be thrown at: for the fuzz targets in fuzz/, and for the tests below, which
//! throw a little in every run.
//!
//! Promise: none of them panics, runs without end, or answers with a 5xx, whatever the bytes are. What they do goes nowhere: nothing is stored, sent or run.

use std::sync::{Arc, LazyLock};

use serde_json::json;

use crate::definitions::{self, Definitions, Files, Source};
use crate::expr::{Expr, Scope};
use crate::model::{Secret, Timestamp};
use crate::site;
use crate::sources::webhook::probe::{Thrown, events, is_proved};

/// A name, as of the fuzz target, and what the bytes are thrown at.
pub type Probe = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Probe] = &[
    ("webhook_body", webhook_body),
    ("definition", definition),
    ("template", template),
    ("condition", condition),
    ("signature", signature),
];

/// The definitions that ship, and their webhook sources.
static SHIPPED: LazyLock<(Definitions, Vec<Arc<Source>>)> = LazyLock::new(|| {
    let (definitions, _) = Definitions::read(&site::bare());
    let hooks = definitions.sources.values().filter(|source| source.webhook().is_some()).cloned().collect();
    (definitions, hooks)
});

static EXPR: LazyLock<Expr> = LazyLock::new(|| Expr::new(&[]).0);

/// What expressions see.
static SCOPE: LazyLock<Scope> = LazyLock::new(|| {
    let event = json!({
        "ref": "refs/heads/main", "after": "3f1c", "deleted": false, "count": 3, "ratio": 0.5, "none": null,
        "repository": {"name": "shop", "private": true}, "commits": [{"id": "a"}, {"id": "b"}],
    });
    let output = json!({"done": true, "deb": "shop.deb", "list": [1, 2, 3]});
    let input = json!({"app": "shop", "commit": "3f1c", "spans": {"a": "15m"}});
    Scope::new().with("event", event.clone()).with("body", event).with("output", output).with("input", input)
});

/// A payload for one of the webhook sources that ship: the first byte says which, the second how it is sent.
pub fn webhook_body(data: &[u8]) {
    let [which, how, bytes @ ..] = data else { return };
    let (definitions, hooks) = &*SHIPPED;
    let Some(source) = hooks.get(usize::from(*which) % hooks.len().max(1)) else { return };
    let kind = match how % 4 {
        0 => "application/x-www-form-urlencoded",
        1 => "text/plain",
        _ => "application/json; charset=utf-8",
    };
    // The sender's header may say anything as well: what stands in the first line.
    let said: Vec<u8> = bytes.iter().copied().take_while(|byte| *byte != b'\n').take(64).collect();
    let said = if how & 4 == 0 { b"push".to_vec() } else { said };
    let senders = [
        "X-GitHub-Event",
        "X-Gitlab-Event",
        "X-Gitea-Event",
        "X-Forgejo-Event",
        "X-Event-Key",
        "circleci-event-type",
    ];
    let mut headers = vec![("Content-Type".to_owned(), kind.as_bytes().to_vec())];
    headers.extend(senders.map(|name| (name.to_owned(), said.clone())));
    let thrown = Thrown { headers: &headers, query: "token=t", bytes };
    if let Err(status) = events(definitions, source, &thrown) {
        assert!(status < 500, "{} answers {status}", source.name);
    }
}

/// The files that a text may be.
const PATHS: [&str; 10] = [
    "rules/f.yaml",
    "workflows/f.yaml",
    "packs/f/actions/f.yaml",
    "packs/f/triggers/f.yaml",
    "packs/f/sources/f.yaml",
    "apps/f.yaml",
    "siskin.yaml",
    "packs/f/pack.yaml",
    "tests/f.yaml",
    "packs/f/functions.rhai",
];

/// The text of a definition: the first byte says of which kind.
pub fn definition(data: &[u8]) {
    let [which, text @ ..] = data else { return };
    let path = PATHS[usize::from(*which) % PATHS.len()];
    let mut files = Files::from_texts([
        ("packs/core/actions/noop.yaml", "runner: native\n"),
        ("packs/core/actions/echo.yaml", "runner: native\ninput: {value: any}\nreturns: {value: any}\n"),
        ("packs/github/triggers/push.yaml", "payload: {type: object, required: [ref]}\n"),
    ]);
    files.texts.insert(path.to_owned(), Arc::from(text));
    let (_, mistakes) = Definitions::read(&files);
    definitions::show(&mistakes, &files, false);
    definitions::difference::difference(path, text, b"trigger: github.push\nrun: core.noop\n");
}

/// A template over known values.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = EXPR.template(text) else { return };
    template.references();
    template.secrets();
    // A mistake in rendering is an answer, too.
    drop(EXPR.render(&template, &SCOPE));
    drop(EXPR.render_plain(&template, &SCOPE));
}

/// A condition over known values.
pub fn condition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(script) = EXPR.script(text) else { return };
    script.references();
    drop(EXPR.evaluate(&script, &SCOPE));
}

/// A proof for each of the webhook sources that ship: the first line is what its headers say, the rest the body.
pub fn signature(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (said, bytes) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let names = [
        "X-Hub-Signature-256",
        "X-Hub-Signature",
        "X-Gitlab-Token",
        "X-Gitea-Signature",
        "X-Siskin-Token",
        "X-Slack-Signature",
        "X-Slack-Request-Timestamp",
        "circleci-signature",
        "webhook-signature",
        "webhook-id",
        "webhook-timestamp",
        "Authorization",
    ];
    let headers: Vec<(String, Vec<u8>)> =
        names.iter().map(|name| ((*name).to_owned(), said.to_vec())).collect();
    let query = String::from_utf8_lossy(said);
    let thrown = Thrown { headers: &headers, query: &query, bytes };
    for source in &SHIPPED.1 {
        for key in ["whsec_MDEyMzQ1Njc4OWFiY2RlZg==", "", "\u{0}k"] {
            is_proved(source, &thrown, &Secret::new(key), Timestamp(1_700_000_000_000));
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// What may become of a text on its way: bytes that are other ones, parts that are missing, doubled, or somebody else's.
    #[derive(Clone, Debug)]
    enum Change {
        Set(usize, u8),
        Cut(usize, usize),
        Double(usize, usize),
        Take { from: usize, at: usize, length: usize },
        Insert(usize, String),
    }

    fn change() -> impl Strategy<Value = Change> {
        let words = prop::sample::select(vec![
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "\u{0}",
            "\u{feff}",
            "\u{202e}",
            "9999999999999999999",
            "-1",
            "1e999",
            "[[[[[[[[",
            "{\"a\":",
            "null",
            "\"",
            "\\u0000",
            "\\ud800",
            "%00",
            "%",
            "&",
            "=",
            "+",
            "..",
            "\n",
            "\r\n",
            "\t",
            "- ",
            ": ",
            "? ",
            "!x ",
            "&a ",
            "*a",
            "|\n",
            "<<:",
            "#{",
            "${",
            "`",
            "=>",
            "?.",
            "?[",
            "loop{}",
            "while true {}",
            "fn f(){f()}",
            "event",
            "event.commits",
            "|length",
            "|join",
            "range(9999999)",
            "~",
            "*",
            "**",
            "<<",
            "x.pad(99999999,1)",
        ]);
        prop_oneof![
            (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
            (any::<usize>(), 1..64_usize).prop_map(|(at, length)| Change::Cut(at, length)),
            (any::<usize>(), 1..256_usize).prop_map(|(at, length)| Change::Double(at, length)),
            (any::<usize>(), any::<usize>(), 1..256_usize).prop_map(|(from, at, length)| Change::Take {
                from,
                at,
                length
            }),
            (any::<usize>(), words).prop_map(|(at, word)| Change::Insert(at, word.to_owned())),
        ]
    }

    fn changed(mut data: Vec<u8>, changes: &[Change], all: &[Vec<u8>]) -> Vec<u8> {
        for change in changes {
            let within = |at: usize| at % (data.len() + 1);
            match change {
                Change::Set(at, byte) => {
                    let at = within(*at);
                    if let Some(old) = data.get_mut(at) {
                        *old = *byte;
                    }
                }
                Change::Cut(at, length) => {
                    let at = within(*at);
                    data.drain(at..(at + length).min(data.len()));
                }
                Change::Double(at, length) => {
                    let at = within(*at);
                    let part = data[at..(at + length).min(data.len())].to_vec();
                    data.splice(at..at, part);
                }
                Change::Take { from, at, length } => {
                    let (other, at) = (&all[from % all.len()], within(*at));
                    let start = from % (other.len() + 1);
                    let part = other[start..(start + length).min(other.len())].to_vec();
                    data.splice(at..at, part);
                }
                Change::Insert(at, word) => {
                    let at = within(*at);
                    data.splice(at..at, word.bytes());
                }
            }
        }
        data
    }

    /// Throws the seeds, then changed ones; SISKIN_PROBE_SECONDS says how long, for who has time.
    fn throw(name: &str) {
        let (_, probe) = ALL.iter().find(|(known, _)| *known == name).unwrap();
        let seeds = seeds(name);
        assert!(seeds.len() > 3, "fuzz/seeds/{name} has too few");
        seeds.iter().for_each(|seed| probe(seed));
        let strategy = (0..seeds.len(), prop::collection::vec(change(), 0..8));
        let seconds: Option<u64> =
            std::env::var("SISKIN_PROBE_SECONDS").ok().and_then(|text| text.parse().ok());
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
        let mut runner = match seconds {
            Some(_) => TestRunner::new(Config::default()),
            None => TestRunner::deterministic(),
        };
        let mut thrown = 0;
        while Instant::now() < end && (seconds.is_some() || thrown < 400) {
            let (seed, changes) = strategy.new_tree(&mut runner).unwrap().current();
            let data = changed(seeds[seed].clone(), &changes, &seeds);
            let began = Instant::now();
            let caught = std::panic::catch_unwind(|| probe(&data));
            let shown = String::from_utf8_lossy(&data);
            assert!(caught.is_ok(), "{name} does not bear {shown:?} ({})", hex::encode(&data));
            // Limits end what would take long; a debug build on a busy machine takes its time.
            assert!(began.elapsed() < Duration::from_secs(20), "{name} takes too long over {shown:?}");
            thrown += 1;
        }
        assert!(thrown > 0);
    }

    #[test]
    fn any_payload_may_come() {
        throw("webhook_body");
    }

    #[test]
    fn any_text_may_be_a_definition() {
        throw("definition");
    }

    #[test]
    fn any_text_may_be_a_template() {
        throw("template");
    }

    #[test]
    fn any_text_may_be_a_condition() {
        throw("condition");
    }

    #[test]
    fn anything_may_be_said_to_be_a_proof() {
        throw("signature");
    }

    #[test]
    fn each_has_its_fuzz_target() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
        for (name, _) in ALL {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let target = std::fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(target.contains(&format!("siskin::probes::{name}(")), "{name}");
        }
    }
}
