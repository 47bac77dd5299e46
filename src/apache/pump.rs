//! The thread of httpd's that a request came on carries bytes between its client and the event loop.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::mem::{self, MaybeUninit};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use burrow_abi::{
    burrow_client, burrow_io, burrow_outcome, burrow_pair, burrow_request, slice, RuntimeApi, RuntimeApp,
    Submission, BURROW_DONE, BURROW_FAILED, BURROW_FLUSH, BURROW_LOG_ERR, BURROW_NO_BODY,
};
use burrow_daemon::head::SWITCHING_PROTOCOLS;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::exchange::{Arrived, Exchange, Piece, Work, IO};
use super::parking::{self, Place};
use super::seats::Seat;
use super::suspended::{self, Hosted};
use crate::daemon::client::{Client, Gone, Read};
use crate::daemon::socket;
use crate::embedded::{self, log};

/// An application that needs no longer answers before its client is looked at: to wait for both is dear.
const SOON: Duration = Duration::from_millis(50);
/// How often a client is looked at whose leaving nothing tells of.
const GLANCE: Duration = Duration::from_secs(1);
/// The most that is read from a client at once.
const READ_SIZE: usize = 16 << 10;
/// What is read before the loop is told, as far as it is there: an event of a body takes so much.
const TOGETHER: usize = 64 << 10;

thread_local! {
    /// What wakes this thread.
    static WAKE: OnceCell<Arc<EventFd>> = const { OnceCell::new() };
}

/// The thread's, which is made ready to wait with its first request.
fn wake() -> nix::Result<Arc<EventFd>> {
    WAKE.with(|wake| match wake.get() {
        Some(wake) => Ok(wake.clone()),
        None => {
            let new = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
            parking::preempt_nobody();
            Ok(wake.get_or_init(|| Arc::new(new)).clone())
        }
    })
}

/// Gives a request to the event loop, and carries it out.
///
/// # Safety
/// `request`, `io` and `client` are as c/shim.h says, `exchange` is what their functions expect, and `app` is the
/// runtime's.
pub unsafe fn serve(
    runtime: &'static RuntimeApi,
    app: *mut RuntimeApp,
    request: &burrow_request,
    io: &burrow_io,
    client: &burrow_client,
    exchange: *mut c_void,
    seat: Option<Seat>,
) -> burrow_outcome {
    let wake = match wake() {
        Ok(wake) => wake,
        Err(error) => {
            log::report(exchange, BURROW_LOG_ERR, &format!("eventfd: {error}"));
            return BURROW_FAILED;
        }
    };
    // SAFETY: the caller vouches for them.
    let client = unsafe { Client::new(io, client, exchange) };
    // SAFETY: as above.
    let (arrived, body_is_dry) = match unsafe { may_read_ahead(request, &client) } {
        true => read(&client),
        false => (Arrived::default(), false),
    };
    // SAFETY: as above.
    let exchange = unsafe { Exchange::bind(runtime, app, exchange, wake.clone(), arrived) };
    let submission = Submission { app, request, io: &IO, exchange: client.exchange() };
    // SAFETY: as above; what is submitted stays until the loop has finished it, which the pump waits for.
    unsafe { (runtime.submit)(&submission, 1) };
    let place = Place::take();
    let (has_parked, may_leave) = (false, false);
    Pump { client, exchange, wake, place, body_is_dry, has_parked, seat, may_leave }.run()
}

/// Whether there is a body that may be looked at before the application asks for it. A client that is told to go on
/// is one that is asked.
///
/// # Safety
/// The request points at what it says.
unsafe fn may_read_ahead(request: &burrow_request, client: &Client) -> bool {
    // SAFETY: the caller's word.
    let headers = unsafe { slice(request.headers, request.n_headers) };
    // SAFETY: as above.
    let expects = |header: &burrow_pair| unsafe { header.name.bytes() }.eq_ignore_ascii_case(b"expect");
    request.flags & BURROW_NO_BODY == 0
        && !headers.iter().any(expects)
        && client.blocks().is_ok_and(|blocks| !blocks)
}

/// Reads what is there of the request's body, or of what the client sends behind a 101; and whether nothing is left.
fn read(client: &Client) -> (Arrived, bool) {
    let (mut bytes, mut end, mut is_dry) = (Vec::new(), None, false);
    while bytes.len() < TOGETHER && end.is_none() && !is_dry {
        bytes.reserve(READ_SIZE);
        match client.read(bytes.spare_capacity_mut()) {
            // SAFETY: so many bytes have been written.
            Ok(Read::Bytes(count)) => unsafe { bytes.set_len(bytes.len() + count) },
            Ok(Read::NothingYet) => is_dry = true,
            Ok(Read::End) => end = Some(true),
            Err(Gone) => end = Some(false),
        }
        if !matches!(client.blocks(), Ok(false)) {
            break;
        }
    }
    (Arrived { bytes, end }, is_dry)
}

struct Pump<'a> {
    client: Client<'a>,
    exchange: Arc<Exchange>,
    wake: Arc<EventFd>,
    place: Option<Place>,
    /// There was nothing when it was read last.
    body_is_dry: bool,
    /// It has slept since there was work, without looking at the client.
    has_parked: bool,
    /// Of a WebSocket.
    seat: Option<Seat>,
    /// A 101 has been sent: another thread can carry on.
    may_leave: bool,
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        self.place.into_iter().for_each(Place::leave);
    }
}

impl Pump<'_> {
    fn run(&mut self) -> burrow_outcome {
        loop {
            let place = self.place.filter(|_| !self.has_parked);
            let done = match self.exchange.work(!self.body_is_dry, place) {
                Work::Return(outcome) => {
                    self.exchange.unbind();
                    return outcome;
                }
                Work::Park(place) => {
                    place.wait(SOON);
                    self.has_parked = true;
                    Ok(())
                }
                Work::Wait(interest) => self.wait(interest),
                Work::Do { lines, pieces, reads } => {
                    self.has_parked = false;
                    for (level, line) in &lines {
                        log::to_server(self.client.exchange(), *level, line);
                    }
                    self.send(pieces).map(|()| {
                        if reads {
                            self.read()
                        }
                    })
                }
            };
            if let Err(Gone) = done {
                self.exchange.leave();
            }
            if mem::take(&mut self.may_leave) && self.suspend() {
                return BURROW_DONE;
            }
        }
    }

    /// Has the loop of suspended connections carry on, where that can be.
    fn suspend(&mut self) -> bool {
        let Some(entry) = embedded::enter() else { return false };
        let Some(suspension) = suspended::begin(&self.client) else { return false };
        suspension.complete(Hosted::new(self.exchange.clone(), entry), self.seat.take());
        true
    }

    /// Sends pieces of the answer, all of which are there: only the last one is worth a flush.
    fn send(&mut self, mut pieces: VecDeque<Piece>) -> Result<(), Gone> {
        while let Some(mut piece) = pieces.pop_front() {
            let mut flags = piece.flags();
            if !pieces.is_empty() {
                flags &= !BURROW_FLUSH;
            }
            let (head, body) = piece.parts();
            self.may_leave |= head.is_some_and(|head| head.status == SWITCHING_PROTOCOLS);
            self.client.send(head, body, flags)?;
            self.exchange.sent(&piece);
        }
        Ok(())
    }

    /// Reads what the application waits for, as far as it is there.
    fn read(&mut self) {
        let (arrived, is_dry) = read(&self.client);
        self.body_is_dry = is_dry;
        self.exchange.add_body(arrived);
    }

    /// Waits for work and for the client, as [`Work::Wait`] says.
    fn wait(&mut self, interest: Option<i16>) -> Result<(), Gone> {
        let descriptor = match interest {
            Some(_) => self.client.descriptor()?,
            None => None,
        };
        let events = interest.unwrap_or(0);
        let mut both =
            [socket::waiting(Some(self.wake.as_fd()), libc::POLLIN), socket::waiting(descriptor, events)];
        if socket::poll(&mut both, GLANCE) == Ok(0) && is_told_to_end() {
            embedded::retire();
        }
        if both[0].revents != 0 {
            let _ = self.wake.read();
        }
        self.body_is_dry = false;
        let has_left = both[1].revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0;
        if has_left && events != libc::POLLIN {
            Err(Gone)
        } else {
            Ok(())
        }
    }
}

/// On prefork the only thread has its signals blocked while it serves: the end waits for this request.
fn is_told_to_end() -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: the set is writable, and filled before it is read.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0 && libc::sigismember(pending.as_ptr(), libc::SIGTERM) == 1
    }
}
