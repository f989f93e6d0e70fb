#![expect(clippy::unwrap_used, reason = "tests")]

mod accept;
mod expressions;
mod groups;
mod loops;
mod names;
mod schema;
mod site;
mod sources;
mod steps;
mod tests_of_definitions;
mod windows;
mod workers;
mod yaml;

use super::{Definitions, Files, Mistake};

/// Packs that the tests name.
pub(super) const PACKS: [(&str, &str); 10] = [
    (
        "packs/core/actions/shell.yaml",
        "runner: shell\ninput:\n  script: {type: string, verbatim: true}\n  env: {type: object, default: {}}\n  cwd: {type: string, optional: true}\nreturns: {code: integer, stdout: string, stderr: string}\n",
    ),
    ("packs/core/actions/noop.yaml", "runner: native\n"),
    ("packs/core/actions/echo.yaml", "runner: native\ninput: {value: any}\nreturns: {value: any}\n"),
    (
        "packs/ci/actions/build.yaml",
        "runner: native\ninput:\n  commit: string\n  count: {type: integer, default: 1}\n  loud: {type: boolean, optional: true}\n  token: {type: string, optional: true, secret: true}\n  code: {type: string, optional: true, verbatim: true}\n  span: {type: duration, optional: true}\n  values: {type: object, optional: true, properties: {level: {type: integer, default: 1}}}\nreturns:\n  deb: string\n  info: {type: object, properties: {version: string}}\n",
    ),
    (
        "packs/ci/actions/restore.yaml",
        "runner: native\ninput: {deb: string, key: {type: string, optional: true}}\nidempotent: true\n",
    ),
    (
        "packs/ci/workflows/child.yaml",
        "input: {commit: string}\nsteps:\n  - id: a\n    run: build\n    with: {commit: \"{{ input.commit }}\"}\noutput: {deb: \"{{ steps.a.output.deb }}\"}\n",
    ),
    ("packs/github/triggers/push.yaml", "payload: {type: object, required: [ref]}\n"),
    ("packs/github/triggers/pull.yaml", "description: Somebody asks to pull.\n"),
    ("packs/github/pack.yaml", "config: {url: {type: string, default: \"https://api.github.com\"}}\n"),
    (
        "apps/shop.yaml",
        "owner: team-shop\nenvironments:\n  production: {hosts: [web-1], approvers: [release-managers]}\n",
    ),
];

/// `files` beside the packs.
pub(super) fn with_packs(files: &[(&str, &str)]) -> Files {
    Files::from_texts(PACKS.into_iter().chain(files.iter().copied()))
}

pub(super) fn read(files: &[(&str, &str)]) -> (Definitions, Vec<Mistake>) {
    Definitions::read(&with_packs(files))
}

/// `line:column message` and the help below, of all mistakes.
pub(super) fn mistakes(files: &[(&str, &str)]) -> String {
    let (_, mistakes) = read(files);
    let shown = mistakes.iter().map(|mistake| {
        let help = mistake.help.as_ref().map(|help| format!("\n    {help}")).unwrap_or_default();
        format!("{}:{} {}{help}", mistake.place.line, mistake.place.column, mistake.message)
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// The mistakes of a rule, or of a workflow.
pub(super) fn in_rule(text: &str) -> String {
    mistakes(&[("rules/r.yaml", text)])
}

pub(super) fn in_workflow(text: &str) -> String {
    mistakes(&[("workflows/w.yaml", text)])
}

/// The mistakes of a workflow with these steps.
pub(super) fn in_steps(steps: &str) -> String {
    in_workflow(&format!("input: {{commit: string}}\nsteps:\n{steps}"))
}
