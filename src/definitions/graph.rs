//! What the steps of a workflow say of one another: ids and `needs`, in its sections and in each group. Which outputs are read where is `reads.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::check::StepRead;
use super::fields::Fields;
use super::mistake::{Mistake, Place, suggestion};
use super::reads::{self, Plan};
use super::sheet::Sheet;
use super::workflow::Step;

/// A part of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Steps,
    OnFailure,
    Finally,
}

impl Section {
    pub(super) fn key(self) -> &'static str {
        match self {
            Section::Steps => "steps",
            Section::OnFailure => "on_failure",
            Section::Finally => "finally",
        }
    }
}

/// A step as it was read, with what must be looked up among its siblings.
pub(super) struct Written {
    pub(super) step: Step,
    /// What it says it needs.
    pub(super) needs: Option<Vec<(String, Place)>>,
    /// The steps that its expressions read.
    pub(super) reads: Vec<StepRead>,
    /// Those of its `undo`, which sees its own output as well.
    pub(super) own_reads: Vec<StepRead>,
    /// The step by whose worker it wants to be done.
    pub(super) same_as: Option<(String, Place)>,
    /// It runs an action: a worker does it.
    pub(super) is_action: bool,
    /// It says `for_each`: its output is a list.
    pub(super) is_loop: bool,
    /// What it gives, or each of its items; none when that is not known.
    pub(super) outputs: Option<Fields>,
    /// It is a group.
    pub(super) members: Option<Members>,
}

/// The steps of a group.
pub(super) struct Members {
    /// None waits for another unless it says so.
    pub(super) is_parallel: bool,
    /// It is done as a run of its own.
    pub(super) is_run: bool,
    pub(super) steps: Vec<Written>,
}

/// Fills in `needs` and reports everything that does not fit. Gives the steps outside that each group reads which is a run of its own.
pub(super) fn check(
    sheet: &Sheet<'_>,
    sections: &mut [Vec<Written>; 3],
    output_reads: &[StepRead],
) -> BTreeMap<String, Vec<String>> {
    if !check_ids(sheet, sections) {
        // Who is meant by such an id can't be said; but who is nobody can.
        find_strangers(sheet, sections, output_reads);
        return BTreeMap::new();
    }
    let groups = groups_of(sections);
    for section in sections.iter_mut() {
        fill_level(sheet, section, None, &groups);
    }
    reads::check(sheet, &Plan::new(sections), output_reads)
}

/// Every step, those of groups after their group.
pub(super) fn all(steps: &[Written]) -> Vec<&Written> {
    let mut found = Vec::new();
    for written in steps {
        found.push(written);
        found.extend(written.members.iter().flat_map(|members| all(&members.steps)));
    }
    found
}

/// By id, the group that each step stands in.
fn groups_of(sections: &[Vec<Written>; 3]) -> BTreeMap<String, Option<String>> {
    fn gather(steps: &[Written], group: Option<&str>, found: &mut BTreeMap<String, Option<String>>) {
        for written in steps {
            found.insert(written.step.id.clone(), group.map(str::to_owned));
            if let Some(members) = &written.members {
                gather(&members.steps, Some(&written.step.id), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    for section in sections {
        gather(section, None, &mut found);
    }
    found
}

/// Reports the steps that are read and are not there.
fn find_strangers(sheet: &Sheet<'_>, sections: &[Vec<Written>; 3], output_reads: &[StepRead]) {
    let steps: Vec<&Written> = sections.iter().flat_map(|section| all(section)).collect();
    let ids: BTreeSet<&str> = steps.iter().map(|written| written.step.id.as_str()).collect();
    let reads = steps.iter().flat_map(|written| written.reads.iter().chain(&written.own_reads));
    let is_strange = |read: &&StepRead| !read.step.is_empty() && !ids.contains(read.step.as_str());
    for read in reads.chain(output_reads).filter(is_strange) {
        let message = format!("there is no step `{}` in this workflow", read.step);
        let help = suggestion(&read.step, ids.iter().copied());
        sheet.add(Mistake { place: read.place.clone(), message, help });
    }
}

fn check_ids(sheet: &Sheet<'_>, sections: &[Vec<Written>; 3]) -> bool {
    let mut is_clear = true;
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    for written in sections.iter().flat_map(|section| all(section)) {
        if let Some(place) = first.insert(&written.step.id, &written.step.place) {
            is_clear = false;
            let message = format!(
                "two steps are called `{}`; the other stands in line {}",
                written.step.id, place.line
            );
            sheet.add(Mistake {
                place: written.step.place.clone(),
                message,
                help: Some("give each its own `id`".to_owned()),
            });
        }
    }
    is_clear
}

/// The needs of a section's steps, or of a group's, and of all groups inside. `groups` knows which step stands in which group.
fn fill_level(
    sheet: &Sheet<'_>,
    steps: &mut [Written],
    group: Option<(&str, bool)>,
    groups: &BTreeMap<String, Option<String>>,
) {
    fill_needs(sheet, steps, group, groups);
    find_cycle(sheet, steps);
    for written in steps {
        let Some(members) = &mut written.members else { continue };
        fill_level(sheet, &mut members.steps, Some((&written.step.id, members.is_parallel)), groups);
    }
}

/// A list: each needs the one above. A graph: what the steps say. In `parallel`, what they say, and nothing when they are silent.
fn fill_needs(
    sheet: &Sheet<'_>,
    steps: &mut [Written],
    group: Option<(&str, bool)>,
    groups: &BTreeMap<String, Option<String>>,
) {
    let ids: Vec<String> = steps.iter().map(|written| written.step.id.clone()).collect();
    let is_graph = steps.iter().any(|written| written.needs.is_some());
    let is_parallel = group.is_some_and(|(_, is_parallel)| is_parallel);
    for (index, written) in steps.iter_mut().enumerate() {
        let own = &ids[index];
        written.step.needs = match &written.needs {
            None if is_parallel => Vec::new(),
            None if !is_graph => index.checked_sub(1).map(|above| ids[above].clone()).into_iter().collect(),
            None => {
                if index > 0 {
                    let message =
                        format!("step `{own}` does not say what it needs, and others of this graph do");
                    let help = format!("needs: [{}], or `needs: []` for nothing", ids[index - 1]);
                    sheet.add(Mistake { place: written.step.place.clone(), message, help: Some(help) });
                }
                Vec::new()
            }
            Some(needs) => {
                let mut kept: Vec<String> = Vec::new();
                for (need, place) in needs {
                    let wrong = |message: String, help: Option<String>| {
                        sheet.add(Mistake { place: place.clone(), message, help })
                    };
                    if need == own {
                        wrong(format!("step `{own}` needs itself"), None);
                    } else if !ids.contains(need) {
                        let message = format!("step `{own}` needs `{need}`, which is no step here");
                        let own_group = group.map(|(id, _)| id);
                        let help = elsewhere(need, own_group, &ids, groups).or_else(|| {
                            suggestion(need, ids.iter().filter(|id| *id != own).map(String::as_str))
                        });
                        wrong(message, help);
                    } else if kept.contains(need) {
                        wrong(format!("`{need}` stands here twice"), None);
                    } else {
                        kept.push(need.clone());
                    }
                }
                kept
            }
        };
    }
}

/// What to say of a step that is needed where it does not stand: in a group, or outside of the group at hand.
fn elsewhere(
    need: &str,
    own_group: Option<&str>,
    ids: &[String],
    groups: &BTreeMap<String, Option<String>>,
) -> Option<String> {
    let mut at = groups.get(need)?.as_deref();
    while let Some(group) = at {
        if ids.iter().any(|id| id == group) {
            return Some(format!("it stands in the group `{group}`: needs: [{group}]"));
        }
        at = groups.get(group)?.as_deref();
    }
    let own = own_group?;
    Some(match need == own {
        true => format!("it is a part of `{own}`, which ends after it"),
        false => format!(
            "`needs` names steps of the same group; what all of `{own}` waits for stands in the `needs` of `{own}`"
        ),
    })
}

/// Reports one way around, if there is one: at the step of the circle that stands first.
fn find_cycle(sheet: &Sheet<'_>, section: &mut [Written]) {
    let needs: BTreeMap<&str, Vec<&str>> = section
        .iter()
        .map(|written| (written.step.id.as_str(), written.step.needs.iter().map(String::as_str).collect()))
        .collect();
    // What is left after taking away all that needs nothing of what is left, again and again, goes in circles.
    let mut open: BTreeMap<&str, usize> = needs.iter().map(|(id, needs)| (*id, needs.len())).collect();
    let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, needs) in &needs {
        for need in needs {
            needed_by.entry(need).or_default().push(id);
        }
    }
    let mut free: Vec<&str> = open.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
    while let Some(id) = free.pop() {
        open.remove(id);
        for next in needed_by.get(id).into_iter().flatten() {
            let Some(count) = open.get_mut(next) else { continue };
            *count -= 1;
            if *count == 0 {
                free.push(next);
            }
        }
    }
    let left: BTreeSet<&str> = open.into_keys().collect();
    let Some(first) = section.iter().find(|written| left.contains(written.step.id.as_str())) else { return };
    let mut path = vec![first.step.id.as_str()];
    let (mut at, mut start) = (first.step.id.as_str(), 0);
    while let Some(next) = needs.get(at).into_iter().flatten().copied().find(|need| left.contains(need)) {
        if let Some(seen) = path.iter().position(|id| *id == next) {
            start = seen;
            path.push(next);
            break;
        }
        path.push(next);
        at = next;
    }
    let circle: Vec<String> = path[start..].iter().map(|id| format!("`{id}`")).collect();
    let place = section.iter().find(|written| written.step.id == path[start]).map(|written| {
        written
            .needs
            .iter()
            .flatten()
            .next()
            .map_or_else(|| written.step.place.clone(), |(_, place)| place.clone())
    });
    if let Some(place) = place {
        let message = format!("these steps wait for one another: {}", circle.join(" needs "));
        sheet.add(Mistake { place, message, help: Some("take one of these needs away".to_owned()) });
    }
}
