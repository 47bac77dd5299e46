//! How many threads wait for requests.
//!
//! To wake one for each of several that arrive at once is dear, and mostly in vain: requests are quick and Python
//! runs one at a time, so that the first thread has served all of them before the others have come to run. So a
//! few wait, and the rest is in reserve, until nobody waits any more. Where an event loop takes the requests nobody
//! is to wait.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};

/// So many wait: one that serves requests, and one that does when that one is away.
const WAITING: usize = 2;

#[derive(Default)]
pub struct Reserve {
    /// All are in reserve.
    closed: AtomicBool,
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
            let staying = !self.has_room(self.waiting.load(SeqCst));
            let guard = if staying { self.wanted.wait(guard).unwrap() } else { guard };
            self.size.fetch_sub(1, SeqCst);
            drop(guard);
        }
    }

    fn join(&self) -> bool {
        let joined = |waiting| self.has_room(waiting).then_some(waiting + 1);
        self.waiting.fetch_update(SeqCst, SeqCst, joined).is_ok()
    }

    fn has_room(&self, waiting: usize) -> bool {
        waiting < WAITING && !self.is_closed()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Nobody is to wait; those who do leave with what they wait for. Whether that was otherwise.
    pub fn close(&self) -> bool {
        !self.closed.swap(true, SeqCst)
    }

    /// Some are to wait again.
    pub fn open(&self) {
        self.closed.store(false, SeqCst);
        drop(self.lock.lock().unwrap());
        self.wanted.notify_all();
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
            reserve.leave();
            assert_eq!(reserve.waiting.load(SeqCst), 1);
            reserve.leave();
            for _ in WAITING..4 {
                told.recv().unwrap();
                reserve.leave();
            }
        });
        assert_eq!(reserve.waiting.load(SeqCst), 0);
    }

    #[test]
    fn nobody_waits_where_it_is_closed() {
        let reserve = Reserve::default();
        assert!(reserve.close() && !reserve.close());
        thread::scope(|scope| {
            let all: Vec<_> = (0..WAITING).map(|_| scope.spawn(|| reserve.come())).collect();
            while reserve.size.load(SeqCst) < WAITING {
                thread::yield_now();
            }
            assert_eq!(reserve.waiting.load(SeqCst), 0);
            reserve.open();
            all.into_iter().for_each(|each| each.join().unwrap());
        });
        assert_eq!(reserve.waiting.load(SeqCst), WAITING);
    }
}
