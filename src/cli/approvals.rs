//! `siskin approvals`, `approve`, `reject`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::inputs::{self, Input};
use super::screen::{Style, ago};
use super::{Client, Screen, ServerArgs};
use crate::api::types::{Approval, Page};
use crate::model::{ApprovalId, Value};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin approvals\n  siskin approvals 3           what is asked, what it shows, who said what\n  siskin approvals --all"
)]
pub(super) struct ListArgs {
    /// Show this one
    #[arg(value_name = "APPROVAL")]
    approval: Option<ApprovalId>,
    /// Also those that are decided
    #[arg(long)]
    all: bool,
    /// Only those of this run
    #[arg(long, value_name = "RUN")]
    run: Option<i64>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl ListArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        if let Some(id) = self.approval {
            let found: Value = client.get(&format!("/approvals/{id}")).await?;
            match self.json {
                true => screen.json(&found)?,
                false => show(&serde_json::from_value(found)?, screen)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let query = [
            ("status", (!self.all).then(|| "waiting".to_owned())),
            ("run", self.run.map(|run| run.to_string())),
            ("limit", Some(self.limit.to_string())),
        ];
        let found = client.list("/approvals", &query).await?;
        if self.json {
            screen.json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let page: Page<Approval> = serde_json::from_value(found)?;
        let rows = page.items.into_iter().map(|approval| {
            let agreed = approval.votes.iter().filter(|vote| vote.yes).count();
            vec![
                approval.id.to_string(),
                screen.status(approval.status.as_str()),
                format!("{} {}", approval.run, approval.step),
                approval.of.join(", "),
                format!("{agreed}/{}", approval.count),
                ago(Some(approval.asked_at), client.now()),
                approval.ask,
            ]
        });
        let rows = rows.collect();
        screen.table(
            &["APPROVAL", "STATUS", "RUN", "OF", "AGREED", "ASKED", ""],
            rows,
            "nothing waits for anybody",
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

fn show(approval: &Approval, screen: &mut Screen) -> anyhow::Result<()> {
    let status = screen.status(approval.status.as_str());
    screen.line(format!(
        "approval {}  {}  {status}",
        approval.id,
        screen.paint(Style::Strong, &approval.ask)
    ))?;
    screen.line(format!(
        "asked by step {} of run {}, until {}",
        approval.step, approval.run, approval.expires_at
    ))?;
    screen.line(format!("of {}; {} must agree", approval.of.join(", "), approval.count))?;
    if !approval.distinct_from.is_empty() {
        screen.line(format!("not {}", approval.distinct_from.join(", ")))?;
    }
    for warning in &approval.warnings {
        screen.line(screen.paint(Style::Waiting, format!("note: {warning}")))?;
    }
    for vote in &approval.votes {
        let said = if vote.yes { "yes" } else { "no" };
        let comment = vote.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
        screen.line(format!("{} said {said}{comment}", vote.by))?;
    }
    let mut shown = approval.show.clone();
    // In words first: it is what people ask before they say yes.
    if let Some(way) = shown.as_object_mut().and_then(|shown| shown.remove("way_back")) {
        let (summary, proof) = match &way {
            Value::String(summary) => (summary.as_str(), &Value::Null),
            proof => (proof["summary"].as_str().unwrap_or("not known"), proof),
        };
        let style = if summary.starts_with("ready") { Style::Good } else { Style::Bad };
        screen.line(format!("way back: {}", screen.paint(style, summary)))?;
        for problem in proof["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            screen.line(format!("  {problem}"))?;
        }
    }
    for (heading, value) in [("shows", &shown), ("asks for", &approval.fields)] {
        let empty = value.is_null() || value.as_object().is_some_and(|entries| entries.is_empty());
        if !empty {
            screen.line(heading)?;
            screen.json(value)?;
        }
    }
    Ok(())
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin approve 3\n  siskin approve 3 -m 'canaries look fine' risk=low\n  siskin reject 3 -m 'not before the weekend'"
)]
pub(super) struct AnswerArgs {
    /// The approval, as `siskin approvals` lists it
    #[arg(value_name = "APPROVAL")]
    approval: ApprovalId,
    /// Answers to the fields that it asks for
    #[arg(value_name = "FIELD=VALUE", value_parser = inputs::parse)]
    answers: Vec<Input>,
    /// Why
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    comment: Option<String>,
    /// Print the approval as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl AnswerArgs {
    pub(super) async fn run(self, yes: bool, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let mut body = json!({});
        if let Some(comment) = self.comment {
            body["comment"] = json!(comment);
        }
        if !self.answers.is_empty() {
            body["answers"] = inputs::object(self.answers)?;
        }
        let word = if yes { "approve" } else { "reject" };
        let approval: Approval = client.post(&format!("/approvals/{}/{word}", self.approval), &body).await?;
        if self.json {
            screen.json(&serde_json::to_value(&approval)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let agreed = approval.votes.iter().filter(|vote| vote.yes).count();
        let missing = usize::try_from(approval.count).unwrap_or(usize::MAX).saturating_sub(agreed);
        let status = screen.status(approval.status.as_str());
        let more = if approval.status.as_str() == "waiting" {
            format!("; {missing} more to agree")
        } else {
            String::new()
        };
        screen.line(format!("approval {} {status}{more}", approval.id))?;
        Ok(ExitCode::SUCCESS)
    }
}
