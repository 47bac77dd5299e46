//! The event loop of an interpreter: one thread, one thread state, asyncio or uvloop for life.

use std::ffi::c_void;
use std::os::fd::RawFd;
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread::Builder;

use burrow_abi::{Submission, BURROW_LOG_ERR};

use super::inbox::Inbox;
use super::running::live;
use super::watchdog;
use crate::app::Chosen;
use crate::attach::Attached;
use crate::instance::{Instance, Loaded};
use crate::interpreter::Interpreter;

/// As that of the threads that run WSGI applications; only what is touched takes memory.
const STACK: usize = 16 << 20;

/// What other threads know of it.
pub struct EventLoop {
    pub interpreter: &'static Interpreter,
    pub inbox: Inbox,
}

/// Called on the loop's thread.
pub type Ready = fn(&'static EventLoop);

pub enum Message {
    /// An application was imported, and replaces another import of itself.
    Begin(&'static Instance, Arc<Loaded>, Option<Arc<Loaded>>),
    Submit(Submission, Chosen),
    Wake(*mut c_void, u32),
    Retire(u32),
    /// To call the function whenever the descriptor is readable, from now on.
    Watch(RawFd, Ready),
    /// The process ends. Tells when the applications have shut down.
    Stop(Sender<()>),
}

// SAFETY: the pointers are the host's, which gives them away to the loop's thread.
unsafe impl Send for Message {}

impl EventLoop {
    /// Starts the thread, and waits until it is ready. None when it is not going to be; that was logged.
    pub fn start(interpreter: &'static Interpreter) -> Option<&'static EventLoop> {
        let failed = |why: &str| {
            let line = format!("burrow: no event loop for {}: {why}", interpreter.description());
            crate::log::line(BURROW_LOG_ERR, line.as_bytes());
        };
        let inbox = Inbox::new().map_err(|error| failed(error.desc())).ok()?;
        let event_loop: &EventLoop = Box::leak(Box::new(EventLoop { interpreter, inbox }));
        let (ready, started) = channel();
        // It inherits a mask that blocks all signals from those who import applications.
        let thread = Builder::new().name("burrow:loop".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(move || live(event_loop, ready)) {
            failed(&error.to_string());
            return None;
        }
        // Nothing is sent where its set-up has raised, which is logged.
        started.recv().ok()?;
        watchdog::start(event_loop);
        Some(event_loop)
    }

    /// An application was imported; it replaces another import.
    pub fn begin(&self, instance: &'static Instance, loaded: Arc<Loaded>, replaced: Option<Arc<Loaded>>) {
        self.inbox.push(std::iter::once(Message::Begin(instance, loaded, replaced)));
    }

    /// Calls `ready` on the loop's thread, attached, whenever the descriptor is readable. It has one such.
    pub fn watch(&self, descriptor: RawFd, ready: Ready) {
        self.inbox.push(std::iter::once(Message::Watch(descriptor, ready)));
    }

    /// Does so no longer. On the loop's thread, attached.
    pub fn unwatch(&self, descriptor: RawFd) {
        if let Some(running) = self.interpreter.state().asgi.get() {
            running.unwatch(descriptor);
        }
    }

    /// Logs what the loop's thread is doing. Attached to its interpreter.
    pub fn report_blocked(&self, attached: &Attached) {
        if let Some(running) = attached.interpreter.state().asgi.get() {
            running.report_blocked();
        }
    }

    /// Lets the requests end, and then the applications shut down; waits for that.
    pub fn stop(&self) {
        let (sender, stopped) = channel();
        self.inbox.push(std::iter::once(Message::Stop(sender)));
        let _ = stopped.recv();
    }
}
