//! How many threads wait for requests.
//!
//! To wake one for each of several that arrive at once is dear, and mostly in vain: requests are quick and Python
//! runs one at a time, so that the first thread has served all of them before the others have come to run. So a
//! few wait, and the rest is in reserve, until nobody waits any more.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};

/// So many wait: one that serves requests, and one that does when that one is away.
const WAITING: usize = 2;

#[derive(Default)]
pub struct Reserve {
    waiting: AtomicUsize,
    size: AtomicUsize,
    lock: Mutex<()>,
    wanted: Condvar,
}

impl Reserve {
    /// Before a thread waits for requests: returns when it is to.
    pub fn come(&self) {
        while !self.join() {
            let guard = self.lock.lock().unwrap();
            self.size.fetch_add(1, SeqCst);
            // Whoever left last may have seen no reserve.
            let staying = self.waiting.load(SeqCst) >= WAITING;
            let guard = if staying { self.wanted.wait(guard).unwrap() } else { guard };
            self.size.fetch_sub(1, SeqCst);
            drop(guard);
        }
    }

    fn join(&self) -> bool {
        let joined = |waiting| (waiting < WAITING).then_some(waiting + 1);
        self.waiting.fetch_update(SeqCst, SeqCst, joined).is_ok()
    }

    /// The thread waits no longer.
    pub fn leave(&self) {
        if self.waiting.fetch_sub(1, SeqCst) == 1 && self.size.load(SeqCst) > 0 {
            drop(self.lock.lock().unwrap());
            self.wanted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn somebody_waits_as_long_as_somebody_can() {
        let reserve = Reserve::default();
        let (tell, told) = channel();
        thread::scope(|scope| {
            for _ in 0..4 {
                let (reserve, tell) = (&reserve, tell.clone());
                scope.spawn(move || {
                    reserve.come();
                    tell.send(()).unwrap();
                });
            }
            (0..WAITING).for_each(|_| told.recv().unwrap());
            while reserve.size.load(SeqCst) < 4 - WAITING {
                thread::yield_now();
            }
            assert!(told.try_recv().is_err());
            for still in [1, 0] {
                reserve.leave();
                assert_eq!(reserve.waiting.load(SeqCst), still);
            }
            for _ in WAITING..4 {
                told.recv().unwrap();
                reserve.leave();
            }
        });
        assert_eq!(reserve.waiting.load(SeqCst), 0);
    }
}
