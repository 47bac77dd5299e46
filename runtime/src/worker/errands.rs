//! The thread that enters Python on behalf of the keeper, which must not wait for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering::*};
use std::sync::{Condvar, Mutex};
use std::thread::Builder;

use burrow_daemon::page;

use super::{stacks, worker};
use crate::attach::Attached;
use crate::interpreter::{self, Interpreter};

/// What it is sent for.
#[derive(Clone, Copy)]
pub enum Errand {
    /// To see whether Python can be entered at all.
    Probe,
    /// To interrupt the request that was taken at this time from this slot's connection.
    Interrupt { slot: usize, since: i64 },
    /// To fetch the stacks of all threads.
    Stacks,
}

#[derive(Default)]
pub struct Errands {
    waiting: Mutex<VecDeque<Errand>>,
    sent: Condvar,
    /// What it has brought.
    stacks: Mutex<Option<String>>,
    /// Since when it waits to enter Python, in microseconds of CLOCK_MONOTONIC; 0: it does not.
    at_the_door: AtomicI64,
}

impl Errands {
    /// Sends it, as soon as it is back.
    pub fn send(&self, errand: Errand) {
        self.waiting.lock().unwrap().push_back(errand);
        self.sent.notify_one();
    }

    /// Since when it waits to enter Python.
    pub fn waits_since(&self) -> Option<i64> {
        Some(self.at_the_door.load(SeqCst)).filter(|since| *since != 0)
    }

    /// The stacks, once it has brought them.
    pub fn take_stacks(&self) -> Option<String> {
        self.stacks.lock().unwrap().take()
    }

    fn next(&self) -> Errand {
        let mut waiting = self.waiting.lock().unwrap();
        loop {
            match waiting.pop_front() {
                Some(errand) => return errand,
                None => waiting = self.sent.wait(waiting).unwrap(),
            }
        }
    }

    fn enter(&self, interpreter: &'static Interpreter) -> Attached {
        self.at_the_door.store(page::now(), SeqCst);
        let attached = Attached::to(interpreter);
        self.at_the_door.store(0, SeqCst);
        attached
    }

    fn run(&self) -> Infallible {
        loop {
            match self.next() {
                Errand::Probe => drop(self.enter(interpreter::main())),
                Errand::Interrupt { slot, since } => self.interrupt(slot, since),
                Errand::Stacks => {
                    let stacks = stacks::in_python(|interpreter| self.enter(interpreter));
                    *self.stacks.lock().unwrap() = Some(stacks);
                    worker().control.wake();
                }
            }
        }
    }

    fn interrupt(&self, slot: usize, since: i64) {
        if let Some(exchange) = worker().connections.lent(slot) {
            return exchange.expire(since);
        }
        let Some((application, _)) = worker().requests.find(slot, since) else { return };
        // Where there is none yet the request waits for its import.
        let Some(interpreter) = application.interpreter() else { return };
        let attached = self.enter(interpreter);
        // With the GIL: the request that is found now cannot end before it is released.
        let Some((_, exchange)) = worker().requests.find(slot, since) else { return };
        let state = attached.interpreter.state();
        let calls = state.calls.borrow();
        // SAFETY: calls take themselves out, attached, before they end.
        let call = calls.iter().map(|call| unsafe { &**call }).find(|call| call.exchange == exchange);
        if let Some(call) = call {
            call.interrupt(state);
        }
    }
}

/// Starts the thread.
pub fn start() -> io::Result<()> {
    Builder::new().name("burrow:errands".into()).spawn(|| worker().errands.run()).map(drop)
}
