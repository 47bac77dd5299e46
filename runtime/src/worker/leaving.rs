//! The answer of an event loop, on its way to a server that may be slow to read: nothing here waits.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags};

use super::outgoing::send_some;

/// What could not be sent yet.
#[derive(Default)]
pub struct Leaving(VecDeque<Piece>);

struct Piece {
    bytes: Vec<u8>,
    sent: usize,
    /// Leaves with the first of them.
    descriptor: Option<OwnedFd>,
}

impl Leaving {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends both, one behind the other, and keeps what the server has no room for.
    pub fn send(&mut self, socket: BorrowedFd<'_>, both: [&[u8]; 2]) -> io::Result<()> {
        let mut sent = if self.is_empty() { transmit(socket, both, None)? } else { 0 };
        let mut bytes = Vec::new();
        for part in both {
            let skipped = sent.min(part.len());
            bytes.extend_from_slice(&part[skipped..]);
            sent -= skipped;
        }
        match self.0.back_mut() {
            _ if bytes.is_empty() => {}
            Some(piece) => piece.bytes.append(&mut bytes),
            None => self.0.push_back(Piece { bytes, sent: 0, descriptor: None }),
        }
        Ok(())
    }

    /// Sends a frame with a descriptor.
    pub fn send_with(
        &mut self,
        socket: BorrowedFd<'_>,
        frame: Vec<u8>,
        descriptor: OwnedFd,
    ) -> io::Result<()> {
        self.0.push_back(Piece { bytes: frame, sent: 0, descriptor: Some(descriptor) });
        self.flush(socket).map(drop)
    }

    /// Sends what was kept. Whether that was all.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        while let Some(piece) = self.0.front_mut() {
            match transmit(socket, [&piece.bytes[piece.sent..], &[]], piece.descriptor.as_ref())? {
                0 => return Ok(false),
                count => piece.sent += count,
            }
            piece.descriptor = None;
            if piece.sent == piece.bytes.len() {
                self.0.pop_front();
            }
        }
        Ok(true)
    }
}

/// How many bytes there was room for.
fn transmit(socket: BorrowedFd<'_>, both: [&[u8]; 2], with: Option<&OwnedFd>) -> io::Result<usize> {
    let descriptor = with.map(|descriptor| [descriptor.as_raw_fd()]);
    let rights = descriptor.as_ref().map(|one| [ControlMessage::ScmRights(one)]);
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let pieces = if both[1].is_empty() { 1 } else { 2 };
    loop {
        let rights = rights.as_ref().map_or(&[][..], |one| &one[..]);
        match send_some(socket, &both.map(IoSlice::new)[..pieces], rights, flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(0),
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            sent => return Ok(sent?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_server_that_reads_slowly() {
        let (mut server, worker) = UnixStream::pair().unwrap();
        let mut leaving = Leaving::default();
        let numbers: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
        for piece in numbers.chunks(100_001) {
            leaving.send(worker.as_fd(), [&piece[..1], &piece[1..]]).unwrap();
        }
        let file = File::open("/dev/null").unwrap();
        leaving.send_with(worker.as_fd(), b"file".into(), file.into()).unwrap();
        leaving.send(worker.as_fd(), [b"en", b"d"]).unwrap();
        let mut got = Vec::new();
        while !leaving.flush(worker.as_fd()).unwrap() {
            let mut space = vec![0; 50_000];
            let count = server.read(&mut space).unwrap();
            got.extend_from_slice(&space[..count]);
        }
        drop(worker);
        server.read_to_end(&mut got).unwrap();
        assert!(got == [&numbers, &b"fileend"[..]].concat());
    }
}
