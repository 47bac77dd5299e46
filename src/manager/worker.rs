//! A process of a group, as the manager sees it.

use super::{pidfd::Pidfd, priority};
use burrow_daemon::{
    config::App,
    control::{FromWorker, ToWorker},
    packet::Link,
    page::{self, Reader},
};
use nix::{
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        signal::{killpg, Signal},
        wait::{waitid, Id, WaitPidFlag, WaitStatus},
    },
    unistd::{getpgid, Pid},
};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Longer than a process takes that ends itself in time.
const GRACE: Duration = Duration::from_secs(1);

/// How often it is looked at whether an import that gives way gets on: with less than a quarter of a processor it does
/// not.
const LOOK: Duration = Duration::from_secs(1);

/// What a process is doing, and until when it may.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Imports what it is to serve.
    Starting(Option<Instant>),
    Ready,
    /// Has imported, and the others are forked from it.
    Template,
    /// Serves what it has got.
    Draining(Instant),
    Stopping(Instant),
    /// By SIGKILL: it ends as soon as the kernel lets it.
    Killed,
}

pub struct Worker {
    pub pid: Pid,
    pidfd: Pidfd,
    /// None once it has broken.
    link: Option<Link>,
    page: Option<Reader>,
    /// This manager started it, and so learns how it ends.
    is_child: bool,
    /// What it was started with, see [`super::group`].
    pub settings: String,
    pub started: SystemTime,
    pub state: State,
    /// It has asked to be replaced, for this reason.
    pub retiring: Option<String>,
    /// Has been ready at some time.
    pub was_ready: bool,
    /// It takes no requests: the others are forked from it.
    pub is_template: bool,
    /// Our ends of the links of processes that it is to fork, and has not yet.
    pub orders: VecDeque<Link>,
    /// The kernel's count of processes that it killed for want of memory, when this one was started.
    pub memory_kills: u64,
    /// It leaves processors to others: when it is looked at again, and how long it had had them at the last look.
    gives_way: Option<(Instant, Duration)>,
}

impl Worker {
    /// One that has just been started, with the other end of `link`.
    pub fn started(pid: Pid, link: Link, settings: String, startup_timeout: Duration) -> io::Result<Worker> {
        let mut worker = Worker {
            pid,
            pidfd: Pidfd::open(pid)?,
            link: Some(link),
            page: None,
            is_child: true,
            settings,
            started: SystemTime::now(),
            state: State::Starting(None),
            retiring: None,
            was_ready: false,
            is_template: false,
            orders: VecDeque::new(),
            memory_kills: memory_kills(),
            gives_way: None,
        };
        worker.expect_ready(startup_timeout);
        Ok(worker)
    }

    /// It has so long to become ready; zero: no limit.
    pub fn expect_ready(&mut self, timeout: Duration) {
        self.state = State::Starting((!timeout.is_zero()).then(|| Instant::now() + timeout));
    }

    /// One that a manager before this one started, so it says; its words may be a tenant's.
    pub fn adopted(pid: Pid, link: Link, settings: String, started: f64, ready: bool) -> io::Result<Worker> {
        let started = Duration::try_from_secs_f64(started).unwrap_or_default();
        let started = UNIX_EPOCH.checked_add(started).unwrap_or(UNIX_EPOCH);
        let state = if ready { State::Ready } else { State::Starting(None) };
        let settings_and_link = Worker::started(pid, link, settings, Duration::ZERO)?;
        Ok(Worker { is_child: false, started, state, was_ready: ready, ..settings_and_link })
    }

    pub fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// Becomes readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// It has found the manager again.
    pub fn relink(&mut self, link: Link) {
        self.link = Some(link);
    }

    /// Its next message; None when there is none.
    pub fn receive(&mut self) -> Option<(FromWorker, Vec<OwnedFd>)> {
        match self.link.as_ref()?.receive() {
            Ok(Some(message)) => Some(message),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // The link is gone, or it says what nobody understands.
            Ok(None) | Err(_) => {
                self.link = None;
                None
            }
        }
    }

    pub fn show_page(&mut self, page: BorrowedFd<'_>) {
        self.page = Reader::new(page).ok();
    }

    pub fn page(&self) -> Option<&Reader> {
        self.page.as_ref()
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::Ready)
    }

    /// It was told to end, or does so by itself.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, State::Draining(_) | State::Stopping(_) | State::Killed)
    }

    pub fn ready(&mut self) {
        if matches!(self.state, State::Starting(_)) {
            self.state = State::Ready;
            self.was_ready = true;
            self.stop_giving_way();
        }
    }

    /// While it imports, or did when a manager before this one started it.
    pub fn give_way(&mut self) {
        self.gives_way = Some((Instant::now() + LOOK, Duration::ZERO));
    }

    /// From here on it has processors like everybody else.
    pub fn stop_giving_way(&mut self) {
        if self.gives_way.take().is_some() {
            priority::restore(self.pid);
        }
    }

    /// When to see whether its import gets on.
    pub fn look_due(&self) -> Option<Instant> {
        self.gives_way.map(|(due, _)| due)
    }

    /// An import to which others leave too little gives way no more.
    pub fn look_at_import(&mut self, now: Instant) {
        let Some((_, before)) = self.gives_way.filter(|(due, _)| *due <= now) else { return };
        let had = priority::processor_time(self.pid);
        if had.saturating_sub(before) < LOOK / 4 {
            self.stop_giving_way();
        } else {
            self.gives_way = Some((now + LOOK, had));
        }
    }

    pub fn drain(&mut self, reason: &str, timeout: Duration, shutdown: Duration) {
        let message = ToWorker::Drain { reason: reason.into(), timeout: timeout.as_secs_f64() };
        if self.send(&message, &[]) {
            self.state = State::Draining(Instant::now() + timeout + shutdown + GRACE);
        } else {
            self.stop(reason, shutdown);
        }
    }

    pub fn stop(&mut self, reason: &str, timeout: Duration) {
        // A template that imports listens to nothing else.
        if !self.send(&ToWorker::Stop { reason: reason.into() }, &[]) || self.is_template {
            self.kill(Signal::SIGTERM);
        }
        self.state = State::Stopping(Instant::now() + timeout + GRACE);
    }

    /// Whether the time is over that its state may last.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Starting(until) => until,
            State::Draining(until) | State::Stopping(until) => Some(until),
            State::Ready | State::Template | State::Killed => None,
        }
    }

    pub fn destroy(&mut self) {
        self.kill(Signal::SIGKILL);
        self.state = State::Killed;
    }

    /// Whether it was sent: the process is there, and not so far behind that it never will be read.
    pub fn send(&self, message: &ToWorker, files: &[BorrowedFd<'_>]) -> bool {
        self.link.as_ref().is_some_and(|link| link.send(message, files).is_ok())
    }

    fn kill(&self, signal: Signal) {
        // A failure means that it is gone.
        let _ = self.pidfd.kill(signal);
    }

    /// What it was serving: "GET /cart for 1.2 s, …"; empty where nothing was.
    pub fn serving(&self) -> String {
        let now = page::now();
        let requests = self.page.as_ref().map(Reader::serving).unwrap_or_default();
        let text = requests.iter().map(|request| {
            let seconds = now.saturating_sub(request.since) as f64 / 1e6;
            format!("{} for {seconds:.1} s", request.what)
        });
        text.collect::<Vec<_>>().join(", ")
    }

    /// After its end: how it was, as far as that can be known, and leaves no zombie.
    pub fn reap(&self) -> String {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match self.is_child.then(|| waitid(Id::PIDFd(self.pidfd.as_fd()), flags)) {
            Some(Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _))) if memory_kills() > self.memory_kills => {
                "was ended by SIGKILL (the kernel has killed for want of memory meanwhile)".into()
            }
            Some(Ok(WaitStatus::Signaled(_, signal, core))) => {
                format!("was ended by {signal}{}", if core { " (core dumped)" } else { "" })
            }
            Some(Ok(WaitStatus::Exited(_, code))) => format!("ended with exit status {code}"),
            _ => "ended".into(),
        }
    }

    /// After its end: sends a signal (None: no signal) to what it has forked, which has its process group. Whether
    /// there is anything.
    pub fn signal_group(&self, signal: Option<Signal>) -> bool {
        // As long as somebody is in the group no other process gets its number.
        let is_its_own = self.pidfd.kill(None).is_ok() || getpgid(Some(self.pid)).is_err();
        is_its_own && killpg(self.pid, signal).is_ok()
    }
}

/// Whether this is a child of this process, and runs as this user.
pub fn is_child_of(pid: Pid, uid: u32) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let metadata = fs::metadata(format!("/proc/{pid}"));
    waitid(Id::Pid(pid), look).is_ok() && metadata.is_ok_and(|metadata| metadata.uid() == uid)
}

/// Takes notice of the end of processes that others have left to this one.
pub fn reap_strangers(is_known: impl Fn(Pid) -> bool) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Some(pid) = waitid(Id::All, look).ok().and_then(|status| status.pid()) {
        if is_known(pid) {
            return; // Its own end is told by its pidfd, and the next one's afterwards.
        }
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED);
    }
}

/// Waits until one of them has ended; None when the time is over.
pub fn first_to_end(workers: &[Worker], due: Instant) -> Option<usize> {
    let mut watched: Vec<_> =
        workers.iter().map(|worker| PollFd::new(worker.pidfd(), PollFlags::POLLIN)).collect();
    let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
    // Whether time or a signal has ended it, the next turn shows.
    let _ = poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    watched.iter().position(|fd| fd.any() == Some(true))
}

/// How many processes the kernel has killed for want of memory.
fn memory_kills() -> u64 {
    let counts = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}

/// What it has in memory.
pub fn resident_bytes(pid: Pid) -> u64 {
    let pages = fs::read_to_string(format!("/proc/{pid}/statm"));
    let pages = pages.ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    // SAFETY: asks for a number.
    pages.unwrap_or_default() * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}

/// The file of an application that is one, for a process whose root may be another.
pub fn script(app: &App, root: Option<&Path>) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(&app.target)).strip_prefix("/").ok()?;
    Some(root.unwrap_or(Path::new("/")).join(path))
}
