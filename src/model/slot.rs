//! The place among the runs of its workflow and key that a run needs before it may begin.

/// A place that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The workflow and the key, rendered: who shares it shares the limit.
    pub name: String,
    /// How many runs may have one at once; at least 1.
    pub limit: u32,
    pub on_limit: OnLimit,
}

/// What becomes of a run that is one too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It waits, and takes the place of those that wait or that only wait in their steps.
    Newest,
    /// It is not started.
    Reject,
}
