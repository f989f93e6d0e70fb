//! Gives runs the input "time passed" when their time has come, also when it came while the server was down.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::conductor::Input;
use crate::model::{Span, Timestamp};
use crate::store::StoreError;

use super::Engine;
use super::driver::Move;

const BATCH: u32 = 200;
/// The longest sleep: nothing that was missed waits longer.
const LOOK_AGAIN: Span = Span::seconds(30);
const AGAIN: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) async fn keep_time(self: &Arc<Self>, stop: &CancellationToken) {
        loop {
            let next = match self.wake_due().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(%error, "timers can't be read; they wait in the store");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            tokio::select! {
                () = self.clock.sleep_until(next) => (),
                () = self.earlier.notified() => (),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Wakes what is due; says when to look again.
    async fn wake_due(self: &Arc<Self>) -> Result<Timestamp, StoreError> {
        let now = self.clock.now();
        let mut again = false;
        for run in self.store.due(now, BATCH).await? {
            if let Err(error) = self.drive(run, Move::of(Input::TimePassed)).await {
                // It holds up no other.
                tracing::error!(%run, %error, "a run could not be woken; the next look will try again");
                again = true;
            }
        }
        if again {
            return Ok(now.plus(Span::seconds(1)));
        }
        let latest = now.plus(LOOK_AGAIN);
        Ok(self.store.next_wake().await?.map_or(latest, |at| at.min(latest)))
    }
}
