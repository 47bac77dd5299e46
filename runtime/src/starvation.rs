//! Fairness between interpreters that share a GIL, on 3.10 to 3.12.
//!
//! A waiting thread there asks only *its own* interpreter to let go of the GIL, so a busy thread of
//! another interpreter, serving a request or not, keeps it until it blocks. A helper thread for each
//! interpreter asks in that interpreter's name: every 5 ms while it has a request in progress, or while
//! another helper has waited that long, since a thread without a request may have the GIL.
//!
//! Whoever asks is awake when the GIL is let go and gets it before those that sleep in the queue, and
//! the thread that let go is awake again at once. So a helper keeps the GIL until that one sleeps in the
//! queue too, at its end: the next is then whoever has waited longest.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crate::attach::Attached;
use crate::interpreter::{any_busy, Interpreter};

const EVERY: Duration = Duration::from_millis(5);
/// A helper that has waited this long has probably taken the GIL from a thread that was made to let go:
/// it is the switch interval that the interpreters get.
const ASKED: Duration = Duration::from_millis(1);
/// As long as a thread may take to wake up and to sleep again.
const SETTLE: Duration = Duration::from_micros(100);
const STACK: usize = 256 << 10;

/// Interpreters watched. With one there is nothing to do.
static WATCHED: Mutex<Vec<&'static Interpreter>> = Mutex::new(Vec::new());
/// The clock sleeps: whoever makes the first interpreter busy wakes it.
static ASLEEP: AtomicBool = AtomicBool::new(false);
static AWAKE: Condvar = Condvar::new();
static CLOCK: Mutex<Clock> = Mutex::new(Clock { ticks: 0, waiting: 0, stuck: false, settled: 0 });
static TICKED: Condvar = Condvar::new();

struct Clock {
    /// How often the helpers have been called.
    ticks: u64,
    /// Helpers that wait for the GIL.
    waiting: u32,
    /// There were some at the last tick: whoever has the GIL, none of them has asked it.
    stuck: bool,
    /// The tick in which one last kept the GIL: once is enough for the queue.
    settled: u64,
}

impl Clock {
    /// A helper has the GIL. Whether it keeps it for a moment.
    fn settles(&mut self, asked: bool) -> bool {
        self.waiting -= 1;
        asked && std::mem::replace(&mut self.settled, self.ticks) != self.ticks
    }
}

/// With the second interpreter the helpers start, and the clock. They inherit the signal mask of the
/// thread that makes interpreters. Where a thread cannot be started requests are served less evenly.
pub fn watch(interpreter: &'static Interpreter) {
    let mut watched = WATCHED.lock().unwrap();
    watched.push(interpreter);
    let without_helper = match watched.len() {
        1 => return,
        2 => {
            let _ = Builder::new().name("burrow:clock".into()).stack_size(STACK).spawn(clock);
            &watched[..]
        }
        _ => &[interpreter][..],
    };
    for interpreter in without_helper.iter().copied() {
        let _ = Builder::new().name("burrow:fair".into()).stack_size(STACK).spawn(move || help(interpreter));
    }
}

fn help(interpreter: &'static Interpreter) {
    let mut seen = 0;
    loop {
        let mut clock = CLOCK.lock().unwrap();
        while clock.ticks == seen || !(interpreter.is_busy() || clock.stuck) {
            clock = TICKED.wait(clock).unwrap();
        }
        seen = clock.ticks;
        clock.waiting += 1;
        drop(clock);
        let began = Instant::now();
        let attached = Attached::to(interpreter);
        let asked = began.elapsed() >= ASKED && interpreter.others_busy();
        if CLOCK.lock().unwrap().settles(asked) {
            thread::sleep(SETTLE);
        }
        drop(attached);
    }
}

fn clock() {
    loop {
        thread::sleep(EVERY);
        let mut clock = CLOCK.lock().unwrap();
        if any_busy() {
            clock.ticks += 1;
            clock.stuck = clock.waiting > 0;
            TICKED.notify_all();
            continue;
        }
        ASLEEP.store(true, SeqCst);
        while !any_busy() {
            clock = AWAKE.wait(clock).unwrap();
        }
        ASLEEP.store(false, SeqCst);
    }
}

/// An interpreter has become busy while none was.
pub fn wake() {
    if ASLEEP.load(SeqCst) {
        drop(CLOCK.lock().unwrap());
        AWAKE.notify_one();
    }
}
