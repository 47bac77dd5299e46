//! Fairness between interpreters that share a GIL, on 3.10 to 3.12.
//!
//! A waiting thread there asks only *its own* interpreter to let go of the GIL, so a busy thread of
//! another interpreter, serving a request or not, keeps it until it blocks. A helper thread for each
//! interpreter asks in that interpreter's name: every 5 ms while any request is in progress.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::thread::{self, Builder};
use std::time::Duration;

use crate::attach::Attached;
use crate::interpreter::{any_busy, Interpreter};

const EVERY: Duration = Duration::from_millis(5);
const STACK: usize = 256 << 10;

/// Interpreters watched. With one there is nothing to do.
static WATCHED: AtomicU32 = AtomicU32::new(0);
/// The clock sleeps: whoever makes the first interpreter busy wakes it.
static ASLEEP: AtomicBool = AtomicBool::new(false);
static AWAKE: Condvar = Condvar::new();
/// How often the helpers have been asked.
static TICKS: Mutex<u64> = Mutex::new(0);
static TICKED: Condvar = Condvar::new();

/// Starts the interpreter's helper, and with the second one the clock. They inherit the signal mask of
/// the thread that makes interpreters. Where a thread cannot be started requests are served less evenly.
pub fn watch(interpreter: &'static Interpreter) {
    let _ = Builder::new().name("burrow:fair".into()).stack_size(STACK).spawn(move || help(interpreter));
    if WATCHED.fetch_add(1, SeqCst) == 1 {
        let _ = Builder::new().name("burrow:clock".into()).stack_size(STACK).spawn(clock);
    }
}

fn help(interpreter: &'static Interpreter) {
    let mut seen = 0;
    loop {
        let mut ticks = TICKS.lock().unwrap();
        while *ticks == seen {
            ticks = TICKED.wait(ticks).unwrap();
        }
        seen = *ticks;
        drop(ticks);
        drop(Attached::to(interpreter));
    }
}

fn clock() {
    loop {
        thread::sleep(EVERY);
        let mut ticks = TICKS.lock().unwrap();
        if any_busy() {
            *ticks += 1;
            TICKED.notify_all();
            continue;
        }
        ASLEEP.store(true, SeqCst);
        while !any_busy() {
            ticks = AWAKE.wait(ticks).unwrap();
        }
        ASLEEP.store(false, SeqCst);
    }
}

/// An interpreter has become busy while none was.
pub fn wake() {
    if ASLEEP.load(SeqCst) {
        drop(TICKS.lock().unwrap());
        AWAKE.notify_one();
    }
}
