//! Questions to people, and their answers.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::Api;
use super::problem::{Answer as Reply, Problem};
use super::request::{Body, Fields, Id, Params, Who};
use super::types::{Approval, Page};
use crate::engine::{Answer, Caller};
use crate::model::approval::ApprovalStatus;
use crate::model::{ApprovalId, Value};
use crate::store::ApprovalFilter;

const STATUSES: [ApprovalStatus; 5] = [
    ApprovalStatus::Waiting,
    ApprovalStatus::Approved,
    ApprovalStatus::Rejected,
    ApprovalStatus::Expired,
    ApprovalStatus::Withdrawn,
];

pub(super) async fn list(State(api): State<Api>, params: Params) -> Reply<Page<Approval>> {
    let params = params.check(&["status", "run", "cursor", "limit"])?;
    let limit = params.limit()?;
    let status = match params.text("status") {
        None => None,
        Some(word) => Some(status(&word)?),
    };
    let filter =
        ApprovalFilter { status, run: params.parsed("run")?, before: params.parsed("cursor")?, limit };
    let found = api.engine.store().approvals(&filter).await?;
    let items = found.into_iter().map(|stored| Approval::from(stored.approval)).collect();
    Ok(Json(Page::of(items, limit, |approval| approval.id.to_string())))
}

fn status(word: &str) -> Result<ApprovalStatus, Problem> {
    STATUSES.into_iter().find(|status| status.as_str() == word).ok_or_else(|| {
        let known = STATUSES.map(ApprovalStatus::as_str).join(", ");
        Problem::invalid(vec![format!("`status={word}` is none of {known}")])
    })
}

pub(super) async fn show(State(api): State<Api>, Id(id): Id<ApprovalId>) -> Reply<Approval> {
    let found = api.engine.store().approval(id).await?;
    let found = found.ok_or_else(|| Problem::missing(format!("approval {id}")))?;
    Ok(Json(Approval::from(found.approval)))
}

#[derive(Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    answers: Value,
}

impl Fields for Said {
    const NAMES: &'static [&'static str] = &["comment", "answers"];
}

pub(super) async fn approve(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<ApprovalId>,
    Body(said): Body<Said>,
) -> Reply<Approval> {
    answer(&api, id, true, said, &caller).await
}

pub(super) async fn reject(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<ApprovalId>,
    Body(said): Body<Said>,
) -> Reply<Approval> {
    answer(&api, id, false, said, &caller).await
}

async fn answer(api: &Api, id: ApprovalId, yes: bool, said: Said, caller: &Caller) -> Reply<Approval> {
    let answer = Answer { yes, comment: said.comment, answers: said.answers };
    let approval = api.engine.answer(id, answer, caller).await?;
    Ok(Json(Approval::from(approval)))
}
