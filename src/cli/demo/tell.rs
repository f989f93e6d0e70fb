//! What the demo says: lines for people, or JSON lines for programs.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use serde_json::{Value, json};

use super::play::Held;
use super::stage::Stage;

/// Says what happens as it happens.
#[derive(Debug)]
pub(super) struct Teller {
    json: bool,
    colour: bool,
    began: Instant,
}

impl Teller {
    pub(super) fn new(json: bool) -> Teller {
        let colour = !json
            && io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
        Teller { json, colour, began: Instant::now() }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A heading.
    pub(super) fn chapter(&self, title: &str) {
        if self.json {
            return self.object(&json!({"what": "chapter", "text": title}));
        }
        self.print(&format!("\n{}", self.paint("1", title)));
    }

    /// One thing that happened. `what` names it for programs.
    pub(super) fn line(&self, what: &str, text: &str, more: Value) {
        if self.json {
            let mut object = json!({"what": what, "text": text, "seconds": self.seconds()});
            if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
                object.extend(more);
            }
            return self.object(&object);
        }
        let mark = match what {
            "step.succeeded" | "run.succeeded" | "undo.succeeded" => self.paint("32", "✓"),
            "run.failed" | "run.cancelled" | "run.rejected" | "step.failed" | "step.timed_out"
            | "step.lost" => self.paint("31", "✗"),
            "step.started" | "undo.started" | "run.started" => self.paint("34", "▸"),
            "approval" => self.paint("33", "?"),
            _ => self.paint("2", "·"),
        };
        self.print(&format!("{} {mark} {text}", self.paint("2", &format!("{:>6.1}s", self.seconds()))));
    }

    /// What a host holds.
    pub(super) fn host(&self, host: &Held) {
        let version = host.version.as_deref().unwrap_or("nothing");
        let text = format!("{:<12} {:<12} {version}", host.name, host.environment);
        self.line("host", &text, json!({"host": host.name, "version": host.version}));
    }

    /// Where to look further.
    pub(super) fn epilogue(&self, stage: &Stage, kept: bool) {
        if self.json {
            return;
        }
        if kept {
            let folder = stage.folder.display();
            self.print(&format!(
                "\nEverything is in {folder}. Look around:\n  siskin serve --site {folder}/site --data {folder}/data\n  siskin runs --data {folder}/data\n  less {folder}/site/workflows/ship.yaml"
            ));
        } else {
            self.print("\nNothing is left behind; `siskin demo --dir DIR` keeps it all.");
        }
    }

    /// The last line of the JSON output.
    pub(super) fn result(&self, result: &Value) {
        if self.json {
            self.object(result);
        }
    }

    fn seconds(&self) -> f64 {
        (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
    }

    fn object(&self, object: &Value) {
        self.print(&object.to_string());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: &str) {
        // A closed pipe is nobody's loss: the demo goes on to its end.
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).ok();
    }
}
