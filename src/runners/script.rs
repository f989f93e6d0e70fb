//! Runner `script`: a file of the pack, in any language.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `file` | the file, relative to the pack's folder; it runs by its `#!` line, or with `/bin/sh -e`; never rendered |
//! | `args` | a list of arguments |
//! | `env` | a map of environment variables |
//!
//! The action's input comes as JSON on stdin, and every input that is no list and no map also as a variable: `commit` is `INPUT_COMMIT`.
//! The output is a JSON object: what the program writes to file descriptor 3, or else its last line on stdout when that is one, or else `{}`.
//! What it prints goes to the log. An exit status other than 0 fails. It runs in the run's workspace and sees `SISKIN_RUN`, `SISKIN_STEP`,
//! `SISKIN_ATTEMPT` and `SISKIN_WORKSPACE`.

use futures::future::BoxFuture;

use super::shell::{KEPT_BYTES, interpreter, verdict};
use super::{Done, Failure, Job, Runner, scalar_text, variables};
use crate::model::{Object, Value};
use crate::process::{Command, Finished};

/// See the head of this file.
pub struct Script;

impl Runner for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn verbatim(&self) -> &'static [&'static str] {
        &["file"]
    }

    fn run(&self, job: Job) -> BoxFuture<'static, Result<Done, Failure>> {
        Box::pin(run(job))
    }
}

async fn run(job: Job) -> Result<Done, Failure> {
    let Some(script) = &job.work.script else {
        return Err(Failure::new(format!("the action `{}` came without the file that it runs", job.action)));
    };
    let file = job.script_file(script)?;
    let mut words = interpreter(script).into_iter();
    let command = Command::new(words.next().unwrap_or_default())
        .args(words)
        .arg(file.path().display().to_string())
        .args(arguments(job.parameters.get("args"))?)
        .envs(job.environment())
        .envs(input_variables(&job.input))
        // With no section the parameters are the input, whose `env` is data like any other.
        .envs(if job.work.section.is_null() { Vec::new() } else { variables(job.parameters.get("env"))? })
        .stdin(job.input.to_string())
        .cwd(&job.workspace)
        .lock(&job.lock)
        .keep(KEPT_BYTES)
        .wants_result();
    let finished = job.process(command).await?;
    let output = output_of(&finished);
    if let Err(failure) = verdict(&finished) {
        return Err(failure.showing(output.unwrap_or(Value::Null)));
    }
    output.map(Done::with)
}

fn arguments(args: Option<&Value>) -> Result<Vec<String>, Failure> {
    match args {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items.iter().filter_map(scalar_text).collect()),
        Some(_) => Err(Failure::new("`args` must be a list")),
    }
}

/// `INPUT_NAME` for every input that is one word of data.
fn input_variables(input: &Value) -> Vec<(String, String)> {
    let Value::Object(map) = input else { return Vec::new() };
    map.iter()
        .filter(|(_, value)| !value.is_array() && !value.is_object())
        .filter_map(|(name, value)| Some((variable_of(name), scalar_text(value)?)))
        // No variable can hold it; stdin has it.
        .filter(|(_, text)| !text.contains('\0'))
        .collect()
}

fn variable_of(name: &str) -> String {
    let word = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "INPUT_".chars().chain(word).collect()
}

fn output_of(finished: &Finished) -> Result<Value, Failure> {
    if finished.result_overflowed {
        return Err(Failure::new("the program wrote more to file descriptor 3 than an output may hold"));
    }
    if let Some(result) = &finished.result {
        return match serde_json::from_slice(result) {
            Ok(output @ Value::Object(_)) => Ok(output),
            Ok(_) => Err(Failure::new("what the program wrote to file descriptor 3 is no JSON object")),
            Err(error) => {
                Err(Failure::new(format!("what the program wrote to file descriptor 3 is no JSON: {error}")))
            }
        };
    }
    let text = finished.stdout.text();
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match serde_json::from_str(last) {
        Ok(output @ Value::Object(_)) => Ok(output),
        _ => Ok(Value::Object(Object::new())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_become_variables_unless_they_are_lists_or_maps() {
        let input = json!({"commit": "3f1c", "build-no": 7, "deep": {"a": 1}, "list": [], "none": null, "nul": "a\u{0}b"});
        assert_eq!(
            input_variables(&input),
            [("INPUT_COMMIT".to_owned(), "3f1c".to_owned()), ("INPUT_BUILD_NO".to_owned(), "7".to_owned())]
        );
    }
}
