//! One WebSocket between its client and whoever runs its application.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;

use super::memory::Memory;
use super::{Buffer, Connection, Wake};
use crate::apache::seats::Seat;
use crate::daemon::client::Gone;

/// For how long a client may take to close its side, as httpd's shortest lingering close.
const LINGER: Duration = Duration::from_secs(2);

/// What came of carrying bytes.
pub enum Next {
    /// Whatever is waited for now; `reads`: something of the client's, too.
    Wait { reads: bool },
    /// It is others' turn.
    Again,
    /// There will be nothing more for the client.
    End,
}

/// What a WebSocket's client is connected to: an event loop of this process, or a process group.
pub trait Peer: Send {
    /// It is on the loop from here on.
    fn begin(&mut self, wake: Wake);
    /// Carries what there is, either way, and waits for nothing.
    fn carry(&mut self, client: &mut Connection, buffer: &mut Buffer) -> Result<Next, Gone>;
    /// The client is gone: `carry` leaves it alone from now on. Whether there is nothing more to be done.
    fn leave(&mut self) -> bool;
    /// The process takes no further connections.
    fn retire(&mut self);
    /// What is waited for besides the client, and what for, if anything.
    fn interest(&self) -> Option<(BorrowedFd<'_>, EpollFlags)>;
    /// What came of that.
    fn ready(&mut self, events: EpollFlags);
    /// Until when it may take nothing of what it is sent, where it does not.
    fn due(&self) -> Option<Instant>;
    /// That was too long.
    fn expire(&mut self, client: &Connection);
}

/// Since when somebody has taken nothing of what there is for him.
#[derive(Default)]
pub struct Timer(Option<Instant>);

impl Timer {
    /// Starts it where it has to run, and stops it where it has not.
    pub fn run(&mut self, runs: bool) {
        self.0 = runs.then(|| self.0.unwrap_or_else(Instant::now));
    }

    pub fn reset(&mut self) {
        self.0 = None;
    }

    pub fn due(&self, timeout: Duration) -> Option<Instant> {
        self.0.map(|since| since + timeout)
    }
}

pub struct WebSocket {
    connection: Connection,
    /// Until it has nothing more for the client.
    peer: Option<Box<dyn Peer>>,
    /// Something of the client's is waited for.
    reads: bool,
    is_gone: bool,
    /// The client takes nothing of what it is sent.
    full: Timer,
    /// Since the request was finished.
    lingers: Timer,
    /// What epoll watches of the client and of its peer.
    pub watched: [Option<EpollFlags>; 2],
    /// When the loop is to have a look, as it knows.
    pub due: Option<Instant>,
    _seat: Option<Seat>,
}

impl WebSocket {
    pub fn new(connection: Connection, peer: Box<dyn Peer>, seat: Option<Seat>) -> Self {
        WebSocket {
            connection,
            peer: Some(peer),
            reads: false,
            is_gone: false,
            full: Timer::default(),
            lingers: Timer::default(),
            watched: [None; 2],
            due: None,
            _seat: seat,
        }
    }

    pub fn memory(&self) -> Arc<Memory> {
        self.connection.memory()
    }

    pub fn begin(&mut self, wake: Wake) {
        self.peer.as_mut().expect("it has just come").begin(wake);
    }

    pub fn retire(&mut self) {
        self.peer.iter_mut().for_each(|peer| peer.retire());
    }

    /// What epoll says of the client.
    pub fn client_ready(&mut self, events: EpollFlags) {
        let has_left = events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        self.connection.wet();
        if self.is_finished() || self.is_gone {
            return;
        }
        if has_left || events.contains(EpollFlags::EPOLLOUT) {
            self.full.reset();
            // Where it is read from, that tells.
            if self.connection.flush().is_err() || has_left && !self.is_read() {
                self.lose_client();
            }
        }
    }

    /// What epoll says of its peer.
    pub fn peer_ready(&mut self, events: EpollFlags) {
        self.peer.iter_mut().for_each(|peer| peer.ready(events));
    }

    /// The client is gone.
    pub fn lose_client(&mut self) {
        self.is_gone = true;
        self.peer.take_if(|peer| peer.leave());
    }

    fn is_read(&self) -> bool {
        self.reads && self.peer.is_some()
    }

    fn is_finished(&self) -> bool {
        self.lingers.0.is_some()
    }

    /// Does what there is to be done. Whether it is over, and whether there is more to be done at once.
    pub fn advance(&mut self, buffer: &mut Buffer) -> (bool, bool) {
        let mut again = false;
        while let Some(peer) = &mut self.peer {
            match peer.carry(&mut self.connection, buffer) {
                Ok(Next::Wait { reads }) => self.reads = reads,
                Ok(Next::Again) => again = true,
                Ok(Next::End) => self.peer = None,
                Err(Gone) => {
                    self.lose_client();
                    continue;
                }
            }
            break;
        }
        self.full.run(self.connection.is_full() && !self.is_gone);
        let is_sent = self.is_gone || !self.connection.is_full();
        if self.peer.is_none() && is_sent && !self.is_finished() {
            self.connection.finish();
            self.full.reset();
            self.lingers.run(true);
        }
        (self.is_finished() && (self.is_gone || self.connection.discard(buffer)), again)
    }

    /// What epoll is to watch the client and its peer for; a client that it knows of is told by a hang-up when
    /// it is waited for nothing, a peer is not.
    pub fn interests(&self) -> [Option<(BorrowedFd<'_>, Option<EpollFlags>)>; 2] {
        let mut events = EpollFlags::empty();
        events.set(EpollFlags::EPOLLIN, self.is_finished() || self.is_read());
        events.set(EpollFlags::EPOLLOUT, self.connection.is_full() && !self.is_finished());
        let client = (self.connection.descriptor(), Some(events).filter(|_| !self.is_gone));
        let peer = self.peer.as_ref().and_then(|peer| peer.interest());
        [
            Some(client),
            peer.map(|(descriptor, events)| (descriptor, Some(events).filter(|events| !events.is_empty()))),
        ]
    }

    /// When something has lasted too long.
    pub fn next_due(&self) -> Option<Instant> {
        let full = self.full.due(self.connection.timeout());
        let peer = self.peer.as_ref().and_then(|peer| peer.due());
        [full, self.lingers.due(LINGER), peer].into_iter().flatten().min()
    }

    /// It has.
    pub fn expire(&mut self, now: Instant) {
        if self.peer.as_ref().is_some_and(|peer| peer.due().is_some_and(|due| due <= now)) {
            self.peer.take_if(|peer| {
                peer.expire(&self.connection);
                true
            });
        } else {
            self.lose_client();
        }
    }
}
