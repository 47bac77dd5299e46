//! What is kept of a request for those who look on: subscribers of events, `mod_wsgi.request_data()`,
//! `mod_wsgi.active_requests` and the metrics. A request that nobody looks at pays for none of it.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use burrow_abi::{burrow_request, BURROW_REQUEST_ID};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject};

use crate::attach::Attached;
use crate::bootstrap::State;
use crate::interpreter::Interpreter;
use crate::metrics::{self, Ended, Times};
use crate::module::{interpreter_of_module, method};
use crate::object::{
    dict, float, integer, latin1, none, raise_runtime_error, seconds, set_item, take_exception, tuple,
    Object, Raised, Result,
};
use crate::sync::{Guarded, Shared};
use crate::wsgi::call::Call;

thread_local! {
    static THREAD_ID: Cell<u32> = const { Cell::new(0) };
    /// The call that this thread is in; null between requests.
    static CURRENT: Cell<*const Call<'static>> = const { Cell::new(std::ptr::null()) };
}

/// The number of this thread among those that have served requests, from 1.
pub fn thread_id() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    match THREAD_ID.get() {
        0 => {
            THREAD_ID.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
            THREAD_ID.get()
        }
        id => id,
    }
}

/// Microseconds since the epoch.
pub fn now() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// How often something was done, with how many bytes, and how long it took.
#[derive(Default)]
pub struct Spent {
    pub count: Shared<u64>,
    pub bytes: Shared<u64>,
    pub time: Shared<Duration>,
}

impl Spent {
    pub fn add(&self, bytes: usize, time: Duration) {
        self.count.set(self.count.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.time.set(self.time.get() + time);
    }

    pub fn described(&self) -> Result<Object> {
        tuple(vec![
            integer(self.count.get())?,
            integer(self.bytes.get())?,
            float(self.time.get().as_secs_f64())?,
        ])
    }
}

/// What a request that is looked at uses.
pub struct Watch {
    pub input: Spent,
    pub output: Spent,
    pub gil: Spent,
    cpu: Cpu,
    /// When the application was done, in microseconds since the epoch.
    pub finished: Shared<i64>,
    recorded: bool,
    /// The request for the subscribers of events (api.py's `Observation`), if there are any.
    observation: Guarded<Option<Object>>,
}

/// A watch for a request of this interpreter, if anybody looks.
pub fn watch(interpreter: &Interpreter) -> Option<Box<Watch>> {
    let recorded = metrics::are_recorded();
    if !recorded && !interpreter.is_observed() {
        return None;
    }
    if recorded {
        metrics::begin(thread_id());
    }
    Some(Box::new(Watch {
        input: Spent::default(),
        output: Spent::default(),
        gil: Spent::default(),
        cpu: Cpu::of_thread(),
        finished: Shared::new(0),
        recorded,
        observation: Guarded::new(None),
    }))
}

/// Processor time of a thread.
#[derive(Clone, Copy)]
pub struct Cpu {
    pub user: Duration,
    pub system: Duration,
}

impl Cpu {
    pub const NONE: Cpu = Cpu { user: Duration::ZERO, system: Duration::ZERO };

    pub fn of_thread() -> Cpu {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: fills the structure; zeroes are valid where it fails.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init()
        };
        let duration = |time: libc::timeval| {
            Duration::new(time.tv_sec as u64, 0) + Duration::from_micros(time.tv_usec as u64)
        };
        Cpu { user: duration(usage.ru_utime), system: duration(usage.ru_stime) }
    }

    pub fn since(before: Cpu) -> Cpu {
        let now = Cpu::of_thread();
        Cpu { user: now.user.saturating_sub(before.user), system: now.system.saturating_sub(before.system) }
    }
}

impl std::ops::Add for Cpu {
    type Output = Cpu;

    fn add(self, more: Cpu) -> Cpu {
        Cpu { user: self.user + more.user, system: self.system + more.system }
    }
}

/// Attaches the thread for a call, and keeps how long it waited.
pub fn attach(interpreter: &'static Interpreter, watch: Option<&Watch>) -> Attached {
    let Some(watch) = watch else { return Attached::to(interpreter) };
    let began = Instant::now();
    let attached = Attached::to(interpreter);
    watch.gil.add(0, began.elapsed());
    attached
}

/// The call that a thread is in; each greenlet has another one.
pub struct Current(*const Call<'static>);

impl Default for Current {
    fn default() -> Current {
        Current(std::ptr::null())
    }
}

/// The thread goes on with another one: its last one.
pub fn replace(current: Current) -> Current {
    Current(CURRENT.replace(current.0))
}

/// The thread is in this call from here until `leave`.
pub fn enter(state: &State, call: &Call) {
    // `leave` ends the borrow before the call does.
    let pointer: *const Call<'static> = std::ptr::from_ref(call).cast();
    CURRENT.set(pointer);
    state.calls.write().push(pointer);
}

/// The end of a call: sends what is left of a request that is looked at, tells everybody, forgets it.
pub fn leave(attached: &Attached, call: &Call) {
    let state = attached.interpreter.state();
    if let Some(watch) = &call.watch {
        call.detached(attached, || call.finish());
        // In a greenlet, which waited for that: there is no application any more to raise it in.
        take_exception();
        finish(state, call, watch);
    }
    if let Some(active) = state.active_requests.get() {
        forget(active, call);
    }
    CURRENT.set(std::ptr::null());
    let mut calls = state.calls.write();
    if let Some(index) = calls.iter().position(|each| std::ptr::eq(*each, std::ptr::from_ref(call).cast())) {
        calls.swap_remove(index);
    }
    drop(calls);
    // Python objects go while the thread is attached.
    let data = call.data.write().take();
    drop(data);
    if let Some(watch) = &call.watch {
        let observation = watch.observation.write().take();
        drop(observation);
    }
}

/// Announces the request; gives the application to call, which subscribers may have changed.
pub fn started(state: &State, call: &Call, environ: &Object, application: &Object) -> Result<Option<Object>> {
    let Some(watch) = &call.watch else { return Ok(None) };
    let data = data_of(call)?;
    if let Some(active) = state.active_requests.get() {
        register(active, call, &data)?;
    }
    let observation = state.observe.call(&[environ, &data])?;
    // SAFETY: None is always there.
    if observation.as_ptr() == unsafe { ffi::Py_None() } {
        return Ok(None);
    }
    let application = observation.attr(c"started")?.call(&[application])?;
    *watch.observation.write() = Some(observation);
    Ok(Some(application))
}

/// Announces the head of the answer.
pub fn responded(call: &Call, arguments: &[*mut PyObject]) -> Result<()> {
    let Some(observation) = observation_of(call) else { return Ok(()) };
    // SAFETY: live arguments of the call that is being made.
    unsafe { observation.attr(c"responded")?.call_with(arguments) }.map(drop)
}

/// Announces what the application has raised.
pub fn raised(state: &State, call: &Call, exception: &Object) {
    if let Some(observation) = observation_of(call) {
        let told = observation.attr(c"raised").and_then(|method| method.call(&[exception]));
        report(state, told);
    }
}

fn observation_of(call: &Call) -> Option<Object> {
    call.watch.as_ref()?.observation.read().clone()
}

/// What a subscriber has raised is logged.
pub fn report(state: &State, told: Result<Object>) {
    if told.is_err() {
        state.report(take_exception());
    }
}

fn finish(state: &State, call: &Call, watch: &Watch) {
    let mut ended = Ended {
        times: Times::of(call.request),
        started: call.started,
        finished: watch.finished.get(),
        status: call.status(),
        gil: &watch.gil,
        input: &watch.input,
        output: &watch.output,
        cpu: Cpu::since(watch.cpu),
    };
    if watch.recorded {
        metrics::end(&ended);
    }
    // The clocks tick differently; no application takes more of the processor than of time.
    let time = Duration::from_micros((ended.finished - ended.started).max(0) as u64);
    ended.cpu.user = ended.cpu.user.min(time);
    ended.cpu.system = ended.cpu.system.min(time - ended.cpu.user);
    if let Some(observation) = observation_of(call) {
        report(state, announce_end(&observation, &ended));
    }
}

/// Tells an `Observation` of the end of its request.
pub fn announce_end(observation: &Object, ended: &Ended) -> Result<Object> {
    observation.attr(c"finished")?.call(&[
        &integer(ended.status.into())?,
        &seconds(ended.started)?,
        &seconds(ended.finished)?,
        &ended.input.described()?,
        &ended.output.described()?,
        &ended.gil.described()?,
        &float(ended.cpu.user.as_secs_f64())?,
        &float(ended.cpu.system.as_secs_f64())?,
    ])
}

/// The dict of `mod_wsgi.request_data()`, made when it is first asked for.
fn data_of(call: &Call) -> Result<Object> {
    if let Some(data) = &*call.data.read() {
        return Ok(data.clone());
    }
    let data = dict()?;
    Ok(call.data.write().get_or_insert(data).clone())
}

fn id_of(call: &Call) -> Option<Object> {
    id_of_request(call.request)
}

/// What the server's log calls it.
pub fn id_of_request(request: &burrow_request) -> Option<Object> {
    let id = request.vars[BURROW_REQUEST_ID as usize];
    // SAFETY: the request's strings live as long as the call.
    (!id.is_absent()).then(|| latin1(unsafe { id.bytes() }).ok()).flatten()
}

fn register(active: &Object, call: &Call, data: &Object) -> Result<()> {
    id_of(call).map_or(Ok(()), |id| set_item(active, id.as_ptr(), data))
}

fn forget(active: &Object, call: &Call) {
    if let Some(id) = id_of(call) {
        forget_id(active, &id);
    }
}

/// Takes a request out of the active ones.
pub fn forget_id(active: &Object, id: &Object) {
    // SAFETY: live objects. That it is not there is no error: the call may be older than the dict.
    unsafe {
        if ffi::PyDict_DelItem(active.as_ptr(), id.as_ptr()) != 0 {
            ffi::PyErr_Clear();
        }
    }
}

pub fn functions() -> [PyMethodDef; 3] {
    [
        method(c"request_data", request_data),
        method(c"_observe", observe),
        method(c"_active_requests", active_requests),
    ]
}

unsafe extern "C" fn request_data(_module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: null, or a call that this thread is in.
    let data = match unsafe { CURRENT.get().as_ref() } {
        Some(call) => data_of(call),
        None => raise_runtime_error("no active request for thread"),
    };
    data.map_or(std::ptr::null_mut(), Object::into_ptr)
}

/// From here on this interpreter's requests are announced.
unsafe extern "C" fn observe(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by CPython with the module.
    unsafe { interpreter_of_module(module) }.observe();
    none()
}

/// The dict of the requests in progress, by their ids. Kept up to date from its first use on.
unsafe extern "C" fn active_requests(module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by CPython with the module.
    let interpreter = unsafe { interpreter_of_module(module) };
    let state = interpreter.state();
    let made = || -> Result<Object> {
        if state.active_requests.get().is_none() {
            let active = dict()?;
            for index in 0.. {
                // Before the call is looked up: a new dict may let another thread run, and end it.
                let data = dict()?;
                let calls = state.calls.read();
                let Some(call) = calls.get(index) else { break };
                // SAFETY: calls take themselves out before they end.
                let call = unsafe { &**call };
                let data = call.data.write().get_or_insert(data).clone();
                register(&active, call, &data)?;
            }
            let _ = state.active_requests.set(active);
            interpreter.observe();
        }
        state.active_requests.get().cloned().ok_or(Raised)
    };
    made().map_or(std::ptr::null_mut(), Object::into_ptr)
}
