//! Pauses between processes that keep dying.

use std::time::{Duration, Instant};

/// When the next process may start after one has ended that should not have.
#[derive(Default)]
pub struct Backoff {
    /// In a row.
    failures: i32,
    /// How many of the last ones in a row never became ready.
    unready: i32,
    due: Option<Instant>,
}

impl Backoff {
    /// One that has lived for so long does not keep dying.
    const HEALTHY: Duration = Duration::from_secs(10);
    /// So many in a row that never became ready have not met with an accident.
    const HOPELESS: i32 = 3;

    /// When the next one may start; None: at once.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the next one is not likely to become ready either.
    pub fn is_hopeless(&self) -> bool {
        self.unready >= Self::HOPELESS
    }

    /// One has become ready.
    pub fn succeeded(&mut self) {
        self.unready = 0;
    }

    /// Forgets a time that is past.
    pub fn pass(&mut self, now: Instant) {
        self.due.take_if(|due| *due <= now);
    }

    /// One that had served is replaced at once, and where that keeps happening still within a second; one that
    /// never became ready is tried again less and less often.
    pub fn failed(&mut self, was_ready: bool, lived: Duration) -> Duration {
        let now = Instant::now();
        if let Some(due) = self.due.filter(|due| *due > now) {
            return due - now; // Of several that ended together.
        }
        if lived > Self::HEALTHY {
            self.failures = 0;
        }
        self.unready = if was_ready { 0 } else { (self.unready + 1).min(Self::HOPELESS) };
        let seconds = match was_ready {
            true if self.failures == 0 => 0.0,
            true => (0.05 * 2f64.powi(self.failures)).min(0.5),
            false => (0.1 * 2f64.powi(self.failures)).min(10.0),
        };
        self.failures = (self.failures + 1).min(16);
        let delay = Duration::from_secs_f64(seconds);
        self.due = (!delay.is_zero()).then(|| now + delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_resumes_within_a_second_and_failures_become_rare() {
        let mut crashing = Backoff::default();
        let mut starting = Backoff::default();
        let (mut crashes, mut starts) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            crashes.push(crashing.failed(true, Duration::from_secs(1)).as_secs_f64());
            starts.push(starting.failed(false, Duration::from_secs(1)).as_secs_f64());
            (crashing.due, starting.due) = (None, None);
        }
        assert_eq!((crashes[0], crashes[9]), (0.0, 0.5));
        assert_eq!((crashing.is_hopeless(), starting.is_hopeless()), (false, true));
        assert_eq!((starts[0], starts[1], starts[9]), (0.1, 0.2, 10.0));
        assert_eq!(crashing.failed(true, Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn several_that_end_together_count_once() {
        let mut backoff = Backoff::default();
        for _ in 0..8 {
            assert!(backoff.failed(false, Duration::ZERO) <= Duration::from_millis(100));
        }
        assert_eq!((backoff.failures, backoff.unready), (1, 1));
    }
}
