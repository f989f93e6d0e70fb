//! What travels. A change here is a change of the API: fields are added, never renamed or reused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine;
use crate::model::approval::{ApprovalStatus, Vote};
use crate::model::event::Match;
use crate::model::hold::Hold;
use crate::model::log::Stream;
use crate::model::release::Deployment;
use crate::model::run::Undone;
use crate::model::step::StepState;
use crate::model::{
    self, ApprovalId, EventId, Object, RunError, RunId, RunStatus, StepStatus, Timestamp, Value,
};
use crate::whereabouts::{Figures, Relation, Standing};

/// A page of a list. `next` is the cursor of the page after; null at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` items; a full one has a next one, after its last.
    pub fn of(items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
        let full = items.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let next = if full { items.last().map(cursor) } else { None };
        Page { items, next }
    }

    /// A list that is whole.
    pub fn whole(items: Vec<T>) -> Page<T> {
        Page { items, next: None }
    }
}

/// A run, as people and programs see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub workflow: String,
    pub revision: String,
    pub status: RunStatus,
    pub started_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<RunId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<RunId>,
    pub input: Value,
    pub output: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<Undone>,
    pub undos: Vec<Undo>,
    pub waits: Vec<Wait>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub steps: Vec<Step>,
}

/// What a rollback would do, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RollbackPlan {
    pub run: RunId,
    /// `{step, run, with}`, or `{step, rollback_of}` where a child run is rolled back.
    pub undos: Vec<Value>,
}

/// What going back on an environment would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WayBack {
    pub app: String,
    pub environment: String,
    /// What is there.
    pub from: Deployed,
    /// What would be there.
    pub to: Deployed,
    /// `{name, from, to}`; `from` is null where nobody knows.
    pub hosts: Vec<Value>,
    /// The lock that it takes.
    pub lock: String,
    pub warnings: Vec<String>,
}

/// A version that is or was on an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployed {
    pub version: String,
    pub deployment: i64,
    pub run: Option<RunId>,
    pub since: Option<Timestamp>,
}

impl From<Deployment> for Deployed {
    fn from(one: Deployment) -> Deployed {
        Deployed { version: one.version, deployment: one.id, run: one.run, since: one.finished_at }
    }
}

impl From<engine::WayBack> for WayBack {
    fn from(way: engine::WayBack) -> WayBack {
        WayBack {
            app: way.from.app.clone(),
            environment: way.from.environment.clone(),
            from: way.from.into(),
            to: way.to.into(),
            hosts: way.hosts,
            lock: way.lock,
            warnings: way.warnings,
        }
    }
}

/// A host with what it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub host: String,
    pub holds: Vec<Held>,
}

/// What a host holds of one app on one environment, and whom it has that from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    #[serde(flatten)]
    pub standing: Standing,
    /// Who started the run.
    pub by: Option<String>,
    /// Of the run at the top.
    pub rule: Option<String>,
    pub event: Option<EventId>,
}

/// What stands on one of two environments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub environment: String,
    pub version: Option<String>,
    pub deployment: Option<i64>,
    pub run: Option<RunId>,
    pub since: Option<Timestamp>,
    pub commit: Option<String>,
}

/// A commit that a deployment brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub commit: String,
    /// Its first line, where the event told it.
    pub message: Option<String>,
    pub version: String,
    pub deployment: i64,
}

/// How two environments of an app differ: `relation` says how `to` stands to `from`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub app: String,
    pub from: Side,
    pub to: Side,
    pub relation: Relation,
    pub since: Option<Timestamp>,
    /// How many deployments the one has that the other lacks.
    pub deployments: usize,
    pub behind_by_seconds: Option<u64>,
    /// Their versions, oldest first.
    pub versions: Vec<String>,
    pub commits: Vec<Commit>,
    pub compare_url: Option<String>,
    pub summary: String,
}

/// How fast and how well an app is delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub app: String,
    pub since: Timestamp,
    pub until: Timestamp,
    pub environments: BTreeMap<String, Figures>,
    /// Why not all of the period was looked at.
    pub bound: Option<String>,
}

/// The step that a child run works for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub run: RunId,
    pub step: String,
}

/// The undo of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undo {
    pub step: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    pub status: StepStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a run waits for, since when and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// None: the run as a whole.
    pub step: Option<String>,
    #[serde(rename = "for")]
    pub what: String,
    /// The approval, where one is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    /// The run that is waited for: its child, or the one that has the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub id: String,
    pub status: StepStatus,
    pub attempts: u32,
    pub output: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// A remark for people: why an undo had nothing to do, which condition erred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The run that worked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The run that did it, where a rerun kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_from: Option<RunId>,
    /// How far it is with the items of its list, where it is done for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Progress>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// How many items there are, and what came of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub total: u32,
    /// Those that have ended, whatever came of them.
    pub done: u32,
    pub failed: u32,
}

impl Progress {
    fn of(run: &model::Run, id: &str, step: &model::Step) -> Option<Progress> {
        if let StepState::Each(each) = &step.state {
            let done = each.next.saturating_sub(each.active);
            return Some(Progress { total: each.total, done, failed: each.failed });
        }
        let items = run.items.get(id)?;
        let count = |wanted: fn(&model::Step) -> bool| {
            u32::try_from(items.iter().filter(|(_, item)| wanted(item)).count()).unwrap_or(u32::MAX)
        };
        let total = items.list.as_array().map_or(0, Vec::len);
        Some(Progress {
            total: u32::try_from(total).unwrap_or(u32::MAX),
            done: count(model::Step::has_ended),
            failed: count(|item| item.status().is_failure()),
        })
    }
}

/// An item of a step that is done for each of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its place in the list, from 0.
    pub item: u32,
    pub status: StepStatus,
    pub attempts: u32,
    pub output: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The run that worked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

impl Item {
    pub fn of(item: u32, step: &model::Step) -> Item {
        let at_work = match step.state {
            StepState::Child { run } => run,
            _ => None,
        };
        Item {
            item,
            status: step.status(),
            attempts: step.attempts,
            output: (*step.output).clone(),
            error: step.error.clone(),
            note: step.note.clone(),
            run: step.child.or(at_work),
            started_at: step.started_at,
            finished_at: step.finished_at,
        }
    }
}

impl Run {
    /// A run with the approvals that it waits on.
    pub fn of(run: &model::Run, approvals: &[model::Approval]) -> Run {
        Run {
            id: run.id,
            workflow: run.workflow.clone(),
            revision: run.revision.clone(),
            status: run.status,
            started_by: run.started_by.to_string(),
            event: run.event,
            rule: run.rule.clone(),
            parent: run.parent.as_ref().map(|parent| Parent { run: parent.run, step: parent.step.clone() }),
            rerun_of: run.rerun_of,
            rollback_of: run.rollback_of,
            input: (*run.input).clone(),
            output: (*run.output).clone(),
            error: run.error.clone(),
            undone: run.undone,
            undos: run.undos.iter().map(|(step, undo)| Undo::of(step, undo)).collect(),
            waits: waits(run, approvals),
            created_at: run.created_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            steps: steps(run),
        }
    }
}

/// The steps of a run; those of a rollback are the undos.
fn steps(run: &model::Run) -> Vec<Step> {
    match run.rollback_of {
        None => {
            let shown =
                |(id, step): (&String, _)| Step { items: Progress::of(run, id, step), ..Step::of(id, step) };
            run.steps.iter().map(shown).collect()
        }
        Some(_) => {
            let name = |id: &str| format!("{id}{}", model::run::UNDO_SUFFIX);
            run.undos.iter().map(|(id, step)| Step::of(&name(id), step)).collect()
        }
    }
}

impl Step {
    pub fn of(id: &str, step: &model::Step) -> Step {
        Step {
            id: id.to_owned(),
            status: step.status(),
            attempts: step.attempts,
            output: (*step.output).clone(),
            error: step.error.clone(),
            note: step.note.clone(),
            run: step.child,
            kept_from: step.kept_from,
            items: None,
            started_at: step.started_at,
            finished_at: step.finished_at,
        }
    }
}

impl Undo {
    fn of(step: &str, undo: &model::Step) -> Undo {
        Undo {
            step: step.to_owned(),
            item: None,
            status: undo.status(),
            error: undo.error.clone(),
            note: undo.note.clone(),
        }
    }
}

/// Everything that a run waits for.
pub fn waits(run: &model::Run, approvals: &[model::Approval]) -> Vec<Wait> {
    if run.status.is_final() {
        return Vec::new();
    }
    let mut waits = Vec::new();
    let whole = |what: &str| Wait {
        step: None,
        what: what.to_owned(),
        approval: None,
        run: None,
        since: Some(run.created_at),
        until: None,
    };
    match run.status {
        RunStatus::Queued => waits.push(whole("its turn")),
        RunStatus::Paused => waits.push(whole("someone to resume it")),
        _ => {}
    }
    let steps = run.steps.iter().map(|(id, step)| (id.clone(), step));
    let undos = run.undos.iter().map(|(id, step)| (format!("{id}{}", model::run::UNDO_SUFFIX), step));
    waits.extend(steps.chain(undos).filter_map(|(id, step)| wait(&id, step, run.held.as_ref(), approvals)));
    waits
}

/// What a step waits for, if it does.
pub fn wait(
    id: &str,
    step: &model::Step,
    held: Option<&Hold>,
    approvals: &[model::Approval],
) -> Option<Wait> {
    let mut wait = Wait {
        step: Some(id.to_owned()),
        what: String::new(),
        approval: None,
        run: None,
        since: step.started_at,
        until: None,
    };
    match &step.state {
        StepState::Retrying { number, at } => {
            wait.what = format!("attempt {number}");
            wait.until = Some(*at);
        }
        StepState::Child { run } => {
            wait.what = run.map_or_else(|| "its child run".to_owned(), |run| format!("run {run}"));
            wait.run = *run;
        }
        StepState::Approving { expires_at, .. } => {
            let asked = |approval: &&model::Approval| {
                approval.question.step == id && approval.status == ApprovalStatus::Waiting
            };
            let approval = approvals.iter().find(asked);
            wait.what = approval.map_or_else(
                || "approval".to_owned(),
                |approval| format!("approval {}: {}", approval.id, approval.question.ask),
            );
            wait.approval = approval.map(|approval| approval.id);
            wait.until = Some(*expires_at);
        }
        StepState::Repeating { number, at } => {
            wait.what = format!("its `until` to be true: attempt {number}");
            wait.until = Some(*at);
        }
        StepState::WaitingFor { expires_at, poll, .. } => {
            let what = if poll.is_some() { "an event, or its poll" } else { "an event" };
            wait.what = what.to_owned();
            wait.until = Some(*expires_at);
        }
        StepState::Watching { until, .. } => {
            wait.what = "nothing bad to happen".to_owned();
            wait.until = Some(*until);
        }
        StepState::Sleeping { until } => {
            wait.what = "time to pass".to_owned();
            wait.until = Some(*until);
        }
        StepState::Locking { lock, since, .. } => {
            wait.what = format!("the lock `{lock}`");
            wait.since = Some(*since);
        }
        StepState::Reading => wait.what = "its values to be read".to_owned(),
        StepState::Closed { window, since, until } => {
            wait.what = match until {
                Some(_) => format!("the window `{window}` to open"),
                None => format!("the window `{window}`, which does not open within two years"),
            };
            wait.since = Some(*since);
            wait.until = *until;
        }
        StepState::Held { since } => {
            wait.what = match held {
                Some(hold) => {
                    format!("the hold on `{}` to be released: {} ({})", hold.what, hold.why, hold.by)
                }
                None => "a hold to be released".to_owned(),
            };
            wait.since = Some(*since);
        }
        StepState::Each(each) => {
            let done = each.next.saturating_sub(each.active);
            wait.what = format!("{} of its {} items", each.total.saturating_sub(done), each.total);
        }
        StepState::Pending | StepState::Open { .. } | StepState::Attempting { .. } | StepState::Ended(_) => {
            return None;
        }
    }
    Some(wait)
}

/// An event. `matches` and `runs` stand in the answer for one event only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    pub trigger: String,
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    pub received_at: Timestamp,
    pub routed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<EventId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<Match>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<RunId>>,
    /// What one rule makes of it, when that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
}

/// What a rule makes of an event: `matched`, `not matched`, `counted`, `throttled`, `errored`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Why {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The stored event, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_at: Option<Timestamp>,
    pub result: String,
    /// What would run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The parts of `when` that made it false.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<WhyPart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// A part of a `when`, what it came to, and what its names had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyPart {
    pub text: String,
    pub came_to: String,
    pub names: Object,
}

impl Why {
    pub fn of(outcome: engine::TrialOutcome) -> Why {
        let part = |part: engine::WhyPart| WhyPart {
            text: part.text,
            came_to: part.came_to,
            names: part.names.into_iter().collect(),
        };
        Why {
            rule: None,
            event: outcome.event,
            received_at: outcome.received_at,
            result: outcome.result.to_owned(),
            run: outcome.run,
            with: outcome.with,
            on_behalf_of: outcome.on_behalf_of,
            why: outcome.why,
            parts: outcome.parts.into_iter().map(part).collect(),
            place: outcome.place,
        }
    }
}

/// What a rule makes of several events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// How many events it was tried on, and how many matched.
    pub tried: usize,
    pub matched: usize,
    /// Oldest first.
    pub results: Vec<Why>,
}

/// A file of the definitions that a plan is asked for: as it is in force, or with its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PlanFile {
    Same { sha256: String },
    Text { text: String },
    Base64 { base64: String },
}

/// What other definitions would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// In force now.
    pub revision: String,
    pub changes: Vec<PlanChange>,
    /// Of the new definitions: `{file, line, column, message, help?}`.
    pub mistakes: Vec<Value>,
    /// New definitions that would not be in force, and why.
    pub left_out: BTreeMap<String, String>,
    pub events: PlanEvents,
}

/// A definition that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanChange {
    pub kind: String,
    pub name: String,
    pub file: String,
    /// `added`, `changed` or `removed`.
    pub change: String,
    /// Which keys differ: `+ by`, `- within`, `~ run: a -> b`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub how: Vec<String>,
    /// What that means elsewhere: which rules start it, what becomes of deliveries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub means: Vec<String>,
    pub broken: bool,
}

/// What stored events would have started otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanEvents {
    pub since: Timestamp,
    /// When the first event came that was tried.
    pub tried_since: Option<Timestamp>,
    pub tried: usize,
    /// Why not all events since then were tried.
    pub bound: Option<String>,
    /// Rules that could decide otherwise.
    pub rules: Vec<PlanRule>,
}

/// What a rule would have done otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanRule {
    pub rule: String,
    pub matched_before: usize,
    pub matched_after: usize,
    pub newly: usize,
    pub no_longer: usize,
    pub otherwise: usize,
    pub errors: usize,
    /// Some of the events.
    pub examples: Vec<PlanExample>,
}

/// An event of which something else would have come; null where the rule is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanExample {
    pub before: Option<Why>,
    pub after: Option<Why>,
}

impl Plan {
    pub fn of(plan: engine::Plan) -> Plan {
        let change = |change: engine::DefinitionChange| PlanChange {
            kind: change.kind.to_owned(),
            name: change.name,
            file: change.file,
            change: change.change.to_owned(),
            how: change.how,
            means: change.means,
            broken: change.is_broken,
        };
        let rule = |rule: engine::RuleEffect| PlanRule {
            rule: rule.rule,
            matched_before: rule.matched_before,
            matched_after: rule.matched_after,
            newly: rule.newly,
            no_longer: rule.no_longer,
            otherwise: rule.otherwise,
            errors: rule.errors,
            examples: rule
                .examples
                .into_iter()
                .map(|found| PlanExample {
                    before: found.before.map(Why::of),
                    after: found.after.map(Why::of),
                })
                .collect(),
        };
        Plan {
            revision: plan.revision,
            changes: plan.changes.into_iter().map(change).collect(),
            mistakes: plan.mistakes.iter().map(|mistake| serde_json::json!(mistake)).collect(),
            left_out: plan.left_out,
            events: PlanEvents {
                since: plan.effects.since,
                tried_since: plan.effects.tried_since,
                tried: plan.effects.tried,
                bound: plan.effects.bound,
                rules: plan.effects.rules.into_iter().map(rule).collect(),
            },
        }
    }
}

/// What a replay would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DryReplay {
    pub dry_run: bool,
    /// The stored event.
    pub replay_of: EventId,
    pub trigger: String,
    pub matched: usize,
    pub unmatched: usize,
    /// What each rule of the trigger would make of it.
    pub rules: Vec<Why>,
    /// Runs that wait for events of this trigger.
    pub waiting: Vec<RunId>,
}

impl DryReplay {
    pub fn of(id: EventId, dry: engine::DryReplay) -> DryReplay {
        let rules = dry.rules.into_iter().map(|(rule, outcome)| Why { rule: Some(rule), ..Why::of(outcome) });
        let rules: Vec<Why> = rules.collect();
        DryReplay {
            dry_run: true,
            replay_of: id,
            trigger: dry.trigger,
            matched: rules.iter().filter(|rule| rule.result == "matched").count(),
            unmatched: dry.unmatched,
            rules,
            waiting: dry.waiting,
        }
    }
}

impl Event {
    pub fn of(event: &model::Event) -> Event {
        Event {
            id: event.id,
            trigger: event.trigger.clone(),
            source: event.source.clone(),
            payload: Some(event.payload.as_ref().clone()),
            received_at: event.received_at,
            routed_at: event.routed_at,
            replay_of: event.replay_of,
            matches: None,
            runs: None,
            why: None,
        }
    }

    /// With what came of it.
    #[must_use]
    pub fn with_matches(mut self, matches: Vec<Match>) -> Event {
        let mut runs: Vec<RunId> = matches.iter().filter_map(|found| found.run).collect();
        runs.dedup();
        self.runs = Some(runs);
        self.matches = Some(matches);
        self
    }
}

/// A question to people, with what they said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    pub run: RunId,
    pub step: String,
    pub ask: String,
    pub of: Vec<String>,
    pub count: u32,
    pub distinct_from: Vec<String>,
    pub show: Value,
    pub fields: Value,
    pub warnings: Vec<String>,
    pub undos: Vec<Value>,
    pub votes: Vec<Vote>,
    pub status: ApprovalStatus,
    pub asked_at: Timestamp,
    pub expires_at: Timestamp,
}

impl From<model::Approval> for Approval {
    fn from(approval: model::Approval) -> Approval {
        let question = approval.question;
        Approval {
            id: approval.id,
            run: approval.run,
            step: question.step,
            ask: question.ask,
            of: question.of,
            count: question.count,
            distinct_from: question.distinct_from,
            show: question.show,
            fields: question.fields,
            warnings: question.warnings,
            undos: question.undos,
            votes: approval.votes,
            status: approval.status,
            asked_at: approval.asked_at,
            expires_at: question.expires_at,
        }
    }
}

/// A line that an attempt printed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Timestamp,
    pub step: String,
    pub visit: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// Which attempt of the step.
    pub number: u32,
    pub stream: Stream,
    pub text: String,
}

/// A step that changed, told to those who follow a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepChange {
    #[serde(flatten)]
    pub step: Step,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    pub what: String,
    pub details: Value,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::approval::Question;
    use crate::model::run::Phase;
    use crate::model::{Actor, ErrorKind};
    use indexmap::IndexMap;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn run() -> model::Run {
        let mut build = model::Step::pending();
        build.state = StepState::Ended(StepStatus::Succeeded);
        build.attempts = 1;
        build.output = json!({"deb": "shop.deb"}).into();
        build.started_at = Some(NOW);
        build.finished_at = Some(Timestamp(NOW.0 + 500));
        let mut promote = model::Step::pending();
        promote.state = StepState::Approving { expires_at: Timestamp(NOW.0 + 9000), remind: None };
        promote.started_at = Some(Timestamp(NOW.0 + 600));
        model::Run {
            id: RunId(12),
            version: 3,
            workflow: "site.ship".to_owned(),
            revision: "abc".to_owned(),
            status: RunStatus::Waiting,
            phase: Phase::Steps,
            started_by: Actor::user("alice"),
            event: Some(EventId(7)),
            rule: None,
            parent: None,
            depth: 0,
            rerun_of: None,
            rollback_of: None,
            input: json!({"app": "shop"}).into(),
            output: model::Kept::default(),
            error: Some(RunError::new(ErrorKind::Failed, "no").of_step("build")),
            verdict: None,
            cancelled_by: None,
            cancels: 0,
            paused: false,
            undone: None,
            created_at: NOW,
            started_at: Some(NOW),
            finished_at: None,
            deadline: None,
            steps: IndexMap::from([("build".to_owned(), build), ("promote".to_owned(), promote)]),
            undos: IndexMap::new(),
            taken: vec![],
            begun: 2,
            held: None,
            forced: None,
            wanted_by: None,
            outer: None,
            items: Default::default(),
            undo_items: Default::default(),
            tokens: Default::default(),
            published: Default::default(),
        }
    }

    fn approval() -> model::Approval {
        model::Approval {
            id: ApprovalId(3),
            run: RunId(12),
            question: Question {
                step: "promote".to_owned(),
                ask: "to production?".to_owned(),
                of: vec!["release-managers".to_owned()],
                count: 1,
                distinct_from: vec!["alice".to_owned()],
                show: Value::Null,
                fields: Value::Null,
                warnings: vec![],
                undos: vec![],
                expires_at: Timestamp(NOW.0 + 9000),
            },
            votes: vec![],
            status: ApprovalStatus::Waiting,
            asked_at: NOW,
        }
    }

    #[test]
    fn a_run_travels_in_its_documented_shape() {
        let shown = serde_json::to_value(Run::of(&run(), &[approval()])).unwrap();
        assert_eq!(
            shown,
            json!({
                "id": 12,
                "workflow": "site.ship",
                "revision": "abc",
                "status": "waiting",
                "started_by": "alice",
                "event": 7,
                "input": {"app": "shop"},
                "output": null,
                "error": {"kind": "failed", "message": "no", "step": "build"},
                "undos": [],
                "waits": [{
                    "step": "promote",
                    "for": "approval 3: to production?",
                    "approval": 3,
                    "since": "2023-11-14T22:13:20.600Z",
                    "until": "2023-11-14T22:13:29.000Z",
                }],
                "created_at": "2023-11-14T22:13:20.000Z",
                "started_at": "2023-11-14T22:13:20.000Z",
                "finished_at": null,
                "steps": [
                    {
                        "id": "build", "status": "succeeded", "attempts": 1, "output": {"deb": "shop.deb"},
                        "started_at": "2023-11-14T22:13:20.000Z", "finished_at": "2023-11-14T22:13:20.500Z",
                    },
                    {
                        "id": "promote", "status": "waiting", "attempts": 0, "output": null,
                        "started_at": "2023-11-14T22:13:20.600Z", "finished_at": null,
                    },
                ],
            })
        );
        let back: Run = serde_json::from_value(shown).unwrap();
        assert_eq!(back.id, RunId(12));
    }

    #[test]
    fn an_approval_travels_in_its_documented_shape() {
        let shown = serde_json::to_value(Approval::from(approval())).unwrap();
        let names: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        for name in [
            "id",
            "run",
            "step",
            "ask",
            "of",
            "count",
            "distinct_from",
            "fields",
            "votes",
            "status",
            "asked_at",
            "expires_at",
        ] {
            assert!(names.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_run_that_has_ended_waits_for_nothing() {
        let mut ended = run();
        ended.status = RunStatus::Cancelled;
        assert_eq!(waits(&ended, &[]), []);
        ended.status = RunStatus::Paused;
        assert_eq!(waits(&ended, &[]).len(), 2);
    }

    #[test]
    fn only_a_full_page_has_a_next_one() {
        let cursor = |number: &u32| number.to_string();
        assert_eq!(Page::of(vec![9, 8], 2, cursor).next.as_deref(), Some("8"));
        assert_eq!(Page::of(vec![9], 2, cursor).next, None);
    }
}
