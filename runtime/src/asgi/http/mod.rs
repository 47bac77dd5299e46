//! The `http` connection of a request: what of it was received and answered.

mod files;
mod receive;
mod send;

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use burrow_abi::{
    burrow_pair, burrow_request, slice, BURROW_EARLY_HINTS, BURROW_HEADER_ONLY, BURROW_NO_BODY,
    BURROW_REQUEST_METHOD, BURROW_TRAILERS, BURROW_UPGRADE, READABLE, WRITABLE,
};

use super::awaitable;
use super::call::Call;
use crate::head::Head;
use crate::object::{none, Object, Result};
pub use receive::{empty_body, PIECE};
pub use send::{take_headers, Buffer};

/// What the application may send.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Start,
    Body,
    Trailers,
    Nothing,
}

/// What the client was sent.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Nothing,
    Head,
    All,
}

/// The request's body.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    None,
    /// The server has it in memory.
    Whole,
    /// It comes in pieces.
    Stream,
    /// The application has all of it.
    Taken,
}

pub struct Http {
    /// The client gets no body, whatever the application sends.
    is_head: bool,
    /// The client can be sent a 103.
    takes_hints: bool,
    /// It was sent so many.
    hints: Cell<u32>,
    /// … and trailers.
    takes_trailers: bool,
    stage: Cell<Stage>,
    progress: Cell<Progress>,
    /// Waits for the first piece of the body.
    head: RefCell<Option<Head>>,
    bodiless: Cell<bool>,
    /// What may still be sent under the application's Content-Length.
    room: Cell<u64>,
    /// The application will send trailers.
    has_trailers: Cell<bool>,
    /// The client will get them.
    sends_trailers: Cell<bool>,
    /// Those so far.
    trailers: RefCell<Option<Box<Head>>>,
    /// Files that the server was given.
    files: Cell<u32>,
    body: Cell<Body>,
    /// Bytes of the request's body that are to come; negative where that is not known.
    missing: Cell<i64>,
    /// Futures of those who wait in `receive`.
    receivers: RefCell<Vec<Object>>,
    /// … and in `send`, for a slow client.
    senders: RefCell<Vec<Object>>,
}

/// Extensions that depend on the client.
pub const OPTIONAL: [&CStr; 2] = [c"http.response.early_hint", c"http.response.trailers"];

impl Http {
    pub fn new(request: &burrow_request) -> Http {
        // SAFETY: the request's strings are there.
        let method = unsafe { request.vars[BURROW_REQUEST_METHOD as usize].bytes() };
        let body = match request.flags & BURROW_NO_BODY {
            0 if request.body.is_absent() => Body::Stream,
            0 => Body::Whole,
            _ => Body::None,
        };
        Http {
            is_head: method == b"HEAD" || request.flags & BURROW_HEADER_ONLY != 0,
            takes_hints: request.flags & BURROW_EARLY_HINTS != 0,
            hints: Cell::new(0),
            takes_trailers: request.flags & (BURROW_TRAILERS | BURROW_UPGRADE) == BURROW_TRAILERS
                && accepts_trailers(request),
            stage: Cell::new(Stage::Start),
            progress: Cell::new(Progress::Nothing),
            head: RefCell::new(None),
            bodiless: Cell::new(false),
            room: Cell::new(u64::MAX),
            has_trailers: Cell::new(false),
            sends_trailers: Cell::new(false),
            trailers: RefCell::default(),
            files: Cell::new(0),
            body: Cell::new(body),
            missing: Cell::new(request.content_length),
            receivers: RefCell::default(),
            senders: RefCell::default(),
        }
    }

    /// Which of [`OPTIONAL`] there are, as the bits of a number.
    pub fn extensions(&self) -> usize {
        usize::from(self.takes_hints) | usize::from(self.takes_trailers) << 1
    }

    /// Whether the client was sent anything.
    pub fn is_started(&self) -> bool {
        self.progress.get() != Progress::Nothing
    }

    /// What an application that returns now has not done.
    pub fn missing(&self) -> Option<&'static str> {
        match self.stage.get() {
            Stage::Start => Some("without a response"),
            Stage::Body => Some("without completing its response"),
            Stage::Trailers => Some("without the trailers of its response"),
            Stage::Nothing => None,
        }
    }

    pub fn wake(&self, call: &Call, events: u32) -> Result<()> {
        if events & READABLE != 0 {
            self.readable(call)?;
        }
        if events & WRITABLE != 0 {
            // SAFETY: a new reference to None.
            let nothing = unsafe { Object::owned(none())? };
            for waiting in self.senders.take() {
                awaitable::resolve(&waiting, &nothing)?;
            }
        }
        Ok(())
    }

    /// Tells everybody who waits that nothing follows.
    pub fn disconnect(&self, call: &Call) -> Result<()> {
        let receivers = self.receivers.take();
        if !receivers.is_empty() {
            let event = receive::disconnect(call)?;
            for waiting in receivers {
                awaitable::resolve(&waiting, &event)?;
            }
        }
        let senders = self.senders.take();
        if !senders.is_empty() {
            let gone = call.running.gone()?;
            for waiting in senders {
                awaitable::reject(&waiting, &gone)?;
            }
        }
        Ok(())
    }
}

/// Whether the client says so (RFC 9110, 10.1.4).
fn accepts_trailers(request: &burrow_request) -> bool {
    let is_trailers = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"trailers");
    // SAFETY: as many headers as it says, whose strings are there.
    unsafe {
        let mut headers = slice(request.headers, request.n_headers).iter();
        headers.any(|burrow_pair { name, value }| {
            name.bytes().eq_ignore_ascii_case(b"TE")
                && value.bytes().split(|byte| *byte == b',').any(is_trailers)
        })
    }
}
