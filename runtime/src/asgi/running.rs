//! What the thread of an event loop works with, and what it is told to do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_int, c_void, CStr};
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::mpsc::Sender;
use std::sync::Arc;

use burrow_abi::LoopIo;
use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject};

use super::application;
use super::awaitable;
use super::call::Call;
use super::coroutine::call_of;
use super::event_loop::{EventLoop, Message, Ready};
use super::http;
use super::keys::Keys;
use super::scope::Template;
use super::websocket;
use crate::app::App;
use crate::attach::Attached;
use crate::bootstrap::{named, text, State};
use crate::instance::{Instance, Loaded};
use crate::module::{interpreter_of_module, method};
#[cfg(not(Py_3_12))]
use crate::object::latin1;
use crate::object::{
    dict, float, integer, interned, none, raise_gone, raise_runtime_error, set_item, take_exception, tuple,
    Object, Raised, Result,
};

const SOURCE: &CStr = text(concat!(include_str!("asgi.py"), "\0").as_bytes());
/// Seconds that requests' tasks have to end by themselves when the process does.
const GRACE: f64 = 3.0;

/// Objects of the loop's interpreter, and more. Touched by the loop's thread alone.
pub struct Running {
    pub event_loop: &'static EventLoop,
    /// As Python calls it.
    thread: u64,
    pub call_type: Object,
    pub awaitable_type: Object,
    pub keys: Keys,
    pub template: Template,
    /// An awaitable that has nothing to wait for.
    pub done: Object,
    /// Events, to be copied.
    pub empty_body: Object,
    pub disconnect: Object,
    pub create_future: Object,
    pub cancelled_error: Object,
    python: Object,
    task_type: Object,
    /// Names of the arguments that a task is made with.
    task_arguments: Object,
    /// How many there were.
    #[cfg(not(Py_3_12))]
    tasks: Cell<u64>,
    call_soon: Object,
    call_later: Object,
    ready: Object,
    flush: Object,
    retire: Object,
    pub look: Object,
    /// See asgi.py.
    lifespan: Object,
    end: Object,
    stop: Object,
    blocked: Object,
    pub cipher_suite: Object,
    pub part_of: Object,
    pub send_read: Object,
    /// Those that the host waits for, by their exchanges.
    pub calls: RefCell<HashMap<NonNull<c_void>, Object, BuildHasherDefault<Address>>>,
    /// Those whose answers are complete and whose tasks run on.
    behind: RefCell<HashMap<NonNull<c_void>, Object, BuildHasherDefault<Address>>>,
    pub applications: RefCell<Vec<(&'static Instance, Arc<Loaded>)>>,
    stopped: RefCell<Option<Sender<()>>>,
    /// What the host's functions gave it to carry out, it has not been woken for.
    touched: Cell<Option<&'static LoopIo>>,
    /// `flush` will be called without further ado.
    flushes: Cell<bool>,
    /// `look` will be called: there are WebSockets.
    pub looks: Cell<bool>,
    batch: RefCell<Vec<Message>>,
    /// See [`EventLoop::watch`].
    watched: Cell<Option<Ready>>,
    /// For pieces of bodies.
    pub buffer: RefCell<Box<[u8]>>,
}

/// Hashes an address.
#[derive(Default)]
pub struct Address(u64);

impl Hasher for Address {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("addresses are numbers");
    }

    fn write_usize(&mut self, address: usize) {
        // The table looks at the upper and the lower bits.
        self.0 = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The loop's thread.
pub fn live(event_loop: &'static EventLoop, ready: Sender<()>) {
    let attached = Attached::to(event_loop.interpreter);
    let state = event_loop.interpreter.state();
    let lived = Running::new(event_loop).and_then(|(running, run, drain)| {
        let arguments = [running.python.clone(), integer(event_loop.inbox.descriptor() as u64)?, drain];
        assert!(state.asgi.set(running).is_ok(), "an interpreter has one loop");
        let _ = ready.send(());
        drop(ready);
        run.call(&[&arguments[0], &arguments[1], &arguments[2]])
    });
    if lived.is_err() {
        state.report(take_exception());
    }
    drop(attached);
}

impl Running {
    /// With asgi.py's `run` and the function that it makes the loop call.
    fn new(event_loop: &'static EventLoop) -> Result<(Running, Object, Object)> {
        let state = event_loop.interpreter.state();
        let globals = state.run_further(SOURCE)?;
        let function = |name| named(&globals, name);
        let python = function(c"new_event_loop")?.call(&[&integer(state.event_loop as u64)?])?;
        let asyncio = function(c"asyncio")?;
        let keys = Keys::new()?;
        let disconnect = dict()?;
        set_item(&disconnect, keys.type_.as_ptr(), &interned(c"http.disconnect")?)?;
        let names = [c"loop", if cfg!(Py_3_12) { c"eager_start" } else { c"name" }];
        let running = Running {
            event_loop,
            // SAFETY: no precondition.
            thread: unsafe { libc::pthread_self() },
            call_type: state.call_type.clone(),
            awaitable_type: state.awaitable_type.clone(),
            template: Template::new(&keys)?,
            done: awaitable::done(&state.awaitable_type)?,
            empty_body: http::empty_body(&keys)?,
            disconnect,
            keys,
            create_future: python.attr(c"create_future")?,
            cancelled_error: asyncio.attr(c"CancelledError")?,
            task_type: asyncio.attr(c"Task")?,
            task_arguments: tuple(names.into_iter().map(interned).collect::<Result<_>>()?)?,
            #[cfg(not(Py_3_12))]
            tasks: Cell::new(0),
            call_soon: python.attr(c"call_soon")?,
            call_later: python.attr(c"call_later")?,
            python,
            ready: function(c"ready")?,
            flush: function(c"flush")?,
            retire: function(c"retire")?,
            look: function(c"look")?,
            lifespan: function(c"Lifespan")?,
            end: function(c"end")?,
            stop: function(c"stop")?,
            blocked: function(c"blocked")?,
            cipher_suite: function(c"cipher_suite")?,
            part_of: function(c"part_of")?,
            send_read: function(c"send_read")?,
            calls: RefCell::default(),
            behind: RefCell::default(),
            applications: RefCell::default(),
            stopped: RefCell::default(),
            touched: Cell::new(None),
            flushes: Cell::new(false),
            looks: Cell::new(false),
            batch: RefCell::default(),
            watched: Cell::new(None),
            buffer: RefCell::new(vec![0; http::PIECE].into()),
        };
        Ok((running, function(c"run")?, function(c"drain")?))
    }

    pub fn state(&self) -> &'static State {
        self.event_loop.interpreter.state()
    }

    /// Whether the calling thread is the loop's.
    pub fn is_current(&self) -> bool {
        // SAFETY: no precondition.
        unsafe { libc::pthread_self() == self.thread }
    }

    /// A task that runs the call; before this returns where the Python can do that.
    pub fn new_task(&self, run: &Object) -> Result<Object> {
        // SAFETY: True is always there.
        #[cfg(Py_3_12)]
        let last = unsafe { Object::borrowed(ffi::Py_True()) };
        // asyncio would have one made by printf.
        #[cfg(not(Py_3_12))]
        let last = self.next_name()?;
        let arguments = [run.as_ptr(), self.python.as_ptr(), last.as_ptr()];
        // SAFETY: one argument by position, the others by their names.
        unsafe {
            Object::owned(ffi::PyObject_Vectorcall(
                self.task_type.as_ptr(),
                arguments.as_ptr(),
                1,
                self.task_arguments.as_ptr(),
            ))
        }
    }

    /// For a task, as no other one has it.
    #[cfg(not(Py_3_12))]
    fn next_name(&self) -> Result<Object> {
        self.tasks.set(self.tasks.get() + 1);
        latin1(format!("request-{}", self.tasks.get()).as_bytes())
    }

    pub fn call_later(&self, seconds: f64, function: &Object) -> Result<Object> {
        self.call_later.call(&[&float(seconds)?, function])
    }

    /// Begins the lifespan of an application; `tell` of asgi.py is called with its address.
    pub fn begin(&self, app: &App, loaded: &Arc<Loaded>) -> Result<Object> {
        let address = integer(Arc::as_ptr(loaded) as u64)?;
        let name = crate::object::fs_decoded(app.name().as_bytes())?;
        self.lifespan.call(&[&loaded.callable, &name, &address])
    }

    /// Ends a lifespan that has begun.
    pub fn end(&self, lifespan: &Object) {
        if self.end.call(&[lifespan]).is_err() {
            self.state().report(take_exception());
        }
    }

    /// A ConnectionResetError.
    pub fn gone(&self) -> Result<Object> {
        let Err(Raised) = raise_gone::<()>() else { unreachable!("it raises") };
        take_exception().ok_or(Raised)
    }

    /// The host was given something to carry out: it will be woken when there is nothing more to do at once.
    pub fn touch(&self, io: &'static LoopIo) {
        let other = self.touched.replace(Some(io)).filter(|other| !std::ptr::eq(*other, io));
        if let Some(other) = other {
            // SAFETY: the host's function.
            unsafe { (other.flush)() };
        }
        if !self.flushes.replace(true) {
            self.flush_soon();
        }
    }

    /// Behind everything that is to be done now.
    fn flush_soon(&self) {
        if self.call_soon.call(&[&self.flush]).is_err() {
            self.state().report(take_exception());
            self.flush();
        }
    }

    fn flush(&self) {
        self.flushes.set(false);
        if let Some(io) = self.touched.take() {
            // SAFETY: the host's function.
            unsafe { (io.flush)() };
        }
    }

    /// Keeps a call whose task runs on behind its answer.
    pub fn keep_behind(&self, run: &Object) {
        let call = NonNull::from(call_of(run)).cast();
        self.behind.borrow_mut().entry(call).or_insert_with(|| run.clone());
    }

    /// A call's task has ended.
    pub fn forget(&self, call: &Call) {
        let forgotten = self.behind.borrow_mut().remove(&NonNull::from(call).cast());
        // It may be the last reference: the table is not in use any more.
        drop(forgotten);
    }

    /// Logs what the loop's thread is doing. Attached, by any thread.
    pub fn report_blocked(&self) {
        let told = integer(self.thread).and_then(|thread| self.blocked.call(&[&thread]));
        if told.is_err() {
            self.state().report(take_exception());
        }
    }

    fn watch(&self, descriptor: RawFd, ready: Ready) -> Result<()> {
        self.watched.set(Some(ready));
        let add = self.python.attr(c"add_reader")?;
        add.call(&[&integer(descriptor as u64)?, &self.ready]).map(drop)
    }

    pub fn unwatch(&self, descriptor: RawFd) {
        let remove = self.python.attr(c"remove_reader");
        if remove.and_then(|remove| remove.call(&[&integer(descriptor as u64)?])).is_err() {
            self.state().report(take_exception());
        }
    }

    /// What is watched is readable: whatever the loop is told of it, it does at once.
    fn ready(&'static self) {
        let Some(ready) = self.watched.get() else { return };
        self.event_loop.inbox.expect();
        ready(self.event_loop);
        self.drain();
    }

    /// Does what it was told, all of it; then wakes the host, once.
    fn drain(&'static self) {
        let flushes = self.flushes.replace(true);
        let mut batch = self.batch.take();
        self.event_loop.inbox.take(&mut batch);
        for message in batch.drain(..) {
            self.handle(message);
        }
        *self.batch.borrow_mut() = batch;
        if cfg!(Py_3_12) {
            self.flush();
        } else if !flushes {
            // Tasks have yet to run.
            self.flush_soon();
        }
    }

    fn handle(&'static self, message: Message) {
        match message {
            Message::Submit(submission, chosen) => application::submit(self, submission, chosen),
            Message::Wake(exchange, events) => {
                let run =
                    NonNull::new(exchange).and_then(|exchange| self.calls.borrow().get(&exchange).cloned());
                if let Some(run) = run {
                    call_of(&run).wake(events);
                }
            }
            Message::Begin(instance, loaded, replaced) => {
                application::begin(self, instance, loaded, replaced)
            }
            Message::Retire(grace) => {
                self.calls().iter().for_each(|run| call_of(run).retire_socket());
                let retired = self.call_later(f64::from(grace) / 1000.0, &self.retire);
                if retired.is_err() {
                    self.state().report(take_exception());
                }
            }
            Message::Watch(descriptor, ready) => {
                if self.watch(descriptor, ready).is_err() {
                    self.state().report(take_exception());
                }
            }
            Message::Stop(stopped) => self.stop(stopped),
        }
    }

    /// Those that the host waits for.
    pub fn calls(&self) -> Vec<Object> {
        self.calls.borrow().values().cloned().collect()
    }

    /// Tells those whose `receive()` waits that nothing follows.
    fn retire(&self) {
        self.calls().iter().for_each(|run| call_of(run).retire());
    }

    fn stop(&self, stopped: Sender<()>) {
        *self.stopped.borrow_mut() = Some(stopped);
        application::refuse_waiting(self);
        let begun = || -> Result<()> {
            let behind: Vec<_> = self.behind.borrow().values().cloned().collect();
            let waited: Vec<_> = self.calls.borrow().values().cloned().collect();
            let tasks = waited.iter().chain(&behind).filter_map(|run| call_of(run).task()).collect();
            let applications = self.applications.borrow();
            let lifespans =
                applications.iter().filter_map(|(_, loaded)| loaded.asgi.as_ref()?.lifespan()).collect();
            drop(applications);
            self.stop.call(&[&tuple(tasks)?, &tuple(lifespans)?, &float(GRACE)?]).map(drop)
        };
        if begun().is_err() {
            self.state().report(take_exception());
            self.stopped.take();
        }
    }
}

pub fn functions() -> [PyMethodDef; 7] {
    [
        method(c"_drain", drain),
        method(c"_ready", ready),
        method(c"_flush", flush),
        method(c"_retire", retire),
        method(c"_look", look),
        method(c"_begun", begun),
        method(c"_stopped", stopped),
    ]
}

/// The loop of the interpreter of our module.
///
/// # Safety
/// `module` is one that `module::install` made.
unsafe fn running_of(module: *mut PyObject) -> Result<&'static Running> {
    // SAFETY: as the caller vouches.
    match unsafe { interpreter_of_module(module) }.state().asgi.get().filter(|running| running.is_current()) {
        Some(running) => Ok(running),
        None => raise_runtime_error("only an event loop calls this"),
    }
}

unsafe fn call(module: *mut PyObject, work: impl FnOnce(&'static Running)) -> *mut PyObject {
    // SAFETY: called by CPython with the module.
    unsafe { running_of(module) }.map(work).map_or(std::ptr::null_mut(), |()| none())
}

unsafe extern "C" fn drain(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { call(module, Running::drain) }
}

unsafe extern "C" fn ready(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { call(module, Running::ready) }
}

unsafe extern "C" fn flush(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { call(module, Running::flush) }
}

unsafe extern "C" fn retire(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { call(module, Running::retire) }
}

unsafe extern "C" fn look(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    let looked = unsafe { running_of(module) }.and_then(websocket::look);
    looked.map_or(std::ptr::null_mut(), |()| none())
}

unsafe extern "C" fn stopped(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above. Whoever waits is told by the end of the channel.
    unsafe { call(module, |running| drop(running.stopped.take())) }
}

/// begun(address of the application, whether requests may come)
unsafe extern "C" fn begun(module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let (mut address, mut may_come): (u64, c_int) = (0, 0);
    // SAFETY: the format asks for exactly these two.
    unsafe {
        if ffi::PyArg_ParseTuple(args, c"Kp:begun".as_ptr(), &mut address, &mut may_come) == 0 {
            return std::ptr::null_mut();
        }
        call(module, |running| application::begun(running, address as usize, may_come != 0))
    }
}
