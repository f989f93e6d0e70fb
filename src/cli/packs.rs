//! `siskin packs`: what a server knows, and packs of other people in a site.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::lists::{self, ListArgs};
use super::screen::Style;
use super::{Screen, Usage};
use crate::site::packs::{self, Done, Wanted};

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  siskin packs                                              what the server knows\n  siskin packs install https://git.example.org/acme/siskin-jira.git@v1\n  siskin packs update --dry-run                             what would change\n  siskin packs remove jira\n\nA pack is written to packs/NAME of the site, and its commit to packs.lock: keep both in your repository. Nothing of a pack is run."
)]
pub(super) struct PacksArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Put a pack from a git repository into the site
    Install(InstallArgs),
    /// Bring installed packs to the newest commit of their branch or tag
    Update(UpdateArgs),
    /// Take an installed pack away
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
struct SiteArgs {
    /// The folder of definitions
    #[arg(long, value_name = "DIR", env = "SISKIN_SITE", default_value = ".")]
    site: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Also over what was changed by hand, and over mistakes
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct InstallArgs {
    /// Where it is, with a branch, tag or commit; without one, the repository's own branch
    #[arg(value_name = "GIT-URL[@REF]")]
    url: String,
    /// The folder of the repository that holds the pack
    #[arg(long, value_name = "FOLDER", default_value = "")]
    folder: String,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Args, Debug)]
struct UpdateArgs {
    /// Only this one
    #[arg(value_name = "NAME")]
    pack: Option<String>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Args, Debug)]
struct RemoveArgs {
    #[arg(value_name = "NAME")]
    pack: String,
    #[command(flatten)]
    site: SiteArgs,
}

impl PacksArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        match self.verb {
            None => self.list.run(&lists::PACKS, screen).await,
            Some(Verb::Install(args)) => args.run(screen).await,
            Some(Verb::Update(args)) => args.run(screen).await,
            Some(Verb::Remove(args)) => args.run(screen),
        }
    }
}

/// Ctrl-C ends git; the site is as it was.
fn cancelled_by_signal() -> CancellationToken {
    let cancel = CancellationToken::new();
    let asked = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            asked.cancel();
        }
    });
    cancel
}

impl InstallArgs {
    async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let mut wanted = Wanted::parse(&self.url, &self.folder);
        // A folder of this machine, as people write it.
        if let Some(path) = wanted.url.strip_prefix('.').and_then(|_| fs::canonicalize(&wanted.url).ok()) {
            wanted.url = path.to_string_lossy().into_owned();
        }
        let done = packs::install(&self.site.site, &wanted, self.site.force, &cancelled_by_signal()).await?;
        tell(&[done], false, self.site.json, screen)
    }
}

impl UpdateArgs {
    async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let site = &self.site.site;
        let names = match self.pack {
            Some(pack) => vec![pack],
            None => packs::installed(site)?.packs.into_keys().collect(),
        };
        if names.is_empty() {
            return Err(
                Usage("no pack is installed from git in this site; --site names another".to_owned()).into()
            );
        }
        let cancel = cancelled_by_signal();
        let mut all = Vec::new();
        for pack in names {
            all.push(packs::update(site, &pack, self.dry_run, self.site.force, &cancel).await?);
        }
        tell(&all, self.dry_run, self.site.json, screen)
    }
}

impl RemoveArgs {
    fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let locked = packs::remove(&self.site.site, &self.pack, self.site.force)?;
        match self.site.json {
            true => screen.json(&json!({"pack": self.pack, "removed": locked.commit}))?,
            false => screen.line(format!("removed packs/{}", self.pack))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(all: &[Done], dry_run: bool, as_json: bool, screen: &mut Screen) -> anyhow::Result<ExitCode> {
    if as_json {
        screen.json(&json!({"dry_run": dry_run, "packs": all}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for done in all {
        let commit = done.commit.get(..12).unwrap_or(&done.commit);
        let of = done.reference.as_ref().map(|reference| format!(" ({reference})")).unwrap_or_default();
        if done.is_nothing() {
            screen.line(format!("packs/{} is up to date at {commit}{of}", done.pack))?;
            continue;
        }
        let from = done.from.as_ref().and_then(|from| from.get(..12)).map(|from| format!("{from} -> "));
        screen.line(format!(
            "packs/{} {}{commit}{of}: {}",
            done.pack,
            from.unwrap_or_default(),
            done.subject
        ))?;
        for (sign, paths) in [("+", &done.added), ("~", &done.changed), ("-", &done.removed)] {
            for path in paths {
                screen.line(format!("  {sign} {path}"))?;
            }
        }
        for remark in &done.remarks {
            screen.line(format!("  {} {remark}", screen.paint(Style::Waiting, "to do:")))?;
        }
    }
    if dry_run {
        screen.line("nothing was changed")?;
    }
    Ok(ExitCode::SUCCESS)
}
