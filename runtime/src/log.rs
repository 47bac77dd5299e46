//! From Python to the server's error log: `mod_wsgi.Log`, the file under sys.stdout and sys.stderr.
//!
//! The log takes lines; what is written in pieces is kept, for each thread and level, until its line is
//! complete or the stream is flushed, so lines of different threads never mix.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};

use burrow_abi::{burrow_level, BURROW_LOG_CRIT, BURROW_LOG_DEBUG, BURROW_LOG_ERR};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyGetSetDef, PyMethodDef, PyObject, PyTypeObject, Py_ssize_t};

use crate::host;
use crate::module::{free, method, slot, table, Type};

/// The longest piece kept without its newline, in bytes.
const LONGEST: usize = 8192;

thread_local! {
    /// The request that this thread serves, for the log line's context.
    static EXCHANGE: Cell<*mut c_void> = const { Cell::new(std::ptr::null_mut()) };
    static PENDING: RefCell<Vec<(burrow_level, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
}

/// Binds this thread's log lines to a request until the result is dropped.
pub fn bind(exchange: *mut c_void) -> Bound {
    EXCHANGE.set(exchange);
    Bound(())
}

pub struct Bound(());

impl Drop for Bound {
    fn drop(&mut self) {
        flush_all();
        EXCHANGE.set(std::ptr::null_mut());
    }
}

/// One whole line.
pub fn line(level: burrow_level, line: &[u8]) {
    host::log(EXCHANGE.get(), level, line);
}

fn write(level: burrow_level, data: &[u8]) {
    PENDING.with_borrow_mut(|pending| {
        let index = pending.iter().position(|(of, _)| *of == level).unwrap_or_else(|| {
            pending.push((level, Vec::new()));
            pending.len() - 1
        });
        let kept = &mut pending[index].1;
        let mut pieces = data.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            kept.extend_from_slice(piece);
            if pieces.peek().is_some() || kept.len() > LONGEST {
                line(level, kept.strip_suffix(b"\r").unwrap_or(kept));
                kept.clear();
            }
        }
    });
}

fn flush(level: burrow_level) {
    PENDING.with_borrow_mut(|pending| {
        for (_, kept) in pending.iter_mut().filter(|(of, kept)| *of == level && !kept.is_empty()) {
            line(level, kept);
            kept.clear();
        }
    });
}

fn flush_all() {
    PENDING.with_borrow_mut(|pending| {
        for (level, kept) in pending.iter_mut().filter(|(_, kept)| !kept.is_empty()) {
            line(*level, kept);
            kept.clear();
        }
    });
}

/// mod_wsgi.log(level, line): one line, level in syslog's numbers.
pub unsafe extern "C" fn log_function(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let (mut level, mut text, mut length): (c_int, *const i8, Py_ssize_t) = (0, std::ptr::null(), 0);
    // SAFETY: the format asks for exactly these three; the text lives as long as `args`.
    unsafe {
        if ffi::PyArg_ParseTuple(args, c"is#:log".as_ptr(), &mut level, &mut text, &mut length) == 0 {
            return surrogates(args);
        }
        let level = (level as burrow_level).clamp(BURROW_LOG_CRIT, BURROW_LOG_DEBUG);
        line(level, std::slice::from_raw_parts(text.cast(), length as usize));
        none()
    }
}

/// The line has characters that are not UTF-8 (surrogates): logs it with those escaped.
unsafe fn surrogates(args: *mut PyObject) -> *mut PyObject {
    // SAFETY: a tuple, as METH_VARARGS says; borrowed items are used at once.
    unsafe {
        if ffi::PyErr_ExceptionMatches(ffi::PyExc_UnicodeEncodeError) == 0 || ffi::PyTuple_Size(args) != 2 {
            return std::ptr::null_mut();
        }
        ffi::PyErr_Clear();
        let level = ffi::PyLong_AsLong(ffi::PyTuple_GetItem(args, 0)) as burrow_level;
        let encoded = ffi::PyUnicode_AsEncodedString(
            ffi::PyTuple_GetItem(args, 1),
            c"utf-8".as_ptr(),
            c"backslashreplace".as_ptr(),
        );
        if encoded.is_null() {
            return encoded;
        }
        line(level.clamp(BURROW_LOG_CRIT, BURROW_LOG_DEBUG), crate::object::bytes_of(encoded));
        ffi::Py_DECREF(encoded);
        none()
    }
}

#[repr(C)]
struct Log {
    ob_base: PyObject,
    level: burrow_level,
    /// An owned reference: "<stdout>" and the like.
    name: *mut PyObject,
}

pub fn describe() -> Type {
    let constant = |name: &'static std::ffi::CStr, value: ffi::PyCFunction| method(name, value);
    let methods = table(
        vec![
            constant(c"write", log_write),
            constant(c"flush", log_flush),
            constant(c"close", log_flush),
            constant(c"writable", yes),
            constant(c"readable", no),
            constant(c"seekable", no),
            constant(c"isatty", no),
        ],
        PyMethodDef::zeroed(),
    );
    let attribute = |name: &'static std::ffi::CStr, get: ffi::getter| PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set: None,
        doc: std::ptr::null(),
        closure: std::ptr::null_mut(),
    };
    let attributes =
        table(vec![attribute(c"closed", get_closed), attribute(c"name", get_name)], PyGetSetDef::default());
    Type {
        name: c"mod_wsgi.Log",
        size: size_of::<Log>(),
        flags: 0,
        slots: vec![
            slot(ffi::Py_tp_new, log_new as *mut c_void),
            slot(ffi::Py_tp_dealloc, log_dealloc as *mut c_void),
            slot(ffi::Py_tp_methods, methods.cast()),
            slot(ffi::Py_tp_getset, attributes.cast()),
        ],
    }
}

unsafe extern "C" fn log_new(
    kind: *mut PyTypeObject,
    args: *mut PyObject,
    _kwargs: *mut PyObject,
) -> *mut PyObject {
    let (mut level, mut name): (c_int, *mut PyObject) = (BURROW_LOG_ERR as c_int, std::ptr::null_mut());
    // SAFETY: the format asks for exactly these two; the new object is of our layout.
    unsafe {
        if ffi::PyArg_ParseTuple(args, c"iU:Log".as_ptr(), &mut level, &mut name) == 0 {
            return std::ptr::null_mut();
        }
        let object = ffi::PyType_GenericAlloc(kind, 0).cast::<Log>();
        if !object.is_null() {
            (*object).level = (level as burrow_level).clamp(BURROW_LOG_CRIT, BURROW_LOG_DEBUG);
            ffi::Py_INCREF(name);
            (*object).name = name;
        }
        object.cast()
    }
}

unsafe extern "C" fn log_dealloc(object: *mut PyObject) {
    // SAFETY: an instance of Log on its way out.
    unsafe {
        ffi::Py_DECREF((*object.cast::<Log>()).name);
        free(object);
    }
}

unsafe extern "C" fn log_write(object: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    // SAFETY: the format fills `buffer` with readable bytes, released before this returns.
    unsafe {
        let mut buffer = std::mem::zeroed::<ffi::Py_buffer>();
        if ffi::PyArg_ParseTuple(args, c"s*:write".as_ptr(), &mut buffer) == 0 {
            return std::ptr::null_mut();
        }
        let length = buffer.len as usize;
        if length > 0 {
            write((*object.cast::<Log>()).level, std::slice::from_raw_parts(buffer.buf.cast(), length));
        }
        ffi::PyBuffer_Release(&mut buffer);
        ffi::PyLong_FromSize_t(length)
    }
}

unsafe extern "C" fn log_flush(object: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: an instance of Log.
    unsafe {
        flush((*object.cast::<Log>()).level);
        none()
    }
}

unsafe extern "C" fn yes(_object: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    crate::object::boolean(true).into_ptr()
}

unsafe extern "C" fn no(_object: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    crate::object::boolean(false).into_ptr()
}

unsafe extern "C" fn get_closed(_object: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    crate::object::boolean(false).into_ptr()
}

unsafe extern "C" fn get_name(object: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: an instance of Log, whose name is set.
    unsafe {
        let name = (*object.cast::<Log>()).name;
        ffi::Py_INCREF(name);
        name
    }
}

/// A new reference to None, for functions that return nothing.
pub fn none() -> *mut PyObject {
    // SAFETY: None is always there.
    unsafe {
        ffi::Py_INCREF(ffi::Py_None());
        ffi::Py_None()
    }
}
