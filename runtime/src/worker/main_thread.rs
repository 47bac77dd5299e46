//! Python's main thread: it imports the applications and, at the end, runs the exit functions.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex};

use burrow_abi::burrow_str;
use burrow_daemon::request::Addressed;

use super::{control, exit, threads, worker};
use crate::start;

/// What other threads ask of it.
#[derive(Default)]
pub struct MainThread {
    /// Why the process ends, once it does.
    reason: Mutex<Option<String>>,
    asked: Condvar,
}

impl MainThread {
    /// Runs the exit functions and ends the process.
    pub fn end(&self, reason: String) {
        *self.reason.lock().unwrap() = Some(reason);
        self.asked.notify_one();
    }

    fn wait(&self) -> String {
        let mut reason = self.reason.lock().unwrap();
        loop {
            match reason.take() {
                Some(reason) => return reason,
                None => reason = self.asked.wait(reason).unwrap(),
            }
        }
    }
}

/// The life of the worker. Called detached.
pub fn live(link: OwnedFd) -> io::Result<Infallible> {
    let worker = worker();
    control::start(link)?;
    import_applications();
    threads::start()?;
    worker.connections.listen(true)?;
    worker.control.set_ready();
    let reason = worker.main_thread.wait();
    // SAFETY: this is the main thread.
    unsafe { start::stop(burrow_str::new(reason.as_bytes())) };
    exit(0)
}

/// Those that the configuration names. Where one does not import there is nothing to serve.
fn import_applications() {
    for app in &worker().config.apps {
        let address = Addressed {
            target: &app.target,
            callable: &app.callable,
            application_group: &app.application_group,
            queue_deadline: 0,
        };
        if !worker().applications.find(&address).import() {
            worker().control.give_up(app.clone());
        }
    }
}
