//! Hooks: what the server asks a script about a request. What a function may answer is hooks.py's business.

use std::ffi::c_void;

use burrow_abi::{
    burrow_hook, burrow_io, burrow_question, burrow_request, burrow_str, burrow_verdict, RuntimeApp,
    BURROW_ALLOW_ACCESS, BURROW_APPLICATION_GROUP, BURROW_CALLABLE_OBJECT, BURROW_CHECK_PASSWORD,
    BURROW_FAILURE, BURROW_FALSE, BURROW_GET_REALM_HASH, BURROW_GROUPS_FOR_USER, BURROW_LOG_ERR, BURROW_NONE,
    BURROW_PROCESS_GROUP, BURROW_RELOADING, BURROW_TEXT, BURROW_TRUE,
};
use pyo3_ffi as ffi;

use crate::app::App;
use crate::attach::Attached;
use crate::instance::Loaded;
use crate::object::{bytes_of, latin1, take_exception, tuple, Object, Raised, Result};
use crate::wsgi::call::Call;
use crate::wsgi::environ;
use crate::{fork, log};

/// A hook sees no body and sends nothing.
static NO_IO: burrow_io = burrow_io { read: None, send: None };

/// Asks on the calling thread. See [`burrow_abi::RuntimeApi::ask`].
pub unsafe extern "C" fn ask(
    script: *mut RuntimeApp,
    question: *const burrow_question,
    request: *const burrow_request,
    exchange: *mut c_void,
) -> burrow_verdict {
    // SAFETY: the script was made by `app::open`; the rest is valid for the length of the call.
    let (script, question, request) = unsafe { (&*script.cast::<App>(), &*question, &*request) };
    let _bound = log::bind(exchange);
    let verdict = answer(script, question, request);
    if verdict == BURROW_FAILURE {
        // SAFETY: as above.
        let place = String::from_utf8_lossy(unsafe { question.place.bytes() });
        let line = format!("burrow: {place}: {}() of '{}' failed", name(question.hook), script.name());
        log::line(BURROW_LOG_ERR, line.as_bytes());
    }
    verdict
}

fn answer(script: &'static App, question: &burrow_question, request: &burrow_request) -> burrow_verdict {
    let chosen = script.choose();
    let instance = chosen.instance();
    let Some(interpreter) = instance.interpreter() else { return BURROW_FAILURE };
    let _busy = interpreter.busy();
    let reloading = request.flags & BURROW_RELOADING != 0;
    let Some(loaded) = instance.loaded(interpreter, reloading.then(|| script.modified_now())) else {
        return BURROW_FAILURE;
    };
    let attached = Attached::to(interpreter);
    let verdict = call(&attached, script, &loaded, question, request).unwrap_or_else(|Raised| {
        if let Some(exception) = take_exception() {
            script.report(&attached, exception);
        }
        BURROW_FAILURE
    });
    if fork::is_child() {
        fork::leave_child();
    }
    // The last reference to a replaced import goes while attached.
    drop(loaded);
    verdict
}

fn call(
    attached: &Attached,
    script: &App,
    loaded: &Loaded,
    question: &burrow_question,
    request: &burrow_request,
) -> Result<burrow_verdict> {
    let state = attached.interpreter.state();
    let context = Call::new(script, request, &NO_IO, std::ptr::null_mut(), None);
    let (_, environ) = environ::build(state, &loaded.template, &context)?;
    let hook = latin1(name(question.hook).as_bytes())?;
    let answer = state.ask.call(&[&loaded.callable, &hook, &environ, &arguments(question)?])?;
    let answer = answer.as_ptr();
    // SAFETY: a live object, compared with the interpreter's own; else hooks.py's list of bytes.
    unsafe {
        if answer == ffi::Py_True() {
            return Ok(BURROW_TRUE);
        } else if answer == ffi::Py_False() {
            return Ok(BURROW_FALSE);
        } else if answer == ffi::Py_None() {
            return Ok(BURROW_NONE);
        }
        for index in 0..ffi::PyList_GET_SIZE(answer) {
            let text = bytes_of(ffi::PyList_GET_ITEM(answer, index));
            if let Some(take) = question.text {
                take(question.to, burrow_str::new(text));
            }
        }
    }
    Ok(BURROW_TEXT)
}

/// What follows the environ, as a tuple.
fn arguments(question: &burrow_question) -> Result<Object> {
    let given = question.arguments.iter().take_while(|argument| !argument.is_absent());
    // SAFETY: the strings live as long as the call.
    tuple(given.map(|argument| latin1(unsafe { argument.bytes() })).collect::<Result<_>>()?)
}

/// The name of the function.
fn name(hook: burrow_hook) -> &'static str {
    match hook {
        BURROW_ALLOW_ACCESS => "allow_access",
        BURROW_CHECK_PASSWORD => "check_password",
        BURROW_GET_REALM_HASH => "get_realm_hash",
        BURROW_GROUPS_FOR_USER => "groups_for_user",
        BURROW_PROCESS_GROUP => "process_group",
        BURROW_APPLICATION_GROUP => "application_group",
        BURROW_CALLABLE_OBJECT => "callable_object",
        _ => unreachable!("one of burrow_hook"),
    }
}
