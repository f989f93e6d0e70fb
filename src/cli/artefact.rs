//! `siskin artefact get`: fetches a file that a run keeps.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use sha2::{Digest, Sha256};

use super::{Client, Screen, ServerArgs, Usage};
use crate::model::ArtefactHash;

#[derive(Args, Debug)]
#[command(
    after_help = "Runs name their files as {\"artefact\": \"sha256:..\", \"name\": .., \"size\": ..} in what their steps gave.\n\nExample:\n  siskin artefact get sha256:9f86d0.. -o report.html"
)]
pub(super) struct ArtefactArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Fetch a file, and hold it against its hash
    Get {
        #[arg(value_name = "HASH")]
        hash: String,
        /// Where to write it; `-` is stdout
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl ArtefactArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let Verb::Get { hash, output, server } = self.verb;
        let hash: ArtefactHash =
            hash.parse().map_err(|error: crate::model::artefact::NoHash| Usage(error.to_string()))?;
        let client = Client::find(&server)?;
        let mut answer = client.open(&format!("/artefacts/{hash}"), "application/octet-stream", None).await?;
        let to_stdout = output.as_os_str() == "-";
        let shown = output.display().to_string();
        let mut file = match to_stdout {
            true => None,
            false => {
                let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(std::path::Path::new("."));
                Some(
                    tempfile::NamedTempFile::new_in(folder)
                        .with_context(|| format!("{shown} can't be written"))?,
                )
            }
        };
        let (mut hasher, mut size) = (Sha256::new(), 0);
        while let Some(piece) =
            answer.chunk().await.with_context(|| format!("the connection to {} broke", client.url()))?
        {
            hasher.update(&piece);
            size += piece.len();
            match &mut file {
                Some(file) => file.write_all(&piece).with_context(|| format!("{shown} can't be written"))?,
                None => std::io::stdout().write_all(&piece)?,
            }
        }
        if ArtefactHash::of(&hasher.finalize().into()) != hash {
            bail!("what came is not {hash}: {size} bytes with another hash; try again");
        }
        if let Some(file) = file {
            file.persist(&output).with_context(|| format!("{shown} can't be written"))?;
            screen.line(format!("{shown}: {size} bytes"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
