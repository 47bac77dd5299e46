//! `websocket.accept`, `websocket.send` and `websocket.close`, and the answer of who does not accept.

use std::time::Instant;

use burrow_abi::{burrow_body, BURROW_DONE, BURROW_FLUSH, BURROW_LAST};
use burrow_websocket::close::{is_sendable, LONGEST_REASON, NORMAL};
use burrow_websocket::handshake::is_token;
use burrow_websocket::{Close, Connection, Kind};
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::{Phase, Socket};
use crate::asgi::awaitable;
use crate::asgi::call::Call;
use crate::asgi::http::{take_headers, Buffer, Http};
use crate::asgi::keys::{item, kind_of};
use crate::head::Head;
use crate::object::{
    bytes_of, raise_gone, raise_runtime_error, raise_type_error, raise_value_error, text_of, Object, Result,
};

impl Socket {
    /// What the application's `send(event)` returns.
    pub fn send(&self, call: &Call, event: *mut PyObject) -> Result<Object> {
        // SAFETY: a live object, of which the rest is borrowed.
        unsafe {
            let kind = kind_of(event, &call.running.keys)?;
            match (kind, self.phase.get()) {
                ("websocket.accept", Phase::Connecting { .. }) => self.accept(call, event)?,
                ("websocket.close", Phase::Connecting { .. }) => self.forbid(call)?,
                ("websocket.http.response.start", Phase::Connecting { .. }) => self.deny(call, event)?,
                ("websocket.http.response.body", Phase::Denying) => {
                    return self.denial.get().expect("begun").send_body(call, event)
                }
                ("websocket.send", Phase::Open) => return self.send_message(call, event),
                ("websocket.close", Phase::Open) => self.close_as_told(call, event)?,
                (kind, phase @ Phase::Closing { by_application: true }) => {
                    return raise_runtime_error(&unexpected(kind, phase))
                }
                ("websocket.send" | "websocket.close", _) if self.is_closed() => return raise_gone(),
                (kind, phase) => return raise_runtime_error(&unexpected(kind, phase)),
            }
        }
        Ok(call.running.done.clone())
    }

    /// # Safety
    /// `event` is a dict.
    unsafe fn accept(&self, call: &Call, event: *mut PyObject) -> Result<()> {
        let keys = &call.running.keys;
        let mut head = Head::new();
        head.status = 101;
        head.add(b"Upgrade", b"websocket");
        head.add(b"Sec-WebSocket-Accept", self.handshake.accept.as_bytes());
        if let Some(deflate) = &self.handshake.deflate {
            head.add(b"Sec-WebSocket-Extensions", deflate.header().as_bytes());
        }
        // SAFETY: the items are borrowed from the event, which the caller holds.
        unsafe {
            if let Some(subprotocol) = given(event, &keys.subprotocol)? {
                let subprotocol = text_of(subprotocol)?;
                if !is_token(subprotocol.as_bytes()) {
                    return raise_value_error(&format!("not the name of a subprotocol: '{subprotocol}'"));
                }
                head.add(b"Sec-WebSocket-Protocol", subprotocol.as_bytes());
            }
            if let Some(headers) = given(event, &keys.headers)? {
                let own = head.count();
                take_headers(headers, &mut head, Head::take_header)?;
                if head.names().skip(own).any(is_handshakes) {
                    return raise_value_error(
                        "the headers of websocket.accept must not have one of the handshake's own: for \
                         Sec-WebSocket-Protocol there is subprotocol",
                    );
                }
            }
        }
        head.content_length = None;
        self.answer_with(call, &head, BURROW_FLUSH)?;
        let longest = call.running.state().websocket.max_message;
        *self.connection.borrow_mut() = Some(Connection::new(self.handshake.deflate.clone(), longest));
        self.hear();
        self.active.set(Instant::now());
        self.enter(Phase::Open);
        if self.retired.get() {
            self.retire(call)?;
        }
        // An application may listen already: the host says when there is more only to who has found nothing.
        if self.receivers.borrow().is_empty() {
            return Ok(());
        }
        self.pump(call)
    }

    fn answer_with(&self, call: &Call, head: &Head, flags: u32) -> Result<()> {
        let Some((exchange, io)) = call.exchange() else { return raise_gone() };
        if let Some(observed) = &call.observed {
            observed.status.set(head.status);
        }
        let body = burrow_body { data: std::ptr::null(), len: 0, fd: -1, offset: 0 };
        // SAFETY: the host's function; the head lives until the call returns.
        let sent = head.described(|head| unsafe { (io.send)(exchange, head, &body, flags) });
        call.running.touch(io);
        if sent < 0 {
            call.lose();
            return raise_gone();
        }
        self.held.set(sent == 1);
        Ok(())
    }

    /// A WebSocket that is closed before it was accepted.
    fn forbid(&self, call: &Call) -> Result<()> {
        let mut head = Head::new();
        head.status = 403;
        head.content_length = Some(0);
        self.answer_with(call, &head, BURROW_LAST)?;
        call.finish(BURROW_DONE);
        self.disconnect(call)
    }

    /// # Safety
    /// `event` is a dict.
    unsafe fn deny(&self, call: &Call, event: *mut PyObject) -> Result<()> {
        let Some(request) = call.request() else { return raise_gone() };
        let denial = Http::new(request);
        // SAFETY: the caller's word.
        unsafe { denial.start(event, &call.running.keys)? };
        self.denial.get_or_init(|| denial);
        self.enter(Phase::Denying);
        Ok(())
    }

    /// # Safety
    /// `event` is a dict.
    unsafe fn send_message(&self, call: &Call, event: *mut PyObject) -> Result<Object> {
        let keys = &call.running.keys;
        // SAFETY: the items are borrowed from the event, which the caller holds.
        unsafe {
            match (given(event, &keys.text)?, given(event, &keys.bytes)?) {
                (Some(text), None) => self.pass(Kind::Text, text_of(text)?.as_bytes()),
                (None, Some(bytes)) if ffi::PyBytes_Check(bytes) != 0 => {
                    self.pass(Kind::Binary, bytes_of(bytes));
                }
                (None, Some(bytes)) => self.pass(Kind::Binary, Buffer::of(bytes)?.bytes()),
                _ => return raise_value_error("websocket.send must have either bytes or text"),
            }
        }
        self.flush(call);
        if call.is_over() {
            return raise_gone();
        }
        if !self.held.get() {
            return Ok(call.running.done.clone());
        }
        let (awaitable, future) = awaitable::waiting(call.running)?;
        self.senders.borrow_mut().push(future);
        Ok(awaitable)
    }

    fn pass(&self, kind: Kind, data: &[u8]) {
        self.active.set(Instant::now());
        self.connection.borrow_mut().as_mut().expect("it is open").send(kind, data);
    }

    /// # Safety
    /// `event` is a dict.
    unsafe fn close_as_told(&self, call: &Call, event: *mut PyObject) -> Result<()> {
        let keys = &call.running.keys;
        // SAFETY: the items are borrowed from the event, which the caller holds.
        let (code, reason) = unsafe {
            let code = given(event, &keys.code)?.map_or(Ok(NORMAL), |code| code_of(code))?;
            (code, given(event, &keys.reason)?.map_or(Ok(""), |reason| text_of(reason))?)
        };
        if reason.len() > LONGEST_REASON {
            return raise_value_error("the reason of websocket.close is longer than 123 bytes");
        }
        let close = Close::new(code, reason);
        self.closed.borrow_mut().get_or_insert(close.clone());
        self.close(call, &close, true)?;
        self.tell_closed(call, close)
    }
}

/// What is there and not None.
///
/// # Safety
/// `event` is a dict.
unsafe fn given(event: *mut PyObject, key: &Object) -> Result<Option<*mut PyObject>> {
    // SAFETY: as the caller vouches; None is always there.
    unsafe { Ok(item(event, key)?.filter(|found| *found != ffi::Py_None())) }
}

/// # Safety
/// A live object.
unsafe fn code_of(code: *mut PyObject) -> Result<u16> {
    // SAFETY: as the caller vouches; what is too large becomes -1.
    let number = unsafe {
        if ffi::PyLong_Check(code) == 0 {
            return raise_type_error("the code of websocket.close must be an int");
        }
        ffi::PyLong_AsLong(code)
    };
    // SAFETY: the thread is attached.
    unsafe { ffi::PyErr_Clear() };
    match u16::try_from(number).ok().filter(|code| is_sendable(*code)) {
        Some(code) => Ok(code),
        None => raise_value_error(
            "the code of websocket.close must be one that may be sent: 1000 to 1003, 1007 to 1014 or 3000 to 4999",
        ),
    }
}

/// Headers that the protocol itself answers with.
fn is_handshakes(name: &[u8]) -> bool {
    const START: &[u8] = b"sec-websocket-";
    name.len() >= START.len() && name[..START.len()].eq_ignore_ascii_case(START)
}

fn unexpected(kind: &str, phase: Phase) -> String {
    let when = match phase {
        Phase::Connecting { .. } => "before websocket.accept",
        Phase::Denying => "while the response that denies the WebSocket is",
        Phase::Open => "on an open WebSocket",
        Phase::Closing { by_application: true } => "after websocket.close",
        Phase::Closing { .. } | Phase::Over => "on a WebSocket that is closed",
    };
    format!("ASGI event '{kind}' is not expected {when}")
}
