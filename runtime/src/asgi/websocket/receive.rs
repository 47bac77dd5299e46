//! `websocket.connect`, `websocket.receive` and `websocket.disconnect`.

use burrow_websocket::{Close, Event, Kind};
use pyo3_ffi as ffi;

use super::{Phase, Socket};
use crate::asgi::awaitable;
use crate::asgi::call::Call;
use crate::asgi::running::Running;
use crate::object::{bytes, dict, integer, set_item, utf8, Object, Result};

/// So many bytes of messages wait for the application at most, besides one that is longer.
const MOST_WAITING: usize = 64 << 10;
/// What a message costs besides its bytes.
const OVERHEAD: usize = 64;

impl Socket {
    /// What the application's `receive()` returns.
    pub fn receive(&self, call: &Call) -> Result<Object> {
        if self.phase.get() == (Phase::Connecting { told: false }) {
            self.phase.set(Phase::Connecting { told: true });
            let connect = event(call.running, &call.running.keys.websocket_connect)?;
            return awaitable::ready(call.running, connect);
        }
        // Whoever came first gets what is there first.
        if self.receivers.borrow().is_empty() {
            if self.messages.borrow().is_empty() {
                self.pump(call)?;
            }
            if let Some(event) = self.next(call)? {
                return awaitable::ready(call.running, event);
            }
        }
        let (awaitable, future) = awaitable::waiting(call.running)?;
        self.receivers.borrow_mut().push(future);
        Ok(awaitable)
    }

    /// The next event for the application.
    fn next(&self, call: &Call) -> Result<Option<Object>> {
        let message = self.messages.borrow_mut().pop_front();
        if let Some((kind, data)) = message {
            self.waiting.set(self.waiting.get() - data.len() - OVERHEAD);
            return received(call.running, kind, &data).map(Some);
        }
        let closed = self.closed.borrow();
        closed.as_ref().map(|close| disconnected(call.running, close)).transpose()
    }

    /// Gives those who wait what there is.
    pub(super) fn deliver(&self, call: &Call) -> Result<()> {
        while !self.receivers.borrow().is_empty() {
            let Some(event) = self.next(call)? else { break };
            loop {
                if self.receivers.borrow().is_empty() {
                    return Ok(());
                }
                let first = self.receivers.borrow_mut().remove(0);
                if awaitable::resolve(&first, &event)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes in what the client has sent, as far as there is room for it.
    pub(super) fn pump(&self, call: &Call) -> Result<()> {
        while self.listens() && !self.starved.get() {
            let mut rest = self.rest.take();
            if rest.is_empty() {
                let Some((exchange, io)) = call.exchange() else { break };
                let mut buffer = call.running.buffer.borrow_mut();
                // SAFETY: the host's function; the buffer has that many bytes.
                let count = unsafe { (io.read)(exchange, buffer.as_mut_ptr().cast(), buffer.len()) };
                call.running.touch(io);
                match count {
                    1.. => {
                        call.observe_input(count as usize);
                        self.take_in(&mut buffer[..count as usize]);
                    }
                    -2 => self.starved.set(true),
                    // At its end, too: there was no Close frame.
                    _ => {
                        drop(buffer);
                        call.lose();
                        break;
                    }
                }
            } else {
                self.take_in(&mut rest);
            }
            self.answer(call)?;
        }
        self.deliver(call)
    }

    /// Whether there is room for more.
    fn listens(&self) -> bool {
        match self.phase.get() {
            Phase::Open => self.waiting.get() < MOST_WAITING,
            Phase::Closing { .. } => true,
            _ => false,
        }
    }

    fn take_in(&self, mut bytes: &mut [u8]) {
        self.hear();
        let mut connection = self.connection.borrow_mut();
        let Some(connection) = connection.as_mut() else { return };
        while self.listens() {
            match connection.receive(&mut bytes) {
                None => return,
                Some(Event::Pong(_)) => {}
                Some(Event::Message(kind, data)) => {
                    self.active.set(self.heard.get());
                    self.waiting.set(self.waiting.get() + data.len() + OVERHEAD);
                    self.messages.borrow_mut().push_back((kind, data));
                }
                Some(Event::Closed(close)) => {
                    self.closed.borrow_mut().get_or_insert(close);
                }
            }
        }
        *self.rest.borrow_mut() = bytes.to_vec();
    }

    /// Pongs, and the answer to a Close frame.
    fn answer(&self, call: &Call) -> Result<()> {
        self.flush(call);
        let is_closed = self.connection.borrow().as_ref().is_some_and(|connection| connection.is_closed());
        if is_closed {
            let close = self.closed.borrow().clone();
            self.tell_closed(
                call,
                close.unwrap_or_else(|| Close::new(burrow_websocket::close::ABNORMAL, "")),
            )?;
            call.hang_up()?;
        }
        Ok(())
    }
}

fn event(running: &Running, kind: &Object) -> Result<Object> {
    let event = dict()?;
    set_item(&event, running.keys.type_.as_ptr(), kind)?;
    Ok(event)
}

fn received(running: &Running, kind: Kind, data: &[u8]) -> Result<Object> {
    let event = event(running, &running.keys.websocket_receive)?;
    match kind {
        Kind::Text => set_item(&event, running.keys.text.as_ptr(), &utf8(data)?)?,
        Kind::Binary => set_item(&event, running.keys.bytes.as_ptr(), &bytes(data)?)?,
    }
    Ok(event)
}

fn disconnected(running: &Running, close: &Close) -> Result<Object> {
    let event = event(running, &running.keys.websocket_disconnect)?;
    set_item(&event, running.keys.code.as_ptr(), &integer(close.code.into())?)?;
    let reason = match &*close.reason {
        // SAFETY: None is always there.
        "" => unsafe { Object::borrowed(ffi::Py_None()) },
        reason => utf8(reason.as_bytes())?,
    };
    set_item(&event, running.keys.reason.as_ptr(), &reason)?;
    Ok(event)
}
