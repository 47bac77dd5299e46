//! A request on its way to a worker.

use burrow_abi::burrow_request;
use burrow_daemon::frame::{Header, Kind, BODY_MAX, HEADER, LAST};
use burrow_daemon::page;

use super::begun::Begun;
use super::client::{Client, Gone, Read};
use super::incoming::Wanted;
use super::Group;
use crate::embedded::App;

/// Memory that a thread keeps for its next request.
const USUAL: usize = BODY_MAX + (16 << 10);

/// REQUEST, and as much of the body as is there.
pub struct Outgoing {
    frames: Vec<u8>,
    /// How much of them has been sent.
    sent: usize,
    /// All of the body is in the frames, or has been.
    is_whole: bool,
    upgrade: Upgrade,
    /// Nothing of them has been thrown away.
    can_repeat: bool,
    /// Until when a thread may take it, in microseconds of CLOCK_MONOTONIC; 0: for ever.
    deadline: i64,
    pub wanted: Wanted,
}

/// Whether what follows is no body but another protocol's.
#[derive(Clone, Copy, PartialEq)]
enum Upgrade {
    No,
    /// Until the answer's head is there nothing follows.
    Asked,
    Done,
}

impl Outgoing {
    /// Uses the vector's memory. None where the request is longer than a frame.
    ///
    /// # Safety
    /// `request` points at what it says.
    pub unsafe fn new(group: &Group, app: &App, request: &burrow_request, frames: Vec<u8>) -> Option<Self> {
        // SAFETY: the caller vouches for it.
        let Begun { frame, is_whole, deadline, wanted } = unsafe { Begun::new(group, app, request, frames) }?;
        let upgrade = if wanted.may_upgrade { Upgrade::Asked } else { Upgrade::No };
        let (sent, can_repeat) = (0, true);
        Some(Outgoing { frames: frame, sent, is_whole, upgrade, can_repeat, deadline, wanted })
    }

    /// The head of the answer is there.
    pub fn answered(&mut self, upgraded: bool) {
        if self.upgrade == Upgrade::Asked {
            if upgraded {
                self.upgrade = Upgrade::Done;
            } else {
                self.frames.extend(Header { kind: Kind::Body, flags: LAST, length: 0 }.bytes());
                self.is_whole = true;
            }
        }
    }

    /// Whether the client may be asked for more.
    pub fn is_readable(&self) -> bool {
        !self.is_whole && self.upgrade != Upgrade::Asked
    }

    /// Its memory, for another one.
    pub fn into_memory(mut self) -> Vec<u8> {
        self.frames.clear();
        self.frames.shrink_to(USUAL);
        self.frames
    }

    pub fn can_repeat(&self) -> bool {
        self.can_repeat
    }

    /// From the beginning.
    pub fn repeat(&mut self) {
        self.sent = 0;
    }

    /// All of it has been sent.
    pub fn is_sent(&self) -> bool {
        self.is_whole && self.unsent().is_empty()
    }

    pub fn unsent(&self) -> &[u8] {
        &self.frames[self.sent..]
    }

    pub fn add_sent(&mut self, count: usize) {
        self.sent += count;
    }

    /// Microseconds until it is too late for a thread to take it. None: it never is.
    pub fn left(&self) -> Option<i64> {
        (self.deadline != 0).then(|| self.deadline - page::now())
    }

    /// It is too late for a thread to take it.
    pub fn is_overdue(&self) -> bool {
        self.left().is_some_and(|left| left <= 0)
    }

    /// Adds what there is of the body, at most a frame; whether that was anything. What has been sent is thrown
    /// away once a thread has taken the request: until then it is no more than a socket holds.
    pub fn read(&mut self, client: &Client, is_taken: bool) -> Result<bool, Gone> {
        if !self.is_readable() {
            return Ok(false);
        }
        if is_taken && self.unsent().is_empty() {
            self.frames.clear();
            self.sent = 0;
            self.can_repeat = false;
        }
        let start = self.frames.len();
        self.frames.resize(start + HEADER, 0);
        self.frames.reserve(BODY_MAX);
        let end = self.frames.len() + BODY_MAX;
        while !self.is_whole && self.frames.len() < end {
            let room = end - self.frames.len();
            match client.read(&mut self.frames.spare_capacity_mut()[..room])? {
                Read::NothingYet => break,
                Read::End => self.is_whole = true,
                // SAFETY: the client has filled so many.
                Read::Bytes(count) => unsafe { self.frames.set_len(self.frames.len() + count) },
            }
            if client.blocks()? {
                break;
            }
        }
        let length = self.frames.len() - start - HEADER;
        if length == 0 && !self.is_whole {
            self.frames.truncate(start);
            return Ok(false);
        }
        let flags = if self.is_whole { LAST } else { 0 };
        self.frames[start..start + HEADER]
            .copy_from_slice(&Header { kind: Kind::Body, flags, length }.bytes());
        Ok(true)
    }
}
