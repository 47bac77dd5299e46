//! The requests in progress, for the threads that watch over them.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU64, Ordering::*};
use std::thread;

use burrow_daemon::page::SLOTS;

use super::applications::Application;

/// By the slots of their connections.
pub struct Requests(Box<[Entry]>);

struct Entry {
    /// When the request was taken, in microseconds of CLOCK_MONOTONIC, times four, and what became of it; 0:
    /// there is none. The time tells it from the next one.
    state: AtomicI64,
    /// When a request was taken that is to be interrupted; 0: none.
    late: AtomicI64,
    /// The thread, as the system numbers it and as Python does.
    thread: AtomicI32,
    ident: AtomicU64,
    application: AtomicPtr<Application>,
    exchange: AtomicPtr<c_void>,
}

// What became of it.
/// Nothing was answered yet.
const OPEN: i64 = 0;
/// The application answers.
const ANSWERED: i64 = 1;
/// Its time is up, which the server is being told.
const EXPIRING: i64 = 2;
/// The server knows.
const EXPIRED: i64 = 3;

const MASK: i64 = 3;

impl Requests {
    pub fn new() -> Requests {
        let entry = || Entry {
            state: AtomicI64::new(0),
            late: AtomicI64::new(0),
            thread: AtomicI32::new(0),
            ident: AtomicU64::new(0),
            application: AtomicPtr::new(ptr::null_mut()),
            exchange: AtomicPtr::new(ptr::null_mut()),
        };
        Requests((0..SLOTS).map(|_| entry()).collect())
    }

    /// The calling thread begins to serve a request; `exchange` is what `wsgi::serve` is called with.
    pub fn begin(&self, slot: usize, since: i64, application: &'static Application, exchange: *mut c_void) {
        let entry = &self.0[slot];
        entry.thread.store(super::thread_id(), Relaxed);
        // SAFETY: no precondition.
        entry.ident.store(unsafe { libc::pthread_self() }, Relaxed);
        entry.application.store(ptr::from_ref(application).cast_mut(), Relaxed);
        entry.exchange.store(exchange, Relaxed);
        entry.state.store(since << 2 | OPEN, Release);
    }

    /// The thread begins to answer, or goes on. False where the time is up.
    pub fn answer(&self, slot: usize) -> bool {
        let state = &self.0[slot].state;
        let now = state.load(Relaxed);
        match now & MASK {
            OPEN => state.compare_exchange(now, now | ANSWERED, AcqRel, Relaxed).is_ok(),
            state => state == ANSWERED,
        }
    }

    /// The thread has served the request. False where the time was up.
    pub fn end(&self, slot: usize) -> bool {
        let state = &self.0[slot].state;
        loop {
            let now = state.load(Acquire);
            if now & MASK != EXPIRING && state.compare_exchange(now, 0, AcqRel, Relaxed).is_ok() {
                return now & MASK != EXPIRED;
            }
            thread::yield_now();
        }
    }

    /// Slot and time of each request in progress.
    pub fn in_progress(&self) -> impl Iterator<Item = (usize, i64)> + '_ {
        let states = self.0.iter().map(|entry| entry.state.load(Acquire)).enumerate();
        states.filter(|(_, state)| *state != 0).map(|(slot, state)| (slot, state >> 2))
    }

    /// A request is to be interrupted: by whoever finds its call behind this, or by its thread in [`Self::is_late`].
    pub fn set_late(&self, slot: usize, since: i64) {
        self.0[slot].late.swap(since, AcqRel);
    }

    /// Whether what the thread serves was to be interrupted before its call could be found. Both swap: who is
    /// second sees what the first has done.
    pub fn is_late(&self, slot: usize) -> bool {
        let entry = &self.0[slot];
        entry.late.swap(0, AcqRel) == entry.state.load(Relaxed) >> 2
    }

    /// Calls `tell` and lets the application answer no more, if it has not begun to.
    pub fn expire(&self, slot: usize, since: i64, tell: impl FnOnce()) {
        let state = &self.0[slot].state;
        let open = since << 2 | OPEN;
        if state.compare_exchange(open, since << 2 | EXPIRING, AcqRel, Relaxed).is_ok() {
            tell();
            state.store(since << 2 | EXPIRED, Release);
        }
    }

    /// The slot of what a thread is serving.
    pub fn of_thread(&self, thread: i32) -> Option<usize> {
        let serves = |(slot, _): &(usize, i64)| self.0[*slot].thread.load(Relaxed) == thread;
        self.in_progress().find(serves).map(|(slot, _)| slot)
    }

    /// The threads that serve a request, as Python numbers them and as the system does.
    pub fn threads(&self) -> impl Iterator<Item = (u64, i32)> + '_ {
        let entries = self.in_progress().map(|(slot, _)| &self.0[slot]);
        entries.map(|entry| (entry.ident.load(Relaxed), entry.thread.load(Relaxed)))
    }

    /// Application and exchange of a request, while it is in progress: with the GIL of the application's
    /// interpreter it stays so as long as the interpreter knows the exchange's call.
    pub fn find(&self, slot: usize, since: i64) -> Option<(&'static Application, *mut c_void)> {
        let entry = &self.0[slot];
        let found = (entry.application.load(Relaxed), entry.exchange.load(Relaxed));
        let same = entry.state.load(Acquire) >> 2 == since;
        // SAFETY: applications live as long as the process.
        same.then(|| unsafe { (&*found.0, found.1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(requests: &Requests, since: i64) {
        let entry = &requests.0[1];
        entry.thread.store(7, Relaxed);
        entry.state.store(since << 2 | OPEN, Release);
    }

    #[test]
    fn time_is_up_for_the_request_that_was_meant_alone() {
        let requests = Requests::new();
        begun(&requests, 10);
        assert_eq!(requests.in_progress().collect::<Vec<_>>(), [(1, 10)]);
        assert_eq!((requests.of_thread(7), requests.of_thread(8)), (Some(1), None));
        assert!(requests.end(1));
        begun(&requests, 20);
        requests.expire(1, 10, || unreachable!("it has ended"));
        assert!(requests.answer(1) && requests.answer(1));
        requests.set_late(1, 10);
        assert!(!requests.is_late(1));
        requests.set_late(1, 20);
        assert!(requests.is_late(1) && !requests.is_late(1));
        requests.expire(1, 20, || unreachable!("it is being answered"));
        assert!(requests.end(1));
        begun(&requests, 30);
        let mut told = false;
        requests.expire(1, 30, || told = true);
        assert!(told && !requests.answer(1) && !requests.end(1));
        assert_eq!(requests.in_progress().next(), None);
    }
}
