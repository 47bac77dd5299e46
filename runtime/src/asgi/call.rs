//! One request of an ASGI application.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::{null_mut, NonNull};
use std::sync::Arc;

use burrow_abi::{
    burrow_outcome, burrow_request, LoopIo, Submission, BURROW_ABORTED, BURROW_FAILED, BURROW_GONE,
    BURROW_LOG_ERR, BURROW_LOG_INFO, BURROW_TIMEOUT, EXPIRED, GONE, RETIRED,
};
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::application::{self, Application};
use super::coroutine::{self, call_of};
use super::observed::Observed;
use super::protocol::Protocol;
use super::running::Running;
use super::{scope, websocket};
use crate::app::Chosen;
use crate::attach::Attached;
use crate::instance::{Instance, Loaded};
use crate::interpreter::Busy;
use crate::object::{raise_gone, raise_runtime_error, take_exception, Object, Raised, Result};
use crate::observe::Cpu;
use crate::{fork, log};

/// Seconds from an application's being told that its client has left to the cancellation of its task.
const GRACE: f64 = 10.0;

/// Touched by the loop's thread alone.
pub struct Call {
    pub running: &'static Running,
    instance: &'static Instance,
    pub loaded: Arc<Loaded>,
    io: &'static LoopIo,
    request: *const burrow_request,
    /// NULL once the host was told the outcome: `request` and `io` are out of bounds then.
    exchange: Cell<*mut c_void>,
    /// The object that this is the call of.
    run: Cell<*mut PyObject>,
    /// The application's coroutine, or an iterator that does as well; None once it has ended.
    coroutine: RefCell<Option<Object>>,
    task: RefCell<Option<Object>>,
    /// The application's code is running.
    stepping: Cell<bool>,
    /// The timer that cancels the task.
    timer: RefCell<Option<Object>>,
    gone: Cell<bool>,
    cancelled: Cell<bool>,
    expired: Cell<bool>,
    /// Until the host was told the outcome.
    counted: RefCell<Option<(Chosen, Busy)>>,
    /// For those who look on.
    pub observed: Option<Box<Observed>>,
    pub protocol: Protocol,
}

/// Starts a request's task. On Python 3.12 and later it runs at once, until the application waits.
pub fn start(
    running: &'static Running,
    loaded: Arc<Loaded>,
    protocol: Protocol,
    submission: &Submission,
    chosen: Chosen,
) {
    // SAFETY: the host's, until `finish`.
    let io = unsafe { &*submission.io };
    let call = Call {
        running,
        instance: chosen.instance(),
        io,
        request: submission.request,
        exchange: Cell::new(submission.exchange),
        run: Cell::new(null_mut()),
        coroutine: RefCell::new(None),
        task: RefCell::new(None),
        stepping: Cell::new(false),
        timer: RefCell::new(None),
        gone: Cell::new(false),
        cancelled: Cell::new(false),
        expired: Cell::new(false),
        counted: RefCell::new(Some((chosen, running.event_loop.interpreter.busy()))),
        // SAFETY: the host's, until `finish`.
        observed: Observed::new(running, unsafe { &*submission.request }),
        protocol,
        loaded,
    };
    let _bound = call.bind_log();
    match coroutine::new(running, call) {
        Ok(run) => {
            let call = call_of(&run);
            if begin(&run, call).is_err() {
                call.end(take_exception());
            }
        }
        Err(Raised) => {
            running.state().report(take_exception());
            // SAFETY: the host's functions.
            unsafe { (io.finish)(submission.exchange, BURROW_FAILED) };
            running.touch(io);
        }
    }
}

fn begin(run: &Object, call: &'static Call) -> Result<()> {
    let running = call.running;
    call.run.set(run.as_ptr());
    if call.protocol.socket().is_some() {
        websocket::watch(running)?;
    }
    let scope = scope::build(running, call)?;
    let (receive, send) = (coroutine::receiver(run.as_ptr())?, call.sender()?);
    let application = match &call.observed {
        None => call.loaded.callable.call(&[&scope, &receive, &send])?,
        Some(observed) => {
            let callable = observed.started(running, &scope, &call.loaded.callable)?;
            callable.call(&[&scope, &receive, &send])?
        }
    };
    *call.coroutine.borrow_mut() = Some(coroutine::awaited(application)?);
    let task = running.new_task(run)?;
    if call.is_running() {
        *call.task.borrow_mut() = Some(task);
    }
    if let Some(exchange) = NonNull::new(call.exchange.get()) {
        running.calls.borrow_mut().insert(exchange, run.clone());
    }
    Ok(())
}

impl Call {
    /// Binds log lines to the request, if they are not: once it is finished they stay unbound.
    fn bind_log(&self) -> Option<log::Bound> {
        let exchange = self.exchange.get();
        (log::bound() != Some(exchange)).then(|| log::bind(exchange))
    }

    /// The request, until the host was told the outcome.
    pub fn request(&self) -> Option<&burrow_request> {
        // SAFETY: the host's, until `finish`.
        (!self.exchange.get().is_null()).then(|| unsafe { &*self.request })
    }

    /// What the host calls the request, and how it is talked to; None once it was told the outcome.
    pub fn exchange(&self) -> Option<(*mut c_void, &'static LoopIo)> {
        let exchange = self.exchange.get();
        (!exchange.is_null()).then_some((exchange, self.io))
    }

    /// Whether nothing more comes of the client, or goes to it.
    pub fn is_over(&self) -> bool {
        self.gone.get() || self.exchange.get().is_null() || self.protocol.is_closed()
    }

    /// Tells the host what became of the request; the application may run on.
    pub fn finish(&self, outcome: burrow_outcome) {
        let Some(exchange) = NonNull::new(self.exchange.get()) else { return };
        log::flush_thread();
        log::unbind();
        self.exchange.set(null_mut());
        let _kept = self.running.calls.borrow_mut().remove(&exchange);
        // SAFETY: the host's functions; the last call for this exchange.
        unsafe { (self.io.finish)(exchange.as_ptr(), outcome) };
        self.running.touch(self.io);
        drop(self.counted.take());
    }

    /// What the host says of the exchange.
    pub fn wake(&self, events: u32) {
        let _bound = self.bind_log();
        if events & EXPIRED != 0 {
            self.expire();
        }
        if events & RETIRED != 0 {
            self.retire_socket();
        }
        if events & GONE != 0 {
            self.lose();
        }
        let told = self.protocol.wake(self, events);
        self.check(told);
    }

    /// The client has left: the application is told, and its task cancelled after a while.
    pub fn lose(&self) {
        if self.gone.replace(true) {
            return;
        }
        let told = self.protocol.disconnect(self).and_then(|()| self.hang_up());
        self.check(told);
    }

    /// The task is cancelled after a while, if it has not ended by then.
    pub fn hang_up(&self) -> Result<()> {
        let Some(task) = self.task.borrow().clone() else { return Ok(()) };
        if self.timer.borrow().is_none() {
            let timer = self.running.call_later(GRACE, &task.attr(c"cancel")?)?;
            *self.timer.borrow_mut() = Some(timer);
        }
        Ok(())
    }

    /// Its time is up.
    pub fn expire(&self) {
        self.expired.set(true);
        self.cancel();
    }

    fn cancel(&self) {
        let Some(task) = self.task.borrow().clone() else { return };
        self.cancelled.set(true);
        let told = task.attr(c"cancel").and_then(|cancel| cancel.call(&[]));
        self.check(told.map(drop));
    }

    /// Logs what should not have happened.
    pub fn check(&self, result: Result<()>) {
        if result.is_err() {
            self.running.state().report(take_exception());
        }
    }

    /// The process takes no further requests, and the time of this one is over.
    pub fn retire(&self) {
        let told = self.protocol.give_up(self);
        self.check(told);
    }

    /// The same, of a WebSocket, which need not wait.
    pub fn retire_socket(&self) {
        if let Some(socket) = self.protocol.socket() {
            let _bound = self.bind_log();
            self.check(socket.retire(self));
        }
    }

    /// Whether the application has not ended.
    pub fn is_running(&self) -> bool {
        self.coroutine.borrow().is_some()
    }

    /// The application has returned, or raised.
    fn end(&self, exception: Option<Object>) {
        drop(self.coroutine.take());
        drop(self.task.take());
        if let Some(timer) = self.timer.take() {
            let cancelled = timer.attr(c"cancel").and_then(|cancel| cancel.call(&[]));
            self.check(cancelled.map(drop));
        }
        let raised = exception.is_some();
        match exception {
            Some(exception) => self.failed(exception),
            None => {
                let missing = self.protocol.missing().filter(|_| !self.is_over());
                if let Some(missing) = missing {
                    self.complain(&format!("returned {missing}"));
                }
            }
        }
        if !self.protocol.leave(self, raised) {
            let outcome = match self.protocol.is_started() {
                _ if self.expired.get() && !self.protocol.is_started() => BURROW_TIMEOUT,
                _ if self.gone.get() => BURROW_GONE,
                true => BURROW_ABORTED,
                false => BURROW_FAILED,
            };
            self.finish(outcome);
        }
        if let Some(observed) = &self.observed {
            observed.end(self.running);
        }
        self.running.forget(self);
        application::ended(self.running, self);
    }

    /// Logs why a request failed; quietly if it is only that the client has gone.
    fn failed(&self, exception: Object) {
        let is = |kind: *mut PyObject| {
            // SAFETY: live objects, the second one a class.
            unsafe { ffi::PyErr_GivenExceptionMatches(exception.as_ptr(), kind) != 0 }
        };
        // SAFETY: the thread is attached, so the builtin types are there.
        let client_left = self.is_over() && is(unsafe { ffi::PyExc_OSError });
        let cancelled = is(self.running.cancelled_error.as_ptr());
        if client_left || (cancelled && self.is_over()) {
            let line = format!(
                "burrow: the client left before ASGI application '{}' was done.",
                self.instance.app().name()
            );
            return log::line(BURROW_LOG_INFO, line.as_bytes());
        }
        if cancelled && self.cancelled.get() {
            return self.complain("was cancelled: its time was up");
        }
        if let Some(observed) = &self.observed {
            observed.raised(self.running, &exception);
        }
        // SAFETY: the thread is attached to the loop's interpreter.
        unsafe {
            Attached::callback(self.running.event_loop.interpreter, |attached| {
                self.instance.app().report(attached, exception)
            });
        }
    }

    /// Logs what the application did wrong without raising.
    pub fn complain(&self, what: &str) {
        let line = format!("burrow: ASGI application '{}' {what}.", self.instance.app().name());
        log::line(BURROW_LOG_ERR, line.as_bytes());
    }

    /// Raises where a thread that is not the loop's uses `receive` or `send`, which speak to the loop.
    fn on_loop(&self) -> Result<()> {
        if self.running.is_current() {
            return Ok(());
        }
        raise_runtime_error(
            "receive() and send() are for the event loop's thread: use run_coroutine_threadsafe()",
        )
    }

    /// So much of the request's body, or of what a WebSocket's client says, has come.
    pub fn observe_input(&self, bytes: usize) {
        if let Some(observed) = &self.observed {
            observed.received(bytes);
        }
    }

    /// What the application calls as `send`.
    pub fn sender(&self) -> Result<Object> {
        coroutine::sender(self.run.get())
    }

    pub fn task(&self) -> Option<Object> {
        self.task.borrow().clone()
    }

    pub fn application(&self) -> &Application {
        self.loaded.asgi.as_ref().expect("only ASGI applications come to the loop")
    }

    /// What the application's `receive()` returns.
    pub fn receive(&self) -> Result<Object> {
        self.on_loop()?;
        self.protocol.receive(self)
    }

    /// What the application's `send(event)` returns.
    pub fn send(&self, event: *mut PyObject) -> Result<Object> {
        self.on_loop()?;
        if self.gone.get() || (self.exchange.get().is_null() && !self.is_running()) {
            return raise_gone();
        }
        self.protocol.send(self, event)
    }

    pub fn coroutine(&self) -> Option<Object> {
        self.coroutine.borrow().clone()
    }

    /// Lets the application go on: until it waits, which gives what it waits for, or to its end, which gives
    /// NULL. `run` is the object that this is the call of.
    pub fn step(&self, run: &Object, go_on: impl FnOnce(*mut PyObject) -> *mut PyObject) -> *mut PyObject {
        if !self.running.is_current() || self.stepping.replace(true) {
            let Err(Raised) = raise_runtime_error::<()>("a request's coroutine is run by its own task alone")
            else {
                unreachable!("it raises")
            };
            return null_mut();
        }
        let _bound = self.bind_log();
        let before = self.observed.as_ref().map(|observed| (observed, Cpu::of_thread()));
        let yielded = self.coroutine().map_or(null_mut(), |coroutine| go_on(coroutine.as_ptr()));
        if let Some((observed, before)) = before {
            observed.spend(before);
        }
        self.stepping.set(false);
        if !self.is_running() {
            return yielded;
        }
        if fork::is_child() {
            fork::leave_child();
        }
        if yielded.is_null() {
            // SAFETY: the thread is attached.
            let returned = unsafe {
                ffi::PyErr_Occurred().is_null() || ffi::PyErr_ExceptionMatches(ffi::PyExc_StopIteration) != 0
            };
            let exception = take_exception();
            self.end(exception.filter(|_| !returned));
        } else if self.exchange.get().is_null() {
            self.running.keep_behind(run);
        }
        yielded
    }
}
