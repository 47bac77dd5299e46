//! What has been received on a connection and not been read yet.

use std::os::fd::{AsRawFd, OwnedFd};

use burrow_daemon::frame::{BODY_MAX, HEADER};
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::socket::Space;

/// Room for a small answer's frames, or a large one's longest and the beginning of the next.
const ROOM: usize = BODY_MAX + 64 * HEADER;

pub struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    space: Space,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox { bytes: vec![0; ROOM].into(), start: 0, end: 0, space: Space::default() }
    }
}

impl Inbox {
    /// Throws away what is there, and the room for an unusually long head.
    pub fn clear(&mut self) {
        if self.bytes.len() > ROOM {
            *self = Inbox::default();
        }
        (self.start, self.end) = (0, 0);
    }

    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Makes room for so many bytes in one piece, of which some may be there.
    pub fn expect(&mut self, length: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + length > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if length > self.bytes.len() {
            let mut larger = vec![0; length];
            larger[..self.end].copy_from_slice(self.unread());
            self.bytes = larger.into();
        }
    }

    /// Receives more: the descriptors that came with it, or None at the end of the connection.
    pub fn receive(&mut self, socket: &OwnedFd, flags: MsgFlags) -> nix::Result<Option<Vec<OwnedFd>>> {
        let room = &mut self.bytes[self.end..];
        let received = match self.space.receive(socket.as_raw_fd(), room, flags) {
            Err(Errno::ECONNRESET) => return Ok(None),
            received => received?,
        };
        self.end += received.0;
        Ok((received.0 > 0).then_some(received.1))
    }
}
