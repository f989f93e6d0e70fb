//! `siskin demo`: the whole main job on this machine, with nothing else installed: a signed push, a rule, a run that builds, packages, publishes,
//! tries on canaries, asks a person, ships; and one that fails and is taken back.
//!
//! It uses the pipeline that ships in rules/, workflows/ and packs/, and a server like any other: it may be killed at any moment,
//! and is started again.

mod play;
mod stage;
mod tell;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use crate::model::RunStatus;

use play::{Play, Push};
use stage::Stage;
use tell::Teller;

/// What `siskin demo` was asked.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "What it makes: a small application in a git repository, a signed APT repository, and five hosts (two canaries, three in\nproduction), each a private dpkg root. Nothing outside its folder is touched.\n\nExamples:\n  siskin demo                     asks you for the approval\n  siskin demo --yes               gives the approval itself\n  siskin demo --dir /tmp/demo     keeps everything there; run it again to go on from there"
)]
pub(super) struct DemoArgs {
    /// Give the approval without asking
    #[arg(long)]
    yes: bool,
    /// Print events as JSON lines; the last one says what the hosts hold
    #[arg(long)]
    json: bool,
    /// Keep everything in this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl DemoArgs {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let teller = Teller::new(self.json);
        let scratch = match self.dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("siskin-demo-").tempdir()?),
        };
        let folder = match (&self.dir, &scratch) {
            (Some(folder), _) => folder.clone(),
            (None, Some(scratch)) => scratch.path().to_owned(),
            (None, None) => bail!("there is no folder to work in"),
        };
        let stage = Stage::set(&folder, &teller).await?;
        let mut play = Play::begin(stage, teller, self.yes).await?;
        let ended = tell_the_story(&mut play, scratch.is_none()).await;
        play.end().await;
        ended
    }
}

/// Version 1 is put in place, version 2 ships over it, version 3 fails on the canaries and is taken back.
async fn tell_the_story(play: &mut Play, kept: bool) -> anyhow::Result<ExitCode> {
    play.finish_what_was_open().await?;
    play.teller.chapter("Version 1: a commit is pushed, and goes all the way to production");
    let first = play.push(Push::Good, true).await?;
    play.expect(&first, RunStatus::Succeeded)?;
    play.teller.chapter("Version 2: the same way over version 1; this time you decide");
    let second = play.push(Push::Good, false).await?;
    play.expect(&second, RunStatus::Succeeded)?;
    play.teller.chapter("Version 3: its health check fails on the canaries, so it is taken back");
    let third = play.push(Push::Broken, false).await?;
    play.expect(&third, RunStatus::Failed)?;

    play.teller.chapter("What the hosts hold now, as dpkg says");
    let hosts = play.read_back().await?;
    let right = hosts.iter().all(|host| host.version.as_deref() == Some(&second.version));
    for host in &hosts {
        play.teller.host(host);
    }
    let held: Vec<_> = hosts
        .iter()
        .map(|host| json!({"name": host.name, "environment": host.environment, "version": host.version}))
        .collect();
    play.teller.epilogue(play.stage(), kept);
    play.teller.result(&json!({
        "event": second.event, "run": second.run, "version": second.version, "hosts": held,
    }));
    if !right {
        bail!("not every host holds {}, the last version that was approved", second.version);
    }
    Ok(ExitCode::SUCCESS)
}
