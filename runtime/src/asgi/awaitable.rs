//! What `receive` and `send` return: finished already, or waiting for a future of the loop.
//!
//! It is a coroutine in the eyes of asyncio, so that `create_task(receive())` works; what is finished costs
//! `await` neither a future nor a turn of the loop.

use std::ffi::c_void;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject};

use super::running::Running;
use crate::module::{free, method, slot, table, Type, DISALLOW_INSTANTIATION};
use crate::object::{none, Object, Raised, Result};

#[repr(C)]
struct Awaitable {
    ob_base: PyObject,
    /// The result; NULL for None.
    value: *mut PyObject,
    /// Of the future that is waited for; NULL where there is none.
    iterator: *mut PyObject,
}

pub fn describe() -> Type {
    let methods = vec![method(c"send", send), method(c"throw", throw), method(c"close", close)];
    Type {
        name: c"mod_wsgi.Awaitable",
        size: size_of::<Awaitable>(),
        flags: DISALLOW_INSTANTIATION,
        slots: vec![
            slot(ffi::Py_tp_methods, table(methods, PyMethodDef::zeroed()).cast()),
            slot(ffi::Py_am_await, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iter, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iternext, next as *mut c_void),
            slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        ],
    }
}

fn make(kind: &Object, value: *mut PyObject, iterator: *mut PyObject) -> Result<Object> {
    // SAFETY: the type's instances have our layout, zeroed; the references are given to it.
    unsafe {
        let object = Object::owned(ffi::PyType_GenericAlloc(kind.as_ptr().cast(), 0))?;
        let own = object.as_ptr().cast::<Awaitable>();
        (*own).value = value;
        (*own).iterator = iterator;
        Ok(object)
    }
}

/// One that gives None at once; any number of times, so that one will do.
pub fn done(kind: &Object) -> Result<Object> {
    make(kind, null_mut(), null_mut())
}

/// One that gives the value at once.
pub fn ready(running: &Running, value: Object) -> Result<Object> {
    make(&running.awaitable_type, value.into_ptr(), null_mut())
}

/// One that waits, and the future for its result.
pub fn waiting(running: &Running) -> Result<(Object, Object)> {
    let future = running.create_future.call(&[])?;
    let iterator = future.attr(c"__await__")?.call(&[])?;
    Ok((make(&running.awaitable_type, null_mut(), iterator.into_ptr())?, future))
}

/// Whether somebody still waits for this future.
fn is_pending(future: &Object) -> Result<bool> {
    let done = future.attr(c"done")?.call(&[])?;
    // SAFETY: False is always there.
    Ok(done.as_ptr() == unsafe { ffi::Py_False() })
}

/// Gives a future its result. Whether somebody waited for it.
pub fn resolve(future: &Object, value: &Object) -> Result<bool> {
    let pending = is_pending(future)?;
    if pending {
        future.attr(c"set_result")?.call(&[value])?;
    }
    Ok(pending)
}

/// Raises an exception where a future is waited for.
pub fn reject(future: &Object, exception: &Object) -> Result<()> {
    if is_pending(future)? {
        future.attr(c"set_exception")?.call(&[exception])?;
    }
    Ok(())
}

unsafe extern "C" fn next(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: an instance of our type; the iterator is one.
    unsafe {
        let own = object.cast::<Awaitable>();
        if !(*own).iterator.is_null() {
            let next = (*ffi::Py_TYPE((*own).iterator)).tp_iternext;
            return next.expect("an iterator")((*own).iterator);
        }
        if !(*own).value.is_null() {
            // A dict: CPython would take a tuple apart.
            ffi::PyErr_SetObject(ffi::PyExc_StopIteration, (*own).value);
        }
    }
    // Without an exception: None.
    null_mut()
}

unsafe extern "C" fn send(object: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let yielded = next(object);
        if yielded.is_null() && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
        }
        yielded
    }
}

unsafe extern "C" fn throw(object: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: an instance of our type, with the arguments of the call.
    unsafe {
        let iterator = (*object.cast::<Awaitable>()).iterator;
        if iterator.is_null() {
            return raise(arguments);
        }
        let method = match Object::borrowed(iterator).attr(c"throw") {
            Ok(method) => method,
            Err(Raised) => return null_mut(),
        };
        ffi::PyObject_CallObject(method.as_ptr(), arguments)
    }
}

/// Raises what a generator's `throw` was given: an exception, or its type, perhaps with a value.
unsafe fn raise(arguments: *mut PyObject) -> *mut PyObject {
    let [mut kind, mut value, mut traceback]: [*mut PyObject; 3] = [null_mut(); 3];
    // SAFETY: the format asks for these, borrowed from the arguments.
    unsafe {
        let format = c"O|OO:throw".as_ptr();
        if ffi::PyArg_ParseTuple(arguments, format, &mut kind, &mut value, &mut traceback) == 0 {
            return null_mut();
        }
        if ffi::PyExceptionInstance_Check(kind) != 0 {
            ffi::PyErr_SetObject(ffi::Py_TYPE(kind).cast(), kind);
        } else {
            ffi::PyErr_SetObject(kind, value);
        }
    }
    null_mut()
}

unsafe extern "C" fn close(object: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: an instance of our type.
    let iterator = unsafe { (*object.cast::<Awaitable>()).iterator };
    if iterator.is_null() {
        return none();
    }
    // SAFETY: a live object.
    let closed = unsafe { Object::borrowed(iterator) }.attr(c"close").and_then(|close| close.call(&[]));
    closed.map_or(null_mut(), Object::into_ptr)
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: an instance of our type on its way out.
    unsafe {
        let own = object.cast::<Awaitable>();
        ffi::Py_XDECREF((*own).value);
        ffi::Py_XDECREF((*own).iterator);
        free(object);
    }
}
