//! Everything that a guardian or manager waits for, in one poll: no threads, no periodic work.

use super::{
    log::{Level, Log},
    pidfd::Pidfd,
    protocol::{link_from_stdin, Message},
    Role,
};
use crate::settings::ServerKind;
use burrow_daemon::packet::Link;
use nix::{
    errno::Errno,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long an end may take when nobody says so: the master is gone, or a signal came.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub enum Event {
    /// A configuration has come; its log is in use already.
    Configure(OwnedFd),
    Stop {
        reason: String,
        timeout: Duration,
    },
    /// Of the descriptors that were watched this one has something.
    Ready(usize),
    /// The log is another file now.
    LogMoved,
    /// The time that was given has come.
    Due,
}

impl Event {
    fn stop(reason: &str) -> Event {
        Event::Stop { reason: reason.to_owned(), timeout: STOP_TIMEOUT }
    }
}

/// What can have something for us, in the order in which it is looked at.
#[derive(Clone, Copy)]
enum Source {
    Link,
    Signals,
    Master,
    Log,
    Watched(usize),
}

/// The link to the process above, with what else makes a process like ours act.
pub struct Inbox {
    link: Link,
    /// Says that the process above has ended also when others hold its end of the link: children
    /// that another module of the server forked without an exec.
    master: Option<Pidfd>,
    signals: SignalFd,
    pub log: Log,
    /// Of what is watched, whose turn it is: nobody keeps the others waiting.
    turn: usize,
}

impl Inbox {
    pub fn open(role: Role, server: ServerKind) -> io::Result<Inbox> {
        Ok(Inbox {
            link: link_from_stdin()?,
            master: None,
            signals: blocked(&[Signal::SIGTERM, Signal::SIGINT])?,
            log: Log::new(server, role.name()),
            turn: 0,
        })
    }

    /// Waits for something to do: until `due`, and also for the descriptors in `watched`.
    pub fn next(&mut self, watched: &[BorrowedFd<'_>], due: Option<Instant>) -> io::Result<Event> {
        loop {
            if let Some(event) = self.read_messages()? {
                return Ok(event);
            }
            let timeout = match due.map(|due| due.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Ok(Event::Due),
                // Rounded up, so as not to wake too early.
                Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            match self.poll(watched, timeout)? {
                Some(Source::Signals) => return Ok(Event::stop("a signal")),
                Some(Source::Master) => return Ok(Event::stop("the server is gone")),
                Some(Source::Watched(index)) => {
                    self.turn = index + 1;
                    return Ok(Event::Ready(index));
                }
                Some(Source::Log) if self.log.reopen() => return Ok(Event::LogMoved),
                Some(Source::Log) => {}
                Some(Source::Link) | None => {}
            }
        }
    }

    /// The first source that has something for us; None when the time is over.
    fn poll(&self, watched: &[BorrowedFd<'_>], timeout: PollTimeout) -> io::Result<Option<Source>> {
        let sources = [
            (Source::Link, Some(self.link.as_fd())),
            (Source::Signals, Some(self.signals.as_fd())),
            (Source::Master, self.master.as_ref().map(AsFd::as_fd)),
            (Source::Log, self.log.changes()),
        ];
        let watched = watched.iter().enumerate().map(|(index, fd)| (Source::Watched(index), Some(*fd)));
        let present = sources.into_iter().chain(watched).filter_map(|(source, fd)| Some((source, fd?)));
        let (sources, mut polled): (Vec<_>, Vec<_>) =
            present.map(|(source, fd)| (source, PollFd::new(fd, PollFlags::POLLIN))).unzip();
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => {
                let ready = polled.iter().zip(sources).filter(|(fd, _)| fd.any() == Some(true));
                let later = |source: &Source| matches!(source, Source::Watched(index) if *index < self.turn);
                Ok(ready.map(|(_, source)| source).min_by_key(later))
            }
        }
    }

    /// Does what the messages that have come say, up to the first that is an event for the caller.
    fn read_messages(&mut self) -> io::Result<Option<Event>> {
        loop {
            let (message, descriptors) = match self.link.receive() {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(Some(Event::stop("the server is gone"))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.raw_os_error().is_some() => return Err(error),
                Err(error) => {
                    self.log.write(Level::Error, &format!("ignored a message: {error}"));
                    continue;
                }
            };
            match message {
                Message::Configure { master } => {
                    if master.is_some_and(|pid| !self.watch(pid)) {
                        return Ok(Some(Event::stop("the server is gone")));
                    }
                    match <[OwnedFd; 2]>::try_from(descriptors) {
                        Ok([configuration, log]) => {
                            self.log.replace(log)?;
                            return Ok(Some(Event::Configure(configuration)));
                        }
                        Err(_) => self.log.write(Level::Error, "ignored a configuration without its files"),
                    }
                }
                Message::Master { pid } => {
                    if !self.watch(pid) {
                        return Ok(Some(Event::stop("the server is gone")));
                    }
                }
                Message::Stop { reason, timeout_ms } => {
                    let timeout = Duration::from_millis(timeout_ms);
                    return Ok(Some(Event::Stop { reason, timeout }));
                }
            }
        }
    }

    /// Watches this process as the master; false when there is no such process any more.
    fn watch(&mut self, pid: i32) -> bool {
        let opened = Pidfd::open(Pid::from_raw(pid));
        let gone = matches!(opened, Err(Errno::ESRCH));
        // Where the kernel has no pidfd or forbids it, the end of the link has to do.
        self.master = opened.ok();
        !gone
    }
}

/// Blocks these signals and has them come by a descriptor instead.
pub fn blocked(signals: &[Signal]) -> nix::Result<SignalFd> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
}
