//! `http.response.start`, `http.response.body`, `http.response.trailers` and `http.response.early_hint`.

use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::ptr;

use burrow_abi::{burrow_body, burrow_head, BURROW_DONE, BURROW_FLUSH, BURROW_LAST};
use burrow_daemon::head::MOST_HINTS;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::{Http, Progress, Stage};
use crate::asgi::awaitable;
use crate::asgi::call::Call;
use crate::asgi::keys::{item, kind_of, Keys};
use crate::head::Head;
use crate::object::{
    bytes_of, raise_gone, raise_runtime_error, raise_type_error, raise_value_error, type_name, Object,
    Raised, Result,
};

impl Http {
    /// What the application's `send(event)` returns.
    pub fn send(&self, call: &Call, event: *mut PyObject) -> Result<Object> {
        let keys = &call.running.keys;
        // SAFETY: a live object, checked to be a dict; its items are borrowed from it.
        unsafe {
            let kind = kind_of(event, keys)?;
            match (kind, self.stage.get()) {
                ("http.response.start", Stage::Start) => {
                    self.start(event, keys)?;
                    if let Some(observed) = &call.observed {
                        observed.responded(call.running, event)?;
                    }
                }
                ("http.response.body", Stage::Body) => return self.send_body(call, event),
                ("http.response.pathsend", Stage::Body) if !self.is_started() => {
                    return self.send_path(call, event)
                }
                ("http.response.zerocopysend", Stage::Body) => return self.send_part(call, event),
                ("http.response.trailers", Stage::Trailers) => self.send_trailers(call, event)?,
                ("http.response.early_hint", Stage::Start | Stage::Body) => self.hint(call, event)?,
                _ => {
                    return raise_runtime_error(&format!(
                        "ASGI event '{kind}' is not expected {}",
                        match self.stage.get() {
                            Stage::Start => "before http.response.start",
                            Stage::Body => "while the response's body is",
                            Stage::Trailers => "while the response's trailers are",
                            Stage::Nothing => "after the response is complete",
                        }
                    ))
                }
            }
        }
        Ok(call.running.done.clone())
    }

    /// # Safety
    /// `event` is a dict.
    pub unsafe fn start(&self, event: *mut PyObject, keys: &Keys) -> Result<()> {
        // SAFETY: as the caller vouches.
        let (status, headers) = unsafe { (item(event, &keys.status)?, item(event, &keys.headers)?) };
        // SAFETY: as the caller vouches.
        let has_trailers = unsafe { is_true(event, &keys.trailers)? };
        let mut head = Head::new();
        // SAFETY: borrowed from the event.
        head.status = unsafe { status_of(status)? };
        if let Some(headers) = headers {
            let take = match has_trailers && self.takes_trailers {
                true => Head::take_header_before_trailers,
                false => Head::take_header,
            };
            // SAFETY: as above.
            unsafe { take_headers(headers, &mut head, take)? };
        }
        if head.status == 204 {
            head.content_length = None;
        }
        self.bodiless.set(self.is_head || head.is_bodiless());
        if let Some(length) = head.content_length.filter(|_| !self.bodiless.get()) {
            self.room.set(length);
        }
        self.has_trailers.set(has_trailers);
        self.sends_trailers.set(has_trailers && self.takes_trailers && !self.bodiless.get());
        if self.sends_trailers.get() {
            // Over HTTP/1.1 they are a part of the chunked coding.
            head.content_length = None;
        }
        *self.head.borrow_mut() = Some(head);
        self.stage.set(Stage::Body);
        Ok(())
    }

    /// # Safety
    /// `event` is a dict.
    pub unsafe fn send_body(&self, call: &Call, event: *mut PyObject) -> Result<Object> {
        let keys = &call.running.keys;
        // SAFETY: the items are borrowed from the event, which the caller holds.
        unsafe {
            let more = is_true(event, &keys.more_body)?;
            match item(event, &keys.body)? {
                None => self.pass(call, Piece::Bytes(&[]), more),
                Some(body) if ffi::PyBytes_Check(body) != 0 => {
                    self.pass(call, Piece::Bytes(bytes_of(body)), more)
                }
                Some(body) => {
                    let buffer = Buffer::of(body)?;
                    self.pass(call, Piece::Bytes(buffer.bytes()), more)
                }
            }
        }
    }

    /// # Safety
    /// `event` is a dict.
    unsafe fn send_trailers(&self, call: &Call, event: *mut PyObject) -> Result<()> {
        let keys = &call.running.keys;
        let mut part = Head::default();
        // SAFETY: the items are borrowed from the event, which the caller holds.
        let more = unsafe {
            if let Some(headers) = item(event, &keys.headers)? {
                take_headers(headers, &mut part, Head::take_trailer)?;
            }
            is_true(event, &keys.more_trailers)?
        };
        let mut trailers = self.trailers.take().unwrap_or_default();
        trailers.append(&part);
        if more {
            self.trailers.replace(Some(trailers));
            return Ok(());
        }
        self.stage.set(Stage::Nothing);
        if self.sends_trailers.get()
            && self.transmit(call, Some(&trailers), Piece::Bytes(&[]), BURROW_LAST) < 0
        {
            return raise_gone();
        }
        Ok(())
    }

    /// Early hints, until the answer has begun; what is more than the server takes is left out.
    ///
    /// # Safety
    /// `event` is a dict.
    unsafe fn hint(&self, call: &Call, event: *mut PyObject) -> Result<()> {
        let mut head = Head::new();
        head.status = 103;
        head.set_reason(b"Early Hints");
        // SAFETY: the items are borrowed from the event; PySequence_Fast keeps those of an iterable.
        unsafe {
            let Some(links) = item(event, &call.running.keys.links)? else {
                return raise_value_error("http.response.early_hint must have links");
            };
            let links = pieces(links, "the links must be an iterable")?;
            for index in 0..ffi::PySequence_Fast_GET_SIZE(links.as_ptr()) {
                let start = head.text.len();
                head.text.extend_from_slice(b"Link");
                append(ffi::PySequence_Fast_GET_ITEM(links.as_ptr(), index), "value", &mut head)?;
                head.take_header(start, start + b"Link".len())?;
            }
        }
        let is_taken = self.takes_hints && self.hints.get() < MOST_HINTS && !self.is_started();
        let Some((exchange, io)) = call.exchange().filter(|_| is_taken) else { return Ok(()) };
        self.hints.set(self.hints.get() + 1);
        let body = burrow_body { data: ptr::null(), len: 0, fd: -1, offset: 0 };
        // SAFETY: the host's function; the head lives until the call returns.
        let sent = head.described(|head| unsafe { (io.send)(exchange, head, &body, BURROW_FLUSH) });
        call.running.touch(io);
        if sent < 0 {
            call.lose();
            return raise_gone();
        }
        Ok(())
    }

    /// Gives the server a piece of the body, and the head with the first one.
    pub(super) fn pass(&self, call: &Call, piece: Piece, more: bool) -> Result<Object> {
        let done = call.running.done.clone();
        let unabridged = piece.len() as u64;
        let piece = if self.bodiless.get() { Piece::Bytes(&[]) } else { piece };
        let (room, length) = (self.room.get(), piece.len() as u64);
        if length > room {
            return raise_runtime_error("the response is longer than its Content-Length");
        }
        if !more && room != u64::MAX && length < room {
            return raise_runtime_error("the response is shorter than its Content-Length");
        }
        if !more {
            self.stage.set(if self.has_trailers.get() { Stage::Trailers } else { Stage::Nothing });
        }
        if room != u64::MAX {
            self.room.set(room - length);
        }
        let last = !self.sends_trailers.get() && (!more || self.bodiless.get() || self.room.get() == 0);
        // Of a response that is complete for the client already.
        if self.progress.get() == Progress::All {
            return Ok(done);
        }
        let mut head = self.head.take();
        // An empty body may stand for none where none is sent: no length is better than a wrong one then.
        let is_length = last && !more && (unabridged > 0 || !self.bodiless.get());
        if let Some(head) = head.as_mut().filter(|head| is_length && !head.is_bodiless()) {
            head.content_length.get_or_insert(unabridged);
        }
        if length == 0 && head.is_none() && !last {
            return Ok(done);
        }
        match self.transmit(call, head.as_ref(), piece, if last { BURROW_LAST } else { BURROW_FLUSH }) {
            0 => Ok(done),
            1 => {
                let (awaitable, future) = awaitable::waiting(call.running)?;
                self.senders.borrow_mut().push(future);
                Ok(awaitable)
            }
            _ => raise_gone(),
        }
    }

    fn transmit(&self, call: &Call, head: Option<&Head>, piece: Piece, flags: u32) -> i32 {
        let Some((exchange, io)) = call.exchange() else { return -1 };
        if let Some(observed) = &call.observed {
            observed.sent(piece.len());
            if let Some(head) = head.filter(|_| !self.is_started()) {
                observed.status.set(head.status);
            }
        }
        let body = match piece {
            Piece::Bytes(data) => {
                burrow_body { data: data.as_ptr().cast(), len: data.len(), fd: -1, offset: 0 }
            }
            Piece::File(file, offset, len) if len > 0 => {
                burrow_body { data: ptr::null(), len, fd: file.into_raw_fd(), offset }
            }
            Piece::File(..) => burrow_body { data: ptr::null(), len: 0, fd: -1, offset: 0 },
        };
        // SAFETY: the host's function; the head and the data live until the call returns.
        let send = |head: *const burrow_head| unsafe { (io.send)(exchange, head, &body, flags) };
        let sent = head.map_or_else(|| send(ptr::null()), |head| head.described(|head| send(head)));
        call.running.touch(io);
        if sent < 0 {
            call.lose();
            return sent;
        }
        if flags & BURROW_LAST == 0 {
            self.progress.set(Progress::Head);
            return sent;
        }
        self.progress.set(Progress::All);
        call.finish(BURROW_DONE);
        call.check(self.disconnect(call));
        0
    }
}

/// Of a body.
pub(super) enum Piece<'a> {
    Bytes(&'a [u8]),
    /// So many bytes of it, from there.
    File(OwnedFd, i64, usize),
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(data) => data.len(),
            Piece::File(.., length) => *length,
        }
    }
}

/// # Safety
/// Borrowed, live objects.
unsafe fn status_of(status: Option<*mut PyObject>) -> Result<u16> {
    // SAFETY: a live object, whose type is checked first.
    let number = unsafe {
        match status {
            Some(status) if ffi::PyLong_Check(status) != 0 => ffi::PyLong_AsLong(status),
            Some(status) => {
                return raise_type_error(&format!("the status must be an int, not {}", type_name(status)))
            }
            None => return raise_value_error("http.response.start must have a status"),
        }
    };
    // SAFETY: the thread is attached.
    unsafe { ffi::PyErr_Clear() };
    match number {
        200..=999 => Ok(number as u16),
        _ => raise_value_error("the status must be from 200 to 999"),
    }
}

/// Adds each with `take`, which is one of the head's.
///
/// # Safety
/// A live object.
pub unsafe fn take_headers(
    headers: *mut PyObject,
    head: &mut Head,
    take: fn(&mut Head, usize, usize) -> Result<()>,
) -> Result<()> {
    // SAFETY: PySequence_Fast keeps the items. Iterating over a pair that is neither a list nor a tuple may run
    // Python code that changes a list of headers, whose size is looked at before each. No such code can run between
    // taking a pair's items and their use.
    unsafe {
        let headers = pieces(headers, "the headers must be an iterable")?;
        head.reserve(ffi::PySequence_Fast_GET_SIZE(headers.as_ptr()) as usize);
        let mut index = 0;
        while index < ffi::PySequence_Fast_GET_SIZE(headers.as_ptr()) {
            let pair = Object::borrowed(ffi::PySequence_Fast_GET_ITEM(headers.as_ptr(), index));
            let pair = pieces(pair.as_ptr(), "each header must be an iterable of two")?;
            index += 1;
            if ffi::PySequence_Fast_GET_SIZE(pair.as_ptr()) != 2 {
                return raise_value_error("each header must be an iterable of two");
            }
            let start = head.text.len();
            append(ffi::PySequence_Fast_GET_ITEM(pair.as_ptr(), 0), "name", head)?;
            let middle = head.text.len();
            append(ffi::PySequence_Fast_GET_ITEM(pair.as_ptr(), 1), "value", head)?;
            take(head, start, middle)?;
        }
    }
    Ok(())
}

/// As a list or tuple.
unsafe fn pieces(of: *mut PyObject, otherwise: &str) -> Result<Object> {
    // SAFETY: a live object.
    match unsafe { Object::owned(ffi::PySequence_Fast(of, c"not iterable".as_ptr())) } {
        Ok(found) => Ok(found),
        Err(Raised) => raise_type_error(otherwise),
    }
}

unsafe fn append(object: *mut PyObject, what: &str, head: &mut Head) -> Result<()> {
    // SAFETY: a live object, whose type is checked first.
    unsafe {
        if ffi::PyBytes_Check(object) == 0 {
            return raise_type_error(&format!("a header's {what} must be bytes, not {}", type_name(object)));
        }
        head.text.extend_from_slice(bytes_of(object));
    }
    Ok(())
}

/// Whether the event has this item, and it is true.
///
/// # Safety
/// `event` is a dict.
pub(super) unsafe fn is_true(event: *mut PyObject, key: &Object) -> Result<bool> {
    // SAFETY: as the caller vouches; the item is borrowed from it.
    let truth = match unsafe { item(event, key)? } {
        // SAFETY: as above.
        Some(value) => unsafe { ffi::PyObject_IsTrue(value) },
        None => 0,
    };
    match truth {
        -1 => Err(Raised),
        truth => Ok(truth != 0),
    }
}

/// The bytes of what is like bytes.
pub struct Buffer(ffi::Py_buffer);

impl Buffer {
    /// # Safety
    /// A live object.
    pub unsafe fn of(object: *mut PyObject) -> Result<Buffer> {
        let mut buffer = MaybeUninit::<ffi::Py_buffer>::uninit();
        // SAFETY: filled where the call succeeds.
        unsafe {
            if ffi::PyObject_GetBuffer(object, buffer.as_mut_ptr(), ffi::PyBUF_SIMPLE) != 0 {
                return raise_type_error(&format!("the body must be bytes, not {}", type_name(object)));
            }
            Ok(Buffer(buffer.assume_init()))
        }
    }

    pub fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: as long as the buffer is held.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: filled by PyObject_GetBuffer.
        unsafe { ffi::PyBuffer_Release(&mut self.0) }
    }
}
