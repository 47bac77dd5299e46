//! One request of an ASGI application: the coroutine of its task, which is also what `receive` and `send`
//! are methods of.
//!
//! The task runs this object, and this the application's coroutine: so its end is seen in the same step, and
//! the task is a real one for those who ask for the current task.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::{null_mut, NonNull};
use std::sync::Arc;

use burrow_abi::{
    burrow_outcome, burrow_request, LoopIo, Submission, BURROW_ABORTED, BURROW_FAILED, BURROW_GONE,
    BURROW_LOG_ERR, BURROW_LOG_INFO, BURROW_TIMEOUT, EXPIRED, GONE, RETIRED,
};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject};

use super::application::{self, Application};
use super::event_loop::Running;
use super::observed::Observed;
use super::protocol::Protocol;
use super::{scope, websocket};
use crate::app::Chosen;
use crate::attach::Attached;
use crate::instance::{Instance, Loaded};
use crate::interpreter::Busy;
use crate::module::{free, method, slot, table, Function, Type, DISALLOW_INSTANTIATION};
use crate::object::{raise_gone, raise_runtime_error, take_exception, type_name, Object, Raised, Result};
use crate::observe::Cpu;
use crate::{fork, log};

/// Seconds from an application's being told that its client has left to the cancellation of its task.
const GRACE: f64 = 10.0;

#[repr(C)]
struct Run {
    ob_base: PyObject,
    call: ManuallyDrop<Call>,
}

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

pub fn describe() -> Type {
    let methods = vec![method(c"send", resume_send), method(c"throw", throw), method(c"close", close)];
    Type {
        name: c"mod_wsgi.Call",
        size: size_of::<Run>(),
        flags: DISALLOW_INSTANTIATION,
        slots: vec![
            slot(ffi::Py_tp_methods, table(methods, PyMethodDef::zeroed()).cast()),
            slot(ffi::Py_tp_getattro, attribute as *mut c_void),
            slot(ffi::Py_am_await, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iter, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iternext, next as *mut c_void),
            slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        ],
    }
}

static RECEIVE: Function = Function::new();
static SEND: Function = Function::new();

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
    match new(running, call) {
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

fn new(running: &Running, call: Call) -> Result<Object> {
    // SAFETY: the type's instances have our layout; the call is written before anyone sees it.
    unsafe {
        let object = Object::owned(ffi::PyType_GenericAlloc(running.call_type.as_ptr().cast(), 0))?;
        (&raw mut (*object.as_ptr().cast::<Run>()).call).write(ManuallyDrop::new(call));
        Ok(object)
    }
}

fn begin(run: &Object, call: &'static Call) -> Result<()> {
    let running = call.running;
    call.run.set(run.as_ptr());
    if call.protocol.socket().is_some() {
        websocket::watch(running)?;
    }
    let scope = scope::build(running, call)?;
    let receive = RECEIVE.of(run.as_ptr(), c"receive", receive, ffi::METH_NOARGS)?;
    let send = call.sender()?;
    let coroutine = match &call.observed {
        None => call.loaded.callable.call(&[&scope, &receive, &send])?,
        Some(observed) => {
            let callable = observed.started(running, &scope, &call.loaded.callable)?;
            callable.call(&[&scope, &receive, &send])?
        }
    };
    *call.coroutine.borrow_mut() = Some(awaited(coroutine)?);
    let task = running.new_task(run)?;
    if call.is_running() {
        *call.task.borrow_mut() = Some(task);
    }
    if let Some(exchange) = NonNull::new(call.exchange.get()) {
        running.calls.borrow_mut().insert(exchange, run.clone());
    }
    Ok(())
}

/// What runs an awaitable.
fn awaited(awaitable: Object) -> Result<Object> {
    // SAFETY: a live object; its type's slots are asked for before they are used.
    unsafe {
        if ffi::PyCoro_CheckExact(awaitable.as_ptr()) != 0 {
            return Ok(awaitable);
        }
        let methods = (*ffi::Py_TYPE(awaitable.as_ptr())).tp_as_async;
        let Some(am_await) = methods.as_ref().and_then(|methods| methods.am_await) else {
            let message = format!(
                "the application must return an awaitable, as an async function does, not {}",
                type_name(awaitable.as_ptr())
            );
            return crate::object::raise_type_error(&message);
        };
        Object::owned(am_await(awaitable.as_ptr()))
    }
}

/// The call of a live object, which keeps it.
pub fn call_of(run: &Object) -> &'static Call {
    // SAFETY: an instance of our type. Its users hold a reference, or are called with one.
    unsafe { call_at(run.as_ptr()) }
}

/// # Safety
/// `object` is a Run.
unsafe fn call_at(object: *mut PyObject) -> &'static Call {
    // SAFETY: as the caller vouches.
    unsafe { &*(&raw const (*object.cast::<Run>()).call).cast::<Call>() }
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
        SEND.of(self.run.get(), c"send", send, ffi::METH_O)
    }

    pub fn task(&self) -> Option<Object> {
        self.task.borrow().clone()
    }

    pub fn application(&self) -> &Application {
        self.loaded.asgi.as_ref().expect("only ASGI applications come to the loop")
    }
}

unsafe extern "C" fn receive(object: *mut PyObject, _nothing: *mut PyObject) -> *mut PyObject {
    // SAFETY: self is the Run that PyCFunction_New was given.
    let call = unsafe { call_at(object) };
    call.on_loop().and_then(|()| call.protocol.receive(call)).map_or(null_mut(), Object::into_ptr)
}

unsafe extern "C" fn send(object: *mut PyObject, event: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    let call = unsafe { call_at(object) };
    let sent = call.on_loop().and_then(|()| {
        if call.gone.get() || (call.exchange.get().is_null() && call.coroutine.borrow().is_none()) {
            return raise_gone();
        }
        call.protocol.send(call, event)
    });
    sent.map_or(null_mut(), Object::into_ptr)
}

/// Lets the application go on: until it waits, which gives what it waits for, or to its end, which gives NULL.
unsafe fn step(object: *mut PyObject, go_on: impl FnOnce(*mut PyObject) -> *mut PyObject) -> *mut PyObject {
    // SAFETY: a Run; the reference keeps it through its end.
    let (kept, call) = unsafe { (Object::borrowed(object), call_at(object)) };
    if !call.running.is_current() || call.stepping.replace(true) {
        let Err(Raised) = raise_runtime_error::<()>("a request's coroutine is run by its own task alone")
        else {
            unreachable!("it raises")
        };
        return null_mut();
    }
    let _bound = call.bind_log();
    let coroutine = call.coroutine.borrow().clone();
    let before = call.observed.as_ref().map(|observed| (observed, Cpu::of_thread()));
    let yielded = coroutine.map_or(null_mut(), |coroutine| go_on(coroutine.as_ptr()));
    if let Some((observed, before)) = before {
        observed.spend(before);
    }
    call.stepping.set(false);
    if !call.is_running() {
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
        call.end(exception.filter(|_| !returned));
    } else if call.exchange.get().is_null() {
        call.running.keep_behind(&kept);
    }
    yielded
}

unsafe extern "C" fn next(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by CPython on an instance; the coroutine is live.
    unsafe {
        step(object, |coroutine| {
            let mut result = null_mut();
            match ffi::PyIter_Send(coroutine, ffi::Py_None(), &mut result) {
                ffi::PySendResult::PYGEN_NEXT => result,
                ffi::PySendResult::PYGEN_RETURN => {
                    ffi::Py_DECREF(result);
                    null_mut()
                }
                ffi::PySendResult::PYGEN_ERROR => null_mut(),
            }
        })
    }
}

/// For tasks in Python.
unsafe extern "C" fn resume_send(object: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { stopped(next(object)) }
}

unsafe extern "C" fn throw(object: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        stopped(step(object, |coroutine| {
            let method = ffi::PyObject_GetAttrString(coroutine, c"throw".as_ptr());
            if method.is_null() {
                return null_mut();
            }
            let yielded = ffi::PyObject_CallObject(method, arguments);
            ffi::Py_DECREF(method);
            yielded
        }))
    }
}

/// A method's end is StopIteration.
unsafe fn stopped(yielded: *mut PyObject) -> *mut PyObject {
    // SAFETY: the thread is attached.
    unsafe {
        if yielded.is_null() && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
        }
    }
    yielded
}

unsafe extern "C" fn close(object: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    let coroutine = unsafe { call_at(object) }.coroutine.borrow().clone();
    let closed = coroutine.map(|coroutine| coroutine.attr(c"close").and_then(|close| close.call(&[])));
    match closed {
        Some(Err(Raised)) => null_mut(),
        _ => crate::object::none(),
    }
}

/// What a coroutine has besides (cr_frame and the like), for those who look at tasks.
unsafe extern "C" fn attribute(object: *mut PyObject, name: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let found = ffi::PyObject_GenericGetAttr(object, name);
        if found.is_null() && ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) != 0 {
            if let Some(coroutine) = call_at(object).coroutine.borrow().clone() {
                ffi::PyErr_Clear();
                return ffi::PyObject_GetAttr(coroutine.as_ptr(), name);
            }
        }
        found
    }
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone; `free` releases only the memory.
    unsafe {
        ManuallyDrop::drop(&mut (*object.cast::<Run>()).call);
        free(object);
    }
}
