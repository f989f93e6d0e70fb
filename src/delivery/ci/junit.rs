//! What tests said, in the XML that nearly every test tool can write (JUnit's): how many there were, and which failed.
//!
//! Reports are what a build wrote, so nothing in them is trusted: they are read from within the tree only, up to a size, and entities beyond the five of
//! XML are left as they are. A report that can't be read is a problem that is told, not a failed build.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::model::Value;

const MOST_FILES: usize = 500;
const MOST_BYTES: u64 = 32 * 1024 * 1024;
/// How many failures are named; the others are counted.
const MOST_NAMED: usize = 50;
const MESSAGE_CHARS: usize = 2000;

/// All reports of a build together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tests {
    pub total: usize,
    pub failed: usize,
    pub errors: usize,
    pub skipped: usize,
    pub seconds: f64,
    pub failures: Vec<Failed>,
    pub files: usize,
    /// Reports that could not be read, and patterns that met none.
    pub problems: Vec<String>,
}

/// A test that did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub name: String,
    pub class: String,
    pub message: String,
}

impl Tests {
    /// As it stands in an action's output.
    pub fn value(&self) -> Value {
        let failure =
            |failed: &Failed| json!({"name": failed.name, "class": failed.class, "message": failed.message});
        json!({
            "total": self.total,
            "passed": self.total.saturating_sub(self.failed + self.errors + self.skipped),
            "failed": self.failed,
            "errors": self.errors,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>(),
            "files": self.files,
        })
    }
}

/// Reads the reports of a tree that patterns like `build/**/TEST-*.xml` meet.
pub fn collect(tree: &Path, patterns: &[String]) -> Tests {
    let mut tests = Tests::default();
    let mut files = Vec::new();
    names(tree, Path::new(""), &mut files);
    files.sort();
    for pattern in patterns {
        let glob = match globset::GlobBuilder::new(pattern).literal_separator(true).build() {
            Ok(glob) => glob.compile_matcher(),
            Err(error) => {
                tests
                    .problems
                    .push(format!("`{}` in `junit` is no pattern: {error}", pattern.escape_debug()));
                continue;
            }
        };
        let found: Vec<&PathBuf> = files.iter().filter(|file| glob.is_match(file)).collect();
        if found.is_empty() {
            tests.problems.push(format!("no report meets `{}`", pattern.escape_debug()));
        }
        for file in found.iter().take(MOST_FILES) {
            if let Err(error) = read(&tree.join(file), &mut tests) {
                tests.problems.push(format!("the report {} can't be read: {error}", file.display()));
            }
        }
        if found.len() > MOST_FILES {
            tests.problems.push(format!("only {MOST_FILES} of {} reports were read", found.len()));
        }
    }
    tests
}

/// Files below a folder; links are not followed.
fn names(tree: &Path, below: &Path, files: &mut Vec<PathBuf>) {
    let Ok(items) = fs::read_dir(tree.join(below)) else { return };
    for item in items.flatten() {
        let path = below.join(item.file_name());
        match item.file_type() {
            Ok(kind) if kind.is_dir() && path != Path::new(".git") => names(tree, &path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

fn read(path: &Path, tests: &mut Tests) -> Result<(), String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MOST_BYTES {
        return Err(format!("it is larger than {} MiB", MOST_BYTES / 1024 / 1024));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    add(&String::from_utf8_lossy(&bytes), tests)?;
    tests.files += 1;
    Ok(())
}

/// A test, while its element is open.
#[derive(Default)]
struct Case {
    name: String,
    class: String,
    seconds: f64,
    outcome: Option<Outcome>,
    message: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Failed,
    Error,
    Skipped,
}

/// Adds what one report says. Cases are counted, not what suites say of themselves: suites may be nested, and some tools count wrongly.
fn add(text: &str, tests: &mut Tests) -> Result<(), String> {
    let mut found = Tests::default();
    let mut case: Option<Case> = None;
    let mut is_report = false;
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let words = rest[..start].trim();
        if let Some(case) = case.as_mut().filter(|case| case.outcome.is_some() && case.message.is_empty()) {
            case.message = plain(words);
        }
        rest = &rest[start..];
        if let Some(after) = rest.strip_prefix("<!--") {
            rest = after.split_once("-->").ok_or("a comment has no end")?.1;
            continue;
        }
        if let Some(after) = rest.strip_prefix("<![CDATA[") {
            let (content, after) = after.split_once("]]>").ok_or("a CDATA section has no end")?;
            if let Some(case) = case.as_mut().filter(|case| case.outcome.is_some() && case.message.is_empty())
            {
                case.message = content.trim().to_owned();
            }
            rest = after;
            continue;
        }
        let end = end_of_tag(rest).ok_or("a tag has no end")?;
        let tag = &rest[1..end];
        rest = &rest[end + 1..];
        if tag.starts_with(['?', '!']) {
            continue;
        }
        let closes = tag.starts_with('/');
        let is_empty = tag.ends_with('/');
        let tag = tag.trim_matches('/');
        let name = tag.split(|c: char| c.is_whitespace()).next().unwrap_or_default();
        match (name, closes) {
            ("testsuite" | "testsuites", _) => is_report = true,
            ("testcase", false) => {
                let attribute = |name: &str| attribute(tag, name).unwrap_or_default();
                let seconds = attribute("time").replace(',', "").parse::<f64>().unwrap_or(0.0);
                case = Some(Case {
                    name: attribute("name"),
                    class: attribute("classname"),
                    seconds: if seconds.is_finite() && seconds > 0.0 { seconds } else { 0.0 },
                    ..Case::default()
                });
            }
            ("failure", false) => mark(&mut case, tag, Outcome::Failed),
            ("error", false) => mark(&mut case, tag, Outcome::Error),
            ("skipped", false) => mark(&mut case, tag, Outcome::Skipped),
            _ => {}
        }
        if name == "testcase"
            && (closes || is_empty)
            && let Some(case) = case.take()
        {
            count(case, &mut found);
        }
    }
    if !is_report {
        return Err("it is no report of tests".to_owned());
    }
    if case.is_some() {
        return Err("it ends in the middle of a test".to_owned());
    }
    tests.total += found.total;
    tests.failed += found.failed;
    tests.errors += found.errors;
    tests.skipped += found.skipped;
    tests.seconds += found.seconds;
    let room = MOST_NAMED.saturating_sub(tests.failures.len());
    tests.failures.extend(found.failures.into_iter().take(room));
    Ok(())
}

/// The first that goes wrong in a case is what it is.
fn mark(case: &mut Option<Case>, tag: &str, outcome: Outcome) {
    if let Some(case) = case.as_mut().filter(|case| case.outcome.is_none()) {
        case.outcome = Some(outcome);
        case.message = attribute(tag, "message").unwrap_or_default();
    }
}

fn count(case: Case, tests: &mut Tests) {
    tests.total += 1;
    tests.seconds += case.seconds;
    match case.outcome {
        None => return,
        Some(Outcome::Skipped) => {
            tests.skipped += 1;
            return;
        }
        Some(Outcome::Failed) => tests.failed += 1,
        Some(Outcome::Error) => tests.errors += 1,
    }
    if tests.failures.len() < MOST_NAMED {
        let message = case.message.chars().take(MESSAGE_CHARS).collect();
        tests.failures.push(Failed { name: case.name, class: case.class, message });
    }
}

/// Where the tag that begins here has its `>`, which may also stand within quotes.
fn end_of_tag(text: &str) -> Option<usize> {
    let mut quote = None;
    for (place, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (None, '>') => return Some(place),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

fn attribute(tag: &str, wanted: &str) -> Option<String> {
    let mut rest = tag.split_once(|c: char| c.is_whitespace())?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, after) = after[1..].split_once(quote)?;
        if name.trim() == wanted {
            return Some(plain(value));
        }
        rest = after;
    }
}

/// Text without entities.
fn plain(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let known =
            rest.find(';').filter(|end| *end <= 10).and_then(|end| Some((entity(&rest[1..end])?, end)));
        match known {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        other => {
            let number = other.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0"?><!DOCTYPE x><testsuites tests="99">
<!-- <testcase name="no"/> -->
<testsuite name="a > b" tests="9"><testcase name="one" classname="A" time="0.5"/>
<testcase classname='A' name='t&#119;o &lt;x&gt; &unknown;' time="1,000.25"><failure message="1 &amp; 2 > 3">trace</failure><system-out><![CDATA[</testcase>]]></system-out></testcase>
<testcase name="three"><error><![CDATA[ it broke ]]></error></testcase>
<testcase name="four"><skipped/></testcase>
<testsuite><testcase name="five" time="NaN"><failure>said here</failure><error/></testcase></testsuite></testsuite></testsuites>"#;

    #[test]
    fn cases_are_counted_and_failures_named() {
        let mut tests = Tests::default();
        add(REPORT, &mut tests).unwrap();
        assert_eq!((tests.total, tests.failed, tests.errors, tests.skipped), (5, 2, 1, 1));
        assert!((tests.seconds - 1000.75).abs() < 1e-9);
        let said: Vec<_> =
            tests.failures.iter().map(|failed| (failed.name.as_str(), failed.message.as_str())).collect();
        assert_eq!(said, [("two <x> &unknown;", "1 & 2 > 3"), ("three", "it broke"), ("five", "said here")]);
        assert_eq!(tests.value()["passed"], 1);
    }

    #[test]
    fn what_is_no_report_or_none_is_told_and_harms_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("out/a/TEST-1.xml", REPORT);
        write("out/TEST-2.xml", "<html/>");
        write("out/TEST-3.xml", "<testsuite><testcase name='x'>");
        write("out/TEST-4.xml", "<testsuite><testcase name='x");
        write("out/other.xml", REPORT);
        std::os::unix::fs::symlink("/etc/passwd", tree.path().join("out/TEST-5.xml")).unwrap();
        let tests =
            collect(tree.path(), &["out/**/TEST-*.xml".to_owned(), "none/*.xml".to_owned(), "[".to_owned()]);
        assert_eq!((tests.files, tests.total), (1, 5));
        assert_eq!(tests.problems.len(), 5, "{:?}", tests.problems);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([<>/&;\"'=! a-c\\[\\]]|testcase|testsuite|failure|<!--|-->|]]>){0,60}") {
            drop(add(&text, &mut Tests::default()));
        }
    }
}
