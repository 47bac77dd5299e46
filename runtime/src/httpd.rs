//! What Python asks of httpd in httpd's own processes: mod_ssl's variables, the request_rec, the scoreboard.

use std::ffi::{c_char, c_void, CStr};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use burrow_abi::{burrow_httpd, burrow_str};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject};

use crate::host::host;
use crate::log;
use crate::module::method;
use crate::object::{
    boolean, dict, integer, interned, latin1, none, raise_runtime_error, seconds, set_item, set_named,
    Object, Result,
};

/// None where there is no httpd around.
fn httpd() -> Option<&'static burrow_httpd> {
    // SAFETY: NULL, or what lives as long as the process.
    host().apache().and_then(|apache| unsafe { apache.httpd.as_ref() })
}

/// Adds `apache.request_rec` to an environ, where the configuration asks for it.
pub fn add_request_rec(environ: &Object) -> Result<()> {
    let (Some(httpd), Some(exchange)) = (httpd(), log::bound()) else { return Ok(()) };
    let request_rec = httpd.request_rec.expect("httpd has all functions");
    // SAFETY: the exchange is that of the request that this thread serves.
    let request_rec = unsafe { request_rec(exchange) };
    if request_rec.is_null() {
        return Ok(());
    }
    // SAFETY: not NULL. As in mod_wsgi the capsule has no name, and is good for the length of the request.
    let capsule = unsafe { Object::owned(ffi::PyCapsule_New(request_rec, std::ptr::null(), None))? };
    set_item(environ, interned(c"apache.request_rec")?.as_ptr(), &capsule)
}

/// Empty where there is no httpd around.
pub fn functions() -> Vec<PyMethodDef> {
    match httpd() {
        None => Vec::new(),
        Some(_) => vec![
            method(c"_ssl_is_https", ssl_is_https),
            method(c"_ssl_variable", ssl_variable),
            method(c"_server_metrics", server_metrics),
        ],
    }
}

/// httpd, and the request that this thread serves.
fn request() -> Result<(&'static burrow_httpd, *mut c_void)> {
    match (httpd(), log::bound()) {
        (Some(httpd), Some(exchange)) => Ok((httpd, exchange)),
        _ => raise_runtime_error("called after request completed"),
    }
}

unsafe extern "C" fn ssl_is_https(_module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    let answer = request().and_then(|(httpd, exchange)| {
        let is_https = httpd.is_https.expect("httpd has all functions");
        // SAFETY: the exchange is that of the request that this thread serves.
        integer(u64::from(unsafe { is_https(exchange) } != 0))
    });
    answer.map_or(null_mut(), Object::into_ptr)
}

/// Takes the name as bytes.
unsafe extern "C" fn ssl_variable(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let mut name: *const c_char = std::ptr::null();
    // SAFETY: the format asks for bytes without a zero, whose text is borrowed from `args`.
    if unsafe { ffi::PyArg_ParseTuple(args, c"y:var_lookup".as_ptr(), &mut name) } == 0 {
        return null_mut();
    }
    let answer = request().map(|(httpd, exchange)| {
        let lookup = httpd.ssl_variable.expect("httpd has all functions");
        // SAFETY: as above; the value lives as long as the request.
        unsafe { lookup(exchange, name) }
    });
    match answer {
        Err(_) => null_mut(),
        Ok(value) if value.is_absent() => none(),
        Ok(value) => text(value).map_or(null_mut(), Object::into_ptr),
    }
}

fn text(value: burrow_str) -> Result<Object> {
    // SAFETY: the sender's strings live as long as the call.
    latin1(unsafe { value.bytes() })
}

/// The scoreboard in mod_wsgi's words, or None.
unsafe extern "C" fn server_metrics(_module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    let board = httpd().and_then(|httpd| {
        let mut board = MaybeUninit::zeroed();
        // SAFETY: fills the structure, where it can.
        let there = unsafe { httpd.scoreboard.expect("httpd has all functions")(board.as_mut_ptr()) } != 0;
        // SAFETY: as above; zeroes are valid.
        there.then(|| (httpd, unsafe { board.assume_init() }))
    });
    let Some((httpd, board)) = board else { return none() };
    let made = || -> Result<Object> {
        let now = crate::observe::now();
        let result = dict()?;
        set_number(&result, c"server_limit", board.processes.into())?;
        set_number(&result, c"thread_limit", board.threads.into())?;
        set_number(&result, c"running_generation", board.generation.into())?;
        set_named(&result, c"restart_time", &seconds(board.restart_time)?)?;
        set_named(&result, c"current_time", &seconds(now)?)?;
        set_number(&result, c"running_time", (now - board.restart_time) / 1_000_000)?;
        let processes = (0..board.processes).map(|number| process(httpd, number, board.threads));
        set_named(&result, c"processes", &list(processes)?)?;
        Ok(result)
    };
    made().map_or(null_mut(), Object::into_ptr)
}

fn process(httpd: &burrow_httpd, number: i32, threads: i32) -> Result<Object> {
    let mut score = MaybeUninit::zeroed();
    // SAFETY: fills the structure, for which zeroes are valid; the number is below the scoreboard's limit.
    let score = unsafe {
        httpd.process_score.expect("httpd has all functions")(number, score.as_mut_ptr());
        score.assume_init()
    };
    let result = dict()?;
    set_number(&result, c"process_num", number.into())?;
    set_number(&result, c"pid", score.pid.into())?;
    set_number(&result, c"generation", score.generation.into())?;
    set_named(&result, c"quiescing", &boolean(score.quiescing != 0))?;
    set_named(&result, c"workers", &list((0..threads).map(|thread| worker(httpd, number, thread)))?)?;
    Ok(result)
}

fn worker(httpd: &burrow_httpd, process: i32, thread: i32) -> Result<Object> {
    let mut score = MaybeUninit::zeroed();
    // SAFETY: as in `process`.
    let score = unsafe {
        httpd.worker_score.expect("httpd has all functions")(process, thread, score.as_mut_ptr());
        score.assume_init()
    };
    let result = dict()?;
    set_number(&result, c"thread_num", score.thread.into())?;
    set_number(&result, c"generation", score.generation.into())?;
    set_named(&result, c"status", &latin1(&[score.status as u8])?)?;
    set_number(&result, c"access_count", score.requests as i64)?;
    set_number(&result, c"bytes_served", score.bytes as i64)?;
    for (name, time) in
        [(c"start_time", score.start_time), (c"stop_time", score.stop_time), (c"last_used", score.last_used)]
    {
        set_named(&result, name, &seconds(time)?)?;
    }
    for (name, value) in [(c"client", score.client), (c"request", score.request), (c"vhost", score.vhost)] {
        set_named(&result, name, &text(value)?)?;
    }
    Ok(result)
}

fn set_number(dict: &Object, name: &CStr, value: i64) -> Result<()> {
    // SAFETY: no precondition.
    let value = unsafe { Object::owned(ffi::PyLong_FromLongLong(value))? };
    set_named(dict, name, &value)
}

fn list(items: impl Iterator<Item = Result<Object>>) -> Result<Object> {
    // SAFETY: a new list; append takes a reference of its own.
    unsafe {
        let list = Object::owned(ffi::PyList_New(0))?;
        for item in items {
            if ffi::PyList_Append(list.as_ptr(), item?.as_ptr()) != 0 {
                return Err(crate::object::Raised);
            }
        }
        Ok(list)
    }
}
