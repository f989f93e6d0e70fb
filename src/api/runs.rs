//! Runs: started, looked at, stopped.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Api;
use super::events::Nothing;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Id, Params, Who, idempotency_key};
use super::types::{History, Item, Page, RollbackPlan, Run, Wait};
use crate::engine::{Rerun, StartRun};
use crate::model::approval::ApprovalStatus;
use crate::model::{self, Approval, RunId, RunStatus, Span, Value};
use crate::store::{ApprovalFilter, Family, LONGEST_LIST, RunFilter};

/// Who waits for a run looks at it that often, whatever is heard of it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Run>> {
    let params = params.check(&["status", "workflow", "rule", "event", "parent", "cursor", "limit"])?;
    let limit = params.limit()?;
    let event = params.parsed("event")?;
    let family = match params.parsed("parent")? {
        Some(parent) => Family::ChildrenOf(parent),
        None => Family::Top,
    };
    let filter = RunFilter {
        family,
        status: statuses(params.text("status").as_deref().unwrap_or_default())?,
        workflow: params.text("workflow"),
        rule: params.text("rule"),
        event,
        before: params.parsed("cursor")?,
        limit,
    };
    let found = api.engine.store().runs(&filter).await?;
    let mut items = Vec::with_capacity(found.len());
    for run in &found {
        items.push(with_approvals(&api, run).await?);
    }
    Ok(Json(Page::of(items, limit, |run| run.id.to_string())))
}

fn statuses(text: &str) -> Result<Vec<RunStatus>, Problem> {
    let words = text.split(',').filter(|word| !word.is_empty());
    words
        .map(|word| {
            RunStatus::parse(word).ok_or_else(|| {
                let known: Vec<&str> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
                Problem::invalid(vec![format!("`status={word}` is none of {}", known.join(", "))])
            })
        })
        .collect()
}

/// The run as it travels. Its approvals are read only where it waits for one.
async fn with_approvals(api: &Api, run: &model::Run) -> Result<Run, Problem> {
    let mut shown = Run::of(run, &waiting_approvals(api, run).await?);
    let locking = |step: &model::Step| matches!(step.state, model::step::StepState::Locking { .. });
    if run.steps.values().chain(run.undos.values()).any(locking) {
        for held in api.engine.store().lock_waits(run.id).await? {
            let waits = shown.waits.iter_mut().filter(|wait| wait.step.as_deref() == Some(&held.step));
            for wait in waits {
                wait.run = Some(held.held_by);
                wait.what = format!(
                    "the lock `{}`, which run {} has for its step {}",
                    held.lock, held.held_by, held.held_for
                );
            }
        }
    }
    let at_work = |step: &model::Step| step.state.attempt().is_some();
    if run.steps.values().chain(run.undos.values()).any(at_work) {
        let waits = api.engine.held_back(run.id).await?.into_iter().map(|held| Wait {
            step: Some(held.key.step_key()),
            what: held.why,
            approval: None,
            run: None,
            since: Some(held.since),
            until: None,
        });
        shown.waits.extend(waits);
    }
    Ok(shown)
}

/// The approvals that the run waits on.
pub(super) async fn waiting_approvals(api: &Api, run: &model::Run) -> Result<Vec<Approval>, Problem> {
    let asks = |step: &model::Step| matches!(step.state, model::step::StepState::Approving { .. });
    if run.status.is_final() || !run.steps.values().any(asks) {
        return Ok(Vec::new());
    }
    let filter = ApprovalFilter {
        status: Some(ApprovalStatus::Waiting),
        run: Some(run.id),
        limit: LONGEST_LIST,
        ..ApprovalFilter::default()
    };
    let found = api.engine.store().approvals(&filter).await?;
    Ok(found.into_iter().map(|stored| stored.approval).collect())
}

pub(super) async fn find(api: &Api, id: RunId) -> Result<model::Run, Problem> {
    api.engine.store().run(id).await?.ok_or_else(|| Problem::missing(format!("run {id}")))
}

#[derive(Deserialize)]
pub(super) struct Start {
    run: String,
    #[serde(default)]
    with: Value,
}

impl Fields for Start {
    const NAMES: &'static [&'static str] = &["run", "with"];
}

pub(super) async fn start(
    State(api): State<Api>,
    Who(caller): Who,
    params: Params,
    headers: HeaderMap,
    Body(start): Body<Start>,
) -> Result<Response, Problem> {
    let wait = params.check(&["wait"])?.wait()?;
    let with = match start.with {
        Value::Null => Value::Object(model::Object::new()),
        with @ Value::Object(_) => with,
        _ => return Err(Problem::invalid(vec!["`with` must be an object".to_owned()])),
    };
    let start = StartRun { what: start.run, with, event: None, idempotency_key: idempotency_key(&headers)? };
    let id = api.engine.start(start, &caller).await?;
    let run = match wait {
        Some(span) => until_ended(&api, id, span).await?,
        None => find(&api, id).await?,
    };
    created_run(&api, &run).await
}

pub(super) async fn show(State(api): State<Api>, Id(id): Id<RunId>, params: Params) -> Answer<Run> {
    let run = match params.check(&["wait"])?.wait()? {
        Some(span) => until_ended(&api, id, span).await?,
        None => find(&api, id).await?,
    };
    Ok(Json(with_approvals(&api, &run).await?))
}

/// The run once it has ended, or as it is when `span` is over.
async fn until_ended(api: &Api, id: RunId, span: Span) -> Result<model::Run, Problem> {
    let deadline = tokio::time::Instant::now() + span.duration();
    loop {
        // Asked for before the look: no end falls between them.
        let mut end = api.engine.end_of(id);
        let run = find(api, id).await?;
        if run.status.is_final() {
            return Ok(run);
        }
        tokio::select! {
            _ = end.changed() => {}
            // Another server may have ended it.
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = tokio::time::sleep_until(deadline) => return Ok(run),
            () = api.stop.cancelled() => return Ok(run),
        }
    }
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<RunId>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<Run> {
    let run = api.engine.cancel(id, &caller).await?;
    Ok(Json(with_approvals(&api, &run).await?))
}

pub(super) async fn pause(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<RunId>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<Run> {
    let run = api.engine.pause(id, &caller).await?;
    Ok(Json(with_approvals(&api, &run).await?))
}

pub(super) async fn resume(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<RunId>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<Run> {
    let run = api.engine.resume(id, &caller).await?;
    Ok(Json(with_approvals(&api, &run).await?))
}

#[derive(Deserialize)]
pub(super) struct Force {
    why: String,
}

impl Fields for Force {
    const NAMES: &'static [&'static str] = &["why"];
}

pub(super) async fn force(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<RunId>,
    Body(Force { why }): Body<Force>,
) -> Answer<Run> {
    let run = api.engine.force(id, &why, &caller).await?;
    Ok(Json(with_approvals(&api, &run).await?))
}

#[derive(Deserialize)]
pub(super) struct Again {
    from: Option<String>,
    #[serde(default)]
    latest: bool,
    #[serde(default)]
    with: model::Object,
}

impl Fields for Again {
    const NAMES: &'static [&'static str] = &["from", "latest", "with"];
}

pub(super) async fn rerun(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<RunId>,
    Body(Again { from, latest, with }): Body<Again>,
) -> Result<Response, Problem> {
    let new = api.engine.rerun(id, Rerun { from, latest, with }, &caller).await?;
    created(&api, new).await
}

#[derive(Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    dry_run: bool,
}

impl Fields for Back {
    const NAMES: &'static [&'static str] = &["dry_run"];
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<RunId>,
    Body(Back { dry_run }): Body<Back>,
) -> Result<Response, Problem> {
    if dry_run {
        let undos = api.engine.rollback_plan(id).await?;
        return Ok(Json(RollbackPlan { run: id, undos }).into_response());
    }
    let new = api.engine.rollback(id, &caller).await?;
    created(&api, new).await
}

/// A run that was made: 201, with where it stands.
pub(super) async fn created(api: &Api, id: RunId) -> Result<Response, Problem> {
    let run = find(api, id).await?;
    created_run(api, &run).await
}

async fn created_run(api: &Api, run: &model::Run) -> Result<Response, Problem> {
    let mut response = (StatusCode::CREATED, Json(with_approvals(api, run).await?)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/runs/{}", run.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub(super) async fn history(
    State(api): State<Api>,
    Id(id): Id<RunId>,
    params: Params,
) -> Answer<Page<History>> {
    let params = params.check(&["cursor", "limit"])?;
    let limit = params.limit()?;
    find(&api, id).await?;
    let after = params.parsed("cursor")?.unwrap_or(0);
    let rows = api.engine.store().history(id, after, limit).await?;
    let full = rows.len() >= limit as usize;
    let next = rows.last().filter(|_| full).map(|row| row.id.to_string());
    let items = rows
        .into_iter()
        .map(|row| History { at: row.at, step: row.step, what: row.what, details: row.details })
        .collect();
    Ok(Json(Page { items, next }))
}

/// The items of a step that have begun, in the order of the list.
pub(super) async fn items(
    State(api): State<Api>,
    Path((id, step)): Path<(String, String)>,
    params: Params,
) -> Answer<Page<Item>> {
    let params = params.check(&["cursor", "limit"])?;
    let limit = params.limit()?;
    let missing = || Problem::missing(format!("step {step} of run {id}"));
    let id: RunId = id.parse().map_err(|_| missing())?;
    let run = api.engine.store().run_alone(id).await?.ok_or_else(missing)?;
    let found = run.step(&step).ok_or_else(missing)?;
    if found.started_at.is_some() && !found.has_items {
        return Err(Problem::missing(format!("items of step {step} of run {id}")));
    }
    let after = params.parsed("cursor")?;
    let items = api.engine.store().items(id, &step, found.visit, after, limit).await?;
    let items = items.iter().map(|(item, step)| Item::of(*item, step)).collect();
    Ok(Json(Page::of(items, limit, |item| item.item.to_string())))
}
