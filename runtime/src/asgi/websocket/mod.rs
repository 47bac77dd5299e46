//! The `websocket` connection of a request: the protocol itself is [`burrow_websocket`].

mod keep_alive;
mod receive;
mod send;

pub use keep_alive::{look, watch};

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::time::Instant;

use burrow_abi::{
    burrow_body, burrow_request, slice, Submission, BURROW_DONE, BURROW_FLUSH, BURROW_GONE, BURROW_LAST,
    READABLE, WRITABLE,
};
use burrow_websocket::close::{ABNORMAL, INTERNAL_ERROR, NORMAL, SERVICE_RESTART};
use burrow_websocket::handshake::{self, Refusal, VERSION};
use burrow_websocket::{Close, Connection, Handshake, Kind};

use super::awaitable;
use super::call::Call;
use super::http::Http;
use super::running::Running;
use crate::head::Head;
use crate::object::{none, Object, Result};

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// The application has to accept it, or not; whether it knows of it.
    Connecting {
        told: bool,
    },
    /// It sends an answer instead.
    Denying,
    Open,
    /// A Close frame was sent; whether that was the application's.
    Closing {
        by_application: bool,
    },
    /// Nothing follows, either way.
    Over,
}

pub struct Socket {
    handshake: Handshake,
    phase: Cell<Phase>,
    /// When it began.
    since: Cell<Instant>,
    connection: RefCell<Option<Connection>>,
    /// The answer of a Denying application.
    denial: OnceCell<Http>,
    /// Messages that the application has not asked for, and their bytes.
    messages: RefCell<VecDeque<(Kind, Vec<u8>)>>,
    waiting: Cell<usize>,
    /// What was received behind so many of them.
    rest: RefCell<Vec<u8>>,
    /// What the application is told last, as often as it asks.
    closed: RefCell<Option<Close>>,
    /// Futures of those who wait in `receive`.
    receivers: RefCell<Vec<Object>>,
    /// … and in `send`, for a slow client.
    senders: RefCell<Vec<Object>>,
    /// There was nothing to read, and the host will say when there is.
    starved: Cell<bool>,
    /// The host takes nothing until it says so.
    held: Cell<bool>,
    /// The process takes no further requests.
    retired: Cell<bool>,
    /// When the client was heard of, and asked for a sign of life.
    heard: Cell<Instant>,
    /// When there was a message, either way.
    active: Cell<Instant>,
    pinged: Cell<Option<Instant>>,
}

impl Socket {
    pub fn new(request: &burrow_request) -> std::result::Result<Socket, Refusal> {
        // SAFETY: the request's headers are there, as many as it says.
        let headers = unsafe { slice(request.headers, request.n_headers) };
        // SAFETY: as above.
        let headers = headers.iter().map(|pair| unsafe { (pair.name.bytes(), pair.value.bytes()) });
        let now = Instant::now();
        Ok(Socket {
            handshake: handshake::read(headers)?,
            phase: Cell::new(Phase::Connecting { told: false }),
            since: Cell::new(now),
            connection: RefCell::default(),
            denial: OnceCell::new(),
            messages: RefCell::default(),
            waiting: Cell::new(0),
            rest: RefCell::default(),
            closed: RefCell::default(),
            receivers: RefCell::default(),
            senders: RefCell::default(),
            starved: Cell::new(false),
            held: Cell::new(false),
            retired: Cell::new(false),
            heard: Cell::new(now),
            active: Cell::new(now),
            pinged: Cell::new(None),
        })
    }

    /// Those that the client would like best, first.
    pub fn subprotocols(&self) -> &[String] {
        &self.handshake.subprotocols
    }

    pub fn is_started(&self) -> bool {
        match self.phase.get() {
            Phase::Connecting { .. } => false,
            Phase::Denying => self.denial.get().is_some_and(Http::is_started),
            _ => true,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    pub fn missing(&self) -> Option<&'static str> {
        match self.phase.get() {
            Phase::Connecting { .. } => Some("without accepting or closing a WebSocket"),
            Phase::Denying => self.denial.get().and_then(Http::missing),
            _ => None,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
    }

    pub fn wake(&self, call: &Call, events: u32) -> Result<()> {
        if self.phase.get() == Phase::Denying {
            return self.denial.get().map_or(Ok(()), |denial| denial.wake(call, events));
        }
        if events & READABLE != 0 {
            self.starved.set(false);
            self.pump(call)?;
        }
        if events & WRITABLE != 0 {
            self.held.set(false);
            self.flush(call);
            if !self.held.get() {
                // SAFETY: a new reference to None.
                let nothing = unsafe { Object::owned(none())? };
                for waiting in self.senders.take() {
                    awaitable::resolve(&waiting, &nothing)?;
                }
            }
        }
        Ok(())
    }

    /// Gives the host what is to be sent. Where that was all, ever, the exchange ends.
    fn flush(&self, call: &Call) {
        if self.held.get() {
            return;
        }
        let (output, is_last) = match &mut *self.connection.borrow_mut() {
            Some(connection) => (connection.take_output(), connection.is_closed()),
            None => return,
        };
        if output.is_empty() && !is_last {
            return;
        }
        let Some((exchange, io)) = call.exchange() else { return };
        if let Some(observed) = &call.observed {
            observed.sent(output.len());
        }
        let body = burrow_body { data: output.as_ptr().cast(), len: output.len(), fd: -1, offset: 0 };
        let flags = if is_last { BURROW_LAST } else { BURROW_FLUSH };
        // SAFETY: the host's function; the bytes live until the call returns.
        let sent = unsafe { (io.send)(exchange, std::ptr::null(), &body, flags) };
        call.running.touch(io);
        match sent {
            _ if sent < 0 => call.lose(),
            _ if is_last => {
                self.enter(Phase::Over);
                call.finish(BURROW_DONE);
            }
            sent => self.held.set(sent == 1),
        }
    }

    /// Says goodbye to the client, and waits for its answer.
    fn close(&self, call: &Call, close: &Close, by_application: bool) -> Result<()> {
        if let Some(connection) = &mut *self.connection.borrow_mut() {
            connection.close(close);
        }
        self.enter(Phase::Closing { by_application });
        self.flush(call);
        self.pump(call)
    }

    /// The application gets no more messages but this.
    fn tell_closed(&self, call: &Call, close: Close) -> Result<()> {
        self.closed.borrow_mut().get_or_insert(close);
        self.deliver(call)?;
        let senders = self.senders.take();
        if !senders.is_empty() {
            let gone = call.running.gone()?;
            for waiting in senders {
                awaitable::reject(&waiting, &gone)?;
            }
        }
        Ok(())
    }

    /// The client has gone without a word.
    pub fn disconnect(&self, call: &Call) -> Result<()> {
        if let Some(denial) = self.denial.get() {
            denial.disconnect(call)?;
        }
        self.enter(Phase::Over);
        if !call.is_running() {
            call.finish(BURROW_GONE);
        }
        self.tell_closed(call, Close::new(ABNORMAL, ""))
    }

    /// The process takes no further requests.
    pub fn retire(&self, call: &Call) -> Result<()> {
        self.retired.set(true);
        if self.phase.get() != Phase::Open {
            return Ok(());
        }
        let close = Close::new(SERVICE_RESTART, "the server is being reloaded or stopped");
        self.closed.borrow_mut().get_or_insert(close.clone());
        self.close(call, &close, false)?;
        self.tell_closed(call, close)?;
        call.hang_up()
    }

    /// The application has returned, or `raised`. Whether the exchange goes on without it.
    pub fn leave(&self, call: &Call, raised: bool) -> bool {
        if self.phase.get() == Phase::Open {
            let code = if raised { INTERNAL_ERROR } else { NORMAL };
            let closed = self.close(call, &Close::new(code, ""), true);
            call.check(closed);
        }
        matches!(self.phase.get(), Phase::Closing { .. })
    }
}

/// Answers a request that asks for a WebSocket in a wrong way.
pub fn refuse(running: &Running, submission: &Submission, refusal: &Refusal) {
    let mut head = Head::new();
    let why = match refusal {
        Refusal::Malformed(why) => {
            head.status = 400;
            *why
        }
        Refusal::Version => {
            head.status = 426;
            head.add(b"Upgrade", b"websocket");
            head.add(b"Sec-WebSocket-Version", VERSION.as_bytes());
            "another version of the protocol"
        }
    };
    head.add(b"Content-Type", b"text/plain");
    let text = format!("WebSocket: {why}\n");
    head.content_length = Some(text.len() as u64);
    let body = burrow_body { data: text.as_ptr().cast(), len: text.len(), fd: -1, offset: 0 };
    // SAFETY: the host's functions, the last calls for this exchange.
    unsafe {
        let io = &*submission.io;
        let sent = head.described(|head| (io.send)(submission.exchange, head, &body, BURROW_LAST));
        (io.finish)(submission.exchange, if sent < 0 { BURROW_GONE } else { BURROW_DONE });
        running.touch(io);
    }
}
