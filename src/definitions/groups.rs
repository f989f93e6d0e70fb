//! Groups become what the conductor knows: their steps stand beside them in the section, or in a workflow that is run for the group.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::graph::Written;
use super::workflow::{Group, Kind, Step, Workflow};

/// Puts the steps of a file into their workflow. `reads` has, by group, the steps outside that it reads.
pub(super) fn lay_out(
    mut workflow: Workflow,
    sections: [Vec<Written>; 3],
    reads: &BTreeMap<String, Vec<String>>,
) -> Workflow {
    let mut layout = Layout { outer: &workflow, reads, groups: BTreeMap::new() };
    let [steps, on_failure, finally] = sections.map(|section| layout.steps(section, None));
    let groups = layout.groups;
    workflow.groups = groups;
    workflow.steps = steps;
    workflow.on_failure = on_failure;
    workflow.finally = finally;
    workflow
}

struct Layout<'a> {
    /// The workflow of the file, without steps.
    outer: &'a Workflow,
    reads: &'a BTreeMap<String, Vec<String>>,
    groups: BTreeMap<String, Arc<Workflow>>,
}

impl Layout<'_> {
    /// Members of a group that is only structure follow it.
    fn steps(&mut self, written: Vec<Written>, group: Option<&str>) -> Vec<Step> {
        let mut steps = Vec::new();
        for Written { mut step, members, .. } in written {
            step.group = group.map(str::to_owned);
            let Some(members) = members else {
                steps.push(step);
                continue;
            };
            let id = step.id.clone();
            if members.is_run {
                let inside = self.steps(members.steps, None);
                let workflow = self.workflow(&step, inside);
                let reads = self.reads.get(&id).cloned().unwrap_or_default();
                step.kind = Kind::Group(Group::Run { workflow: workflow.name.clone(), reads });
                self.groups.insert(id, Arc::new(workflow));
                steps.push(step);
            } else {
                steps.push(step);
                steps.extend(self.steps(members.steps, Some(&id)));
            }
        }
        steps
    }

    /// The workflow that is run for a group.
    fn workflow(&self, group: &Step, steps: Vec<Step>) -> Workflow {
        Workflow {
            name: format!("{}#{}", self.outer.name, group.id),
            place: group.place.clone(),
            description: String::new(),
            steps,
            output: Vec::new(),
            timeout: group.timeout,
            concurrency: None,
            gives_steps: true,
            ..self.outer.clone()
        }
    }
}
