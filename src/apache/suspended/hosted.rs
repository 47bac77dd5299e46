//! A WebSocket whose application's event loop is in this process.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use super::{Buffer, Connection, Next, Peer, Wake};
use crate::apache::exchange::{Arrived, Exchange, Piece, Work};
use crate::daemon::client::{Gone, Read};
use crate::embedded::{log, Entry};

/// How often one is served before it is others' turn.
const TURNS: usize = 16;

pub struct Hosted {
    exchange: Arc<Exchange>,
    /// What the client has not been sent.
    pieces: VecDeque<Piece>,
    /// How much of the first one it has been.
    sent: usize,
    /// None until it is on the loop.
    wake: Option<Wake>,
    /// A process that ends waits for it.
    _entry: Entry,
}

impl Hosted {
    pub fn new(exchange: Arc<Exchange>, entry: Entry) -> Self {
        Hosted { exchange, pieces: VecDeque::new(), sent: 0, wake: None, _entry: entry }
    }

    /// Sends as much as there is room for. Small pieces leave together.
    fn send(&mut self, client: &mut Connection, buffer: &mut Buffer) -> Result<(), Gone> {
        while !client.is_full() && !self.pieces.is_empty() {
            let mut length = 0;
            while let Some(piece) = self.pieces.front().filter(|_| length < buffer.len()) {
                let bytes = &piece.bytes()[self.sent..];
                let count = bytes.len().min(buffer.len() - length);
                buffer[length..length + count].copy_from_slice(&bytes[..count]);
                (length, self.sent) = (length + count, self.sent + count);
                if count == bytes.len() {
                    self.exchange.sent(piece);
                    self.pieces.pop_front();
                    self.sent = 0;
                }
            }
            client.send(&buffer[..length])?;
        }
        Ok(())
    }

    fn read(&mut self, client: &mut Connection, buffer: &mut Buffer) {
        let arrived = match client.read(buffer) {
            Ok(Read::Bytes(count)) => Arrived { bytes: buffer[..count].to_vec(), end: None },
            Ok(Read::NothingYet) => return,
            Ok(Read::End) => Arrived { end: Some(true), ..Arrived::default() },
            Err(Gone) => Arrived { end: Some(false), ..Arrived::default() },
        };
        self.exchange.add_body(arrived);
    }
}

impl Peer for Hosted {
    fn begin(&mut self, wake: Wake) {
        self.wake = Some(wake);
    }

    fn carry(&mut self, client: &mut Connection, buffer: &mut Buffer) -> Result<Next, Gone> {
        let wake = self.wake.expect("it is on the loop");
        for _ in 0..TURNS {
            self.send(client, buffer)?;
            match self.exchange.work_suspended(!client.is_dry(), wake) {
                Work::Do { lines, pieces, reads } => {
                    for (level, line) in &lines {
                        log::to_server(client.exchange(), *level, line);
                    }
                    self.pieces.extend(pieces);
                    if reads {
                        self.read(client, buffer);
                    }
                }
                Work::Return(_) if self.pieces.is_empty() => return Ok(Next::End),
                Work::Return(_) => return Ok(Next::Wait { reads: false }),
                Work::Wait(interest) => return Ok(Next::Wait { reads: interest == Some(libc::POLLIN) }),
                Work::Park(_) => unreachable!("the loop does not"),
            }
        }
        Ok(Next::Again)
    }

    fn leave(&mut self) -> bool {
        self.pieces.clear();
        self.exchange.leave();
        false
    }

    /// The runtime knows by itself.
    fn retire(&mut self) {}

    fn interest(&self) -> Option<(BorrowedFd<'_>, EpollFlags)> {
        None
    }

    fn ready(&mut self, _: EpollFlags) {}

    fn due(&self) -> Option<Instant> {
        None
    }

    fn expire(&mut self, _: &Connection) {}
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.exchange.unbind();
    }
}
