//! What a worker sends on a connection: who it is, and answers.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use burrow_abi::{burrow_head, burrow_outcome};
use burrow_daemon::frame::{File, Header, Hello, Kind, BODY_MAX, HEADER, HEAD_MAX};
use burrow_daemon::head;
use nix::errno::Errno;
use nix::sys::socket::{send, sendmsg, ControlMessage, MsgFlags};

use super::greenlets::{self, WRITABLE};

/// So much is copied, to be sent in one piece with what is before it: two cost the system more than the copy does.
const SMALL: usize = 4096;

/// The sending end of a connection. All of it waits while the server is slow to read.
pub struct Sender<'a> {
    socket: BorrowedFd<'a>,
    /// Frames that are being made; empty between calls.
    frames: &'a mut Vec<u8>,
}

impl<'a> Sender<'a> {
    pub fn new(socket: BorrowedFd<'a>, frames: &'a mut Vec<u8>) -> Sender<'a> {
        Sender { socket, frames }
    }

    /// Says first of all which slot of the page is the connection's.
    pub fn hello(&mut self, slot: usize, page: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        add(self.frames, Kind::Hello, 0, &Hello { slot: slot as u32 }.bytes());
        self.transmit(&[], &page)
    }

    /// Sends bytes of an answer, with its head if that is new.
    ///
    /// # Safety
    /// The strings of `head` are there.
    pub unsafe fn send(&mut self, head: Option<&burrow_head>, data: &[u8], flags: u8) -> io::Result<()> {
        if let Some(head) = head {
            // SAFETY: the caller's word.
            unsafe { add_head(self.frames, head, if data.is_empty() { flags } else { 0 })? };
            if data.is_empty() {
                return self.transmit(&[], &[]);
            }
        }
        let mut pieces = data.chunks(BODY_MAX).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let is_last = pieces.peek().is_none();
            let rest = add_body(self.frames, piece, if is_last { flags } else { 0 });
            self.transmit(rest, &[])?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Sends a piece of a file, with the answer's head if that is new.
    ///
    /// # Safety
    /// The strings of `head` are there.
    pub unsafe fn send_file(
        &mut self,
        head: Option<&burrow_head>,
        (file, descriptor): (File, BorrowedFd<'_>),
        flags: u8,
    ) -> io::Result<()> {
        if let Some(head) = head {
            // SAFETY: the caller's word.
            unsafe { add_head(self.frames, head, 0)? };
            self.transmit(&[], &[])?;
        }
        add(self.frames, Kind::File, flags, &file.bytes());
        self.transmit(&[], &[descriptor])
    }

    /// The answer ends and is not whole.
    pub fn abort(&mut self, outcome: burrow_outcome) -> io::Result<()> {
        add(self.frames, Kind::Abort, 0, &[outcome as u8]);
        self.transmit(&[], &[])
    }

    /// Sends the frames and what belongs behind them, in one call where the server reads.
    fn transmit(&mut self, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = transmit(self.socket, [self.frames, data], descriptors);
        self.frames.clear();
        sent
    }
}

fn add_header(to: &mut Vec<u8>, kind: Kind, flags: u8, length: usize) {
    to.extend_from_slice(&Header { kind, flags, length }.bytes());
}

/// Appends a frame of a body, or its header alone. What is to be sent behind it.
pub fn add_body<'a>(to: &mut Vec<u8>, piece: &'a [u8], flags: u8) -> &'a [u8] {
    add_header(to, Kind::Body, flags, piece.len());
    if piece.len() > SMALL {
        return piece;
    }
    to.extend_from_slice(piece);
    &[]
}

/// Appends a frame.
pub fn add(to: &mut Vec<u8>, kind: Kind, flags: u8, payload: &[u8]) {
    add_header(to, kind, flags, payload.len());
    to.extend_from_slice(payload);
}

/// Appends a head to what is empty. It stays so where the head is too long.
///
/// # Safety
/// The strings of `head` are there.
pub unsafe fn add_head(to: &mut Vec<u8>, head: &burrow_head, flags: u8) -> io::Result<()> {
    to.extend_from_slice(&[0; HEADER]);
    // SAFETY: the caller's word.
    unsafe { head::write(head, to) };
    let length = to.len() - HEADER;
    if length > HEAD_MAX {
        to.clear();
        to.shrink_to(HEAD_MAX);
        return Err(io::Error::new(ErrorKind::InvalidInput, "its headers are longer than 1 MiB"));
    }
    to[..HEADER].copy_from_slice(&Header { kind: Kind::Head, flags, length }.bytes());
    Ok(())
}

/// As sendmsg(); by send(), which costs less, where that will do.
pub fn send_some(
    socket: BorrowedFd<'_>,
    pieces: &[IoSlice<'_>],
    rights: &[ControlMessage<'_>],
    flags: MsgFlags,
) -> nix::Result<usize> {
    match (pieces, rights) {
        ([piece], []) => send(socket.as_raw_fd(), piece, flags),
        _ => sendmsg::<()>(socket.as_raw_fd(), pieces, rights, flags, None),
    }
}

fn transmit(
    socket: BorrowedFd<'_>,
    [first, second]: [&[u8]; 2],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let descriptors: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let mut rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let mut slices = [IoSlice::new(first), IoSlice::new(second)];
    let mut slices = &mut slices[..if second.is_empty() { 1 } else { 2 }];
    let flags = MsgFlags::MSG_NOSIGNAL | greenlets::flags();
    while !slices.is_empty() {
        match send_some(socket, slices, rights, flags) {
            Ok(count) => {
                rights = &[];
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => greenlets::wait(socket, WRITABLE)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
