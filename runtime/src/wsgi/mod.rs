//! WSGI (PEP 3333): one call of an application for one request.

pub mod call;
pub mod environ;
pub mod input;
mod iterate;
pub mod start_response;

use std::ffi::c_void;

use burrow_abi::{
    burrow_io, burrow_outcome, burrow_request, RuntimeApp, BURROW_FAILED, BURROW_LOG_INFO, BURROW_RELOADING,
    ON_LOOP,
};
use pyo3_ffi as ffi;

use crate::app::App;
use crate::attach::Attached;
use crate::instance::Loaded;
use crate::object::{take_exception, Object, Raised, Result};
use crate::worker::greenlets::Kept;
use crate::{fork, log, observe, worker};
use call::Call;

/// Serves one request on the calling thread. See [`burrow_abi::RuntimeApi::serve`].
pub unsafe extern "C" fn serve(
    app: *mut RuntimeApp,
    request: *const burrow_request,
    io: *const burrow_io,
    exchange: *mut c_void,
) -> burrow_outcome {
    // SAFETY: the application was made by `app::open`; the rest is valid for the length of the call.
    let (app, request, io) = unsafe { (&*app.cast::<App>(), &*request, &*io) };
    let _bound = log::bind(exchange);
    let chosen = app.choose();
    let instance = chosen.instance();
    let Some(interpreter) = instance.interpreter() else { return BURROW_FAILED };
    let _busy = interpreter.busy();
    let Some(loaded) = instance.loaded(interpreter, modified(app, request)) else {
        return BURROW_FAILED;
    };
    if loaded.asgi.is_some() {
        // The last reference to a replaced import goes while attached.
        let attached = Attached::to(interpreter);
        drop(loaded);
        drop(attached);
        // Not this one again: where its lifespan has failed to start meanwhile, this request is refused.
        let mut others = app.instances().iter().filter(|other| !std::ptr::eq(*other, instance));
        return match others.all(|other| other.is_loaded() || other.load()) {
            true => ON_LOOP,
            false => BURROW_FAILED,
        };
    }
    let call = Kept::new(Call::new(app, request, io, exchange, observe::watch(interpreter)));
    let attached = observe::attach(interpreter, call.watch.as_deref());
    observe::enter(interpreter.state(), &call);
    if worker::is_late(exchange) {
        call.interrupt(interpreter.state());
    }
    let sent = run(&attached, &loaded, &call);
    call.withdraw_interruption(&attached);
    if sent.is_err() {
        failed(&attached, app, &call);
    }
    if fork::is_child() {
        fork::leave_child();
    }
    observe::leave(&attached, &call);
    // The last reference to a replaced import goes while attached.
    drop(loaded);
    attached.leave();
    // Whoever has the answer may ask again at once, and is to find this copy free.
    drop(chosen);
    call.end()
}

/// The script's modification time, where the request asks to reload a changed one.
fn modified(app: &App, request: &burrow_request) -> Option<i64> {
    match request.script_modified {
        _ if request.flags & BURROW_RELOADING == 0 => None,
        0 => Some(app.modified_now()),
        known => Some(known),
    }
}

/// Calls the application and sends what it answers, but for what [`Call::end`] sends.
fn run(attached: &Attached, loaded: &Loaded, call: &Call) -> Result<()> {
    let state = attached.interpreter.state();
    let (input, environ) = environ::build(state, &loaded.template, call)?;
    let start_response = start_response::new(state, call)?;
    let sent = answer(attached, loaded, call, &environ, &start_response);
    // From here on the application may keep both objects, but they reach nothing of this request.
    start_response::expire(&start_response);
    if let Some(input) = input {
        input::expire(&input);
    }
    call.settle(attached);
    if let Some(watch) = &call.watch {
        watch.finished.set(observe::now());
    }
    sent
}

fn answer(
    attached: &Attached,
    loaded: &Loaded,
    call: &Call,
    environ: &Object,
    start_response: &Object,
) -> Result<()> {
    let replaced = observe::started(attached.interpreter.state(), call, environ, &loaded.callable)?;
    let callable = replaced.as_ref().unwrap_or(&loaded.callable);
    iterate::send(attached, call, callable.call(&[environ, start_response])?)
}

/// Logs why a request failed; quietly if it is only that the client has gone.
fn failed(attached: &Attached, app: &App, call: &Call) {
    let state = attached.interpreter.state();
    // SAFETY: an exception is set; the type is a builtin.
    let client_left = call.is_gone() && unsafe { ffi::PyErr_ExceptionMatches(ffi::PyExc_OSError) != 0 };
    // SAFETY: an exception is set; a live type.
    let timed_out = unsafe { ffi::PyErr_ExceptionMatches(state.request_timeout.as_ptr()) != 0 };
    let exception = take_exception();
    let Some(exception) = exception else { return };
    if timed_out {
        call.time_out();
        let what =
            if call.is_started() { " after headers sent; response truncated" } else { "; thread recovered" };
        let line = format!("[script {}] Request interrupted by RequestTimeout{what}.", app.name());
        log::line(BURROW_LOG_INFO, line.as_bytes());
        return;
    }
    if client_left {
        let line =
            format!("burrow: the client left, or was cut off, before WSGI script '{}' was done.", app.name());
        log::line(BURROW_LOG_INFO, line.as_bytes());
        return;
    }
    call.fail();
    observe::raised(state, call, &exception);
    app.report(attached, exception);
}

/// Calls a method without arguments.
fn call_method(object: &Object, name: &std::ffi::CStr) -> Result<Object> {
    object.attr(name)?.call(&[])
}

/// Closes what the application returned, if it has a `close` (PEP 3333: in every case, exactly once).
fn close(result: &Object) -> Result<()> {
    match result.attr(c"close") {
        Ok(close) => close.call(&[]).map(drop),
        // SAFETY: an exception is set.
        Err(Raised) => unsafe {
            if ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) == 0 {
                return Err(Raised);
            }
            ffi::PyErr_Clear();
            Ok(())
        },
    }
}
