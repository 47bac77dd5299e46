//! How the process's threads reach the one that keeps it in order, [`super::keeper`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::*};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread;

use burrow_daemon::control::FromWorker;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What the manager is to be told, some with a descriptor.
pub type Outbox = VecDeque<(FromWorker, Option<OwnedFd>)>;

pub struct Control {
    wake: EventFd,
    outbox: Mutex<Outbox>,
    /// The connection to the manager; -1: there is none.
    link: AtomicI32,
    /// Applications are imported.
    ready: AtomicBool,
    /// Requests that are received or served.
    active: AtomicU32,
    /// The thread looks often enough at what they do.
    awake: AtomicBool,
    /// None is to begin with another one.
    closed: AtomicBool,
    /// With which exit status the process ends, as soon as the manager knows all; -1: not yet.
    status: AtomicI32,
    /// Why the worker is to be replaced, in the eyes of a thread that takes requests.
    retirement: OnceLock<&'static str>,
}

/// A thread receives a request, or it is being served, until this is dropped.
pub struct Entry<'a>(&'a Control);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, SeqCst);
        if self.0.closed.load(SeqCst) {
            self.0.wake();
        }
    }
}

impl Control {
    pub fn new() -> io::Result<Control> {
        Ok(Control {
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            outbox: Mutex::default(),
            link: AtomicI32::new(-1),
            ready: AtomicBool::new(false),
            active: AtomicU32::new(0),
            awake: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            status: AtomicI32::new(-1),
            retirement: OnceLock::new(),
        })
    }

    /// Before a request is received. None where the process is about to end.
    pub fn try_enter(&self) -> Option<Entry<'_>> {
        self.active.fetch_add(1, SeqCst);
        let entry = Entry(self);
        if self.closed.load(SeqCst) {
            return None;
        }
        if !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst) {
            self.wake();
        }
        Some(entry)
    }

    /// The next request is to wake the thread. False where there is one already.
    pub fn doze(&self) -> bool {
        self.awake.store(false, SeqCst);
        // Who enters from here on sees that.
        self.active() == 0 || self.awake.swap(true, SeqCst)
    }

    /// Why the worker is to be replaced, where a thread has asked for that.
    pub fn retirement(&self) -> Option<&'static str> {
        self.retirement.get().copied()
    }

    /// Whether requests can be taken.
    pub fn is_ready(&self) -> bool {
        self.ready.load(SeqCst)
    }

    /// Requests that are received or served.
    pub fn active(&self) -> u32 {
        self.active.load(SeqCst)
    }

    /// No thread begins with another request.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// With which exit status the process ends as soon as the manager knows all.
    pub fn status(&self) -> Option<i32> {
        Some(self.status.load(SeqCst)).filter(|status| *status >= 0)
    }

    pub fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap()
    }

    /// The connection to the manager, which children have to know; None: there is none.
    pub fn set_link(&self, link: Option<BorrowedFd<'_>>) {
        self.link.store(link.map_or(-1, |link| link.as_raw_fd()), SeqCst);
    }

    /// What the thread waits for.
    pub fn woken(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// From here on it can be woken again.
    pub fn rest(&self) -> io::Result<()> {
        match self.wake.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the manager, as soon as there is one.
    pub fn tell(&self, message: FromWorker) {
        self.send(message, None);
    }

    /// The same, with a descriptor.
    pub fn send(&self, message: FromWorker, descriptor: Option<OwnedFd>) {
        self.outbox().push_back((message, descriptor));
        self.wake();
    }

    /// The worker is to be replaced. The first reason counts.
    pub fn retire(&self, reason: &'static str) {
        if self.retirement.set(reason).is_ok() {
            self.wake();
        }
    }

    /// Requests can be taken.
    pub fn set_ready(&self) {
        self.ready.store(true, SeqCst);
        self.tell(FromWorker::Ready);
    }

    /// Ends the process, once the manager was told what there is to tell.
    pub fn end(&self, status: i32) -> ! {
        self.status.store(status, SeqCst);
        self.wake();
        park()
    }

    /// Has the thread look at how things are.
    pub fn wake(&self) {
        // It fails only where the application has closed every descriptor, and the process ends.
        let _ = self.wake.write(1);
    }

    /// In a child that the application forked. Does what a signal handler may.
    pub fn abandon(&self) {
        for fd in [self.wake.as_fd().as_raw_fd(), self.link.load(SeqCst)] {
            // SAFETY: the child's own copies, which nothing there uses.
            unsafe { libc::close(fd) };
        }
    }
}

/// Until the process ends.
fn park() -> ! {
    loop {
        thread::park();
    }
}
