//! Dispatch inside one process: two bounded channels.

use tokio::sync::mpsc;

use super::{Order, Report};

/// How many orders or reports may wait. A full channel makes the sender wait: that is the back pressure.
const CAPACITY: usize = 1024;

/// The server's end.
#[derive(Debug)]
pub struct ServerEnd {
    pub orders: mpsc::Sender<Order>,
    pub reports: mpsc::Receiver<Report>,
}

/// The worker's end.
#[derive(Debug)]
pub struct WorkerEnd {
    pub orders: mpsc::Receiver<Order>,
    pub reports: mpsc::Sender<Report>,
}

/// A connected pair of ends.
pub fn pair() -> (ServerEnd, WorkerEnd) {
    let (orders, their_orders) = mpsc::channel(CAPACITY);
    let (their_reports, reports) = mpsc::channel(CAPACITY);
    (ServerEnd { orders, reports }, WorkerEnd { orders: their_orders, reports: their_reports })
}
