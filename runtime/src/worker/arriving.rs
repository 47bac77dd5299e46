//! The body of a request that an event loop serves, as its frames arrive: nothing here waits.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};

use burrow_daemon::frame::{Header, Kind, HEADER, LAST, RETIRED};
use nix::errno::Errno;
use nix::sys::socket::{recv, MsgFlags};

use super::incoming::malformed;

/// How much is received at once.
const AHEAD: usize = 16 << 10;

thread_local! {
    /// What is received arrives here.
    static SPACE: RefCell<Box<[u8; AHEAD]>> = RefCell::new(Box::new([0; AHEAD]));
}

pub struct Arriving {
    /// What was received and not yet read, from `position` on.
    bytes: Vec<u8>,
    position: usize,
    /// Bytes of the present frame that were not yet read.
    left: usize,
    /// No other frame follows.
    last: bool,
    /// The server's process that has the client is about to end, which was not said yet.
    retired: bool,
    /// All that had arrived was received, since the epoll has reported something.
    exhausted: bool,
}

impl Arriving {
    /// `behind`: what was received behind the request; `exhausted`: with all that had arrived.
    pub fn new(behind: &[u8], last: bool, exhausted: bool) -> Arriving {
        Arriving { bytes: behind.to_vec(), position: 0, left: 0, last, retired: false, exhausted }
    }

    /// The epoll has reported something.
    pub fn look_again(&mut self) {
        self.exhausted = false;
    }

    /// Whether all that had arrived was received, and read.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted && self.position == self.bytes.len()
    }

    /// Whether the server's process that has the client is about to end; once.
    pub fn takes_retirement(&mut self) -> bool {
        std::mem::take(&mut self.retired)
    }

    /// Reads some bytes, none at the end. None when nothing has arrived.
    pub fn read(&mut self, socket: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.begin_frame(socket, AHEAD)? {
            return Ok(None);
        }
        let wanted = to.len().min(self.left);
        let ready = &self.bytes[self.position..];
        let count = if wanted == 0 {
            0
        } else if !ready.is_empty() {
            let count = ready.len().min(wanted);
            to[..count].copy_from_slice(&ready[..count]);
            self.position += count;
            count
        } else if wanted >= AHEAD {
            match self.receive(socket, &mut to[..wanted])? {
                0 => return Ok(None),
                count => count,
            }
        } else {
            return match self.fill(socket, AHEAD)? {
                true => self.read(socket, to),
                false => Ok(None),
            };
        };
        self.left -= count;
        Ok(Some(count))
    }

    /// Drops what the application has left. Whether that was all. Nothing behind it is received: once the
    /// server has the answer, that may be its next request.
    pub fn discard(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        while self.begin_frame(socket, HEADER)? {
            if self.left == 0 {
                return Ok(true);
            }
            if self.position == self.bytes.len() && !self.fill(socket, self.left.min(AHEAD))? {
                return Ok(false);
            }
            let count = self.left.min(self.bytes.len() - self.position);
            self.position += count;
            self.left -= count;
        }
        Ok(false)
    }

    /// Takes the header of the next frame, where the present one was read; so much may be received with it. False
    /// where it has not arrived; with nothing left of the frame that begins, it is the end.
    fn begin_frame(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<bool> {
        while self.left == 0 && !self.last {
            let Some(header) = self.bytes[self.position..].first_chunk::<HEADER>() else {
                let have = self.bytes.len() - self.position;
                if !self.fill(socket, most - have)? {
                    return Ok(false);
                }
                continue;
            };
            let header = Header::read(header).filter(|header| header.kind == Kind::Body);
            let header = header.ok_or_else(|| malformed("no such frame"))?;
            self.position += HEADER;
            self.left = header.length;
            self.last = header.flags & LAST != 0;
            self.retired |= header.flags & RETIRED != 0;
        }
        Ok(true)
    }

    /// Receives some more, at most so much. False when nothing has arrived.
    fn fill(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<bool> {
        self.bytes.drain(..std::mem::take(&mut self.position));
        SPACE.with_borrow_mut(|space| {
            let count = self.receive(socket, &mut space[..most])?;
            self.bytes.extend_from_slice(&space[..count]);
            if self.bytes.is_empty() {
                // Whoever only waits keeps no memory.
                self.bytes = Vec::new();
            }
            Ok(count > 0)
        })
    }

    /// As recv(). 0 when nothing has arrived.
    fn receive(&mut self, socket: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<usize> {
        while !self.exhausted {
            match recv(socket.as_raw_fd(), to, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.exhausted = count < to.len();
                    return Ok(count);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.exhausted = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
        [&Header { kind: Kind::Body, flags, length: payload.len() }.bytes()[..], payload].concat()
    }

    #[test]
    fn a_body_that_is_cut_anywhere() {
        let stream = [frame(0, b"ab"), frame(0, b""), frame(LAST, b"cde")].concat();
        for cut in 0..=stream.len() {
            let (mut server, worker) = UnixStream::pair().unwrap();
            let mut arriving = Arriving::new(&stream[..cut], false, false);
            let (mut got, mut space) = (Vec::new(), [0; 2]);
            let mut rest = Some(&stream[cut..]);
            loop {
                match arriving.read(worker.as_fd(), &mut space).unwrap() {
                    Some(0) => break,
                    Some(count) => got.extend_from_slice(&space[..count]),
                    None => {
                        server.write_all(rest.take().expect("once")).unwrap();
                        arriving.look_again();
                    }
                }
            }
            assert_eq!(got, b"abcde", "{cut}");
        }
    }

    #[test]
    fn what_nobody_reads_is_dropped() {
        let (mut server, worker) = UnixStream::pair().unwrap();
        let mut arriving = Arriving::new(&frame(0, b"abc")[..9], false, true);
        assert!(!arriving.discard(worker.as_fd()).unwrap());
        server.write_all(&[b"bc", &frame(LAST, &[0; 1000])[..], b"the next request"].concat()).unwrap();
        assert!(!arriving.discard(worker.as_fd()).unwrap(), "nothing was reported");
        arriving.look_again();
        assert!(arriving.discard(worker.as_fd()).unwrap() && !arriving.is_exhausted());
        let mut next = [0; 16];
        assert_eq!((&worker).read(&mut next).unwrap(), next.len());
        assert_eq!(&next, b"the next request");
    }
}
