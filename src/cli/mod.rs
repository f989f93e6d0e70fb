//! The command line: one file per subcommand. It talks to a server as any other client does; only `serve`, `agent`, `init`, `check`, `test`,
//! `schema`, `package`, `apt` and the verbs of `packs` need none.
//!
//! Promises: exit status 0 done, 1 failed, 2 bad use; every list has `--json`; colours follow NO_COLOR; nothing that came from outside
//! reaches the terminal with control characters in it; a secret never stands in arguments.

mod again;
mod agent;
mod approvals;
mod apps;
pub mod apt;
mod artefact;
mod audit;
mod check;
mod client;
mod completions;
mod demo;
mod events;
mod follow;
mod holds;
mod hosts;
mod init;
mod inputs;
mod kv;
mod lists;
mod log;
pub mod package;
mod packs;
mod plan;
mod rules;
mod run;
mod runs;
mod schema;
mod screen;
mod secret;
mod serve;
mod test;
mod token;
mod why;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use client::{Client, ServerArgs};
pub use screen::{Screen, Style};
pub use serve::ServeArgs;

/// `siskin`, with what it was asked.
#[derive(Debug, Parser)]
#[command(
    name = "siskin",
    version,
    about = "Siskin turns events into workflow runs",
    max_term_width = 100,
    after_help = "A first look:\n  siskin demo                                      the whole job, on this machine\n  siskin init site && siskin serve --site site     a server with a working site\n  siskin run core.echo value=hello                 do one action and see its output\n  siskin runs                                      what ran, newest first\n\nSISKIN_URL and SISKIN_TOKEN name a server elsewhere; on the same machine it is found by its data directory."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: API, webhooks, engine and worker in one process
    Serve(ServeArgs),
    /// Do work for a server that is elsewhere: needs the RabbitMQ broker only
    Worker(worker::WorkerArgs),
    /// On a target host: keep its packages at the versions that are advertised
    Agent(agent::AgentArgs),
    /// Show the whole main job on this machine: push, build, package, canary, approval, production
    Demo(demo::DemoArgs),
    /// Write a new repository of definitions that works at once
    Init(init::InitArgs),
    /// Show every mistake in the definitions
    Check(check::CheckArgs),
    /// Print JSON Schemas of everything that you write, for editors
    Schema(schema::SchemaArgs),
    /// Play the tests of the definitions, on simulated time
    Test(test::TestArgs),
    /// Start an action or a workflow, and follow it
    Run(run::RunArgs),
    /// List runs, or show one
    Runs(runs::RunsArgs),
    /// Show what a run printed
    Log(log::LogArgs),
    /// End a run: processes end, `finally` still runs; a second cancel ends that too
    Cancel(runs::VerbArgs),
    /// Let nothing new start in a run
    Pause(runs::VerbArgs),
    /// Let a paused run go on
    Resume(runs::VerbArgs),
    /// Let a run pass windows and holds, never approvals
    Force(holds::ForceArgs),
    /// Stop the line: for an app, a rule or all
    Hold(holds::HoldArgs),
    /// Let what is held go on
    Unhold(holds::UnholdArgs),
    /// List what is held
    Holds(holds::ListArgs),
    /// Run an ended run again: whole, or from a step on
    Rerun(again::RerunArgs),
    /// Take back what an ended run did, or put an environment back to an earlier version: shows the plan first
    Rollback(again::RollbackArgs),
    /// Show what a run, or the version on an environment or a host, came of, and what it waits for
    Why(why::WhyArgs),
    /// Show what the definitions of a folder would change on the server
    Plan(plan::PlanArgs),
    /// List events or show one; send or replay
    Events(events::EventsArgs),
    /// List rules or show one; test, enable or disable
    Rules(rules::RulesArgs),
    /// List what waits for people
    Approvals(approvals::ListArgs),
    /// Say yes to an approval
    Approve(approvals::AnswerArgs),
    /// Say no to an approval
    Reject(approvals::AnswerArgs),
    /// List actions, or show one
    Actions(lists::ListArgs),
    /// List workflows, or show one
    Workflows(lists::ListArgs),
    /// List triggers, or show one
    Triggers(lists::ListArgs),
    /// List sources with their health, or show one
    Sources(lists::ListArgs),
    /// List packs; install, update and remove those of others
    Packs(packs::PacksArgs),
    /// Which version is where; how environments differ; how fast and how well it is delivered
    Apps(apps::AppsArgs),
    /// What is on each host, and what should be
    Hosts(hosts::HostsArgs),
    /// Fetch a file that a run keeps
    Artefact(artefact::ArtefactArgs),
    /// List deployments, newest first
    Deployments(lists::DeploymentsArgs),
    /// Set, list and delete secrets; they can't be read back
    Secret(secret::SecretArgs),
    /// Get, set, list and delete keys
    Kv(kv::KvArgs),
    /// Create, list and revoke tokens
    Token(token::TokenArgs),
    /// List users with their roles
    User(lists::UserArgs),
    /// List who did what
    Audit(audit::AuditArgs),
    /// Make packages and look into them; needs no server
    #[command(subcommand)]
    Package(package::Package),
    /// Keep a signed APT repository in a directory; needs no server
    #[command(subcommand)]
    Apt(apt::Apt),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// It was asked wrongly: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Reads the arguments. Help, version and wrong use end the process here, as clap does.
pub fn parse() -> Cli {
    Cli::parse()
}

/// Does what was asked.
///
/// # Errors
/// What to say on stderr; a [`Usage`] inside means exit status 2.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::of_stdout();
    let screen = &mut screen;
    match cli.command {
        Command::Serve(args) => args.run().await,
        Command::Worker(args) => args.run().await,
        Command::Agent(args) => Box::pin(args.run(screen)).await,
        Command::Demo(args) => args.run().await,
        Command::Init(args) => args.run(screen),
        Command::Check(args) => args.run(screen),
        Command::Schema(args) => args.run(screen),
        Command::Test(args) => args.run(screen).await,
        Command::Run(args) => args.run(screen).await,
        Command::Runs(args) => args.run(screen).await,
        Command::Log(args) => args.run(screen).await,
        Command::Cancel(args) => args.run(runs::Verb::Cancel, screen).await,
        Command::Pause(args) => args.run(runs::Verb::Pause, screen).await,
        Command::Resume(args) => args.run(runs::Verb::Resume, screen).await,
        Command::Force(args) => args.run(screen).await,
        Command::Hold(args) => args.run(screen).await,
        Command::Unhold(args) => args.run(screen).await,
        Command::Holds(args) => args.run(screen).await,
        Command::Why(args) => args.run(screen).await,
        Command::Rerun(args) => args.run(screen).await,
        Command::Rollback(args) => args.run(screen).await,
        Command::Events(args) => args.run(screen).await,
        Command::Plan(args) => args.run(screen).await,
        Command::Rules(args) => args.run(screen).await,
        Command::Approvals(args) => args.run(screen).await,
        Command::Approve(args) => args.run(true, screen).await,
        Command::Reject(args) => args.run(false, screen).await,
        Command::Actions(args) => args.run(&lists::ACTIONS, screen).await,
        Command::Workflows(args) => args.run(&lists::WORKFLOWS, screen).await,
        Command::Triggers(args) => args.run(&lists::TRIGGERS, screen).await,
        Command::Sources(args) => args.run(&lists::SOURCES, screen).await,
        Command::Packs(args) => args.run(screen).await,
        Command::Apps(args) => args.run(screen).await,
        Command::Hosts(args) => args.run(screen).await,
        Command::Artefact(args) => args.run(screen).await,
        Command::Deployments(args) => args.run(screen).await,
        Command::Secret(args) => args.run(screen).await,
        Command::Kv(args) => args.run(screen).await,
        Command::Token(args) => args.run(screen).await,
        Command::User(args) => args.run(screen).await,
        Command::Audit(args) => args.run(screen).await,
        Command::Package(verb) => Box::pin(verb.run()).await,
        Command::Apt(verb) => Box::pin(verb.run()).await,
        Command::Completions(args) => args.run(),
    }
}

/// The exit status for an error, after it was said on stderr. A reader that closed our stdout (`| head`) had enough: no error.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return ExitCode::SUCCESS;
    }
    Screen::complain(&told(error));
    if error.chain().any(|cause| cause.is::<Usage>()) { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// The error with its causes; what an error says of its cause itself is not said again.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_page_knows_every_command() {
        let page = include_str!("../../docs/reference/cli.md");
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(page.contains(&format!("`siskin {name}")), "docs/reference/cli.md lacks `siskin {name}`");
        }
    }

    #[test]
    fn usual_command_lines_are_understood() {
        for line in [
            "serve --site s --data d --listen 127.0.0.1:0",
            "serve --broker amqp://u:p@h/v --roles api,sources,engine --label a=b",
            "worker --broker amqp://u:p@h --pool default --pool gpu --label gpu=yes --slots 4 --data d --drain 5m",
            "agent",
            "agent --config f --root d --once --dry-run --json",
            "init",
            "init somewhere",
            "check --site s --json",
            "schema",
            "schema rule",
            "schema --all .schemas",
            "test --site s ship --json",
            "test --from-run 12",
            "run core.echo value=hello count:=3 --detach --json",
            "runs",
            "runs 12 --json",
            "runs --status failed --limit 5",
            "log -f 12",
            "log 12",
            "cancel 12",
            "hold shop -m fair",
            "hold",
            "unhold all",
            "holds --json",
            "force 12 -m outage",
            "rerun 12 --from production --latest bake=30m",
            "rollback 12 --dry-run",
            "rollback shop production --to 1.4.2 --yes",
            "apps shop",
            "apps shop --diff canary..production",
            "apps shop --stats --last 90d --environment production --json",
            "hosts --app shop --state failed,behind",
            "deployments --status failed --since 7d --host web1 --run 3",
            "why web1",
            "events",
            "events 3",
            "events send github.push push.json",
            "events send github.push -",
            "events replay 3",
            "events replay 3 --dry-run",
            "rules",
            "rules site.ci_on_push",
            "rules disable site.ci_on_push -m noisy",
            "approvals --json",
            "approve 3 -m fine risk=low",
            "reject 3 -m no",
            "secret set github_webhook --from-file f",
            "secret list",
            "secret delete github_webhook",
            "artefact get sha256:ab -o file",
            "kv get a/b",
            "kv set a/b 1 --ttl 5m",
            "token create --user alice --role release-managers",
            "token revoke 3",
            "audit --limit 3",
            "actions core.echo",
            "packs",
            "plan",
            "plan --last 30d --json --site s",
            "packs core --json",
            "packs install https://example.org/p.git@v1 --folder p --site s",
            "packs update p --dry-run",
            "packs remove p --force",
            "completions bash",
        ] {
            let arguments = std::iter::once("siskin").chain(line.split(' '));
            Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_use_is_exit_status_2() {
        for line in [
            "test --from-run 12 ship",
            "worker --broker http://nowhere",
            "worker --broker amqp://h --label gpu",
            "run",
            "frobnicate",
            "cancel",
            "cancel twelve",
            "force 12",
            "rollback 12 --to 1.0",
            "secret set name value",
            "events send t",
        ] {
            let arguments = std::iter::once("siskin").chain(line.split(' '));
            let error = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
