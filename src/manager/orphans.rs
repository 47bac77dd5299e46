//! Processes that workers have forked and left behind.

use super::worker::Worker;
use nix::{
    poll::{poll, PollTimeout},
    sys::signal::Signal,
};
use std::time::{Duration, Instant};

/// Nobody tells when a process group is empty: it is looked at so often while somebody waits for it.
const GLANCE_MS: u16 = 10;
/// For so long at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Workers that have ended, and until when the others in their process groups may do so by themselves.
#[derive(Default)]
pub struct Orphans(Vec<(Worker, Instant)>);

impl Orphans {
    /// Tells those of a worker, which has ended, to end. multiprocessing's helper, say, then tidies up.
    pub fn add(&mut self, worker: Worker, timeout: Duration) {
        if worker.signal_group(Some(Signal::SIGTERM)) {
            self.0.push((worker, Instant::now() + timeout));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn due(&self) -> Option<Instant> {
        self.0.iter().map(|(_, until)| *until).min()
    }

    /// Kills those whose time is over.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|(worker, until)| {
            *until > now || {
                worker.signal_group(Some(Signal::SIGKILL));
                false
            }
        });
    }

    pub fn append(&mut self, mut others: Orphans) {
        self.0.append(&mut others.0);
    }

    /// Waits for their end, but not for long, and kills what is left then.
    pub fn end(mut self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + PATIENCE);
        while !self.is_empty() && Instant::now() < deadline {
            self.0.retain(|(worker, _)| worker.signal_group(None));
            // A signal makes the wait shorter, which is no harm.
            let _ = poll(&mut [], PollTimeout::from(if self.is_empty() { 0 } else { GLANCE_MS }));
        }
        for (worker, _) in self.0 {
            worker.signal_group(Some(Signal::SIGKILL));
        }
    }
}
