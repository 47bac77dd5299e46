//! The thread that keeps the worker in order: what the manager says, and how the process ends.
//!
//! It never waits for Python, which an application can keep busy for as long as it likes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::c_int;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::*};
use std::sync::Mutex;
use std::thread::{self, Builder};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use burrow_daemon::config::App;
use burrow_daemon::control::{FromWorker, Hello, ToWorker};
use burrow_daemon::packet::Link;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::unistd::{dup2_stderr, dup2_stdout};

use super::{exit, fail, log, signals, worker};

/// How often a manager is looked for where the last one has died.
const LOOK: Duration = Duration::from_millis(50);
/// After this time there will be none: the server has gone as well.
const ORPHANED: Duration = Duration::from_secs(60);

/// How the process's other threads reach this one.
pub struct Control {
    wake: EventFd,
    outbox: Mutex<VecDeque<FromWorker>>,
    /// The connection to the manager; -1: there is none.
    link: AtomicI32,
    started: f64,
    /// Applications are imported, and requests taken.
    ready: AtomicBool,
    /// Threads that receive or serve a request.
    active: AtomicU32,
    /// None is to begin with another one.
    closed: AtomicBool,
    /// The process ends as soon as the manager knows why.
    broken: AtomicBool,
}

/// A thread receives or serves a request, until this is dropped.
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
            started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            ready: AtomicBool::new(false),
            active: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// Before a request is received. Does not return where the process is about to end.
    pub fn enter(&self) -> Entry<'_> {
        self.active.fetch_add(1, SeqCst);
        let entry = Entry(self);
        if self.closed.load(SeqCst) {
            drop(entry);
            park();
        }
        entry
    }

    /// Tells the manager, as soon as there is one.
    pub fn tell(&self, message: FromWorker) {
        self.outbox.lock().unwrap().push_back(message);
        self.wake();
    }

    /// Requests are being taken.
    pub fn set_ready(&self) {
        self.ready.store(true, SeqCst);
        self.tell(FromWorker::Ready);
    }

    /// This application does not import: the worker is of no use.
    pub fn give_up(&self, app: App) -> ! {
        self.outbox.lock().unwrap().push_back(FromWorker::Broken { app });
        self.broken.store(true, SeqCst);
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

/// Registers with the manager, over the connection that it has given us, and starts the thread.
pub fn start(link: OwnedFd) -> io::Result<()> {
    let link = Link::from(link);
    link.send(&registration(), &identity())?;
    let keeper = Keeper {
        link: Some(known(link)),
        lost: Instant::now(),
        phase: Phase::Serving,
        reason: String::new(),
        limit: None,
        end: None,
    };
    Builder::new().name("burrow:control".into()).spawn(|| {
        let Err(error) = keeper.keep();
        fail(&error)
    })?;
    Ok(())
}

/// Who we are; goes with [`identity`].
fn registration() -> FromWorker {
    let worker = worker();
    FromWorker::Register {
        pid: std::process::id() as i32,
        group: worker.config.group.clone(),
        settings: worker.config.settings.clone(),
        started: worker.control.started,
        ready: worker.control.ready.load(SeqCst),
        draining: worker.page.summary().is_draining(),
        apps: worker.applications.imported(),
    }
}

fn identity() -> [BorrowedFd<'static>; 2] {
    [worker().connections.listener(), worker().page.descriptors()[0]]
}

/// A child has to know it.
fn known(link: Link) -> Link {
    worker().control.link.store(link.as_fd().as_raw_fd(), SeqCst);
    link
}

fn find_manager(path: &str) -> io::Result<Link> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let link = Link::from(socket);
    link.send(&Hello::Worker(registration()), &identity())?;
    Ok(known(link))
}

enum Phase {
    Serving,
    /// Servers close their connections.
    Draining,
    /// Requests in progress may still end, connections are left as they are.
    Closing,
    /// The exit functions run.
    Ending,
}

/// What the thread knows.
struct Keeper {
    link: Option<Link>,
    /// When the last manager died, where there is none.
    lost: Instant,
    phase: Phase,
    /// Why the process ends.
    reason: String,
    /// When the phase ends at the latest.
    limit: Option<Instant>,
    /// When the process ends at the latest.
    end: Option<Instant>,
}

impl Keeper {
    fn keep(mut self) -> io::Result<Infallible> {
        loop {
            self.advance()?;
            self.send();
            self.wait()?;
            if self.link.is_none() {
                self.look_for_manager()?;
            }
            self.receive()?;
            signals::take().try_for_each(|signal| self.heed(signal))?;
        }
    }

    /// Waits until something has happened or is due.
    fn wait(&self) -> io::Result<()> {
        let control = &worker().control;
        let mut fds = vec![PollFd::new(control.wake.as_fd(), PollFlags::POLLIN)];
        let mut due = [self.limit, self.end].into_iter().flatten().min();
        match &self.link {
            Some(link) => {
                let unsent = !control.outbox.lock().unwrap().is_empty();
                let output = if unsent { PollFlags::POLLOUT } else { PollFlags::empty() };
                fds.push(PollFd::new(link.as_fd(), PollFlags::POLLIN | output));
            }
            None => due = due.into_iter().chain([Instant::now() + LOOK]).min(),
        }
        match poll(&mut fds, due.map_or(PollTimeout::NONE, until)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match control.wake.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        while let Some(link) = &self.link {
            match link.receive() {
                Ok(Some((message, descriptors))) => self.obey(message, descriptors)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => self.lose(),
            }
        }
        Ok(())
    }

    fn obey(&mut self, message: ToWorker, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match message {
            ToWorker::Drain { reason, timeout } => self.drain(reason, timeout),
            ToWorker::Stop { reason } => self.close(reason),
            ToWorker::Log => descriptors.iter().try_for_each(|log| {
                dup2_stdout(log)?;
                dup2_stderr(log)?;
                Ok(())
            }),
            ToWorker::Stacks => Ok(()),
        }
    }

    fn heed(&mut self, signal: c_int) -> io::Result<()> {
        match signal {
            libc::SIGUSR1 => self.retire("eviction_signal"),
            libc::SIGXCPU => self.retire("cpu_time_limit"),
            libc::SIGHUP | libc::SIGUSR2 => worker().main_thread.publish(signal),
            _ => self.close("shutdown_signal".into())?,
        }
        Ok(())
    }

    /// Asks the manager for a replacement, which then has this worker drain.
    fn retire(&mut self, reason: &str) {
        if matches!(self.phase, Phase::Serving) {
            worker().control.tell(FromWorker::Retire { reason: reason.into() });
        }
    }

    /// Has the servers close their connections; the process ends when they have.
    fn drain(&mut self, reason: String, timeout: f64) -> io::Result<()> {
        if !matches!(self.phase, Phase::Serving) {
            return Ok(());
        }
        self.leave_group()?;
        worker().connections.dismiss_all()?;
        self.phase = Phase::Draining;
        self.reason = reason;
        self.limit = after(timeout);
        Ok(())
    }

    /// No other request is begun, and the process ends within shutdown-timeout.
    fn close(&mut self, reason: String) -> io::Result<()> {
        if !matches!(self.phase, Phase::Serving | Phase::Draining) {
            return Ok(());
        }
        self.leave_group()?;
        worker().control.closed.store(true, SeqCst);
        let timeout = worker().config.shutdown_timeout;
        self.phase = Phase::Closing;
        self.reason = reason;
        // The other half is for the exit functions.
        self.limit = after(timeout / 2.0);
        self.end = after(timeout);
        Ok(())
    }

    fn leave_group(&self) -> io::Result<()> {
        worker().page.drain();
        worker().connections.listen(false)
    }

    /// Goes on to the next phase when its time has come.
    fn advance(&mut self) -> io::Result<()> {
        let passed = |limit: Option<Instant>| limit.is_some_and(|limit| limit <= Instant::now());
        if passed(self.end) {
            log::warn(
                "this process ends without waiting any longer for the exit functions (threading, atexit)",
            );
            exit(0);
        }
        let requests = worker().control.active.load(SeqCst);
        if matches!(self.phase, Phase::Draining) && (passed(self.limit) || worker().connections.count() == 0)
        {
            let reason = std::mem::take(&mut self.reason);
            self.close(reason)?;
        }
        if matches!(self.phase, Phase::Closing) && (passed(self.limit) || requests == 0) {
            if requests > 0 {
                log::warn(&format!("this process ends without waiting any longer for {requests} requests"));
            }
            self.phase = Phase::Ending;
            self.limit = None;
            worker().main_thread.end(std::mem::take(&mut self.reason));
        }
        Ok(())
    }

    /// Sends what there is to tell, as far as the manager reads.
    fn send(&mut self) {
        let Some(link) = &self.link else { return };
        let mut outbox = worker().control.outbox.lock().unwrap();
        while let Some(message) = outbox.front() {
            match link.send(message, &[]) {
                Ok(()) => drop(outbox.pop_front()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    drop(outbox);
                    return self.lose();
                }
            }
        }
        if worker().control.broken.load(SeqCst) {
            exit(1);
        }
    }

    /// The manager has died.
    fn lose(&mut self) {
        worker().control.link.store(-1, SeqCst);
        self.link = None;
        self.lost = Instant::now();
    }

    fn look_for_manager(&mut self) -> io::Result<()> {
        self.link = find_manager(&worker().config.control).ok();
        if self.link.is_none() && self.lost.elapsed() > ORPHANED && matches!(self.phase, Phase::Serving) {
            log::warn("there has been no manager for a minute: this process ends");
            self.drain("shutdown_signal".into(), worker().config.graceful_timeout)?;
        }
        Ok(())
    }
}

/// In so many seconds; never where it is 0.
fn after(seconds: f64) -> Option<Instant> {
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
    duration.and_then(|duration| Instant::now().checked_add(duration))
}

/// Rounded up, so that what is due then has come.
fn until(due: Instant) -> PollTimeout {
    let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    left.try_into().unwrap_or(PollTimeout::MAX)
}
