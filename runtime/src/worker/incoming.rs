//! What a server sends on a connection: a request and its body.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};

use burrow_daemon::frame::{Header, Kind, BODY_MAX, HEADER, LAST};
use nix::errno::Errno;
use nix::sys::socket::{recv, MsgFlags};

use super::arriving::Arriving;
use super::greenlets::{self, READABLE};

/// Room for nearly every request; a longer one gets more, for as long as it is served.
const USUAL: usize = 64 << 10;
/// Room for what is received of a body at once.
pub const AHEAD: usize = HEADER + BODY_MAX;
/// Reads of fewer bytes are served from there.
const WORTHWHILE: usize = 16 << 10;

/// A request as it was received, and what has arrived behind it.
pub struct Received {
    bytes: Vec<u8>,
    filled: usize,
    header: Header,
}

impl Received {
    pub fn new() -> Received {
        let header = Header { kind: Kind::Request, flags: 0, length: 0 };
        Received { bytes: vec![0; USUAL], filled: 0, header }
    }

    /// Receives the next request of a connection. False when nothing has arrived.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        self.bytes.truncate(USUAL);
        self.bytes.shrink_to(USUAL);
        self.filled = match receive(socket, &mut self.bytes, MsgFlags::MSG_DONTWAIT) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            received => received?,
        };
        self.fill(socket, HEADER)?;
        self.header = header(&self.bytes, Kind::Request)?;
        let end = HEADER + self.header.length;
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.fill(socket, end)?;
        Ok(true)
    }

    fn fill(&mut self, socket: BorrowedFd<'_>, end: usize) -> io::Result<()> {
        while self.filled < end {
            self.filled += receive(socket, &mut self.bytes[self.filled..], MsgFlags::empty())?;
        }
        Ok(())
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..][..self.header.length]
    }

    /// The body that follows, for an event loop.
    pub fn arriving(&self) -> Arriving {
        let behind = &self.bytes[HEADER + self.header.length..self.filled];
        Arriving::new(behind, self.header.flags & LAST != 0, self.filled < self.bytes.len())
    }

    /// The body that follows; it goes through `space`, which has room for [`AHEAD`] bytes.
    pub fn body<'a>(&self, socket: BorrowedFd<'a>, space: &'a mut [u8]) -> Body<'a> {
        let behind = &self.bytes[HEADER + self.header.length..self.filled];
        space[..behind.len()].copy_from_slice(behind);
        let last = self.header.flags & LAST != 0;
        Body { socket, space, position: 0, filled: behind.len(), left: 0, last }
    }
}

/// The body of a request.
pub struct Body<'a> {
    socket: BorrowedFd<'a>,
    /// Holds what was received and not yet read, from `position` to `filled`.
    space: &'a mut [u8],
    position: usize,
    filled: usize,
    /// Bytes of the present frame that were not yet read.
    left: usize,
    /// No other frame follows.
    last: bool,
}

impl Body<'_> {
    /// Reads some bytes; none at the end.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at_end()? {
            return Ok(0);
        }
        let wanted = to.len().min(self.left);
        if self.position == self.filled && wanted < self.left.min(WORTHWHILE) {
            self.fill()?;
        }
        let ready = &self.space[self.position..self.filled];
        let count = if ready.is_empty() {
            receive(self.socket, &mut to[..wanted], MsgFlags::empty())?
        } else {
            let count = ready.len().min(wanted);
            to[..count].copy_from_slice(&ready[..count]);
            self.position += count;
            count
        };
        self.left -= count;
        Ok(count)
    }

    /// Drops what the application has left.
    pub fn discard(&mut self) -> io::Result<()> {
        while !self.at_end()? {
            if self.position == self.filled {
                self.fill()?;
            }
            let count = self.left.min(self.filled - self.position);
            self.position += count;
            self.left -= count;
        }
        Ok(())
    }

    /// Whether all was read; if not, the present frame has some more.
    fn at_end(&mut self) -> io::Result<bool> {
        while self.left == 0 {
            if self.last {
                return Ok(true);
            }
            self.begin_frame()?;
        }
        Ok(false)
    }

    /// Receives what there is of the present frame, but nothing behind it: once the server has the answer, that
    /// may be its next request.
    fn fill(&mut self) -> io::Result<()> {
        let room = self.left.min(self.space.len());
        self.position = 0;
        self.filled = receive(self.socket, &mut self.space[..room], MsgFlags::empty())?;
        Ok(())
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        if self.filled - self.position < HEADER {
            self.space.copy_within(self.position..self.filled, 0);
            self.filled -= self.position;
            self.position = 0;
            while self.filled < HEADER {
                self.filled += receive(self.socket, &mut self.space[self.filled..HEADER], MsgFlags::empty())?;
            }
        }
        let header = header(&self.space[self.position..], Kind::Body)?;
        self.position += HEADER;
        self.left = header.length;
        self.last = header.flags & LAST != 0;
        Ok(())
    }
}

/// The header of a frame that has to be of this kind.
fn header(bytes: &[u8], kind: Kind) -> io::Result<Header> {
    let bytes = bytes.first_chunk().expect("callers have received so many");
    Header::read(bytes).filter(|header| header.kind == kind).ok_or_else(|| malformed("no such frame"))
}

/// What a server of ours does not send.
pub fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// At least one byte. `WouldBlock` when there is none, with MSG_DONTWAIT at once, else at the time limit.
fn receive(socket: BorrowedFd<'_>, to: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    let waits = !flags.contains(MsgFlags::MSG_DONTWAIT);
    loop {
        match recv(socket.as_raw_fd(), to, flags | greenlets::flags()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if waits => greenlets::wait(socket, READABLE)?,
            received => return Ok(received?),
        }
    }
}
