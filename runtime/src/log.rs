//! From Python to the server's error log: `mod_wsgi.Log`, the file under sys.stdout and sys.stderr.
//!
//! The log takes lines; what is written in pieces is kept, for each thread and stream, until its line is
//! complete or the stream is flushed, so lines of different threads never mix.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};

use burrow_abi::{burrow_level, BURROW_LOG_CRIT, BURROW_LOG_DEBUG, BURROW_LOG_ERR};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyGetSetDef, PyMethodDef, PyObject, PyTypeObject};

use crate::host;
use crate::module::{free, method, slot, table, Type};
use crate::object::{bytes_of, none, tuple, Object};

/// The longest line, in bytes: nginx cuts at 2048 together with the request's context.
const LONGEST: usize = 1600;

thread_local! {
    /// The request that this thread serves, for the log line's context.
    static EXCHANGE: Cell<*mut c_void> = const { Cell::new(std::ptr::null_mut()) };
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
}

/// Binds this thread's log lines to a request until the result is dropped.
pub fn bind(exchange: *mut c_void) -> Bound {
    Bound(EXCHANGE.replace(exchange))
}

/// The request is no more, before the binding ends.
pub fn unbind() {
    EXCHANGE.set(std::ptr::null_mut());
}

/// The request that this thread's log lines are bound to, if there is one.
pub fn bound() -> Option<*mut c_void> {
    Some(EXCHANGE.get()).filter(|exchange| !exchange.is_null())
}

/// What a thread's lines depend on; each greenlet has another one.
#[derive(Default)]
pub struct Context {
    exchange: *mut c_void,
    pending: Vec<Pending>,
}

/// The thread goes on with another one: its last one.
pub fn replace(context: Context) -> Context {
    Context { exchange: EXCHANGE.replace(context.exchange), pending: PENDING.replace(context.pending) }
}

impl Context {
    pub fn is_of_request(&self) -> bool {
        !self.exchange.is_null()
    }

    pub fn is_of(&self, exchange: *mut c_void) -> bool {
        self.exchange == exchange
    }
}

/// With the request that is served around this one: a subrequest can ask a hook.
pub struct Bound(*mut c_void);

impl Drop for Bound {
    fn drop(&mut self) {
        flush_thread();
        EXCHANGE.set(self.0);
    }
}

/// One whole line. Control characters are escaped; a longer one than the servers take goes in pieces.
pub fn line(level: burrow_level, line: &[u8]) {
    let escaped;
    let mut rest = line;
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        escaped = escape(line);
        rest = &escaped;
    }
    while rest.len() > LONGEST {
        let (piece, others) = rest.split_at(boundary(rest));
        host::log(EXCHANGE.get(), level, piece);
        rest = others;
    }
    host::log(EXCHANGE.get(), level, rest);
}

fn escape(line: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(line.len() + 16);
    for byte in line {
        if byte.is_ascii_control() && *byte != b'\t' {
            escaped.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        } else {
            escaped.push(*byte);
        }
    }
    escaped
}

/// Where to cut a long line: at LONGEST, or up to three bytes before, between characters of UTF-8.
fn boundary(line: &[u8]) -> usize {
    (LONGEST - 3..=LONGEST).rev().find(|at| line[*at] & 0xc0 != 0x80).unwrap_or(LONGEST)
}

/// Emits what this thread has written without a newline, while the request is still there to name.
pub fn flush_thread() {
    flush(|_| true);
}

/// The beginning of a line.
struct Pending {
    /// The address of the Log object: which stream it is.
    stream: usize,
    level: burrow_level,
    text: Vec<u8>,
    /// A part of the line was long enough to be emitted before its end.
    cut: bool,
}

impl Pending {
    fn emit(&mut self) {
        line(self.level, self.text.strip_suffix(b"\r").unwrap_or(&self.text));
        self.text.clear();
    }
}

fn write(stream: usize, level: burrow_level, data: &[u8]) {
    PENDING.with_borrow_mut(|pending| {
        let index = pending.iter().position(|each| each.stream == stream).unwrap_or_else(|| {
            pending.push(Pending { stream, level, text: Vec::new(), cut: false });
            pending.len() - 1
        });
        let kept = &mut pending[index];
        let mut pieces = data.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            kept.text.extend_from_slice(piece);
            let ended = pieces.peek().is_some();
            if kept.text.len() > LONGEST || (ended && !(kept.cut && kept.text.is_empty())) {
                kept.emit();
            }
            kept.cut = !ended && (kept.cut || !piece.is_empty() && kept.text.is_empty());
        }
    });
}

/// Emits the beginnings of lines that match.
fn flush(matches: impl Fn(&Pending) -> bool) {
    PENDING.with_borrow_mut(|pending| {
        pending.iter_mut().filter(|each| !each.text.is_empty() && matches(each)).for_each(Pending::emit);
    });
}

/// mod_wsgi.log(level, line): one line, level in syslog's numbers.
pub unsafe extern "C" fn log_function(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let (mut level, mut text): (c_int, *mut PyObject) = (0, std::ptr::null_mut());
    // SAFETY: the format asks for exactly these two; the text is borrowed from `args`.
    let encoded = unsafe {
        if ffi::PyArg_ParseTuple(args, c"iU:log".as_ptr(), &mut level, &mut text) == 0 {
            return std::ptr::null_mut();
        }
        Object::owned(ffi::PyUnicode_AsEncodedString(text, c"utf-8".as_ptr(), c"backslashreplace".as_ptr()))
    };
    let Ok(encoded) = encoded else { return std::ptr::null_mut() };
    // SAFETY: encoding gives bytes.
    line(clamped(level), unsafe { bytes_of(encoded.as_ptr()) });
    none()
}

fn clamped(level: c_int) -> burrow_level {
    level.clamp(BURROW_LOG_CRIT as c_int, BURROW_LOG_DEBUG as c_int) as burrow_level
}

#[repr(C)]
struct Log {
    ob_base: PyObject,
    level: burrow_level,
    /// An owned reference: "<stdout>" and the like.
    name: *mut PyObject,
}

pub fn describe() -> Type {
    let methods = table(
        vec![
            method(c"write", log_write),
            method(c"flush", log_flush),
            method(c"close", log_flush),
            method(c"writable", yes),
            method(c"readable", no),
            method(c"seekable", no),
            method(c"isatty", no),
            method(c"writelines", log_writelines),
            method(c"fileno", no_fileno),
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
            (*object).level = clamped(level);
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
            write(
                object as usize,
                (*object.cast::<Log>()).level,
                std::slice::from_raw_parts(buffer.buf.cast(), length),
            );
        }
        ffi::PyBuffer_Release(&mut buffer);
        ffi::PyLong_FromSize_t(length)
    }
}

unsafe extern "C" fn log_writelines(object: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let mut lines: *mut PyObject = std::ptr::null_mut();
    // SAFETY: the format asks for one object, borrowed from `args`; write is our own.
    unsafe {
        if ffi::PyArg_ParseTuple(args, c"O:writelines".as_ptr(), &mut lines) == 0 {
            return std::ptr::null_mut();
        }
        let Ok(iterator) = Object::owned(ffi::PyObject_GetIter(lines)) else { return std::ptr::null_mut() };
        while let Ok(line) = Object::owned(ffi::PyIter_Next(iterator.as_ptr())) {
            let written = tuple(vec![line]).map(|line| log_write(object, line.as_ptr()));
            if written.and_then(|written| Object::owned(written)).is_err() {
                return std::ptr::null_mut();
            }
        }
        if !ffi::PyErr_Occurred().is_null() {
            return std::ptr::null_mut();
        }
    }
    none()
}

unsafe extern "C" fn no_fileno(_object: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: the thread is attached, so the builtin types are there.
    unsafe {
        let message = c"wsgi.errors log object has no file descriptor";
        ffi::PyErr_SetString(ffi::PyExc_OSError, message.as_ptr());
    }
    std::ptr::null_mut()
}

unsafe extern "C" fn log_flush(object: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    flush(|each| each.stream == object as usize);
    none()
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
