//! `siskin audit`: who did what, when, from where.

use std::process::ExitCode;

use clap::Args;

use super::{Client, Screen, ServerArgs};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin audit --limit 50\n  siskin audit --act run.cancel\n  siskin audit --subject 'run 12'"
)]
pub(super) struct AuditArgs {
    /// Only this act: run.start run.cancel approval.answer secret.set ..
    #[arg(long)]
    act: Option<String>,
    /// Only acts on this: `run 12`
    #[arg(long)]
    subject: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl AuditArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let query = [("act", self.act), ("subject", self.subject), ("limit", Some(self.limit.to_string()))];
        let found = client.list("/audit", &query).await?;
        if self.json {
            screen.json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows = found["items"].as_array().into_iter().flatten().map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            vec![text("at"), text("by"), text("act"), text("subject"), text("from")]
        });
        screen.table(&["AT", "WHO", "DID", "TO", "FROM"], rows.collect(), "nothing was done yet")?;
        Ok(ExitCode::SUCCESS)
    }
}
