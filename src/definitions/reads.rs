//! Which steps' values are read where: only those that are waited for, of a group only its output from outside, and of an output only what it has.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{StepRead, unknown_field};
use super::fields::{Field, Fields, Type};
use super::graph::Written;
use super::mistake::{Mistake, Place, suggestion};
use super::sheet::Sheet;

/// All steps of a workflow, with where each stands.
pub(super) struct Plan<'a> {
    nodes: Vec<Node<'a>>,
    by_id: BTreeMap<&'a str, usize>,
}

struct Node<'a> {
    written: &'a Written,
    section: usize,
    /// The group that it stands in.
    group: Option<usize>,
    order: Order,
    /// What it needs, among its siblings.
    needs: Vec<usize>,
}

/// Which steps' values are known: an entry for each step of the plan.
struct Seen(Vec<bool>);

impl Seen {
    fn contains(&self, step: usize) -> bool {
        self.0[step]
    }

    fn steps(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().filter(|(_, seen)| **seen).map(|(step, _)| step)
    }
}

/// How the steps of one section or group follow one another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    List,
    Graph,
    Parallel,
}

impl<'a> Plan<'a> {
    /// The steps of `steps`, `on_failure` and `finally`, whose ids are all different and whose needs are filled in.
    pub(super) fn new(sections: &'a [Vec<Written>; 3]) -> Plan<'a> {
        let mut plan = Plan { nodes: Vec::new(), by_id: BTreeMap::new() };
        for (section, steps) in sections.iter().enumerate() {
            plan.add(steps, section, None, false);
        }
        for index in 0..plan.nodes.len() {
            let needs = &plan.nodes[index].written.step.needs;
            let needs = needs.iter().filter_map(|need| plan.by_id.get(need.as_str()).copied()).collect();
            plan.nodes[index].needs = needs;
        }
        plan
    }

    fn add(&mut self, steps: &'a [Written], section: usize, group: Option<usize>, is_parallel: bool) {
        let order = match steps.iter().any(|written| written.needs.is_some()) {
            _ if is_parallel => Order::Parallel,
            true => Order::Graph,
            false => Order::List,
        };
        for written in steps {
            let index = self.nodes.len();
            self.nodes.push(Node { written, section, group, order, needs: Vec::new() });
            self.by_id.insert(&written.step.id, index);
            if let Some(members) = &written.members {
                self.add(&members.steps, section, Some(index), members.is_parallel);
            }
        }
    }

    fn id(&self, index: usize) -> &'a str {
        &self.nodes[index].written.step.id
    }

    /// The groups around a step, the nearest first.
    fn around(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.nodes[index].group, |group| self.nodes[*group].group)
    }

    /// What has ended before `reader` starts: what it waits for and what the groups around it wait for, also through others, and earlier
    /// sections. Without a reader: what has ended when `steps` has.
    fn seen(&self, reader: Option<usize>) -> Seen {
        let sections = reader.map_or(1, |reader| self.nodes[reader].section);
        let has_ended = |node: &Node<'_>| node.section < sections && node.group.is_none();
        let mut seen = Seen(self.nodes.iter().map(has_ended).collect());
        let Some(reader) = reader else { return seen };
        for at in std::iter::once(reader).chain(self.around(reader)) {
            let mut open = self.nodes[at].needs.clone();
            while let Some(index) = open.pop() {
                if !std::mem::replace(&mut seen.0[index], true) {
                    open.extend(&self.nodes[index].needs);
                }
            }
        }
        seen
    }

    /// What a step gives, or each of its items.
    fn outputs(&self, written: &Written) -> Option<Fields> {
        let Some(members) = &written.members else { return written.outputs.clone() };
        let fields = members.steps.iter().map(|member| {
            let field = match (member.is_loop, self.outputs(member)) {
                (true, _) => Field::new(Type::Array),
                (false, Some(fields)) => Field { properties: Some(fields), ..Field::new(Type::Object) },
                (false, None) => Field::new(Type::Any),
            };
            (member.step.id.clone(), field)
        });
        Some(fields.collect())
    }
}

/// Reports every read that can't be, and gives for each group that is a run of its own the steps outside that it reads.
pub(super) fn check(
    sheet: &Sheet<'_>,
    plan: &Plan<'_>,
    output_reads: &[StepRead],
) -> BTreeMap<String, Vec<String>> {
    let checker = Checker { sheet, plan };
    let mut of_groups: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (index, node) in plan.nodes.iter().enumerate() {
        let Written { reads, own_reads, same_as, .. } = node.written;
        if reads.is_empty() && own_reads.is_empty() && same_as.is_none() {
            continue;
        }
        let seen = plan.seen(Some(index));
        for (read, is_own) in
            reads.iter().map(|read| (read, false)).chain(own_reads.iter().map(|read| (read, true)))
        {
            checker.check(read, Some(index), is_own, &seen);
            note(plan, &mut of_groups, index, read, &seen);
        }
        if let Some((id, place)) = same_as {
            checker.check_same_as(index, id, place, &seen);
        }
    }
    let seen = plan.seen(None);
    for read in output_reads {
        checker.check(read, None, false, &seen);
    }
    let ids = |steps: BTreeSet<usize>| steps.into_iter().map(|step| plan.id(step).to_owned()).collect();
    of_groups.into_iter().map(|(group, steps)| (plan.id(group).to_owned(), ids(steps))).collect()
}

/// Notes for the groups around a reader, which are runs of their own, what it reads from outside of them.
fn note(
    plan: &Plan<'_>,
    of_groups: &mut BTreeMap<usize, BTreeSet<usize>>,
    reader: usize,
    read: &StepRead,
    seen: &Seen,
) {
    let is_run =
        |group: &usize| plan.nodes[*group].written.members.as_ref().is_some_and(|members| members.is_run);
    for group in plan.around(reader).filter(is_run) {
        let is_outside = |step: &usize| *step != group && plan.around(*step).all(|around| around != group);
        let reads = of_groups.entry(group).or_default();
        match plan.by_id.get(read.step.as_str()) {
            Some(step) => reads.extend(Some(*step).filter(is_outside)),
            // Which one is known only then.
            None if read.step.is_empty() => reads.extend(seen.steps().filter(is_outside)),
            None => (),
        }
    }
}

struct Checker<'a> {
    sheet: &'a Sheet<'a>,
    plan: &'a Plan<'a>,
}

impl Checker<'_> {
    fn wrong(&self, place: &Place, message: String, help: Option<String>) {
        self.sheet.add(Mistake { place: place.clone(), message, help });
    }

    /// One read of `reader`, or of the workflow's `output`.
    fn check(&self, read: &StepRead, reader: Option<usize>, is_own: bool, seen: &Seen) {
        let (plan, step) = (self.plan, &read.step);
        if step.is_empty() {
            return;
        }
        let Some(target) = plan.by_id.get(step.as_str()).copied() else {
            let own = reader.map(|reader| plan.id(reader));
            let help = suggestion(step, plan.by_id.keys().copied().filter(|id| Some(*id) != own));
            return self.wrong(&read.place, format!("there is no step `{step}` in this workflow"), help);
        };
        if let Some(group) = self.closed_group(target, reader) {
            return self.inside_a_group(read, target, group);
        }
        let is_seen = seen.contains(target) || (is_own && reader == Some(target));
        match reader {
            _ if is_seen => self.check_output(read, target, is_own && reader == Some(target)),
            Some(reader) => self.not_waited_for(read, target, reader),
            None => {
                let message =
                    format!("`steps.{step}` is not known yet where the workflow's `output` is made");
                self.wrong(&read.place, message, None);
            }
        }
    }

    /// The outermost group that holds `target` and not `reader`.
    fn closed_group(&self, target: usize, reader: Option<usize>) -> Option<usize> {
        let open: Vec<usize> = reader.map(|reader| self.plan.around(reader).collect()).unwrap_or_default();
        self.plan.around(target).take_while(|group| !open.contains(group)).last()
    }

    fn inside_a_group(&self, read: &StepRead, target: usize, group: usize) {
        let plan = self.plan;
        let (id, step) = (plan.id(group), &read.step);
        let mut way: Vec<&str> =
            plan.around(target).take_while(|around| *around != group).map(|at| plan.id(at)).collect();
        way.reverse();
        way.push(plan.id(target));
        let message =
            format!("`{step}` stands in the group `{id}`: outside, only the group's output is seen");
        let help = if plan.nodes[group].written.is_loop {
            format!(
                "`steps.{id}.output` is a list; of its first item, read `steps.{id}.output[0].{}`",
                way.join(".")
            )
        } else {
            let rest = read.path.strip_prefix(&["output".to_owned()]).unwrap_or_default();
            way.extend(rest.iter().map(String::as_str));
            format!("read `steps.{id}.output.{}`", way.join("."))
        };
        self.wrong(&read.place, message, Some(help));
    }

    fn not_waited_for(&self, read: &StepRead, target: usize, reader: usize) {
        let plan = self.plan;
        let (id, step) = (plan.id(reader), &read.step);
        if target == reader {
            let message = format!("step `{id}` reads its own output");
            return self.wrong(&read.place, message, Some("only its `undo` can do that".to_owned()));
        }
        if plan.around(reader).any(|group| group == target) {
            let message = format!("step `{id}` reads the output of `{step}`, the group that it is a part of");
            let help = "that is known when all steps of the group have ended".to_owned();
            return self.wrong(&read.place, message, Some(help));
        }
        // Who would have to wait: the step itself, or the group around it that stands beside what is read.
        let level = (plan.nodes[target].section, plan.nodes[target].group);
        let waits = std::iter::once(reader)
            .chain(plan.around(reader))
            .find(|at| (plan.nodes[*at].section, plan.nodes[*at].group) == level)
            .unwrap_or(reader);
        let help = match (plan.nodes[waits].order, waits == reader) {
            (Order::List, true) => format!("put `{step}` above `{id}`"),
            (Order::List, false) => format!("put `{step}` above the group `{}`", plan.id(waits)),
            (Order::Graph, true) => format!("add `{step}` to its `needs`"),
            (Order::Graph, false) => format!("add `{step}` to the `needs` of the group `{}`", plan.id(waits)),
            (Order::Parallel, _) => {
                format!("both are in `parallel`: say `needs: [{step}]` for `{}`", plan.id(waits))
            }
        };
        let message = format!("step `{id}` reads `steps.{step}` but does not wait for it");
        self.wrong(&read.place, message, Some(help));
    }

    /// Whether what is read of the output is in it.
    fn check_output(&self, read: &StepRead, target: usize, is_own: bool) {
        let (written, step) = (self.plan.nodes[target].written, &read.step);
        let Some(("output", path)) = read.path.split_first().map(|(first, path)| (first.as_str(), path))
        else {
            return;
        };
        let Some(first) = path.first().filter(|_| !read.optional) else { return };
        if written.is_loop {
            if first.parse::<usize>().is_ok() || first == "len" {
                return;
            }
            let message =
                format!("`steps.{step}.output` is a list, with an entry for each item: it has no `{first}`");
            let help = match is_own {
                true => format!("in its `undo`, what the item gave is `output`: `output.{}`", path.join(".")),
                false => format!("of the first item: `steps.{step}.output[0].{}`", path.join(".")),
            };
            return self.wrong(&read.place, message, Some(help));
        }
        let Some(fields) = self.plan.outputs(written) else { return };
        if let Some((message, help)) = unknown_field(&fields, path, &format!("steps.{step}.output")) {
            self.wrong(&read.place, message, help);
        }
    }

    /// `worker.same_as` names a step of the same run that some worker has done before.
    fn check_same_as(&self, reader: usize, id: &str, place: &Place, seen: &Seen) {
        let plan = self.plan;
        let read = StepRead { step: id.to_owned(), path: Vec::new(), optional: true, place: place.clone() };
        let known = plan.by_id.get(id).copied();
        let help = || Some("name a step that runs an action, and that this one waits for".to_owned());
        if let Some(group) = known.and_then(|target| self.closed_group(target, Some(reader))) {
            let message = format!("`{id}` stands in the group `{}`, into which nobody sees", plan.id(group));
            return self.wrong(place, message, help());
        }
        let Some(target) = known.filter(|target| seen.contains(*target)) else {
            return self.check(&read, Some(reader), false, seen);
        };
        let Node { written, .. } = &plan.nodes[target];
        let run_of = |index: usize| {
            let is_run = |group: &usize| {
                plan.nodes[*group].written.members.as_ref().is_some_and(|members| members.is_run)
            };
            plan.around(index).find(is_run)
        };
        let message = if !written.is_action {
            format!("`{id}` runs no action, so no worker does it")
        } else if written.is_loop {
            format!("`{id}` is done for each item of a list, perhaps by many workers")
        } else if run_of(target) != run_of(reader) {
            let group = run_of(reader).map(|group| plan.id(group)).unwrap_or_default();
            format!("`{id}` is done outside of the group `{group}`, which is a run of its own")
        } else {
            return;
        };
        self.wrong(place, message, help());
    }
}
