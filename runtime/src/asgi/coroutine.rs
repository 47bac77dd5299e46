//! What Python knows of a request: the coroutine of its task, which is also what `receive` and `send` are
//! methods of.
//!
//! The task runs this object, and this the application's coroutine: so its end is seen in the same step, and
//! the task is a real one for those who ask for the current task.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyObject};

use super::call::Call;
use super::running::Running;
use crate::module::{free, method, slot, table, Function, Type, DISALLOW_INSTANTIATION};
use crate::object::{type_name, Object, Raised, Result};

#[repr(C)]
struct Run {
    ob_base: PyObject,
    call: ManuallyDrop<Call>,
}

pub fn describe() -> Type {
    let methods = vec![method(c"send", resume_send), method(c"throw", throw), method(c"close", close)];
    Type {
        name: c"mod_wsgi.Call",
        size: size_of::<Run>(),
        flags: DISALLOW_INSTANTIATION,
        slots: vec![
            slot(ffi::Py_tp_methods, table(methods, PyMethodDef::zeroed()).cast()),
            slot(ffi::Py_tp_getattro, attribute as *mut c_void),
            slot(ffi::Py_am_await, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iter, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iternext, next as *mut c_void),
            slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        ],
    }
}

static RECEIVE: Function = Function::new();
static SEND: Function = Function::new();

pub fn new(running: &Running, call: Call) -> Result<Object> {
    // SAFETY: the type's instances have our layout; the call is written before anyone sees it.
    unsafe {
        let object = Object::owned(ffi::PyType_GenericAlloc(running.call_type.as_ptr().cast(), 0))?;
        (&raw mut (*object.as_ptr().cast::<Run>()).call).write(ManuallyDrop::new(call));
        Ok(object)
    }
}

/// What runs an awaitable.
pub fn awaited(awaitable: Object) -> Result<Object> {
    // SAFETY: a live object; its type's slots are asked for before they are used.
    unsafe {
        if ffi::PyCoro_CheckExact(awaitable.as_ptr()) != 0 {
            return Ok(awaitable);
        }
        let methods = (*ffi::Py_TYPE(awaitable.as_ptr())).tp_as_async;
        let Some(am_await) = methods.as_ref().and_then(|methods| methods.am_await) else {
            let message = format!(
                "the application must return an awaitable, as an async function does, not {}",
                type_name(awaitable.as_ptr())
            );
            return crate::object::raise_type_error(&message);
        };
        Object::owned(am_await(awaitable.as_ptr()))
    }
}

/// The call of a live object, which keeps it.
pub fn call_of(run: &Object) -> &'static Call {
    // SAFETY: an instance of our type. Its users hold a reference, or are called with one.
    unsafe { call_at(run.as_ptr()) }
}

/// # Safety
/// `object` is a Run.
unsafe fn call_at(object: *mut PyObject) -> &'static Call {
    // SAFETY: as the caller vouches.
    unsafe { &*(&raw const (*object.cast::<Run>()).call).cast::<Call>() }
}

/// What the application calls as `receive`.
pub fn receiver(coroutine: *mut PyObject) -> Result<Object> {
    RECEIVE.of(coroutine, c"receive", receive, ffi::METH_NOARGS)
}

/// What it calls as `send`.
pub fn sender(coroutine: *mut PyObject) -> Result<Object> {
    SEND.of(coroutine, c"send", send, ffi::METH_O)
}

unsafe extern "C" fn receive(object: *mut PyObject, _nothing: *mut PyObject) -> *mut PyObject {
    // SAFETY: self is the Run that PyCFunction_New was given.
    unsafe { call_at(object) }.receive().map_or(null_mut(), Object::into_ptr)
}

unsafe extern "C" fn send(object: *mut PyObject, event: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { call_at(object) }.send(event).map_or(null_mut(), Object::into_ptr)
}

/// Lets the application go on: until it waits, which gives what it waits for, or to its end, which gives NULL.
unsafe fn step(object: *mut PyObject, go_on: impl FnOnce(*mut PyObject) -> *mut PyObject) -> *mut PyObject {
    // SAFETY: a Run; the reference keeps it through its end.
    let (kept, call) = unsafe { (Object::borrowed(object), call_at(object)) };
    call.step(&kept, go_on)
}

unsafe extern "C" fn next(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by CPython on an instance; the coroutine is live.
    unsafe {
        step(object, |coroutine| {
            let mut result = null_mut();
            match ffi::PyIter_Send(coroutine, ffi::Py_None(), &mut result) {
                ffi::PySendResult::PYGEN_NEXT => result,
                ffi::PySendResult::PYGEN_RETURN => {
                    ffi::Py_DECREF(result);
                    null_mut()
                }
                ffi::PySendResult::PYGEN_ERROR => null_mut(),
            }
        })
    }
}

/// For tasks in Python.
unsafe extern "C" fn resume_send(object: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { stopped(next(object)) }
}

unsafe extern "C" fn throw(object: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        stopped(step(object, |coroutine| {
            let method = ffi::PyObject_GetAttrString(coroutine, c"throw".as_ptr());
            if method.is_null() {
                return null_mut();
            }
            let yielded = ffi::PyObject_CallObject(method, arguments);
            ffi::Py_DECREF(method);
            yielded
        }))
    }
}

/// A method's end is StopIteration.
unsafe fn stopped(yielded: *mut PyObject) -> *mut PyObject {
    // SAFETY: the thread is attached.
    unsafe {
        if yielded.is_null() && ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
        }
    }
    yielded
}

unsafe extern "C" fn close(object: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    let coroutine = unsafe { call_at(object) }.coroutine();
    let closed = coroutine.map(|coroutine| coroutine.attr(c"close").and_then(|close| close.call(&[])));
    match closed {
        Some(Err(Raised)) => null_mut(),
        _ => crate::object::none(),
    }
}

/// What a coroutine has besides (cr_frame and the like), for those who look at tasks.
unsafe extern "C" fn attribute(object: *mut PyObject, name: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let found = ffi::PyObject_GenericGetAttr(object, name);
        if found.is_null() && ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) != 0 {
            if let Some(coroutine) = call_at(object).coroutine() {
                ffi::PyErr_Clear();
                return ffi::PyObject_GetAttr(coroutine.as_ptr(), name);
            }
        }
        found
    }
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone; `free` releases only the memory.
    unsafe {
        ManuallyDrop::drop(&mut (*object.cast::<Run>()).call);
        free(object);
    }
}
