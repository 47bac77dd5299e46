//! async=gevent: requests are greenlets on the main thread, where gevent's hub runs.
//!
//! The hub watches the epoll that threads wait in otherwise. What has arrived there is attended to as a thread
//! does it, by the same code, but in a greenlet, and where that code would wait for a server the greenlet does.
//!
//! A greenlet has no stack of its own: while others run, what it has on the thread's is copied away. So
//! - it is switched while it is attached, from Python code, and from nowhere else;
//! - what others may look at while it waits is not on its stack ([`Kept`]);
//! - what a thread keeps for the request that it serves is changed with the greenlet ([`Greenlets::switched`]);
//! - no lock is held meanwhile but those for which nobody waits.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void, CStr};
use std::io::{self, ErrorKind};
use std::mem;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject};

use super::connections::Event;
use super::threads::Desk;
use super::{existing, fail, stacks, worker};
use crate::attach::Attached;
use crate::bootstrap::{named, text};
use crate::interpreter;
use crate::log::{self, Context};
use crate::module::{interpreter_of_module, method};
use crate::object::{
    float, integer, none, take_exception, text_of, tuple, type_name, Object, Raised, Result,
};
use crate::observe;
use crate::sync::Guarded;

const SOURCE: &CStr = text(concat!(include_str!("greenlets.py"), "\0").as_bytes());

/// What a greenlet waits for on a descriptor, as the hub's loop numbers it.
pub const READABLE: u64 = 1;
pub const WRITABLE: u64 = 2;

/// As many are kept for later requests.
const SPARE_DESKS: usize = 32;

/// What has arrived and no greenlet has attended to yet.
static ARRIVED: Mutex<VecDeque<Event>> = Mutex::new(VecDeque::new());
static DESKS: Mutex<Vec<Desk>> = Mutex::new(Vec::new());
/// Requests that are to be interrupted, by slots and the times they were taken.
static LATE: Mutex<Vec<(usize, i64)>> = Mutex::new(Vec::new());

/// Of the main interpreter, where there are greenlets.
pub struct Greenlets {
    /// The thread, as Python numbers it.
    main_thread: u64,
    suspended: Guarded<Suspended>,
    /// See greenlets.py.
    wait: Object,
    pause: Object,
    acquire: Object,
    release: Object,
    reception: Object,
    interrupt: Object,
    blocked: Object,
}

#[derive(Default)]
struct Suspended {
    /// What greenlets that serve a request left on the thread, by their addresses: each lives as long as it is here,
    /// since it ends its request before it ends.
    serving: HashMap<usize, Left>,
    /// What all others did.
    others: Left,
}

/// What is a thread's while one greenlet runs.
#[derive(Default)]
struct Left {
    log: Context,
    call: observe::Current,
}

/// What others have pointers to while a request is served: on the stack, or, where that is a greenlet's, which is
/// not there while others run, on the heap.
pub enum Kept<T> {
    OnStack(T),
    OnHeap(Box<T>),
}

impl<T> Kept<T> {
    pub fn new(value: T) -> Kept<T> {
        if are_used() {
            Kept::OnHeap(Box::new(value))
        } else {
            Kept::OnStack(value)
        }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Kept::OnStack(value) => value,
            Kept::OnHeap(value) => value,
        }
    }
}

/// Whether requests are greenlets in this process.
pub fn are_used() -> bool {
    existing().is_some_and(|worker| worker.config.greenlets)
}

/// For a system call that is to wait: in a greenlet it must not, [`wait`] does.
pub fn flags() -> MsgFlags {
    if are_used() {
        MsgFlags::MSG_DONTWAIT
    } else {
        MsgFlags::empty()
    }
}

/// A system call that was to wait had nothing to do. Waits in a greenlet; in a thread its time was up. An exception
/// that was raised in the greenlet meanwhile stays set. Called detached.
pub fn wait(descriptor: BorrowedFd<'_>, events: u64) -> io::Result<()> {
    match are_used() {
        true => wait_in_greenlet(descriptor, events, worker().config.socket_timeout),
        false => Err(Errno::EAGAIN.into()),
    }
}

/// The main thread's greenlet waits for as long as it takes. Called detached.
pub fn wait_on_main_thread(descriptor: BorrowedFd<'_>) {
    if wait_in_greenlet(descriptor, READABLE, 0.0).is_err() {
        // Another greenlet has ended with a SystemExit, say, which gevent raises here.
        let attached = Attached::to(interpreter::main());
        attached.interpreter.state().report(take_exception());
    }
}

fn wait_in_greenlet(descriptor: BorrowedFd<'_>, events: u64, seconds: f64) -> io::Result<()> {
    let attached = Attached::to(interpreter::main());
    let waited = || -> Result<Object> {
        let arguments = [integer(descriptor.as_raw_fd() as u64)?, integer(events)?, float(seconds)?];
        of(&attached).wait.call(&[&arguments[0], &arguments[1], &arguments[2]])
    };
    match waited() {
        // SAFETY: True is always there.
        Ok(ready) if ready.as_ptr() == unsafe { ffi::Py_True() } => Ok(()),
        Ok(_) => Err(Errno::EAGAIN.into()),
        Err(Raised) => Err(ErrorKind::Interrupted.into()),
    }
}

/// Lets other greenlets go on for a moment. False in a thread. Called detached.
pub fn pause() -> bool {
    if are_used() {
        let attached = Attached::to(interpreter::main());
        if of(&attached).pause.call(&[]).is_err() {
            attached.interpreter.state().report(take_exception());
        }
    }
    are_used()
}

fn of(attached: &Attached) -> &'static Greenlets {
    attached.interpreter.state().greenlets.get().expect("set before anything is served")
}

/// Patches the standard library and makes the hub. Called detached, before anything is imported.
pub fn prepare() -> std::result::Result<(), String> {
    let attached = Attached::to(interpreter::main());
    let state = attached.interpreter.state();
    let made = || -> Result<Greenlets> {
        let globals = state.run_further(SOURCE)?;
        let importing = named(&globals, c"importing")?;
        Ok(Greenlets {
            // SAFETY: no precondition.
            main_thread: unsafe { libc::pthread_self() },
            suspended: Guarded::default(),
            wait: named(&globals, c"wait")?,
            pause: named(&globals, c"pause")?,
            acquire: importing.attr(c"acquire")?,
            release: importing.attr(c"release")?,
            reception: named(&globals, c"Reception")?,
            interrupt: named(&globals, c"interrupt")?,
            blocked: named(&globals, c"blocked")?,
        })
    };
    let made = made().map_err(|Raised| take_exception().map(|why| described(&why)).unwrap_or_default())?;
    assert!(state.greenlets.set(made).is_ok(), "prepared once");
    Ok(())
}

/// An exception in one line.
fn described(exception: &Object) -> String {
    // SAFETY: a live exception, and the text of a `str` that lives as long.
    unsafe {
        let text = Object::owned(ffi::PyObject_Str(exception.as_ptr()));
        let text = text.and_then(|text| text_of(text.as_ptr()).map(str::to_owned));
        text.unwrap_or_else(|Raised| {
            take_exception();
            type_name(exception.as_ptr())
        })
    }
}

/// From here on requests are taken. Called detached, on the main thread.
pub fn open() -> io::Result<()> {
    let worker = worker();
    let attached = Attached::to(interpreter::main());
    let opened = || -> Result<Object> {
        let epoll = integer(worker.connections.descriptor() as u64)?;
        of(&attached).reception.call(&[&epoll, &integer(worker.config.threads.into())?])
    };
    opened().map(mem::forget).map_err(|Raised| {
        attached.interpreter.state().report(take_exception());
        io::Error::other("the hub takes no requests")
    })
}

/// Waits for the greenlets that import an application, runs `import`, and lets the next one. Called detached.
pub fn one_at_a_time(import: impl FnOnce() -> bool) -> bool {
    let entered = |entry: fn(&Greenlets) -> &Object| {
        let attached = Attached::to(interpreter::main());
        let entered = entry(of(&attached)).call(&[]).is_ok();
        if !entered {
            attached.interpreter.state().report(take_exception());
        }
        entered
    };
    if !are_used() {
        return import();
    }
    if !entered(|greenlets| &greenlets.acquire) {
        return false;
    }
    let imported = import();
    entered(|greenlets| &greenlets.release);
    imported
}

impl Greenlets {
    /// The thread goes on with another greenlet, and what it has for the request that it serves with that one's.
    fn switched(&self, from: usize, to: usize) {
        let mut suspended = self.suspended.write();
        let next = suspended.serving.remove(&to).unwrap_or_else(|| mem::take(&mut suspended.others));
        let left = Left { log: log::replace(next.log), call: observe::replace(next.call) };
        if left.log.is_of_request() {
            suspended.serving.insert(from, left);
        } else {
            suspended.others = left;
        }
    }

    /// The greenlet that serves the request of an exchange, if it does not run.
    fn serving(&self, exchange: *mut c_void) -> Option<Object> {
        let suspended = self.suspended.read();
        let found = suspended.serving.iter().find(|(_, left)| left.log.is_of(exchange));
        // SAFETY: it lives, see Suspended.
        found.map(|(greenlet, _)| unsafe { Object::borrowed(*greenlet as *mut PyObject) })
    }
}

// ---- what keeps the main thread busy

/// Logs it.
pub fn report_blocked() {
    let attached = Attached::to(interpreter::main());
    if of(&attached).blocked.call(&[]).is_err() {
        attached.interpreter.state().report(take_exception());
    }
}

/// The greenlets that wait in a request: their innermost frames, each with a number that a title has.
pub fn frames(attached: &Attached, titles: &mut HashMap<u64, String>) -> Result<Vec<Object>> {
    let mut frames = Vec::new();
    let mut main_thread = stacks::named(std::process::id() as i32);
    for (slot, since) in worker().requests.in_progress() {
        let Some((_, exchange)) = worker().requests.find(slot, since) else { continue };
        match of(attached).serving(exchange) {
            Some(greenlet) => {
                let number = greenlet.as_ptr() as u64;
                titles.insert(number, format!("Greenlet{}", stacks::serving(slot)));
                frames.push(tuple(vec![integer(number)?, greenlet.attr(c"gr_frame")?])?);
            }
            None => main_thread += &stacks::serving(slot),
        }
    }
    titles.insert(of(attached).main_thread, main_thread);
    Ok(frames)
}

// ---- time limits

/// Raises RequestTimeout in the greenlet of the request that was taken then. Called by another thread.
pub fn interrupt(slot: usize, since: i64) {
    LATE.lock().unwrap().push((slot, since));
    // SAFETY: any thread may call it. Where the queue is full the hub may still come around.
    unsafe { ffi::Py_AddPendingCall(Some(interrupt_running), ptr::null_mut()) };
    let attached = Attached::to(interpreter::main());
    if of(&attached).interrupt.call(&[]).is_err() {
        attached.interpreter.state().report(take_exception());
    }
}

/// Takes the first request out of those that are late that `is_meant`, and may still be interrupted: its exchange.
fn take_late(attached: &Attached, is_meant: impl Fn(*mut c_void) -> bool) -> Option<*mut c_void> {
    let mut late = LATE.lock().unwrap();
    let calls = attached.interpreter.state().calls.read();
    let mut found = None;
    late.retain(|(slot, since)| {
        let Some((_, exchange)) = worker().requests.find(*slot, *since) else { return false };
        if found.is_some() || !is_meant(exchange) {
            return true;
        }
        // SAFETY: calls take themselves out, attached, before they end.
        let call = calls.iter().map(|call| unsafe { &**call }).find(|call| call.exchange == exchange);
        found = call.filter(|call| call.begin_interruption()).map(|_| exchange);
        false
    });
    found
}

/// Called by Python on the main thread, in the greenlet that runs, between two instructions of its code.
extern "C" fn interrupt_running(_nothing: *mut c_void) -> c_int {
    // SAFETY: as just said; applications that are served by greenlets have the main interpreter.
    unsafe {
        Attached::callback(interpreter::main(), |attached| {
            if take_late(attached, |exchange| log::bound() == Some(exchange)).is_none() {
                return 0;
            }
            ffi::PyErr_SetNone(attached.interpreter.state().request_timeout.as_ptr());
            -1
        })
    }
}

// ---- what greenlets.py calls

pub fn functions() -> [PyMethodDef; 4] {
    [
        method(c"_arrivals", arrivals),
        method(c"_attend", attend),
        method(c"_late", late),
        method(c"_switched", switched),
    ]
}

/// arrivals(most): how many greenlets are to be started, each of which calls attend().
unsafe extern "C" fn arrivals(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let mut most: c_int = 0;
    // SAFETY: the format asks for exactly this one.
    if unsafe { ffi::PyArg_ParseTuple(args, c"i:arrivals".as_ptr(), &mut most) } == 0 {
        return ptr::null_mut();
    }
    let events = worker().connections.look(most as usize).unwrap_or_else(|error| fail(&error));
    let count = events.len() as u64;
    ARRIVED.lock().unwrap().extend(events);
    integer(count).map_or(ptr::null_mut(), Object::into_ptr)
}

/// Serves what has arrived, in the greenlet that calls this.
unsafe extern "C" fn attend(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by CPython with the module, attached.
    unsafe {
        Attached::callback(interpreter_of_module(module), |attached| attached.detached(attend_to_next));
        // What was raised where there was no application any more.
        ffi::PyErr_Clear();
    }
    none()
}

fn attend_to_next() {
    let Some(event) = ARRIVED.lock().unwrap().pop_front() else { return };
    let spare = DESKS.lock().unwrap().pop();
    // Not on the stack: what serves a request points to it.
    let mut desk = Box::new(spare.unwrap_or_default());
    if let Err(error) = desk.look_at(event).and_then(|next| desk.handle(next)) {
        fail(&error);
    }
    let mut spare = DESKS.lock().unwrap();
    if spare.len() < SPARE_DESKS {
        spare.push(*desk);
    }
}

/// late(): a greenlet whose request is to be interrupted, or None. In the hub, so that none of them runs.
unsafe extern "C" fn late(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by CPython with the module, attached.
    let found = unsafe {
        Attached::callback(interpreter_of_module(module), |attached| {
            let greenlets = of(attached);
            let exchange = take_late(attached, |exchange| greenlets.serving(exchange).is_some())?;
            greenlets.serving(exchange)
        })
    };
    found.map_or_else(none, Object::into_ptr)
}

/// switched(event, (from, to)): as greenlet.settrace has it.
unsafe extern "C" fn switched(module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let (mut event, mut from, mut to) = (ptr::null_mut::<PyObject>(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: the format asks for exactly these; called by CPython with the module.
    let greenlets = unsafe {
        let format = c"O(OO):switched";
        if ffi::PyArg_ParseTuple(args, format.as_ptr(), &mut event, &mut from, &mut to) == 0 {
            return ptr::null_mut();
        }
        interpreter_of_module(module).state().greenlets.get()
    };
    if let Some(greenlets) = greenlets {
        let [from, to]: [*mut PyObject; 2] = [from, to];
        greenlets.switched(from as usize, to as usize);
    }
    none()
}
