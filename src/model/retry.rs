//! When a failed step is tried again.

use serde::{Deserialize, Serialize};

use super::Span;

/// How often and how fast. The condition `when` belongs to the definition, not here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// The total of attempts, the first included; at least 1.
    pub attempts: u32,
    /// Before the second attempt.
    pub delay: Span,
    /// Each further delay is this many times the one before; 1 keeps it.
    pub backoff: f64,
    pub max_delay: Option<Span>,
    /// Up to this share of the delay is added, 0 to 1.
    pub jitter: f64,
    /// Attempts whose worker died are tried again too.
    pub lost: bool,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { attempts: 1, delay: Span(0), backoff: 1.0, max_delay: None, jitter: 0.0, lost: false }
    }
}

impl Retry {
    /// How long to wait before attempt `number` (2 is the first retry). `dice` is any number that differs between steps: a hash of run,
    /// step and number, so that the same run gives the same delays.
    pub fn delay_before(&self, number: u32, dice: u64) -> Span {
        let exponent = i32::try_from(number.saturating_sub(2)).unwrap_or(i32::MAX);
        let grown = self.delay.0 as f64 * self.backoff.max(0.0).powi(exponent);
        let cap = self.max_delay.map_or(Span::days(365).0 as f64, |most| most.0 as f64);
        let share = (dice % 1024) as f64 / 1024.0;
        let delay = grown.min(cap);
        Span((delay + delay * self.jitter.clamp(0.0, 1.0) * share) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_by_the_backoff_up_to_the_cap() {
        let retry = Retry {
            attempts: 9,
            delay: Span(100),
            backoff: 2.0,
            max_delay: Some(Span(500)),
            ..Retry::default()
        };
        let delays: Vec<u64> = (2..=6).map(|number| retry.delay_before(number, 7).0).collect();
        assert_eq!(delays, [100, 200, 400, 500, 500]);
    }
}
