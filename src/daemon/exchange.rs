//! One request and its answer, on a thread that waits for both the worker and the client.

use std::cell::Cell;
use std::ffi::c_void;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burrow_abi::{
    burrow_client, burrow_io, burrow_level, burrow_outcome, burrow_request, BURROW_ABORTED, BURROW_DONE,
    BURROW_FAILED, BURROW_GONE, BURROW_LOG_ERR, BURROW_LOG_INFO, BURROW_TIMEOUT, BURROW_UNAVAILABLE,
};
use burrow_daemon::head::{EARLY_HINTS, SWITCHING_PROTOCOLS};
use nix::errno::Errno;
use nix::sys::socket::{send, MsgFlags};

use super::client::{Body, Client, Gone};
use super::ending::{self, Cause, Next, Progress};
use super::inbox::Inbox;
use super::incoming::{Incoming, Malformed, Part, NO_WORKER, OTHER_RELEASE};
use super::links::{Link, GLANCE};
use super::outgoing::Outgoing;
use super::response::Response;
use super::tunnel::Tunnel;
use super::{socket, Group};
use crate::apache::seats::Seat;
use crate::apache::suspended::{self, Suspension};
use crate::embedded::{log, App};

type Memory = (Inbox, Vec<u8>);

thread_local! {
    /// For the thread's next request; a request can begin within another one's answer.
    static MEMORY: Cell<Option<Memory>> = const { Cell::new(None) };
}

/// Runs one request in a process group, to its end.
///
/// # Safety
/// `request`, `io` and `client` are as c/shim.h says, and `exchange` is what their functions expect.
pub unsafe fn serve(
    group: &Arc<Group>,
    app: &App,
    request: &burrow_request,
    io: &burrow_io,
    client: &burrow_client,
    exchange: *mut c_void,
    seat: Option<Seat>,
) -> burrow_outcome {
    let (inbox, memory) = MEMORY.take().unwrap_or_default();
    // SAFETY: the caller vouches for the request.
    let Some(outgoing) = (unsafe { Outgoing::new(group, app, request, memory) }) else {
        log::report(
            exchange,
            BURROW_LOG_ERR,
            "the head of this request is longer than a process group takes",
        );
        return BURROW_FAILED;
    };
    // SAFETY: the caller vouches for them.
    let client = unsafe { Client::new(io, client, exchange) };
    let (incoming, response) = (Incoming::default(), Response::new(group));
    let mut exchange = Exchange {
        group,
        client,
        outgoing,
        inbox,
        incoming,
        response,
        quiet_since: None,
        seat,
        may_leave: false,
        suspension: None,
    };
    let outcome = exchange.run();
    MEMORY.set(Some((exchange.inbox, exchange.outgoing.into_memory())));
    outcome
}

struct Exchange<'a> {
    group: &'a Arc<Group>,
    client: Client<'a>,
    outgoing: Outgoing,
    inbox: Inbox,
    incoming: Incoming,
    response: Response,
    /// Since when the worker, who has the request, has neither sent nor read anything; None: not looked at.
    quiet_since: Option<Instant>,
    /// Of a WebSocket.
    seat: Option<Seat>,
    /// The client has got a 101: another thread can carry on.
    may_leave: bool,
    /// It does.
    suspension: Option<Suspension>,
}

/// Why an attempt ended before its answer.
enum End {
    Client,
    Worker(Cause, &'static str),
}

impl From<Gone> for End {
    fn from(_: Gone) -> End {
        End::Client
    }
}

impl From<Malformed> for End {
    fn from(why: Malformed) -> End {
        End::Worker(Cause::Malformed, why)
    }
}

const OVERDUE: &str = "had no free thread within queue-timeout";
const CLOSED: End = End::Worker(Cause::Closed, "has ended");

/// What has to be waited for besides the worker's answer.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    Nothing,
    /// Room for more of the request.
    Room,
    /// More of the request's body.
    Client,
}

impl Exchange<'_> {
    fn run(&mut self) -> burrow_outcome {
        for attempts in 1.. {
            let mut link = match self.group.links.get(self.group, self.time_to_connect()) {
                Ok(link) => link,
                Err(_) if self.outgoing.is_overdue() => {
                    self.report(BURROW_LOG_ERR, OVERDUE);
                    return BURROW_TIMEOUT;
                }
                Err(error) => {
                    self.report(BURROW_LOG_ERR, &format!("cannot be reached: {error}"));
                    return BURROW_UNAVAILABLE;
                }
            };
            match self.attempt(&mut link) {
                Ok(outcome) => {
                    if outcome == BURROW_UNAVAILABLE {
                        self.report(BURROW_LOG_ERR, NO_WORKER);
                    }
                    match self.suspension.take() {
                        Some(suspension) => self.suspend(suspension, link),
                        None => self.give_back(link),
                    }
                    return outcome;
                }
                Err(End::Client) => return BURROW_GONE,
                Err(End::Worker(cause, why)) => match self.after(&link, attempts, cause, why) {
                    Next::Answer(outcome) => return outcome,
                    Next::Repeat => {}
                },
            }
        }
        unreachable!("attempts are limited")
    }

    /// connect-timeout, or what is left of queue-timeout.
    fn time_to_connect(&self) -> Duration {
        let left = self.outgoing.left().map(|left| Duration::from_micros(left.max(0) as u64));
        left.map_or(self.group.connect_timeout, |left| left.min(self.group.connect_timeout))
    }

    /// Sends the request on this connection, and passes on its answer.
    fn attempt(&mut self, link: &mut Link) -> Result<burrow_outcome, End> {
        link.begin();
        self.outgoing.repeat();
        self.inbox.clear();
        self.incoming = Incoming::new(self.outgoing.wanted, self.group.header_buffer_size);
        self.quiet_since = None;
        self.outgoing.read(&self.client, false)?; // A small body leaves with the request.
        let mut may_block = true;
        loop {
            let wait = self.push(link)?;
            let flags = match may_block && wait == Wait::Nothing && !self.response.needs_flush() {
                true => MsgFlags::empty(),
                false => MsgFlags::MSG_DONTWAIT,
            };
            match self.inbox.receive(&link.handle, flags) {
                Ok(None) => return Err(CLOSED),
                Ok(Some(descriptors)) => {
                    self.quiet_since = None;
                    may_block = true;
                    self.incoming.add(descriptors);
                    if let Some(outcome) = self.pass_on(link)? {
                        return Ok(outcome);
                    }
                    if mem::take(&mut self.may_leave) {
                        self.suspension = suspended::begin(&self.client);
                        if self.suspension.is_some() {
                            return Ok(BURROW_DONE);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    may_block = false;
                    self.wait(link, wait)?;
                }
                Err(_) => return Err(CLOSED),
            }
        }
    }

    /// Sends as much of the request as there is and as there is room for.
    fn push(&mut self, link: &Link) -> Result<Wait, End> {
        loop {
            while !self.outgoing.unsent().is_empty() {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                match send(link.handle.as_raw_fd(), self.outgoing.unsent(), flags) {
                    Ok(count) => {
                        self.outgoing.add_sent(count);
                        self.quiet_since = None;
                    }
                    Err(Errno::EAGAIN) => return Ok(Wait::Room),
                    Err(Errno::EINTR) => {}
                    // The worker is gone; what it said before can still be read.
                    Err(_) => return Ok(Wait::Nothing),
                }
            }
            if self.outgoing.is_sent() {
                return Ok(Wait::Nothing);
            }
            if !self.outgoing.is_readable() {
                return Ok(Wait::Nothing);
            }
            if !self.outgoing.read(&self.client, link.is_taken())? {
                return Ok(Wait::Client);
            }
        }
    }

    /// Passes on what has come of the answer. An outcome when that is all.
    fn pass_on(&mut self, link: &mut Link) -> Result<Option<burrow_outcome>, End> {
        let Exchange { group, client, inbox, incoming, outgoing, response, may_leave, .. } = self;
        loop {
            let unread = inbox.unread();
            let mut bytes = unread;
            let part = incoming.read(&mut bytes)?;
            let consumed = unread.len() - bytes.len();
            let needed = match part {
                Part::More(length) => Some(length),
                Part::Hello(payload, descriptors) => {
                    let greeted = group.links.greet(group, link, &payload, descriptors);
                    greeted.map_err(|_| OTHER_RELEASE)?;
                    None
                }
                Part::Abort(outcome) => {
                    return Ok(Some(if response.has_begun() { BURROW_ABORTED } else { outcome }))
                }
                Part::End => {
                    response.send(client, None, Body::Bytes(b""), false, true)?;
                    None
                }
                Part::Head(head) if head.status == EARLY_HINTS => {
                    client.send(Some(&head), Body::Bytes(b""), 0)?;
                    None
                }
                Part::Head(head) => {
                    response.send(client, Some(&head), Body::Bytes(b""), false, incoming.takes_end()?)?;
                    *may_leave = head.status == SWITCHING_PROTOCOLS;
                    outgoing.answered(*may_leave);
                    None
                }
                Part::Body(data, flush) => {
                    response.send(client, None, Body::Bytes(data), flush, incoming.takes_end()?)?;
                    None
                }
                Part::Trailers(head) => {
                    response.send(client, Some(&head), Body::Bytes(b""), false, incoming.takes_end()?)?;
                    None
                }
                Part::File(file, range) => {
                    let file = Body::File(file, range.offset, range.length);
                    response.send(client, None, file, false, incoming.takes_end()?)?;
                    None
                }
            };
            inbox.consume(consumed);
            if incoming.is_over() || response.is_unwanted() && needed.is_some() {
                return Ok(Some(BURROW_DONE));
            }
            if let Some(length) = needed {
                inbox.expect(length);
                return Ok(None);
            }
        }
    }

    /// Waits for the worker and whatever else there is, for as long as there is nothing else to be done.
    fn wait(&mut self, link: &Link, wait: Wait) -> Result<(), End> {
        let mut timeout = self.time_left(link, wait)?;
        if self.response.needs_flush() {
            timeout = timeout.min(self.group.response_flush_delay);
        }
        let room = if wait == Wait::Room { libc::POLLOUT } else { 0 };
        let body = if wait == Wait::Client { libc::POLLIN } else { libc::POLLRDHUP };
        let client = self.client.descriptor()?;
        let mut both =
            [socket::waiting(Some(link.handle.as_fd()), libc::POLLIN | room), socket::waiting(client, body)];
        let count = match socket::poll(&mut both, timeout) {
            Err(Errno::EINTR) => return Ok(()),
            count => count.map_err(|_| CLOSED)?,
        };
        let has_left = both[1].revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0;
        if wait != Wait::Client && has_left {
            return Err(End::Client);
        }
        if count == 0 && self.response.needs_flush() {
            self.response.flush(&self.client)?;
        }
        Ok(())
    }

    /// How long the worker may still do nothing; at most [`GLANCE`].
    fn time_left(&mut self, link: &Link, wait: Wait) -> Result<Duration, End> {
        if !link.is_taken() {
            let Some(left) = self.outgoing.left() else { return Ok(GLANCE) };
            let left = u64::try_from(left).ok().filter(|left| *left > 0);
            let left = left.ok_or(End::Worker(Cause::Queue, OVERDUE))?;
            return Ok(GLANCE.min(Duration::from_micros(left)));
        }
        if wait == Wait::Client {
            self.quiet_since = None; // The worker may be waiting for the body.
            return Ok(GLANCE);
        }
        let quiet = self.quiet_since.get_or_insert_with(Instant::now).elapsed();
        match self.group.socket_timeout.checked_sub(quiet) {
            Some(left) if !left.is_zero() => Ok(GLANCE.min(left)),
            _ => Err(End::Worker(Cause::Silence, "was silent for longer than socket-timeout")),
        }
    }

    /// What becomes of the request, which is said in the log.
    fn after(&mut self, link: &Link, attempts: u32, cause: Cause, why: &str) -> Next {
        let progress = Progress {
            is_taken: link.is_taken() || self.incoming.has_begun(),
            head_sent: self.response.has_begun(),
            can_repeat: self.outgoing.can_repeat(),
            attempts,
            is_overdue: self.outgoing.is_overdue(),
        };
        let next = ending::after(cause, progress);
        if let (Cause::Closed, Some(worker)) = (cause, link.worker()) {
            self.group.links.close_all(worker);
        }
        let pid = link.worker().map_or(String::new(), |worker| format!(" (pid {})", worker.pid()));
        let stage = match progress.is_taken {
            true => "while it served this request",
            false => "before it took this request",
        };
        match (cause, next) {
            (Cause::Closed, Next::Repeat) => {
                self.report(BURROW_LOG_INFO, &format!("process{pid} {why} {stage}, which is sent again"))
            }
            (Cause::Closed, _) => self.report(BURROW_LOG_ERR, &format!("process{pid} {why} {stage}")),
            (Cause::Malformed, _) => self.report(BURROW_LOG_ERR, &format!("process{pid} sent {why}")),
            (Cause::Silence, _) => self.report(BURROW_LOG_ERR, &format!("process{pid} {why}")),
            (Cause::Queue, _) => self.report(BURROW_LOG_ERR, why),
        }
        next
    }

    fn report(&self, level: burrow_level, what: &str) {
        let name = &self.group.name;
        log::report(self.client.exchange(), level, &format!("process group '{name}': {what}"));
    }

    /// Has the loop of suspended connections carry on. All that was received has been passed on.
    fn suspend(&mut self, suspension: Suspension, link: Link) {
        let incoming = mem::take(&mut self.incoming);
        let tunnel = Tunnel::new(self.group.clone(), link, incoming, self.outgoing.unsent().to_vec());
        suspension.complete(tunnel, self.seat.take());
    }

    /// Keeps a connection whose request and answer are both whole.
    fn give_back(&self, link: Link) {
        let is_whole = self.outgoing.is_sent() && self.incoming.is_over() && self.inbox.unread().is_empty();
        if is_whole && !self.incoming.goes_away {
            self.group.links.put(link);
        }
    }
}
