//! The thread that keeps the worker in order: what the manager says, signals, time limits, and the end.
//!
//! It never waits for Python, which an application can keep busy for as long as it likes.

use std::convert::Infallible;
use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::thread::Builder;
use std::time::{Duration, Instant};

use burrow_daemon::control::{FromWorker, ToWorker};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::unistd::{dup2_stderr, dup2_stdout, getpgrp, getpid};

use super::limits::{self, Limits, Verdict};
use super::manager::Manager;
use super::stacks::{self, Reader, Wanted};
use super::threads::Desk;
use super::{exit, fail, log, signals, worker};
use crate::asgi;

/// How often a manager is looked for where the last one has died.
const LOOK: Duration = Duration::from_millis(50);
/// For a manager that does not read to be told something before the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Of priorities.
const LOWEST: c_int = 19;

/// Registers with the manager, over the connection that it has given us, and starts the thread.
pub fn start(link: OwnedFd) -> io::Result<()> {
    let keeper = Keeper {
        manager: Manager::new(link),
        phase: Phase::Serving,
        reason: String::new(),
        limit: None,
        end: None,
        limits: Limits::new(),
        retired: None,
        stacks: Wanted::default(),
    };
    Builder::new().name("burrow:keeper".into()).spawn(|| {
        let Err(error) = keeper.keep();
        fail(&error)
    })?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Serving,
    /// Servers close their connections.
    Draining,
    /// Requests in progress may still end, connections are left as they are.
    Closing,
    /// The exit functions run.
    Ending,
}

struct Keeper {
    manager: Manager,
    phase: Phase,
    /// Why the process ends.
    reason: String,
    /// When the phase ends at the latest.
    limit: Option<Instant>,
    /// When the process ends at the latest.
    end: Option<Instant>,
    limits: Limits,
    /// Why a replacement was asked for.
    retired: Option<String>,
    stacks: Wanted,
}

impl Keeper {
    fn keep(mut self) -> io::Result<Infallible> {
        loop {
            if self.serves() {
                self.look();
            }
            self.stacks.look();
            self.advance()?;
            self.manager.send();
            self.end();
            self.wait()?;
            if self.manager.link().is_none() {
                self.look_for_manager()?;
            }
            while let Some((message, descriptors)) = self.manager.receive() {
                self.obey(message, descriptors)?;
            }
            signals::take().try_for_each(|signal| self.heed(signal))?;
        }
    }

    /// Requests are begun.
    fn serves(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Draining)
    }

    /// Waits until something has happened or is due.
    fn wait(&self) -> io::Result<()> {
        let control = &worker().control;
        let mut fds = vec![PollFd::new(control.woken(), PollFlags::POLLIN)];
        let limits = if self.serves() { self.limits.due() } else { None };
        let mut due = vec![self.limit, self.end, limits, self.stacks.due()];
        match self.manager.link() {
            Some(link) if control.outbox().is_empty() => fds.push(PollFd::new(link, PollFlags::POLLIN)),
            Some(link) => fds.push(PollFd::new(link, PollFlags::POLLIN | PollFlags::POLLOUT)),
            None => due.push(Some(Instant::now() + LOOK)),
        }
        let due = due.into_iter().flatten().min();
        match poll(&mut fds, due.map_or(PollTimeout::NONE, until)) {
            Ok(_) | Err(Errno::EINTR) => control.rest(),
            Err(error) => Err(error.into()),
        }
    }

    fn look_for_manager(&mut self) -> io::Result<()> {
        if self.manager.look() {
            // It knows nothing of what the last one was told.
            worker().applications.announce_again();
            if let Some(reason) = self.retired.clone() {
                worker().control.tell(FromWorker::Retire { reason });
            }
        } else if self.manager.is_gone() && self.phase == Phase::Serving {
            log::warn("the server has gone, as it seems: this process ends");
            self.drain("shutdown_signal".into(), worker().config.graceful_timeout)?;
        }
        Ok(())
    }

    fn obey(&mut self, message: ToWorker, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match message {
            ToWorker::Serve if self.phase == Phase::Serving && self.retired.is_none() => {
                worker().connections.listen(true)?;
            }
            ToWorker::Drain { reason, timeout } => self.drain(reason, timeout)?,
            ToWorker::Stop { reason } => self.close(reason)?,
            ToWorker::Import { app } if self.phase == Phase::Serving => worker().main_thread.import(app),
            ToWorker::Log => {
                for log in descriptors {
                    dup2_stdout(&log)?;
                    dup2_stderr(&log)?;
                }
            }
            ToWorker::Stacks => self.stacks.add(Reader::Manager),
            // For those that serve, and for templates.
            ToWorker::Serve | ToWorker::Import { .. } | ToWorker::Fork => {}
        }
        Ok(())
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
        if self.phase == Phase::Serving && self.retired.is_none() {
            self.retired = Some(reason.into());
            worker().control.tell(FromWorker::Retire { reason: reason.into() });
        }
    }

    /// Looks whether something takes too long or was enough.
    fn look(&mut self) {
        if let Some(reason) = worker().control.retirement() {
            self.retire(reason);
        }
        match self.limits.look() {
            None => {}
            Some(Verdict::Replace(reason)) => {
                if matches!(reason, "request_timeout" | "startup_timeout") {
                    self.stacks.add(Reader::Log);
                }
                self.retire(reason);
            }
            Some(Verdict::Deadlock) => self.die("deadlock_timeout"),
        }
    }

    /// Ends the process, in which nothing goes on.
    fn die(&mut self, reason: &str) -> ! {
        log::error("nobody can enter Python any more (deadlock-timeout): this process ends");
        worker().requests.in_progress().for_each(|(slot, since)| limits::give_up_request(slot, since));
        stacks::to_log(&stacks::frozen());
        self.retire(reason);
        self.manager.send();
        exit(1)
    }

    /// Has the servers close their connections; the process ends when they have.
    fn drain(&mut self, reason: String, timeout: f64) -> io::Result<()> {
        if self.phase == Phase::Serving {
            self.leave_group()?;
            worker().connections.dismiss_all()?;
            retire(if timeout > 0.0 { timeout } else { f64::INFINITY });
            self.phase = Phase::Draining;
            self.reason = reason;
            self.limit = after(timeout);
        }
        Ok(())
    }

    /// No other request is begun, and the process ends within shutdown-timeout.
    fn close(&mut self, reason: String) -> io::Result<()> {
        if self.serves() {
            self.leave_group()?;
            worker().control.close();
            let timeout = worker().config.shutdown_timeout;
            retire(0.0);
            self.phase = Phase::Closing;
            self.reason = reason;
            // The other half is for the exit functions.
            self.limit = after(timeout / 2.0);
            self.end = after(timeout);
        }
        Ok(())
    }

    fn leave_group(&self) -> io::Result<()> {
        if self.phase != Phase::Serving {
            return Ok(());
        }
        worker().page.drain();
        worker().connections.listen(false)?;
        // A thread that was woken for a connection finds nothing to accept any more, and no other process was
        // woken for it.
        Box::<Desk>::default().accept_all()
    }

    /// Goes on to the next phase when its time has come.
    fn advance(&mut self) -> io::Result<()> {
        let passed = |limit: Option<Instant>| limit.is_some_and(|limit| limit <= Instant::now());
        if self.phase == Phase::Draining && (passed(self.limit) || worker().connections.count() == 0) {
            let reason = std::mem::take(&mut self.reason);
            self.close(reason)?;
        }
        let requests = worker().control.active();
        if self.phase == Phase::Closing && (passed(self.limit) || requests == 0) {
            if requests > 0 {
                log::warn(&format!("this process ends without waiting any longer for {requests} requests"));
            }
            self.phase = Phase::Ending;
            self.limit = None;
            worker().main_thread.end(std::mem::take(&mut self.reason));
        }
        Ok(())
    }

    /// Ends the process, if nothing is left but to tell the manager, and that was done or nobody listens; or
    /// at the latest moment.
    fn end(&mut self) {
        let status = worker().control.status();
        if let Some(status) = status {
            if self.manager.link().is_none() || worker().control.outbox().is_empty() {
                leave_processors_to_others();
                exit(status);
            }
            self.end.get_or_insert(Instant::now() + LAST_WORDS);
        }
        if self.end.is_some_and(|end| end <= Instant::now()) {
            if status.is_none() {
                log::warn("this process ends without waiting any longer for its exit functions");
            }
            exit(status.unwrap_or(0));
        }
    }
}

/// An end, too, takes a processor for a while: whoever serves has it first. For all that this process has started, which
/// ends with it.
fn leave_processors_to_others() {
    if getpgrp() != getpid() {
        return; // Whoever has started it without a group of its own is no manager.
    }
    // SAFETY: a system call on numbers.
    unsafe { libc::setpriority(libc::PRIO_PGRP, 0, LOWEST) };
    // Where the kernel shares out processors by session first; a failure means that it does not.
    let _ = fs::write("/proc/self/autogroup", LOWEST.to_string());
}

/// Event loops close their WebSockets, and within so many seconds whatever waits for its client.
fn retire(seconds: f64) {
    // SAFETY: no precondition.
    unsafe { asgi::retire((seconds * 1e3) as u32) };
}

/// In so many seconds; never where it is 0.
pub fn after(seconds: f64) -> Option<Instant> {
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
    duration.and_then(|duration| Instant::now().checked_add(duration))
}

/// Rounded up, so that what is due then has come.
fn until(due: Instant) -> PollTimeout {
    let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    left.try_into().unwrap_or(PollTimeout::MAX)
}
