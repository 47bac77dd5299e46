//! What `receive` and `send` of a request speak.

use burrow_abi::{burrow_request, Submission, BURROW_UPGRADE};
use pyo3_ffi::PyObject;

use super::call::Call;
use super::http::Http;
use super::running::Running;
use super::websocket::{self, Socket};
use crate::object::{Object, Result};

pub enum Protocol {
    Http(Http),
    WebSocket(Box<Socket>),
}

impl Protocol {
    /// That of a request. None where it was answered: it asks for a WebSocket in a wrong way.
    pub fn new(running: &Running, submission: &Submission) -> Option<Protocol> {
        // SAFETY: the host's, until `finish`.
        let request: &burrow_request = unsafe { &*submission.request };
        if request.flags & BURROW_UPGRADE == 0 {
            return Some(Protocol::Http(Http::new(request)));
        }
        match Socket::new(request) {
            Ok(socket) => Some(Protocol::WebSocket(Box::new(socket))),
            Err(refusal) => {
                websocket::refuse(running, submission, &refusal);
                None
            }
        }
    }

    /// The WebSocket, where it is one.
    pub fn socket(&self) -> Option<&Socket> {
        match self {
            Protocol::WebSocket(socket) => Some(socket),
            Protocol::Http(_) => None,
        }
    }

    /// Whether the client was sent anything.
    pub fn is_started(&self) -> bool {
        match self {
            Protocol::Http(http) => http.is_started(),
            Protocol::WebSocket(socket) => socket.is_started(),
        }
    }

    /// Whether the application is told that the client is gone, though the exchange goes on.
    pub fn is_closed(&self) -> bool {
        self.socket().is_some_and(Socket::is_closed)
    }

    /// What an application that returns now has not done.
    pub fn missing(&self) -> Option<&'static str> {
        match self {
            Protocol::Http(http) => http.missing(),
            Protocol::WebSocket(socket) => socket.missing(),
        }
    }

    pub fn wake(&self, call: &Call, events: u32) -> Result<()> {
        match self {
            Protocol::Http(http) => http.wake(call, events),
            Protocol::WebSocket(socket) => socket.wake(call, events),
        }
    }

    /// Tells everybody who waits that nothing follows.
    pub fn disconnect(&self, call: &Call) -> Result<()> {
        match self {
            Protocol::Http(http) => http.disconnect(call),
            Protocol::WebSocket(socket) => socket.disconnect(call),
        }
    }

    /// The process takes no further requests, and the time of this one is over.
    pub fn give_up(&self, call: &Call) -> Result<()> {
        match self {
            // Its client was told, and may answer.
            Protocol::WebSocket(socket) if socket.is_closed() => Ok(()),
            _ => self.disconnect(call),
        }
    }

    /// What the application's `receive()` returns.
    pub fn receive(&self, call: &Call) -> Result<Object> {
        match self {
            Protocol::Http(http) => http.receive(call),
            Protocol::WebSocket(socket) => socket.receive(call),
        }
    }

    /// What the application's `send(event)` returns.
    pub fn send(&self, call: &Call, event: *mut PyObject) -> Result<Object> {
        match self {
            Protocol::Http(http) => http.send(call, event),
            Protocol::WebSocket(socket) => socket.send(call, event),
        }
    }

    /// The application has returned, or `raised`. Whether the exchange goes on without it.
    pub fn leave(&self, call: &Call, raised: bool) -> bool {
        self.socket().is_some_and(|socket| socket.leave(call, raised))
    }
}
