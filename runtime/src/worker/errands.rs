//! The threads that enter Python on behalf of the keeper, which must not wait for it: one for each of its locks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::*};
use std::sync::{Condvar, Mutex, RwLock};
use std::thread::Builder;

use burrow_daemon::page;

use super::{existing, greenlets, log, stacks, worker};
use crate::attach::Attached;
use crate::interpreter::{self, Interpreter};

/// What they are sent for.
#[derive(Clone, Copy)]
pub enum Errand {
    /// To see whether Python can be entered at all.
    Probe,
    /// To interrupt the request that was taken at this time from this slot's connection.
    Interrupt { slot: usize, since: i64 },
    /// To fetch the stacks of all threads.
    Stacks,
    /// To log what keeps the hub of greenlets from coming around.
    Blocked,
}

#[derive(Default)]
pub struct Errands(RwLock<Vec<&'static Messenger>>);

/// One of the threads.
#[derive(Default)]
struct Messenger {
    /// Whose lock it takes; None: the main interpreter's, which others share.
    own: Option<&'static Interpreter>,
    waiting: Mutex<VecDeque<Errand>>,
    sent: Condvar,
    stacks: Mutex<Stacks>,
    /// Since when it is on an errand, in microseconds of CLOCK_MONOTONIC; 0: it is not.
    out: AtomicI64,
    /// It waits to enter Python.
    at_the_door: AtomicBool,
}

/// Whether they were asked for.
#[derive(Default)]
enum Stacks {
    #[default]
    Unwanted,
    Wanted,
    Brought(String),
}

impl Errands {
    /// Sends all of them, each as soon as it is back.
    pub fn send(&self, errand: Errand) {
        for messenger in self.0.read().unwrap().iter() {
            if let Errand::Stacks = errand {
                *messenger.stacks.lock().unwrap() = Stacks::Wanted;
            }
            messenger.waiting.lock().unwrap().push_back(errand);
            messenger.sent.notify_one();
        }
    }

    /// Since when one of them is on an errand.
    pub fn out_since(&self) -> Option<i64> {
        let messengers = self.0.read().unwrap();
        messengers.iter().map(|each| each.out.load(SeqCst)).filter(|since| *since != 0).min()
    }

    /// Whether one of them waits to enter Python.
    pub fn are_at_the_door(&self) -> bool {
        self.0.read().unwrap().iter().any(|each| each.at_the_door.load(SeqCst))
    }

    /// The stacks, once all of them that were asked have brought theirs.
    pub fn take_stacks(&self) -> Option<String> {
        let messengers = self.0.read().unwrap();
        let mut stacks: Vec<_> = messengers.iter().map(|each| each.stacks.lock().unwrap()).collect();
        if stacks.iter().any(|each| matches!(**each, Stacks::Wanted)) {
            return None;
        }
        let brought = stacks.iter_mut().filter_map(|each| match mem::take(&mut **each) {
            Stacks::Brought(text) => Some(text),
            _ => None,
        });
        brought.reduce(|all, text| all + &text)
    }

    /// Forgets those that were asked for.
    pub fn forget_stacks(&self) {
        self.0.read().unwrap().iter().for_each(|each| *each.stacks.lock().unwrap() = Stacks::Unwanted);
    }
}

impl Messenger {
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
        self.at_the_door.store(true, SeqCst);
        let attached = Attached::to(interpreter);
        self.at_the_door.store(false, SeqCst);
        attached
    }

    /// Whether its lock is that of an interpreter.
    fn is_for(&self, interpreter: &Interpreter) -> bool {
        match self.own {
            Some(own) => std::ptr::eq(own, interpreter),
            None => !interpreter.own_gil,
        }
    }

    fn run(&self) -> Infallible {
        loop {
            let errand = self.next();
            self.out.store(page::now(), SeqCst);
            match errand {
                Errand::Probe => drop(self.enter(self.own.unwrap_or_else(interpreter::main))),
                Errand::Interrupt { slot, since } => self.interrupt(slot, since),
                Errand::Blocked => greenlets::report_blocked(),
                Errand::Stacks => {
                    let interpreters = interpreter::made().into_iter().filter(|each| self.is_for(each));
                    let text = interpreters.map(|each| stacks::of(&self.enter(each))).collect();
                    *self.stacks.lock().unwrap() = Stacks::Brought(text);
                    worker().control.wake();
                }
            }
            self.out.store(0, SeqCst);
        }
    }

    fn interrupt(&self, slot: usize, since: i64) {
        if let Some(exchange) = worker().connections.lent(slot) {
            return exchange.expire(since);
        }
        if greenlets::are_used() {
            return greenlets::interrupt(slot, since);
        }
        let Some((application, _)) = worker().requests.find(slot, since) else { return };
        // Where its call is not found its thread has not come so far, and interrupts it itself.
        for interpreter in application.interpreters().filter(|each| self.is_for(each)) {
            let attached = self.enter(interpreter);
            let state = attached.interpreter.state();
            // No call gets in or out meanwhile: the request that is found now is the one of its exchange.
            let calls = state.calls.read();
            let Some((_, exchange)) = worker().requests.find(slot, since) else { return };
            // SAFETY: calls take themselves out, attached, before they end.
            let call = calls.iter().map(|call| unsafe { &**call }).find(|call| call.exchange == exchange);
            if let Some(call) = call {
                call.interrupt(state);
            }
        }
    }
}

/// Starts the thread for a lock: that of an interpreter with one of its own, or the main interpreter's.
pub fn start(own: Option<&'static Interpreter>) -> io::Result<()> {
    let messenger: &'static Messenger = Box::leak(Box::new(Messenger { own, ..Messenger::default() }));
    Builder::new().name("burrow:errands".into()).spawn(|| messenger.run())?;
    worker().errands.0.write().unwrap().push(messenger);
    Ok(())
}

/// There is a new interpreter with a lock of its own, if this is a worker.
pub fn watch(interpreter: &'static Interpreter) {
    if existing().is_none() {
        return;
    }
    if let Err(error) = start(Some(interpreter)) {
        log::error(&format!("no thread watches over the {}: {error}", interpreter.description()));
    }
}
