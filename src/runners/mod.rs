//! How actions are done: one file per runner. A runner streams what the action prints, reports outputs as it goes, and ends everything that it
//! started when it is told to. It decides nothing about the run.
//!
//! Promises: after `cancel` a job ends soon, with all that it started; two attempts of one step never work beside each other, since each holds
//! the step's lock; no error names a secret on purpose (what slips through is masked by the worker).
//!
//! Left to the worker: rendering of templates, filling in of secrets, masking, time limits, the size of outputs.

pub mod http;
pub mod native;
pub mod script;
pub mod shell;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::model::attempt::Work;
use crate::model::desk::{Reply, Request};
use crate::model::log::Stream;
use crate::model::{Artefact, AttemptKey, ErrorKind, Object, RunError, Span, Timestamp, Value};
use crate::process;

/// Every runner there is.
pub const ALL: &[&dyn Runner] = &[&shell::Shell, &script::Script, &http::Http, &native::Native];

/// The runner called `name`.
pub fn find(name: &str) -> Option<&'static dyn Runner> {
    ALL.iter().copied().find(|runner| runner.name() == name)
}

/// One way of doing actions.
pub trait Runner: Send + Sync {
    fn name(&self) -> &'static str;

    /// The keys of its section that hold code: they are never rendered.
    fn verbatim(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether an action touches nothing but memory and the server: then it gets no workspace and no lock, which cost more than it does.
    fn is_in_memory(&self, _action: &str) -> bool {
        false
    }

    fn run(&self, job: Job) -> BoxFuture<'static, Result<Done, Failure>>;
}

/// What a runner gets: everything filled in, secrets included. Lives in memory only.
pub struct Job {
    pub key: AttemptKey,
    pub action: String,
    pub input: Value,
    /// The runner's section of the action file, rendered; or the input, when the file has no section.
    pub parameters: Value,
    pub work: Work,
    /// The app that the attempt is about, by its name: `{shop: {...}}`.
    pub apps: Value,
    pub timeout: Span,
    /// When it began.
    pub now: Timestamp,
    /// The workspace of (run, worker): made before the first attempt that works outside memory, removed when the run has ended.
    pub workspace: PathBuf,
    /// The server's or worker's own directory: what outlives the run is kept there.
    pub data: PathBuf,
    /// A file that is locked while any process of this step's attempts is alive.
    pub lock: PathBuf,
    pub cancel: CancellationToken,
    pub line: Arc<dyn Line>,
}

/// What a job may say while it works. Masking happens behind it.
pub trait Line: Send + Sync {
    /// Output of the action, at best whole lines. May make its caller wait when it comes faster than it can be stored.
    fn output(&self, stream: Stream, bytes: &[u8]);

    /// Outputs so far; waits until they are stored. An error means that the attempt must go no further.
    fn progress(&self, output: Value) -> BoxFuture<'_, Result<(), Failure>>;

    fn ask(&self, request: Request) -> BoxFuture<'_, Reply>;

    /// Whether the job was told to end only because its worker stops: it is going to begin again, and what it started elsewhere may go on.
    fn begins_again(&self) -> bool {
        false
    }

    /// Keeps a file that the action printed as an artefact, with its secrets hidden.
    fn keep<'a>(&'a self, printed: &'a Path, name: &'a str) -> BoxFuture<'a, Result<Artefact, Failure>>;
}

/// An action that did what it was to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub output: Value,
    /// What the server at the other end answered: `response` in the templates of `output:`.
    pub response: Option<Value>,
}

impl Done {
    pub fn with(output: Value) -> Done {
        Done { output, response: None }
    }
}

/// An action that did not.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub error: Box<RunError>,
    /// What it has to show all the same; null leaves what it reported before.
    pub output: Value,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { error: Box::new(RunError::failed(message)), output: Value::Null }
    }

    pub fn of_kind(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { error: Box::new(RunError::new(kind, message)), output: Value::Null }
    }

    pub fn cancelled() -> Failure {
        Failure::of_kind(ErrorKind::Cancelled, "cancelled")
    }

    #[must_use]
    pub fn showing(mut self, output: Value) -> Failure {
        self.output = output;
        self
    }
}

impl From<process::ProcessError> for Failure {
    fn from(error: process::ProcessError) -> Failure {
        Failure::new(error.to_string())
    }
}

impl Job {
    /// A line of Siskin's own in the attempt's log.
    pub fn note(&self, text: &str) {
        self.line.output(Stream::Note, format!("{text}\n").as_bytes());
    }

    /// Runs a program to its end; what it prints goes to the attempt's log.
    pub(crate) async fn process(&self, command: process::Command) -> Result<process::Finished, Failure> {
        let mut on_line = |stream: Stream, line: &[u8]| say(&*self.line, stream, line);
        let finished = process::run(command, &mut on_line, &self.cancel, None).await?;
        for leftover in &finished.leftovers {
            self.note(&format!("process {leftover} could not be ended"));
        }
        Ok(finished)
    }

    /// What every program of an action finds in its environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("SISKIN_RUN".to_owned(), self.key.run.to_string()),
            ("SISKIN_STEP".to_owned(), self.key.step.clone()),
            ("SISKIN_ATTEMPT".to_owned(), self.key.number.to_string()),
            ("SISKIN_WORKSPACE".to_owned(), self.workspace.display().to_string()),
        ]
    }

    /// A lock for programs that an action runs while it holds the step's lock itself. It outlives us as the programs do.
    pub(crate) fn child_lock(&self, name: &str) -> PathBuf {
        let mut path = self.lock.clone().into_os_string();
        path.push(format!(".{name}"));
        path.into()
    }

    /// Writes the text of a script where a program can read it. Beside the workspace, so that a checkout in it stays clean.
    pub(crate) fn script_file(&self, text: &str) -> Result<tempfile::NamedTempFile, Failure> {
        let parent = self.workspace.parent().unwrap_or(&self.workspace);
        write_script(parent, text).map_err(|error| {
            Failure::new(format!("the script can't be written in `{}`: {error}", parent.display()))
        })
    }
}

fn write_script(parent: &Path, text: &str) -> std::io::Result<tempfile::NamedTempFile> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let mut file = tempfile::Builder::new()
        .prefix(".script-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempfile_in(parent)?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    Ok(file)
}

/// A line of a program as it goes to the log: with the end of line that `process` took off, unless it is a piece of a longer one.
pub(crate) fn say(line: &dyn Line, stream: Stream, bytes: &[u8]) {
    if bytes.len() >= process::LINE_BYTES {
        line.output(stream, bytes);
        return;
    }
    let mut whole = Vec::with_capacity(bytes.len() + 1);
    whole.extend_from_slice(bytes);
    whole.push(b'\n');
    line.output(stream, &whole);
}

/// How much is left out where a line without end was cut: a secret may have been cut there, and none is longer, also not in base64.
const LONGEST_CUT: usize = 96 * 1024;

/// The nearest place not after `index` where text can be cut.
fn boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

/// The text of a captured output: no end of line at its end, as `$(...)` gives it. Where the middle is missing, the lines that were cut are
/// left out whole, so that no piece of a secret escapes the mask.
pub(crate) fn text_of(captured: &process::Captured) -> String {
    let text = captured.text();
    if captured.dropped_bytes == 0 {
        return text.trim_end_matches(['\n', '\r']).to_owned();
    }
    let note = format!("\n... {} bytes are not shown here ...\n", captured.dropped_bytes);
    let Some((head, tail)) = text.split_once(&note) else { return String::new() };
    let head = head
        .rfind('\n')
        .map_or_else(|| &head[..boundary(head, head.len().saturating_sub(LONGEST_CUT))], |end| &head[..end]);
    let tail =
        tail.find('\n').map_or_else(|| &tail[boundary(tail, LONGEST_CUT)..], |start| &tail[start + 1..]);
    format!("{head}\n... part of the output is not shown here, the log has it ...\n{}", tail.trim_end())
}

/// How much of the end of a text stands beside the artefact that has it.
const TAIL_BYTES: usize = 2000;

/// A captured output: its text, or, when that is more than was kept, the artefact that has all of it.
pub(crate) async fn text_or_artefact(job: &Job, captured: &process::Captured, name: &str) -> Value {
    let Some(whole) = &captured.whole else { return Value::String(text_of(captured)) };
    match job.line.keep(whole.path(), name).await {
        Ok(artefact) => {
            let cut = if whole.is_cut { ", but for its end, which was too much" } else { "" };
            let note = format!("too large to stand here: it is kept as a file{cut}");
            let text = text_of(captured);
            let from = boundary(&text, text.len().saturating_sub(TAIL_BYTES));
            let tail = text[from + text[from..].find('\n').map_or(0, |end| end + 1)..].to_owned();
            Artefact { note: Some(note), tail: Some(tail), ..artefact }.value()
        }
        Err(failure) => {
            job.note(&format!("the whole of {name} can't be kept: {}", failure.error.message));
            Value::String(text_of(captured))
        }
    }
}

/// Environment variables from a map of parameters: text as it is, numbers and truth values as they print, lists and maps as JSON; null sets
/// nothing.
pub(crate) fn variables(env: Option<&Value>) -> Result<Vec<(String, String)>, Failure> {
    let map = match env {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Failure::new("`env` must be a map of names to values")),
    };
    let mut variables = Vec::with_capacity(map.len());
    for (name, value) in map {
        if !is_variable_name(name) {
            return Err(Failure::new(format!(
                "`{name}` in `env` is no name of a variable; use letters, digits and _"
            )));
        }
        if let Some(text) = scalar_text(value) {
            variables.push((name.clone(), text));
        }
    }
    Ok(variables)
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A value as a program or a header takes it; nothing for null.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A parameter that must be text.
pub(crate) fn text_parameter<'a>(parameters: &'a Value, name: &str) -> Result<&'a str, Failure> {
    match parameters.get(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(Failure::new(format!("the parameter `{name}` is missing"))),
        Some(_) => Err(Failure::new(format!("the parameter `{name}` must be text"))),
    }
}

/// A parameter that is text when it is there.
pub(crate) fn optional_text<'a>(parameters: &'a Value, name: &str) -> Result<Option<&'a str>, Failure> {
    match parameters.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => text_parameter(parameters, name).map(Some),
    }
}

/// An object from pairs.
pub(crate) fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Object>())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_runner_is_found_by_its_name_and_by_no_other() {
        for runner in ALL {
            assert_eq!(find(runner.name()).unwrap().name(), runner.name());
        }
        assert!(find("carrier_pigeon").is_none());
    }

    #[test]
    fn variables_take_any_value_and_only_real_names() {
        let env = json!({"A": "x y", "B": 3, "C": true, "D": null, "E": ["a"], "_f": {"k": 1}});
        let expected = [("A", "x y"), ("B", "3"), ("C", "true"), ("E", "[\"a\"]"), ("_f", "{\"k\":1}")];
        let expected: Vec<_> = expected.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        assert_eq!(variables(Some(&env)).unwrap(), expected);
        for name in ["", "1A", "A-B", "A=B", "A B", "Ä"] {
            let mut map = Object::new();
            map.insert(name.to_owned(), json!(1));
            assert!(variables(Some(&Value::Object(map))).is_err(), "{name}");
        }
        assert!(variables(Some(&json!("A=1"))).is_err());
    }

    #[test]
    fn what_was_cut_in_the_middle_loses_the_cut_lines_whole() {
        let captured = process::Captured {
            bytes: b"one\ntwo\nsecr\n... 9 bytes are not shown here ...\net\nlast\n".to_vec(),
            dropped_bytes: 9,
            whole: None,
        };
        let text = text_of(&captured);
        assert!(text.starts_with("one\ntwo\n...") && text.ends_with("last"), "{text}");
        assert!(!text.contains("secr") && !text.contains("et\n"), "{text}");
    }
}
