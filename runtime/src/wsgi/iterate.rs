//! Sending what the application returned: bytes, a list, a file, or whatever it yields.

use std::os::fd::BorrowedFd;

use pyo3_ffi as ffi;

use super::call::{Call, COPIED};
use super::{call_method, close};
use crate::attach::Attached;
use crate::object::{
    bytes_of, raise_runtime_error, raise_type_error, restore, take_exception, type_name, Object, Raised,
    Result,
};

/// Sends the body, all but what [`Call::end`] sends, and closes it.
pub fn send(attached: &Attached, call: &Call, result: Object) -> Result<()> {
    // SAFETY: type checks of a live object.
    unsafe {
        let ptr = result.as_ptr();
        if ffi::PyBytes_CheckExact(ptr) != 0 {
            return whole(attached, call, bytes_of(ptr));
        }
        if ffi::PyList_CheckExact(ptr) != 0 || ffi::PyTuple_CheckExact(ptr) != 0 {
            return sequence(attached, call, &result);
        }
    }
    let sent = if attached.interpreter.state().is_file_wrapper(result.as_ptr()) {
        file(attached, call, &result)
    } else {
        iterate(attached, call, &result)
    };
    // An exception from the iteration stays the one that is raised.
    let exception = if sent.is_err() { take_exception() } else { None };
    if close(&result).is_err() {
        // The answer is what it is; the failure to close is only for the log.
        take_exception().into_iter().for_each(|exception| call.report(attached, exception));
    }
    if let Some(exception) = exception {
        restore(&exception);
    }
    sent
}

/// The whole body at once.
fn whole(attached: &Attached, call: &Call, body: &[u8]) -> Result<()> {
    needs_head(call)?;
    call.set_length(body.len() as u64);
    if body.len() <= COPIED {
        call.keep(body);
        return Ok(());
    }
    call.send(attached, body, false).map(drop)
}

/// A list or tuple: everything is there, so nothing is flushed between its items.
fn sequence(attached: &Attached, call: &Call, items: &Object) -> Result<()> {
    // SAFETY: a list or tuple; its items are kept alive here, though the list could change meanwhile.
    let item = |index| unsafe { Object::owned(ffi::PySequence_GetItem(items.as_ptr(), index)) };
    // SAFETY: as above.
    let count = unsafe { ffi::PySequence_Size(items.as_ptr()) };
    if count == 1 {
        return whole(attached, call, bytes(&item(0)?)?);
    }
    let items = (0..count).map(item).collect::<Result<Vec<_>>>()?;
    let bodies = items.iter().map(bytes).collect::<Result<Vec<_>>>()?;
    needs_head(call)?;
    let length = bodies.iter().map(|body| body.len()).sum::<usize>();
    call.set_length(length as u64);
    if length <= COPIED {
        call.keep(&bodies.concat());
        return Ok(());
    }
    for body in bodies {
        if !call.send(attached, body, false)? {
            break;
        }
    }
    Ok(())
}

/// Anything iterable: each piece reaches the client before the next one is made (PEP 3333).
fn iterate(attached: &Attached, call: &Call, result: &Object) -> Result<()> {
    // SAFETY: a live object; PyIter_Next gives a new reference, or NULL at the end or with an exception.
    unsafe {
        let iterator = Object::owned(ffi::PyObject_GetIter(result.as_ptr()))?;
        while !call.is_over() {
            let item = match Object::owned(ffi::PyIter_Next(iterator.as_ptr())) {
                Ok(item) => item,
                Err(Raised) if ffi::PyErr_Occurred().is_null() => break,
                Err(raised) => return Err(raised),
            };
            let body = bytes(&item)?;
            if body.is_empty() {
                continue;
            }
            needs_head(call)?;
            call.send(attached, body, true)?;
        }
    }
    if call.is_gone() {
        return Ok(());
    }
    needs_head(call)
}

/// A `wsgi.file_wrapper`: a real file is handed to the server, anything else is iterated over.
fn file(attached: &Attached, call: &Call, wrapper: &Object) -> Result<()> {
    let file = if call.is_started() { None } else { regular_file(wrapper)? };
    let Some(file) = file else { return iterate(attached, call, wrapper) };
    needs_head(call)?;
    call.set_length(file.length);
    if call.is_over() || call.is_bodiless() || file.length == 0 {
        return Ok(());
    }
    // SAFETY: nothing closes it meanwhile: the wrapper holds the file, and this thread is attached.
    let copy = unsafe { BorrowedFd::borrow_raw(file.fd) }.try_clone_to_owned();
    let Ok(copy) = copy else { return iterate(attached, call, wrapper) };
    call.send_file(attached, copy, file.offset, file.length).map(drop)
}

struct RegularFile {
    fd: i32,
    offset: i64,
    /// Bytes from the offset to the end.
    length: u64,
}

/// The regular file that the wrapper holds, if it holds one and says where it stands in it.
fn regular_file(wrapper: &Object) -> Result<Option<RegularFile>> {
    let file = wrapper.attr(c"filelike")?;
    let (Some(fd), Some(offset)) = (number(&file, c"fileno"), number(&file, c"tell")) else {
        return Ok(None);
    };
    // SAFETY: fstat fills the structure when it succeeds.
    let data = unsafe {
        let mut data = std::mem::zeroed::<libc::stat>();
        if libc::fstat(fd as i32, &mut data) != 0 {
            return Ok(None);
        }
        data
    };
    let is_regular = data.st_mode & libc::S_IFMT == libc::S_IFREG;
    Ok((is_regular && offset >= 0).then(|| RegularFile {
        fd: fd as i32,
        offset,
        length: (data.st_size - offset).max(0) as u64,
    }))
}

/// What a method returns, if it exists and returns a number.
fn number(object: &Object, method: &std::ffi::CStr) -> Option<i64> {
    let value = call_method(object, method).ok().map(|value| {
        // SAFETY: a live object; -1 with an exception when it is no number.
        unsafe { ffi::PyLong_AsLongLong(value.as_ptr()) }
    });
    // SAFETY: no precondition.
    let raised = unsafe { !ffi::PyErr_Occurred().is_null() };
    if raised {
        take_exception();
        return None;
    }
    value
}

fn bytes(item: &Object) -> Result<&[u8]> {
    // SAFETY: a live object; the type is checked first.
    unsafe {
        if ffi::PyBytes_Check(item.as_ptr()) == 0 {
            let name = type_name(item.as_ptr());
            return raise_type_error(&format!("the body must be made of bytes objects, not {name}"));
        }
        Ok(bytes_of(item.as_ptr()))
    }
}

fn needs_head(call: &Call) -> Result<()> {
    if call.has_head() {
        return Ok(());
    }
    raise_runtime_error("start_response was not called before the body")
}
