//! What is promised of every run, each promise with a checker that looks from outside: at what a run was given, what it caused, what the world knows
//! of it, and what people see of its state before and after. None knows how the conductor decides.

mod edges;
mod ends;
mod gates;
mod groups;
mod items;
mod orders;
mod starts;
mod undos;
mod waits;

use std::borrow::Cow;

use super::world::{Outside, Work};
use crate::conductor::{Effect, Input};
use crate::definitions::Workflow;
use crate::definitions::workflow::{Kind, StartOn, Step as Definition};
use crate::model::hold::Holds;
use crate::model::run::UNDO_SUFFIX;
use crate::model::{Run, Step, StepKey, StepStatus, Timestamp};

/// One input, and all that can be seen around it.
pub(super) struct Seen<'a> {
    pub(super) workflow: &'a Workflow,
    pub(super) now: Timestamp,
    pub(super) before: &'a Run,
    pub(super) input: &'a Input,
    pub(super) after: &'a Run,
    pub(super) effects: &'a [Effect],
    /// The world once it took over what the input caused.
    pub(super) outside: &'a Outside,
    pub(super) holds: &'a Holds,
    /// The holds changed, and the run has not been looked at since.
    pub(super) holds_moved: bool,
    /// The run that this one follows from.
    pub(super) old: Option<&'a Run>,
    /// The same again, decided by a process that has only what is stored; not every time.
    pub(super) again: Option<&'a Again>,
}

/// What was decided, and what another process would have.
pub(super) struct Again {
    pub(super) first: (Run, Vec<Effect>),
    pub(super) second: (Run, Vec<Effect>),
}

pub(super) type Verdict = Result<(), String>;

/// One promise.
pub(super) struct Checker {
    pub(super) name: &'static str,
    pub(super) look: fn(&Seen<'_>) -> Verdict,
    /// It also looks when nothing happened, since something may have had to.
    pub(super) always: bool,
}

const fn checker(name: &'static str, look: fn(&Seen<'_>) -> Verdict) -> Checker {
    Checker { name, look, always: false }
}

const fn watcher(name: &'static str, look: fn(&Seen<'_>) -> Verdict) -> Checker {
    Checker { name, look, always: true }
}

pub(super) const ALL: &[Checker] = &[
    checker("never_stuck", waits::never_stuck),
    checker("who_waits_is_served", waits::who_waits_is_served),
    checker("stale_inputs_change_nothing", ends::stale_inputs_change_nothing),
    watcher("final_is_final", ends::final_is_final),
    checker("ends_completely", ends::ends_completely),
    checker("verdict_is_deserved", ends::verdict_is_deserved),
    watcher("outputs_are_kept", ends::outputs_are_kept),
    checker("parent_is_told_once", ends::parent_is_told_once),
    watcher("a_restart_decides_the_same", ends::a_restart_decides_the_same),
    checker("what_is_to_end_is_stored", ends::what_is_to_end_is_stored),
    checker("dispatched_once", starts::dispatched_once),
    checker("one_attempt_at_a_time", starts::one_attempt_at_a_time),
    checker("lost_is_not_repeated", starts::lost_is_not_repeated),
    checker("retries_are_counted", starts::retries_are_counted),
    checker("retries_wait", starts::retries_wait),
    checker("needs_are_met", starts::needs_are_met),
    checker("skipped_never_begins", starts::skipped_never_begins),
    checker("nothing_starts_after_a_failure", starts::nothing_starts_after_a_failure),
    checker("nothing_starts_after_a_cancel", starts::nothing_starts_after_a_cancel),
    checker("pause_starts_nothing", starts::pause_starts_nothing),
    checker("repetitions_keep_their_time", starts::repetitions_keep_their_time),
    checker("emits_once", starts::emits_once),
    checker("children_begin_once", starts::children_begin_once),
    checker("kept_is_not_done_again", starts::kept_is_not_done_again),
    checker("phases_in_order", orders::phases_in_order),
    checker("on_failure_is_for_failures", orders::on_failure_is_for_failures),
    checker("finally_runs_once", orders::finally_runs_once),
    checker("history_is_in_order", orders::history_is_in_order),
    checker("starts_are_numbered", orders::starts_are_numbered),
    watcher("cancel_ends_all", orders::cancel_ends_all),
    watcher("verbs_take_effect", orders::verbs_take_effect),
    checker("children_follow", orders::children_follow),
    checker("undo_newest_first", undos::newest_first),
    checker("undo_one_at_a_time", undos::one_at_a_time),
    checker("undo_of_all_that_began", undos::of_all_that_began),
    checker("undo_of_nothing_else", undos::of_nothing_else),
    checker("undo_sees_what_was_reported", undos::sees_what_was_reported),
    checker("undone_is_true", undos::undone_is_true),
    watcher("what_is_due_happens", waits::what_is_due_happens),
    watcher("nothing_happens_early", waits::nothing_happens_early),
    watcher("deadline_ends_the_steps", waits::deadline_ends_the_steps),
    checker("questions_are_open_while_asked", waits::questions_are_open_while_asked),
    watcher("answers_decide", waits::answers_decide),
    watcher("events_end_waits", waits::events_end_waits),
    checker("one_event_for_one_wait", waits::one_event_for_one_wait),
    watcher("watches_abort", waits::watches_abort),
    checker("waited_for_is_what_came", waits::waited_for_is_what_came),
    checker("locks_are_held_at_work", waits::locks_are_held_at_work),
    checker("locks_are_given_back", waits::locks_are_given_back),
    watcher("children_decide", waits::children_decide),
    checker("values_are_read_first", gates::values_are_read_first),
    checker("a_hold_starts_nothing", gates::a_hold_starts_nothing),
    checker("windows_are_respected", gates::windows_are_respected),
    checker("undos_pass_holds", gates::undos_pass_holds),
    watcher("the_young_supersede_who_waits", gates::the_young_supersede_who_waits),
    checker("superseded_starts_nothing", gates::superseded_starts_nothing),
    watcher("refused_never_begins", gates::refused_never_begins),
    checker("groups_hold_their_steps", groups::groups_hold_their_steps),
    checker("groups_stop_at_a_failure", groups::groups_stop_at_a_failure),
    checker("groups_say_what_came_of_them", groups::groups_say_what_came_of_them),
    checker("edges_let_in_only_who_was_led", edges::let_in_only_who_was_led),
    checker("edges_are_followed_to_the_end", edges::followed_to_the_end),
    checker("edges_publish_what_was_given", edges::publish_what_was_given),
    checker("items_at_once", items::at_once),
    checker("items_begin_once_in_order", items::begin_once_in_order),
    checker("items_stop_after_too_many_failures", items::stop_after_too_many_failures),
    checker("items_fail_fast", items::fail_fast),
    checker("items_decide", items::decide),
    checker("items_give_in_order", items::give_in_order),
    checker("items_are_undone_from_the_last", items::undone_from_the_last),
];

/// The part of a workflow that a step stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Main,
    Undo,
    OnFailure,
    Finally,
}

impl<'a> Seen<'a> {
    /// The step's definition; an undo's is that of its step.
    fn definition(&self, key: &str) -> Option<&'a Definition> {
        let id = id_of(key);
        let workflow = self.workflow;
        workflow.steps.iter().chain(&workflow.on_failure).chain(&workflow.finally).find(|step| step.id == id)
    }

    fn part(&self, key: &str) -> Part {
        if key.ends_with(UNDO_SUFFIX) {
            return Part::Undo;
        }
        let is_in = |steps: &[Definition]| steps.iter().any(|step| step.id == id_of(key));
        match () {
            () if is_in(&self.workflow.steps) => Part::Main,
            () if is_in(&self.workflow.on_failure) => Part::OnFailure,
            () => Part::Finally,
        }
    }

    /// Steps and undos that were entered by this input.
    fn begun(&self) -> impl Iterator<Item = (Cow<'a, str>, &'a Step)> + '_ {
        let visits = |key: &str| self.before.step(key).map_or(0, |step| step.visit);
        // Whoever begins is told of in the same breath.
        let run = (!self.effects.is_empty()).then_some(self.after);
        // What has begun and was reset for the next visit in the same breath is seen in the history only.
        run.into_iter().flat_map(all).filter(move |(key, step)| step.visit > visits(key) && step.order > 0)
    }

    /// Whether a step is still in the visit in which it was before this input: no edge led back to it at once.
    fn is_same_visit(&self, key: &str) -> bool {
        let (Some(before), Some(after)) = (self.before.step(key), self.after.step(key)) else { return true };
        let was_reset = before.order > 0 && after.order == 0;
        before.visit == after.visit && !was_reset
    }

    /// Steps and undos for which work was ordered by this input, each as often as it was.
    fn ordered(&self) -> Vec<Cow<'a, str>> {
        let order = |effect: &'a Effect| match effect {
            Effect::Dispatch { attempt, .. } => Some(Cow::Owned(attempt.key.step_key())),
            Effect::StartChild { step, .. } | Effect::StartRollback { step, .. } => {
                Some(Cow::Borrowed(step.as_str()))
            }
            Effect::Ask { question } => Some(Cow::Borrowed(question.step.as_str())),
            _ => None,
        };
        self.effects.iter().filter_map(order).collect()
    }

    /// What was entered or ordered by this input.
    fn started(&self) -> Vec<Cow<'a, str>> {
        self.begun().map(|(key, _)| key).chain(self.ordered()).collect()
    }

    /// Attempts that were dispatched by this input.
    fn dispatched(&self) -> impl Iterator<Item = &'a Work> {
        let turn = self.outside.turn;
        self.outside.works.iter().filter(move |work| work.dispatched.0 == turn)
    }

    /// The same step's earlier attempts, of the same visit, oldest first.
    fn earlier(&self, work: &Work) -> Vec<&'a Work> {
        let key = &work.attempt.key;
        let same = |other: &&Work| {
            other.of == work.of
                && other.attempt.key.visit == key.visit
                && other.attempt.key.number < key.number
        };
        self.outside.works.iter().filter(same).collect()
    }

    /// Whether the run was asked to end, by people, before this input or with it.
    fn cancels(&self) -> usize {
        self.outside.cancels.len()
    }

    /// A failure that counts against a run, among its main steps.
    fn has_failed(&self, run: &Run) -> bool {
        self.mains(run).any(|(definition, step)| step.status().is_failure() && self.is_fatal(definition))
    }

    /// Whether the failure of a step is forgiven neither by itself nor by a group around it.
    fn is_fatal(&self, definition: &Definition) -> bool {
        !definition.continue_on_failure
            && !self.leads_on(definition)
            && self.groups(definition).iter().all(|group| !group.continue_on_failure)
    }

    /// Whether an edge leads on from the step's failure.
    fn leads_on(&self, definition: &Definition) -> bool {
        let mut edges =
            self.workflow.steps.iter().filter_map(|step| step.entry.as_ref()).flat_map(|entry| &entry.edges);
        edges.any(|edge| edge.from == definition.id && edge.on != StartOn::Success)
    }

    /// The groups around a step, from the inside out.
    fn groups(&self, definition: &Definition) -> Vec<&'a Definition> {
        let around = |step: &Definition| self.definition(step.group.as_ref()?);
        std::iter::successors(around(definition), |group| around(group)).collect()
    }

    /// Items of a step that began, in order.
    fn items_of(&self, run: &'a Run, id: &str) -> Vec<(u32, &'a Step)> {
        run.items.get(id).map(|items| items.iter().collect()).unwrap_or_default()
    }

    /// Whether a step of the run's main part has to respect holds and windows.
    fn is_gated(&self, key: &str) -> bool {
        self.part(key) == Part::Main && !self.outside.forced && self.after.rollback_of.is_none()
    }

    fn was_rejected(&self, run: &Run) -> bool {
        self.mains(run).any(|(_, step)| step.status() == StepStatus::Rejected)
    }

    /// The main steps of a run.
    fn mains<'r>(&self, run: &'r Run) -> impl Iterator<Item = (&'a Definition, &'r Step)> {
        let of_workflow = self.workflow.steps.iter();
        of_workflow.filter_map(|definition| Some((definition, run.steps.get(&definition.id)?)))
    }

    fn became_final(&self) -> bool {
        self.after.status.is_final() && !self.before.status.is_final()
    }
}

/// Steps, undos and items of a run by their keys.
fn all(run: &Run) -> impl Iterator<Item = (Cow<'_, str>, &Step)> {
    let undos = run.undos.iter().map(|(id, step)| (Cow::Owned(format!("{id}{UNDO_SUFFIX}")), step));
    let of = |key| move |(item, step)| (Cow::Owned(StepKey { item: Some(item), ..key }.to_string()), step);
    let items = run.all_items().flat_map(move |(key, items)| items.iter().map(of(key)));
    run.steps.iter().map(|(id, step)| (Cow::Borrowed(id.as_str()), step)).chain(undos).chain(items)
}

/// The key of the whole step or undo that an item is of.
fn whole_of(key: &str) -> String {
    StepKey::parse(key).whole().to_string()
}

fn is_item(key: &str) -> bool {
    StepKey::parse(key).item.is_some()
}

fn id_of(key: &str) -> &str {
    StepKey::parse(key).id
}

fn is_run(definition: &Definition) -> bool {
    matches!(definition.kind, Kind::Run(_))
}

fn holds(condition: bool, what: impl FnOnce() -> String) -> Verdict {
    if condition { Ok(()) } else { Err(what()) }
}

fn each<T>(items: impl IntoIterator<Item = T>, look: impl FnMut(T) -> Verdict) -> Verdict {
    items.into_iter().try_for_each(look)
}
