//! Who connects to the control socket: workers that look for their manager, and commands.

use burrow_daemon::{control::Hello, packet::Link};
use nix::{
    errno::Errno,
    sys::socket::{accept4, getsockopt, sockopt::PeerCredentials, SockFlag},
    unistd::Pid,
};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// So many may be connected without having said who they are; then the first of them has to go.
const MOST: usize = 64;

/// One that has said who it is.
pub struct Visitor {
    pub link: Link,
    pub pid: Pid,
    pub uid: u32,
    pub hello: Hello,
    pub files: Vec<OwnedFd>,
}

/// The door: the listening socket, and those who have not said anything yet.
pub struct Visitors {
    listener: OwnedFd,
    waiting: VecDeque<Link>,
}

impl Visitors {
    pub fn new(listener: OwnedFd) -> Visitors {
        Visitors { listener, waiting: VecDeque::new() }
    }

    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.listener.as_fd()].into_iter().chain(self.waiting.iter().map(AsFd::as_fd))
    }

    /// The descriptor at this place has something. Returns the visitor that it is, once it has said so.
    pub fn ready(&mut self, index: usize) -> Option<Visitor> {
        let Some(index) = index.checked_sub(1) else {
            self.accept();
            return None;
        };
        let link = self.waiting.get(index)?;
        let received = link.receive::<Hello>();
        if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return None;
        }
        let link = self.waiting.remove(index)?;
        let (hello, files) = received.ok()??;
        let peer = getsockopt(&link, PeerCredentials).ok()?;
        Some(Visitor { link, pid: Pid::from_raw(peer.pid()), uid: peer.uid(), hello, files })
    }

    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(self.listener.as_raw_fd(), flags) {
            Ok(socket) => {
                // SAFETY: it has just been made, for nobody else.
                self.waiting.push_back(unsafe { OwnedFd::from_raw_fd(socket) }.into());
                if self.waiting.len() > MOST {
                    self.waiting.pop_front();
                }
            }
            // Those who wait for a descriptor give theirs.
            Err(Errno::EMFILE | Errno::ENFILE) => drop(self.waiting.pop_front()),
            Err(_) => {}
        }
    }
}
