//! A WebSocket of a process group whose client no thread of httpd's has: bytes there, frames here.

use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use burrow_abi::BURROW_LOG_ERR;
use burrow_daemon::frame::{Header, Kind, HEADER, LAST, RETIRED};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{recv, send, MsgFlags};

use super::client::{Gone, Read};
use super::incoming::{Incoming, Malformed, Part};
use super::links::Link;
use super::Group;
use crate::apache::suspended::{self, Buffer, Connection, Next, Peer, Timer, Wake};
use crate::embedded::log;

/// How often one is served before it is others' turn.
const TURNS: usize = 16;

pub struct Tunnel {
    group: Arc<Group>,
    link: Link,
    incoming: Incoming,
    /// What the worker has not been sent: frames.
    unsent: Vec<u8>,
    /// The client says nothing more, or the worker reads nothing more.
    is_whole: bool,
    /// There was nothing of the worker's the last time, and epoll has not said anything since.
    is_dry: bool,
    /// The worker takes nothing of what it is sent.
    full: Timer,
    /// It has been told that this process is about to end.
    is_retired: bool,
}

/// Why it ends before the worker has said so.
enum Cut {
    Client,
    Closed,
    Malformed(Malformed),
}

impl From<Gone> for Cut {
    fn from(_: Gone) -> Cut {
        Cut::Client
    }
}

impl From<Malformed> for Cut {
    fn from(why: Malformed) -> Cut {
        Cut::Malformed(why)
    }
}

impl Tunnel {
    /// Behind a 101, of which `incoming` has read the frame; `unsent` is what the worker is still to get.
    pub fn new(group: Arc<Group>, link: Link, incoming: Incoming, unsent: Vec<u8>) -> Self {
        let full = Timer::default();
        Tunnel { group, link, incoming, unsent, is_whole: false, is_dry: false, full, is_retired: false }
    }

    /// Sends the worker what it has not been sent; whether there was room for all of it.
    fn push(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.transmit(&self.unsent) {
                0 => return false,
                count => drop(self.unsent.drain(..count)),
            }
        }
        true
    }

    /// How much of the bytes the worker's socket has room for.
    fn transmit(&self, bytes: &[u8]) -> usize {
        loop {
            match send(self.link.handle.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => return count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return 0,
                // The worker is gone; what it said before can still be read.
                Err(_) => return bytes.len(),
            }
        }
    }

    /// What the client sends is the worker's. Whether there was something.
    fn read(&mut self, client: &mut Connection, buffer: &mut Buffer) -> Result<bool, Gone> {
        if !self.push() || self.is_whole || client.is_dry() {
            return Ok(false);
        }
        let (length, flags) = match client.read(&mut buffer[HEADER..])? {
            Read::NothingYet => return Ok(false),
            Read::Bytes(length) => (length, 0),
            Read::End => (0, LAST),
        };
        self.is_whole = flags == LAST;
        buffer[..HEADER].copy_from_slice(&Header { kind: Kind::Body, flags, length }.bytes());
        let frame = &buffer[..HEADER + length];
        self.unsent.extend_from_slice(&frame[self.transmit(frame)..]);
        Ok(true)
    }

    /// What the worker sends is the client's. Whether there was something; None: it was the last.
    fn receive(&mut self, client: &mut Connection, buffer: &mut Buffer) -> Result<Option<bool>, Cut> {
        if client.is_full() || self.is_dry {
            return Ok(Some(false));
        }
        // Without room for descriptors: of those that come nevertheless the kernel lets go.
        let count = match recv(self.link.handle.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(Cut::Closed),
            Ok(count) => {
                self.is_dry = count < buffer.len();
                count
            }
            Err(Errno::EINTR) => return Ok(Some(true)),
            Err(Errno::EAGAIN) => {
                self.is_dry = true;
                return Ok(Some(false));
            }
            Err(_) => return Err(Cut::Closed),
        };
        let mut bytes = &buffer[..count];
        loop {
            match self.incoming.read(&mut bytes)? {
                Part::Body(data, _) => client.send(data)?,
                Part::More(_) => return Ok(Some(true)),
                Part::End | Part::Abort(_) => return Ok(None),
                _ => return Err("what does not belong behind a 101".into()),
            }
        }
    }

    fn carry(&mut self, client: &mut Connection, buffer: &mut Buffer) -> Result<Next, Cut> {
        for _ in 0..TURNS {
            let Some(received) = self.receive(client, buffer)? else { return Ok(Next::End) };
            if !self.read(client, buffer)? && !received {
                self.full.run(!self.unsent.is_empty());
                return Ok(Next::Wait { reads: !self.is_whole && self.unsent.is_empty() });
            }
        }
        Ok(Next::Again)
    }

    fn report(&self, client: &Connection, what: &str) {
        let pid = self.link.worker().map_or(String::new(), |worker| format!(" (pid {})", worker.pid()));
        let what = format!("process group '{}': process{pid} {what}", self.group.name);
        log::report(client.exchange(), BURROW_LOG_ERR, &what);
    }
}

impl Peer for Tunnel {
    fn begin(&mut self, _: Wake) {}

    fn carry(&mut self, client: &mut Connection, buffer: &mut Buffer) -> Result<Next, Gone> {
        match self.carry(client, buffer) {
            Ok(next) => return Ok(next),
            Err(Cut::Client) => return Err(Gone),
            Err(Cut::Closed) => {
                if let Some(worker) = self.link.worker() {
                    self.group.links.close_all(worker);
                }
                self.report(client, "has ended while it served this request");
            }
            Err(Cut::Malformed(why)) => self.report(client, &format!("sent {why}")),
        }
        Ok(Next::End)
    }

    fn leave(&mut self) -> bool {
        true
    }

    /// The worker closes it. Behind the last frame there is nothing to be said.
    fn retire(&mut self) {
        if !mem::replace(&mut self.is_retired, true) && !self.is_whole {
            self.unsent.extend(Header { kind: Kind::Body, flags: RETIRED, length: 0 }.bytes());
        }
    }

    fn interest(&self) -> Option<(BorrowedFd<'_>, EpollFlags)> {
        let mut events = EpollFlags::empty();
        events.set(EpollFlags::EPOLLIN, self.is_dry);
        events.set(EpollFlags::EPOLLOUT, !self.unsent.is_empty());
        Some((self.link.handle.as_fd(), events))
    }

    fn ready(&mut self, events: EpollFlags) {
        self.is_dry = false;
        if events.contains(EpollFlags::EPOLLOUT) {
            self.full.reset();
        }
    }

    fn due(&self) -> Option<Instant> {
        self.full.due(self.group.socket_timeout)
    }

    fn expire(&mut self, client: &Connection) {
        self.report(client, "was silent for longer than socket-timeout");
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        suspended::forget(self.link.handle.as_fd());
    }
}
