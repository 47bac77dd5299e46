//! `wsgi.input`: the request's body as a file.

use std::ffi::{c_void, CStr};
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::time::Instant;

use burrow_abi::BURROW_NO_BODY;
use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject, PyTypeObject, Py_ssize_t};

use super::call::Call;
use crate::attach::Attached;
use crate::bootstrap::{interpreter_of, State};
use crate::module::{free, method, slot, table, Type, DISALLOW_INSTANTIATION};
use crate::object::{
    bytes, none, raise_pending, raise_reset, raise_runtime_error, raise_value_error, Object, Raised, Result,
};
use crate::sync::Guarded;

/// Bytes read ahead when a line is looked for.
const AHEAD: usize = 16 << 10;
/// The first allocation for a body of unknown or great length, in bytes.
const FIRST: usize = 1 << 20;

#[repr(C)]
struct Input {
    ob_base: PyObject,
    reader: ManuallyDrop<Guarded<Reader>>,
}

enum Reader {
    Empty,
    Over,
    /// The server has the whole body in memory.
    Memory {
        call: *const Call<'static>,
        position: usize,
    },
    /// Read from the client as the application asks.
    Stream(Stream),
    /// A thread has taken the stream out and reads.
    Reading,
}

struct Stream {
    call: *const Call<'static>,
    /// Bytes read from the server and not yet by the application, from `position` on.
    ahead: Vec<u8>,
    position: usize,
    /// Bytes read from the server.
    taken: u64,
    end: bool,
}

pub fn describe() -> Type {
    let methods = vec![
        method(c"read", read),
        method(c"readline", readline),
        method(c"readlines", readlines),
        method(c"close", close),
    ];
    Type {
        name: c"mod_wsgi.Input",
        size: size_of::<Input>(),
        flags: DISALLOW_INSTANTIATION,
        slots: vec![
            slot(ffi::Py_tp_methods, table(methods, PyMethodDef::zeroed()).cast()),
            slot(ffi::Py_tp_iter, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iternext, next as *mut c_void),
            slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        ],
    }
}

fn make(kind: *mut PyTypeObject, reader: Reader) -> Result<Object> {
    // SAFETY: the type's instances have our layout; the reader is written before anyone sees it.
    unsafe {
        let object = Object::owned(ffi::PyType_GenericAlloc(kind, 0))?;
        (&raw mut (*object.as_ptr().cast::<Input>()).reader).write(ManuallyDrop::new(Guarded::new(reader)));
        Ok(object)
    }
}

/// The one that stands for "no body".
pub fn empty(kind: &Object) -> Result<Object> {
    make(kind.as_ptr().cast(), Reader::Empty)
}

/// The body of this call's request; None when there is none.
pub fn new(state: &State, call: &Call) -> Result<Option<Object>> {
    if call.request.flags & BURROW_NO_BODY != 0 {
        return Ok(None);
    }
    // `expire` ends the borrow before the call does.
    let pointer = std::ptr::from_ref(call).cast();
    let reader = if call.request.body.is_absent() {
        Reader::Stream(Stream { call: pointer, ahead: Vec::new(), position: 0, taken: 0, end: false })
    } else {
        Reader::Memory { call: pointer, position: 0 }
    };
    make(state.input_type(), reader).map(Some)
}

/// The request is over: nothing of it is reachable from here any more.
pub fn expire(object: &Object) {
    // SAFETY: an instance of our type, and the thread is attached. What was read ahead is freed here.
    let reader = std::mem::replace(unsafe { &mut *reader_of(object.as_ptr()).write() }, Reader::Over);
    drop(reader);
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone; `free` releases only the memory.
    unsafe {
        ManuallyDrop::drop(&mut (*object.cast::<Input>()).reader);
        free(object);
    }
}

/// # Safety
/// `object` is an Input, and stays alive; the thread is attached.
unsafe fn reader_of<'a>(object: *mut PyObject) -> &'a Guarded<Reader> {
    // SAFETY: the layout is ours.
    unsafe { &(*object.cast::<Input>()).reader }
}

/// What is asked for: a number of bytes, or all (None).
type Size = Option<usize>;

unsafe extern "C" fn read(object: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by CPython on an instance, attached.
    let result = unsafe {
        size(args, c"|O:read").and_then(|size| {
            access(
                object,
                |body| body.take(body.len().min(size.unwrap_or(usize::MAX))),
                |stream, attached| stream.read(attached, size),
            )
        })
    };
    result.map_or(null_mut(), Object::into_ptr)
}

/// As of any file; what was not read can be read still.
unsafe extern "C" fn close(_object: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    none()
}

unsafe extern "C" fn readline(object: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        size(args, c"|O:readline").and_then(|size| line(object, size)).map_or(null_mut(), Object::into_ptr)
    }
}

unsafe extern "C" fn readlines(object: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above; the list takes its own references.
    let result = unsafe {
        size(args, c"|O:readlines").and_then(|hint| {
            let lines = Object::owned(ffi::PyList_New(0))?;
            let mut length = 0;
            loop {
                let line = line(object, None)?;
                let bytes = ffi::Py_SIZE(line.as_ptr()) as usize;
                length += bytes;
                if bytes == 0 {
                    return Ok(lines);
                }
                if ffi::PyList_Append(lines.as_ptr(), line.as_ptr()) != 0 {
                    return Err(Raised);
                }
                if hint.is_some_and(|hint| hint > 0 && length >= hint) {
                    return Ok(lines);
                }
            }
        })
    };
    result.map_or(null_mut(), Object::into_ptr)
}

unsafe extern "C" fn next(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above. NULL without an exception ends the iteration.
    unsafe {
        match line(object, None) {
            Ok(line) if ffi::Py_SIZE(line.as_ptr()) > 0 => line.into_ptr(),
            _ => null_mut(),
        }
    }
}

unsafe fn line(object: *mut PyObject, size: Size) -> Result<Object> {
    // SAFETY: as the callers, which CPython calls.
    unsafe {
        access(
            object,
            |body| body.take(line_length(body.rest(), size)),
            |stream, attached| stream.read_line(attached, size),
        )
    }
}

/// The one argument of the methods above: absent, None and negative numbers mean "all".
unsafe fn size(args: *mut PyObject, format: &CStr) -> Result<Size> {
    let mut given: *mut PyObject = null_mut();
    // SAFETY: the format asks for one object, borrowed from `args`.
    unsafe {
        if ffi::PyArg_ParseTuple(args, format.as_ptr(), &mut given) == 0 {
            return Err(Raised);
        }
        if given.is_null() || given == ffi::Py_None() {
            return Ok(None);
        }
        let number = ffi::PyNumber_AsSsize_t(given, ffi::PyExc_OverflowError);
        if number == -1 && !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        Ok(usize::try_from(number).ok())
    }
}

/// Runs the one of the two functions that fits where the body is.
unsafe fn access(
    object: *mut PyObject,
    memory: impl FnOnce(&mut Memory) -> Result<Object>,
    stream: impl FnOnce(&mut Stream, &Attached) -> Result<Object>,
) -> Result<Object> {
    // SAFETY: `object` is an Input and the thread attached. The pointers to the call are good while the reader
    // is locked, since `expire` takes them away before the call ends, or while this thread is in the call.
    // `memory` does not detach; while `stream` does, the stream is out of the object.
    unsafe {
        let mut reader = reader_of(object).write();
        let (mut taken, call) = match &mut *reader {
            Reader::Memory { call, position } => {
                let call = &**call;
                return timed(call, || memory(&mut Memory { body: call.request.body.bytes(), position }));
            }
            Reader::Stream(stream) => {
                let call = stream.call;
                (std::mem::replace(&mut *reader, Reader::Reading), &*call)
            }
            Reader::Empty => return bytes(&[]),
            Reader::Over | Reader::Reading => {
                let is_over = matches!(*reader, Reader::Over);
                // Raising runs the collector now and then, and so any code.
                drop(reader);
                return match is_over {
                    true => raise_value_error("the request is over"),
                    false => raise_runtime_error("another thread is reading this body"),
                };
            }
        };
        let inside = call.enter();
        drop(reader);
        let Reader::Stream(stream_taken) = &mut taken else { unreachable!("matched above") };
        let result = timed(call, || {
            Attached::callback(interpreter_of(object), |attached| stream(stream_taken, attached))
        });
        let mut reader = reader_of(object).write();
        if matches!(*reader, Reader::Reading) {
            *reader = taken;
        }
        drop(reader);
        // Last: the call may be gone as soon as this is released.
        drop(inside);
        result
    }
}

/// Reads, and keeps what and how long, if somebody looks on.
fn timed(call: &Call, read: impl FnOnce() -> Result<Object>) -> Result<Object> {
    let Some(watch) = &call.watch else { return read() };
    let began = Instant::now();
    let bytes = read()?;
    // SAFETY: every reader gives bytes.
    watch.input.add(unsafe { ffi::Py_SIZE(bytes.as_ptr()) } as usize, began.elapsed());
    Ok(bytes)
}

struct Memory<'a> {
    body: &'a [u8],
    position: &'a mut usize,
}

impl Memory<'_> {
    fn rest(&self) -> &[u8] {
        &self.body[*self.position..]
    }

    fn len(&self) -> usize {
        self.rest().len()
    }

    fn take(&mut self, length: usize) -> Result<Object> {
        let bytes = bytes(&self.rest()[..length])?;
        *self.position += length;
        Ok(bytes)
    }
}

impl Stream {
    fn rest(&self) -> &[u8] {
        &self.ahead[self.position..]
    }

    /// Reads into `space`, detached. 0 at the end of the body.
    fn pull(&mut self, attached: &Attached, space: &mut [u8]) -> Result<usize> {
        // SAFETY: `access` keeps the call alive.
        let call = unsafe { &*self.call };
        let read = call.io.read.expect("every server reads");
        // SAFETY: the space is as long as it says.
        let count = call
            .detached(attached, || unsafe { read(call.exchange, space.as_mut_ptr().cast(), space.len()) });
        match usize::try_from(count) {
            Ok(count) => {
                self.taken += count as u64;
                self.end = count == 0;
                Ok(count)
            }
            Err(_) => {
                raise_pending()?;
                call.set_gone();
                // Whether it left, was too slow or sends too much the server knows.
                raise_reset(c"the rest of the request's body cannot be read")
            }
        }
    }

    /// The bytes that may still come, as far as that is known.
    fn remaining(&self) -> usize {
        // SAFETY: as above.
        let length = unsafe { (*self.call).request.content_length };
        match u64::try_from(length) {
            _ if self.end => 0,
            Ok(length) => length.saturating_sub(self.taken) as usize,
            Err(_) => usize::MAX,
        }
    }

    fn read(&mut self, attached: &Attached, size: Size) -> Result<Object> {
        let ready = self.rest().len();
        let wanted = size.unwrap_or(usize::MAX).min(ready.saturating_add(self.remaining()));
        if wanted <= ready {
            return self.take(wanted);
        }
        // Grown as bytes arrive: what a client announces is not what it sends.
        let mut room = wanted.min(FIRST.max(ready));
        let mut bytes = Growing::new(room)?;
        bytes.space(0)[..ready].copy_from_slice(self.rest());
        let mut filled = ready;
        self.forget(ready);
        while !self.end && filled < wanted {
            if filled == room {
                room = wanted.min(room * 2);
                bytes.resize(room)?;
            }
            filled += self.pull(attached, bytes.space(filled))?;
        }
        bytes.finish(filled)
    }

    fn read_line(&mut self, attached: &Attached, size: Size) -> Result<Object> {
        let mut searched = 0;
        loop {
            let rest = self.rest();
            let enough = size.is_some_and(|size| rest.len() >= size);
            if enough || self.end || self.remaining() == 0 || rest[searched..].contains(&b'\n') {
                return self.take(line_length(rest, size));
            }
            searched = rest.len();
            self.fill(attached)?;
        }
    }

    fn fill(&mut self, attached: &Attached) -> Result<()> {
        self.ahead.drain(..self.position);
        self.position = 0;
        let mut ahead = std::mem::take(&mut self.ahead);
        let filled = ahead.len();
        ahead.resize(filled + AHEAD.min(self.remaining()), 0);
        let pulled = self.pull(attached, &mut ahead[filled..]);
        ahead.truncate(filled + pulled.as_ref().copied().unwrap_or(0));
        self.ahead = ahead;
        pulled.map(drop)
    }

    fn take(&mut self, length: usize) -> Result<Object> {
        let bytes = bytes(&self.rest()[..length])?;
        self.forget(length);
        Ok(bytes)
    }

    fn forget(&mut self, length: usize) {
        self.position += length;
        if self.position == self.ahead.len() {
            self.ahead.clear();
            self.position = 0;
        }
    }
}

/// A `bytes` object that nobody else has seen yet.
struct Growing(*mut PyObject);

impl Growing {
    fn new(length: usize) -> Result<Growing> {
        // SAFETY: a new object of that size.
        unsafe { Object::owned(ffi::PyBytes_FromStringAndSize(std::ptr::null(), length as Py_ssize_t)) }
            .map(|bytes| Growing(bytes.into_ptr()))
    }

    /// The bytes from `start` on.
    fn space(&mut self, start: usize) -> &mut [u8] {
        // SAFETY: ours alone until `finish`.
        unsafe {
            let data = ffi::PyBytes_AS_STRING(self.0).cast::<u8>().cast_mut();
            let length = ffi::Py_SIZE(self.0) as usize;
            std::slice::from_raw_parts_mut(data.add(start), length - start)
        }
    }

    fn resize(&mut self, length: usize) -> Result<()> {
        // SAFETY: the only reference; on failure CPython frees the object and clears the pointer.
        match unsafe { _PyBytes_Resize(&mut self.0, length as Py_ssize_t) } {
            0 => Ok(()),
            _ => Err(Raised),
        }
    }

    fn finish(mut self, length: usize) -> Result<Object> {
        self.resize(length)?;
        // SAFETY: the reference is handed over.
        unsafe { Object::owned(std::mem::replace(&mut self.0, null_mut())) }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // SAFETY: our reference, or NULL.
        unsafe { ffi::Py_XDECREF(self.0) }
    }
}

extern "C" {
    // Part of CPython's documented API; pyo3-ffi keeps its declaration to itself.
    fn _PyBytes_Resize(bytes: *mut *mut PyObject, length: Py_ssize_t) -> std::ffi::c_int;
}

fn line_length(bytes: &[u8], size: Size) -> usize {
    let most = bytes.len().min(size.unwrap_or(usize::MAX));
    bytes[..most].iter().position(|byte| *byte == b'\n').map_or(most, |newline| newline + 1)
}
