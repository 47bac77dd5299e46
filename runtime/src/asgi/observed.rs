//! What is kept of a request for those who look on, as [`crate::observe`] keeps it of a WSGI application's. A
//! request that nobody looks at has none of it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use burrow_abi::burrow_request;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::keys::item;
use super::running::Running;
use crate::metrics::{self, Ended, Times};
use crate::object::{dict, integer, interned, seconds, set_item, Object, Result};
use crate::observe::{self, Cpu, Spent};

pub struct Observed {
    times: Times,
    /// When the application was called, in microseconds since the epoch.
    started: i64,
    recorded: bool,
    /// What the client was sent; 0: nothing yet.
    pub status: Cell<u16>,
    input: Spent,
    output: Spent,
    /// Of its task.
    cpu: Cell<Cpu>,
    id: Option<Object>,
    /// For the subscribers of events (api.py's `ScopeObservation`), if there are any.
    observation: RefCell<Option<Object>>,
}

impl Observed {
    /// Of a request that begins, if anybody looks.
    pub fn new(running: &Running, request: &burrow_request) -> Option<Box<Observed>> {
        let recorded = metrics::are_recorded();
        if !recorded && !running.event_loop.interpreter.is_observed() {
            return None;
        }
        if recorded {
            metrics::begin_on_loop();
        }
        Some(Box::new(Observed {
            times: Times::of(request),
            started: observe::now(),
            recorded,
            status: Cell::new(0),
            input: Spent::default(),
            output: Spent::default(),
            cpu: Cell::new(Cpu::NONE),
            id: observe::id_of_request(request),
            observation: RefCell::default(),
        }))
    }

    /// Announces the request; gives the application to call, which subscribers may have changed.
    pub fn started(&self, running: &Running, scope: &Object, application: &Object) -> Result<Object> {
        let state = running.state();
        let data = dict()?;
        if let (Some(active), Some(id)) = (state.active_requests.get(), &self.id) {
            set_item(active, id.as_ptr(), &data)?;
        }
        let about = dict()?;
        if let Some(id) = &self.id {
            set_item(&about, interned(c"request_id")?.as_ptr(), id)?;
        }
        for (name, value) in [
            (c"thread_id", integer(observe::thread_id().into())?),
            (c"request_start", seconds(self.times.request)?),
            (c"queue_start", seconds(self.times.queue)?),
            (c"daemon_start", seconds(self.times.daemon)?),
        ] {
            set_item(&about, interned(name)?.as_ptr(), &value)?;
        }
        let observation = state.observe_scope.call(&[scope, &data, &about])?;
        // SAFETY: None is always there.
        if observation.as_ptr() == unsafe { ffi::Py_None() } {
            return Ok(application.clone());
        }
        let replaced = observation.attr(c"started")?.call(&[application, &seconds(self.started)?])?;
        *self.observation.borrow_mut() = Some(observation);
        Ok(replaced)
    }

    /// Announces the head of an answer.
    ///
    /// # Safety
    /// `event` is a dict.
    pub unsafe fn responded(&self, running: &Running, event: *mut PyObject) -> Result<()> {
        let Some(observation) = self.observation.borrow().clone() else { return Ok(()) };
        // SAFETY: borrowed from the event, which the caller holds; None is always there.
        unsafe {
            let of = |key| Ok(item(event, key)?.unwrap_or(ffi::Py_None()));
            let arguments = [of(&running.keys.status)?, of(&running.keys.headers)?];
            observation.attr(c"responded")?.call_with(&arguments).map(drop)
        }
    }

    /// Announces what the application has raised.
    pub fn raised(&self, running: &Running, exception: &Object) {
        if let Some(observation) = self.observation.borrow().clone() {
            let told = observation.attr(c"raised").and_then(|method| method.call(&[exception]));
            observe::report(running.state(), told);
        }
    }

    pub fn received(&self, bytes: usize) {
        self.input.add(bytes, Duration::ZERO);
    }

    pub fn sent(&self, bytes: usize) {
        self.output.add(bytes, Duration::ZERO);
    }

    /// The task has run since then.
    pub fn spend(&self, before: Cpu) {
        self.cpu.set(self.cpu.get() + Cpu::since(before));
    }

    /// The application is done.
    pub fn end(&self, running: &Running) {
        let gil = Spent::default();
        let ended = Ended {
            times: self.times,
            started: self.started,
            finished: observe::now(),
            status: self.status.get(),
            gil: &gil,
            input: &self.input,
            output: &self.output,
            cpu: self.cpu.get(),
        };
        if self.recorded {
            metrics::end_on_loop(&ended);
        }
        if let (Some(active), Some(id)) = (running.state().active_requests.get(), &self.id) {
            observe::forget_id(active, id);
        }
        if let Some(observation) = self.observation.take() {
            observe::report(running.state(), observe::announce_end(&observation, &ended));
        }
    }
}
