//! `http.response.pathsend` and `http.response.zerocopysend`: files that the server sends.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::send::{is_true, Piece};
use super::{Http, PIECE};
use crate::asgi::call::Call;
use crate::asgi::keys::item;
use crate::object::{boolean, bytes_of, raise_value_error, Object, Raised, Result};

/// Files that a server is given for one answer, which it has open until that has left.
const MOST_FILES: u32 = 16;

impl Http {
    /// Sends a file, which is all of the body.
    ///
    /// # Safety
    /// `event` is a dict.
    pub(super) unsafe fn send_path(&self, call: &Call, event: *mut PyObject) -> Result<Object> {
        // SAFETY: the item is borrowed from the event.
        let Some(path) = (unsafe { item(event, &call.running.keys.path)? }) else {
            return raise_value_error("http.response.pathsend must have a path");
        };
        // SAFETY: as above.
        let encoded = unsafe { Object::owned(ffi::PyUnicode_EncodeFSDefault(path))? };
        // SAFETY: encoding gives bytes.
        let bytes = unsafe { bytes_of(encoded.as_ptr()) };
        if !bytes.starts_with(b"/") {
            return raise_value_error("the path of a file to send must be absolute");
        }
        let opened = File::open(OsStr::from_bytes(bytes)).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((about, file)) if about.is_file() => {
                self.pass(call, Piece::File(file.into(), 0, about.len() as usize), false)
            }
            Ok(_) => raise_value_error("what is to be sent is not a regular file"),
            // SAFETY: borrowed from the event.
            Err(error) => unsafe { raise_io(&error, path) },
        }
    }

    /// Sends a part of a file that the application has open.
    ///
    /// # Safety
    /// `event` is a dict.
    pub(super) unsafe fn send_part(&self, call: &Call, event: *mut PyObject) -> Result<Object> {
        let running = call.running;
        // SAFETY: a live object.
        let part = running.part_of.call(&[unsafe { &Object::borrowed(event) }])?;
        // SAFETY: asgi.py gives a tuple of three.
        let number = |index| unsafe { integer_of(ffi::PyTuple_GET_ITEM(part.as_ptr(), index)) };
        let (descriptor, offset, count) = (number(0)? as RawFd, number(1)?, number(2)? as usize);
        // SAFETY: the caller vouches for the event.
        let more = unsafe { is_true(event, &running.keys.more_body)? };
        // SAFETY: asgi.py has looked at it: the application has it open.
        let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
        if count <= PIECE {
            let mut data = vec![0; count];
            // SAFETY: the thread is attached.
            read_all(file, &mut data, offset).or_else(|error| unsafe { raise_io(&error, null_mut()) })?;
            return self.pass(call, Piece::Bytes(&data), more);
        }
        if self.files.replace(self.files.get() + 1) >= MOST_FILES {
            return running.send_read.call(&[&call.sender()?, &part, &boolean(more)]);
        }
        match file.try_clone_to_owned() {
            Ok(file) => self.pass(call, Piece::File(file, offset, count), more),
            // SAFETY: the thread is attached.
            Err(error) => unsafe { raise_io(&error, null_mut()) },
        }
    }
}

/// # Safety
/// A live object.
unsafe fn integer_of(object: *mut PyObject) -> Result<i64> {
    // SAFETY: as the caller vouches.
    unsafe {
        match ffi::PyLong_AsLongLong(object) {
            -1 if !ffi::PyErr_Occurred().is_null() => Err(Raised),
            number => Ok(number),
        }
    }
}

fn read_all(file: BorrowedFd, into: &mut [u8], offset: i64) -> io::Result<()> {
    // The copy is closed, the application's own stays open.
    File::from(file.try_clone_to_owned()?).read_exact_at(into, offset as u64)
}

/// Raises an OSError, with the path if there is one.
///
/// # Safety
/// A live object or NULL.
unsafe fn raise_io<T>(error: &io::Error, path: *mut PyObject) -> Result<T> {
    // SAFETY: as the caller vouches; `errno` is as the failed call left it.
    unsafe {
        *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EINVAL);
        ffi::PyErr_SetFromErrnoWithFilenameObject(ffi::PyExc_OSError, path);
    }
    Err(Raised)
}
