//! `http.request` and `http.disconnect`.

use super::{Body, Http};
use crate::asgi::awaitable;
use crate::asgi::call::Call;
use crate::asgi::keys::Keys;
use crate::asgi::running::Running;
use crate::object::{boolean, bytes, dict, interned, set_item, Object, Result};

/// The most bytes of a body in one event.
pub const PIECE: usize = 64 << 10;

/// What reading gave.
enum Read {
    Event(Object),
    NothingYet,
}

impl Http {
    /// What the application's `receive()` returns.
    pub fn receive(&self, call: &Call) -> Result<Object> {
        let running = call.running;
        if call.is_over() {
            return awaitable::ready(running, disconnect(call)?);
        }
        if let Read::Event(event) = self.read(call)? {
            return awaitable::ready(running, event);
        }
        let (awaitable, future) = awaitable::waiting(running)?;
        let mut receivers = self.receivers.borrow_mut();
        receivers.push(future);
        Ok(awaitable)
    }

    /// There is more of the body, or its end: the first one that still waits gets it.
    pub fn readable(&self, call: &Call) -> Result<()> {
        while !self.receivers.borrow().is_empty() {
            let Read::Event(event) = self.read(call)? else { break };
            loop {
                let first = self.receivers.borrow().first().cloned();
                let Some(first) = first else { return Ok(()) };
                self.receivers.borrow_mut().remove(0);
                if awaitable::resolve(&first, &event)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The next piece of the body.
    fn read(&self, call: &Call) -> Result<Read> {
        let (Some(request), Some((exchange, io))) = (call.request(), call.exchange()) else {
            return Ok(Read::NothingYet);
        };
        let running = call.running;
        match self.body.get() {
            Body::Taken => Ok(Read::NothingYet),
            Body::None => {
                self.body.set(Body::Taken);
                copy(&running.empty_body).map(Read::Event)
            }
            Body::Whole => {
                self.body.set(Body::Taken);
                call.observe_input(request.body.len);
                // SAFETY: the request is there until the host is told its outcome.
                let body = bytes(unsafe { request.body.bytes() })?;
                event(running, &body, false).map(Read::Event)
            }
            Body::Stream => {
                let mut buffer = running.buffer.borrow_mut();
                // SAFETY: the host's function; the buffer has that many bytes.
                let count = unsafe { (io.read)(exchange, buffer.as_mut_ptr().cast(), buffer.len()) };
                running.touch(io);
                let body = bytes(&buffer[..count.max(0) as usize])?;
                // To make an event may run Python code: that of what the garbage collector finds, which may receive.
                drop(buffer);
                match count {
                    0 => {
                        self.body.set(Body::Taken);
                        copy(&running.empty_body).map(Read::Event)
                    }
                    1.. => {
                        call.observe_input(count as usize);
                        self.missing.set(self.missing.get() - count as i64);
                        let more = self.missing.get() != 0;
                        if !more {
                            self.body.set(Body::Taken);
                        }
                        event(running, &body, more).map(Read::Event)
                    }
                    -2 => Ok(Read::NothingYet),
                    _ => {
                        call.lose();
                        disconnect(call).map(Read::Event)
                    }
                }
            }
        }
    }
}

fn copy(event: &Object) -> Result<Object> {
    // SAFETY: a live dict.
    unsafe { Object::owned(pyo3_ffi::PyDict_Copy(event.as_ptr())) }
}

pub fn disconnect(call: &Call) -> Result<Object> {
    copy(&call.running.disconnect)
}

/// An `http.request`.
fn event(running: &Running, body: &Object, more: bool) -> Result<Object> {
    let event = copy(&running.empty_body)?;
    set_item(&event, running.keys.body.as_ptr(), body)?;
    if more {
        set_item(&event, running.keys.more_body.as_ptr(), &boolean(true))?;
    }
    Ok(event)
}

/// The event of a request that has no body, to be copied.
pub fn empty_body(keys: &Keys) -> Result<Object> {
    let event = dict()?;
    set_item(&event, keys.type_.as_ptr(), &interned(c"http.request")?)?;
    set_item(&event, keys.body.as_ptr(), &bytes(b"")?)?;
    set_item(&event, keys.more_body.as_ptr(), &boolean(false))?;
    Ok(event)
}
