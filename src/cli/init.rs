//! `siskin init`: writes a new repository of definitions.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Screen;
use crate::site;

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  siskin init site && siskin check --site site && siskin serve --site site"
)]
pub(super) struct InitArgs {
    /// Where to; made when it does not exist
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

impl InitArgs {
    pub(super) fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        for path in site::init(&self.folder)? {
            screen.line(self.folder.join(path).display())?;
        }
        Screen::remark(&format!("next: siskin serve --site {}", self.folder.display()));
        Ok(ExitCode::SUCCESS)
    }
}
