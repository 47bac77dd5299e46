//! One request of nginx's, the frames of its answer, and what becomes of it when those do not come.

use std::cell::RefCell;
use std::ffi::c_void;
use std::os::fd::RawFd;
use std::sync::Arc;

use burrow_abi::burrow_request;
use burrow_daemon::page;
use nix::sys::socket::MsgFlags;

use super::begun::Begun;
use super::ending::{self, Cause, Next, Progress};
use super::incoming::{Incoming, Malformed, Part, OTHER_RELEASE};
use super::pool::{Connection, Pool};
use super::socket::Space;
use super::Group;
use crate::embedded::App;

/// Of a body that is not kept elsewhere, for a repetition: at least what a socket holds that nobody reads.
const KEPT: usize = 1 << 20;

/// Room for the frame of nearly every request: larger blocks take malloc longer.
const USUAL: usize = 1000;

/// What nginx holds of a connection.
pub type Handle = *mut c_void;

/// A process group, for as long as this process lives.
pub struct Workers {
    pub group: Arc<Group>,
    pub pool: RefCell<Pool<Handle>>,
    pub space: RefCell<Space>,
}

/// A request and its answer.
pub struct Relay {
    workers: &'static Workers,
    begun: Begun,
    attempts: u32,
    /// The body so far, where nobody else keeps it; None once that was too long.
    kept: Option<Vec<u8>>,
    /// The same of the attempt before.
    again: Vec<u8>,
    connection: Option<Connection<Handle>>,
    incoming: Incoming,
}

impl Relay {
    /// None where the request is longer than a frame.
    ///
    /// # Safety
    /// `request` points at what it says.
    pub unsafe fn new(workers: &'static Workers, app: &App, request: &burrow_request) -> Option<Relay> {
        // SAFETY: the caller vouches for it.
        let begun = unsafe { Begun::new(&workers.group, app, request, Vec::with_capacity(USUAL)) }?;
        Some(Relay {
            workers,
            begun,
            attempts: 0,
            kept: Some(Vec::new()),
            again: Vec::new(),
            connection: None,
            incoming: Incoming::default(),
        })
    }

    /// REQUEST.
    pub fn frame(&self) -> &[u8] {
        &self.begun.frame
    }

    /// An idle connection to a worker that serves at once, on which the request is sent next.
    pub fn take(&mut self) -> Option<Handle> {
        let connection = self.workers.pool.borrow_mut().take()?;
        let handle = connection.handle;
        self.begin(connection);
        Some(handle)
    }

    /// A new connection, on which the request is sent next.
    pub fn connect(&mut self, handle: Handle) {
        self.begin(Connection::new(handle));
    }

    fn begin(&mut self, mut connection: Connection<Handle>) {
        connection.begin();
        self.attempts += 1;
        self.again = self.kept.replace(Vec::new()).unwrap_or_default();
        self.incoming = Incoming::new(self.begun.wanted, self.workers.group.header_buffer_size);
        self.connection = Some(connection);
    }

    /// Lets go of the connection; whether it is idle from now on. `rest` was received behind the answer.
    pub fn release(&mut self, sent: bool, mut rest: &[u8]) -> bool {
        let Some(connection) = self.connection.take() else { return false };
        if self.begun.wanted.may_upgrade {
            // The client's direction has not ended.
            return false;
        }
        while let Ok(part) = self.incoming.read(&mut rest) {
            if let Part::More(_) = part {
                let is_idle = sent && rest.is_empty() && self.incoming.is_over() && !self.incoming.goes_away;
                return is_idle && self.workers.pool.borrow_mut().put(connection).is_none();
            }
        }
        false
    }

    /// Bytes of the body that nobody else keeps are sent.
    pub fn keep(&mut self, data: &[u8]) {
        let is_taken = self.connection.as_ref().is_some_and(Connection::is_taken);
        match &mut self.kept {
            Some(kept) if !is_taken && kept.len() + data.len() <= KEPT => kept.extend_from_slice(data),
            kept => *kept = None,
        }
    }

    /// What was kept of the body in the attempt before.
    pub fn kept(&self) -> &[u8] {
        &self.again
    }

    /// Since when a thread has the request, in microseconds of CLOCK_MONOTONIC.
    pub fn taken_since(&self) -> Option<i64> {
        self.connection.as_ref().and_then(Connection::taken_since)
    }

    /// Whether the worker that has the connection is likely to be on the calling thread's processor.
    pub fn is_near(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_near)
    }

    /// As recv(); with whether there may be more although the count is short.
    pub fn receive(&mut self, fd: RawFd, into: &mut [u8]) -> nix::Result<(usize, bool)> {
        let mut space = self.workers.space.borrow_mut();
        let (length, descriptors) = space.receive(fd, into, MsgFlags::MSG_DONTWAIT)?;
        // A read ends behind a message that has some.
        let more = !descriptors.is_empty();
        self.incoming.add(descriptors);
        Ok((length, more))
    }

    /// The next part of the answer; never a HELLO.
    pub fn read<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Part<'a>, Malformed> {
        loop {
            match self.incoming.read(bytes)? {
                Part::Hello(payload, descriptors) => {
                    let connection = self.connection.as_mut().ok_or("a HELLO without a connection")?;
                    let greeted = self.workers.pool.borrow_mut().greet(connection, &payload, descriptors);
                    greeted.map_err(|_| OTHER_RELEASE)?;
                }
                part => return Ok(part),
            }
        }
    }

    /// Whether a thread has taken the request, on a connection that has ended: its HELLO, which tells, may not
    /// have been read yet.
    fn was_taken(&mut self, fd: RawFd) -> bool {
        let is_greeted = self.connection.as_ref().is_none_or(Connection::is_greeted);
        let mut left = [0; 64];
        if !is_greeted && fd != -1 {
            if let Ok((length, _)) = self.receive(fd, &mut left) {
                let mut bytes = &left[..length];
                let _ = self.read(&mut bytes);
            }
        }
        self.incoming.has_begun() || self.connection.as_ref().is_some_and(Connection::is_taken)
    }

    /// What becomes of the request, whose head has not come, and why: for the log.
    pub fn end(&mut self, cause: Cause, fd: RawFd) -> (Next, &'static str) {
        let progress = Progress {
            is_taken: self.was_taken(fd),
            head_sent: false,
            can_repeat: self.kept.is_some(),
            attempts: self.attempts,
            is_overdue: self.begun.deadline != 0 && page::now() >= self.begun.deadline,
        };
        let next = ending::after(cause, progress);
        let why = match (cause, next) {
            (Cause::Queue, _) => "none of its threads was free within queue-timeout",
            (_, Next::Repeat) => "its process has ended before it took the request, which is sent again",
            _ if progress.is_taken => "its process has ended while it served the request",
            _ => "its process has ended before it took the request",
        };
        (next, why)
    }
}
