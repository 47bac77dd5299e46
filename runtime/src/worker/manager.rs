//! The connection to the manager. When it ends, the next one is looked for.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use burrow_daemon::control::{FromWorker, Hello, ToWorker};
use burrow_daemon::packet::Link;
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, UnixAddr};

use super::{log, worker};

/// After this time there will be no other: the server has gone as well.
const ORPHANED: Duration = Duration::from_secs(60);

pub struct Manager {
    link: Option<Link>,
    /// When the last one died.
    lost: Instant,
    /// When this process began, in seconds since the epoch.
    started: f64,
}

impl Manager {
    /// Registers over the connection that the manager has given us.
    pub fn new(link: OwnedFd) -> Manager {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut manager = Manager { link: None, lost: Instant::now(), started };
        let link = Link::from(link);
        // It may have died meanwhile: then the next one is looked for.
        if link.send(&manager.registration(), &identity()).is_ok() {
            manager.set(Some(link));
        }
        manager
    }

    /// What to wait for messages on; None where there is no manager.
    pub fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// Whether none has been there for so long that there will be none.
    pub fn is_gone(&self) -> bool {
        let folder = Path::new(&worker().config.control).parent();
        // A server that stops takes the folder away.
        let has_stopped = folder.is_some_and(|folder| !folder.exists());
        self.link.is_none() && (has_stopped || self.lost.elapsed() > ORPHANED)
    }

    /// Looks for the next one. Whether there is one.
    pub fn look(&mut self) -> bool {
        let found = self.find().ok();
        self.set(found);
        self.link.is_some()
    }

    fn find(&self) -> io::Result<Link> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&worker().config.control[..])?)?;
        let link = Link::from(socket);
        link.send(&Hello::Worker(self.registration()), &identity())?;
        Ok(link)
    }

    fn registration(&self) -> FromWorker {
        let worker = worker();
        FromWorker::Register {
            pid: std::process::id() as i32,
            group: worker.config.group.clone(),
            settings: worker.config.settings.clone(),
            started: self.started,
            ready: worker.control.is_ready(),
            draining: worker.page.summary().is_draining(),
        }
    }

    fn set(&mut self, link: Option<Link>) {
        worker().control.set_link(link.as_ref().map(AsFd::as_fd));
        self.link = link;
    }

    fn lose(&mut self) {
        self.set(None);
        self.lost = Instant::now();
    }

    /// The next message, if there is one.
    pub fn receive(&mut self) -> Option<(ToWorker, Vec<OwnedFd>)> {
        loop {
            match self.link.as_ref()?.receive() {
                Ok(Some(message)) => return Some(message),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    log::error(&format!("a message of the manager is not understood: {error}"));
                }
                Ok(None) | Err(_) => self.lose(),
            }
        }
    }

    /// Sends what there is to tell, as far as it is read.
    pub fn send(&mut self) {
        let Some(link) = &self.link else { return };
        let mut outbox = worker().control.outbox();
        while let Some((message, descriptor)) = outbox.front() {
            let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
            match link.send(message, &descriptors) {
                Ok(()) => drop(outbox.pop_front()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    drop(outbox);
                    return self.lose();
                }
            }
        }
    }
}

/// What goes with a registration.
fn identity() -> [BorrowedFd<'static>; 2] {
    [worker().connections.listener(), worker().page.descriptors()[0]]
}
