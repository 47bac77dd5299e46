//! Application threads: each application group has its own, and its own queue.

use super::exchange::Exchange;
use crate::embedded::with_signals_blocked;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

/// Requests of a group that may wait; more are answered 503.
const QUEUE: usize = 1024;
/// What CPython is tuned for; only what is touched takes memory.
/// A thread that was so long at a request lets others go on with theirs before it takes the next: CPython gives its
/// lock to whoever comes first, which would be this one again, while theirs grow old.
const LONG: Duration = Duration::from_micros(500);
const STACK: usize = 8 << 20;

/// The threads of an application group. They live as long as the process.
#[derive(Default)]
pub struct Group {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Exchange>>,
    /// Threads without work, the one that worked last on top.
    idle: Vec<Arc<Condvar>>,
    threads: usize,
    /// The most that any application of the group asks for.
    most: usize,
    /// A thread was woken or started and has not come for work yet. There is one at most, and it
    /// wakes the next if it leaves work behind: so a burst of short requests wakes a few threads, not all.
    waking: bool,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Queues requests, and wakes a thread for them.
    pub fn submit(&'static self, exchanges: &[Arc<Exchange>]) {
        let mut state = self.lock();
        let room = QUEUE.saturating_sub(state.waiting.len());
        let (queued, refused) = exchanges.split_at(room.min(exchanges.len()));
        state.waiting.extend(queued.iter().cloned());
        // Scripts that are asked have a thread also where applications have none.
        state.most =
            exchanges.iter().map(|exchange| exchange.app().threads()).fold(state.most.max(1), usize::max);
        self.wake(state);
        for exchange in refused {
            exchange.unavailable(&format!("{QUEUE} requests wait already; more wsgi_threads may help"));
        }
    }

    /// Sees to it that a thread comes for what is waiting.
    fn wake(&'static self, mut state: MutexGuard<'_, State>) {
        if state.waking {
            return;
        }
        if let Some(thread) = state.idle.pop() {
            state.waking = true;
            drop(state);
            thread.notify_one();
        } else if state.threads < state.most {
            state.waking = true;
            state.threads += 1;
            drop(state);
            if let Err(error) = self.start() {
                self.give_up(&error);
            }
        }
    }

    fn start(&'static self) -> io::Result<()> {
        let builder = thread::Builder::new().name("burrow:app".into()).stack_size(STACK);
        with_signals_blocked(|| builder.spawn(|| self.run()))?;
        Ok(())
    }

    /// A thread could not be started: without any, nobody else would come for the requests.
    fn give_up(&'static self, error: &io::Error) {
        let mut state = self.lock();
        state.waking = false;
        state.threads -= 1;
        let lost = if state.threads == 0 { mem::take(&mut state.waiting) } else { VecDeque::new() };
        drop(state);
        for exchange in lost {
            exchange.unavailable(&format!("cannot start an application thread: {error}"));
        }
    }

    fn run(&'static self) {
        let me = Arc::new(Condvar::new());
        let mut state = self.lock();
        state.waking = false;
        loop {
            if let Some(exchange) = state.waiting.pop_front() {
                if state.waiting.is_empty() {
                    drop(state);
                } else {
                    self.wake(state);
                }
                let begun = Instant::now();
                exchange.serve();
                drop(exchange);
                if begun.elapsed() > LONG {
                    thread::yield_now();
                }
                state = self.lock();
            } else {
                state.idle.push(me.clone());
                // Whoever wakes a thread takes it off the list.
                while state.idle.iter().any(|thread| Arc::ptr_eq(thread, &me)) {
                    state = me.wait(state).expect("no panic under this lock");
                }
                state.waking = false;
            }
        }
    }
}
