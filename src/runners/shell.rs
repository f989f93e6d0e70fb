//! Runner `shell`: a script text of the action file, or of whoever calls the action.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `script` | the script; never rendered. It runs with `/bin/sh -e`, or by its `#!` line (a shell there gets `-e` too), so it ends at the first command that fails |
//! | `env` | a map of environment variables; this is how data comes in, so data is never shell text |
//! | `cwd` | the directory to run in, relative to the run's workspace; the workspace itself when not said |
//!
//! They stand in the section `shell:` of the action file; without a section, the action's input has them (`core.shell`).
//!
//! Output: `{code, stdout, stderr}`; each is the text without the end of line at its end, or, when that is more than 256 KiB, the artefact that has all of
//! it (up to 1 GiB): `{artefact, name, size, note, tail}`. A code other than 0 fails; the error has the code and the last line of stderr. The script also sees `SISKIN_RUN`, `SISKIN_STEP`, `SISKIN_ATTEMPT` and
//! `SISKIN_WORKSPACE`. Its stdin is empty.

use std::path::PathBuf;

use futures::future::BoxFuture;

use super::{Done, Failure, Job, Runner, object, optional_text, text_or_artefact, text_parameter, variables};
use crate::model::Value;
use crate::process::{Command, Ended, Finished};

/// How much of stdout, and of stderr, the output keeps.
pub(super) const KEPT_BYTES: usize = 256 * 1024;
/// Shells that end at the first command that fails when they are started with `-e`.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// See the head of this file.
pub struct Shell;

impl Runner for Shell {
    fn name(&self) -> &'static str {
        "shell"
    }

    fn verbatim(&self) -> &'static [&'static str] {
        &["script"]
    }

    fn run(&self, job: Job) -> BoxFuture<'static, Result<Done, Failure>> {
        Box::pin(run(job))
    }
}

async fn run(job: Job) -> Result<Done, Failure> {
    let script = text_parameter(&job.parameters, "script")?;
    let file = job.script_file(script)?;
    let path = file.path().display().to_string();
    let mut words = interpreter(script).into_iter();
    let command = Command::new(words.next().unwrap_or_default())
        .args(words)
        .arg(path)
        .envs(job.environment())
        .envs(variables(job.parameters.get("env"))?)
        .cwd(directory(&job)?)
        .lock(&job.lock)
        .keep(KEPT_BYTES)
        .whole(job.workspace.parent().unwrap_or(&job.workspace));
    let finished = job.process(command).await?;
    let output = object([
        ("code", code_of(finished.ended)),
        ("stdout", text_or_artefact(&job, &finished.stdout, "stdout.txt").await),
        ("stderr", text_or_artefact(&job, &finished.stderr, "stderr.txt").await),
    ]);
    verdict(&finished).map_err(|failure| failure.showing(output.clone()))?;
    Ok(Done::with(output))
}

/// The program that runs a script, with its arguments. It is started by name rather than by making the file executable and starting that: a
/// file that was just written may still be open in a process that is being forked, and can't be executed then.
pub(super) fn interpreter(script: &str) -> Vec<String> {
    let Some(line) = script.strip_prefix("#!").and_then(|rest| rest.lines().next()) else {
        return vec!["/bin/sh".to_owned(), "-e".to_owned()];
    };
    let line = line.trim();
    let (program, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let mut words = vec![program.to_owned()];
    // As the system does it: all that follows is one argument. `env -S` and the like split it themselves.
    let argument = argument.trim();
    if !argument.is_empty() {
        words.push(argument.to_owned());
    }
    let base = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let is_shell = |word: &str| SHELLS.contains(&base(word).as_str());
    if is_shell(program) || (base(program) == "env" && words.len() == 2 && is_shell(argument)) {
        words.push("-e".to_owned());
    }
    words
}

/// Where the program runs.
pub(super) fn directory(job: &Job) -> Result<PathBuf, Failure> {
    Ok(match optional_text(&job.parameters, "cwd")? {
        None => job.workspace.clone(),
        Some(cwd) => job.workspace.join(cwd),
    })
}

fn code_of(ended: Ended) -> Value {
    match ended {
        Ended::Code(code) => Value::from(code),
        // As a shell would give it.
        Ended::Signal(number) => Value::from(128 + number),
        Ended::TimedOut | Ended::Cancelled => Value::Null,
    }
}

/// Whether a program did what it was to do.
pub(super) fn verdict(finished: &Finished) -> Result<(), Failure> {
    match finished.ended {
        Ended::Code(0) => Ok(()),
        Ended::TimedOut | Ended::Cancelled => Err(Failure::cancelled()),
        ended => Err(Failure::new(format!("{ended}: {}", finished.last_words()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_runs_by_its_first_line_or_by_sh() {
        for (script, words) in [
            ("echo hi", &["/bin/sh", "-e"][..]),
            ("#!/bin/bash\necho", &["/bin/bash", "-e"]),
            ("#! /usr/bin/env bash\necho", &["/usr/bin/env", "bash", "-e"]),
            ("#!/usr/bin/env python3\nprint()", &["/usr/bin/env", "python3"]),
            ("#!/usr/bin/python3 -u -O\n", &["/usr/bin/python3", "-u -O"]),
            ("#!/bin/sh -x\r\n", &["/bin/sh", "-x", "-e"]),
        ] {
            assert_eq!(interpreter(script), words, "{script}");
        }
    }
}
