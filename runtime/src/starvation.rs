//! Fairness between interpreters that share a GIL, on 3.10 to 3.12.
//!
//! A waiting thread there asks only *its own* interpreter to let go of the GIL, so a busy thread of
//! another interpreter keeps it until it blocks. A helper thread for each interpreter asks in that
//! interpreter's name, every 10 ms while requests of at least two interpreters are in progress.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::attach::Attached;
use crate::interpreter::{several_busy, Interpreter};

const EVERY: Duration = Duration::from_millis(10);

static LOCK: Mutex<()> = Mutex::new(());
static WAKE: Condvar = Condvar::new();

/// Starts the interpreter's helper. It inherits the signal mask of the thread that makes interpreters.
pub fn watch(interpreter: &'static Interpreter) {
    let helper = move || loop {
        let mut guard = LOCK.lock().unwrap();
        while !several_busy() {
            guard = WAKE.wait(guard).unwrap();
        }
        drop(guard);
        if interpreter.is_busy() {
            drop(Attached::to(interpreter));
        }
        std::thread::sleep(EVERY);
    };
    // Without the helper requests are served all the same, only less evenly.
    let _ = std::thread::Builder::new().name("burrow:fair".into()).stack_size(256 << 10).spawn(helper);
}

/// A second interpreter has become busy.
pub fn wake() {
    drop(LOCK.lock().unwrap());
    WAKE.notify_all();
}
