//! A guardian or manager as seen from the process that started it.

use super::{pidfd::Pidfd, protocol::Message, Role};
use crate::settings::ServerKind;
use burrow_daemon::packet::Link;
use nix::{
    errno::Errno,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        prctl::set_pdeathsig,
        signal::Signal,
        wait::{waitid, Id, WaitPidFlag, WaitStatus},
    },
    unistd::{getpid, getppid, setsid, Pid},
};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Unread messages are a reason to worry when they are as old as this.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: Pidfd,
    link: Link,
    last_sent: Option<Instant>,
}

impl Child {
    /// Runs `binary` in a session of its own, with nothing of this process but the log and the link.
    pub fn start(
        binary: &Path,
        role: Role,
        server: ServerKind,
        instance: &str,
        log: BorrowedFd<'_>,
        dies_with_parent: bool,
    ) -> io::Result<Child> {
        // A spawn that fails waits for its process, and panics where the server's own handling of SIGCHLD
        // has taken notice of that end before.
        binary.metadata()?;
        let (link, theirs) = Link::pair()?;
        let parent = getpid();
        let mut command = Command::new(binary);
        command
            .arg0("burrow")
            .args([role.name(), super::name(server), instance])
            .current_dir("/")
            // The listening sockets, during a binary upgrade.
            .env_remove("NGINX")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(log.try_clone_to_owned()?);
        // SAFETY: `isolate` makes system calls only, which is all that is allowed after a fork.
        unsafe { command.pre_exec(move || isolate(dies_with_parent.then_some(parent))) };
        let pid = Pid::from_raw(command.spawn()?.id() as i32);
        let pidfd = Pidfd::open(pid)?;
        Ok(Child { pid, pidfd, link, last_sent: None })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends the configuration and the log. `master` is the pid of this process, once it is final.
    pub fn configure(
        &mut self,
        master: Option<Pid>,
        configuration: BorrowedFd<'_>,
        log: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let stuck_for = self.last_sent.filter(|_| self.link.has_unread()).map(|sent| sent.elapsed());
        self.link.send(&Message::Configure { master: master.map(Pid::as_raw) }, &[configuration, log])?;
        match stuck_for {
            Some(time) if time > PATIENCE => {
                Err(io::Error::other(format!("it has not read its messages for {} s", time.as_secs())))
            }
            Some(_) => Ok(()),
            None => {
                self.last_sent = Some(Instant::now());
                Ok(())
            }
        }
    }

    /// From a worker: names its parent as the master.
    pub fn name_master(&self) {
        // A failure means that there is nobody left to be told.
        let _ = self.link.send(&Message::Master { pid: getppid().as_raw() }, &[]);
    }

    /// Whether it has ended, after waiting at most this long for it.
    pub fn ends_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => continue,
                ready => return ready == Ok(1),
            }
        }
    }

    /// Asks it to end, kills it when it has not done so in time, and leaves no zombie.
    pub fn stop(&self, reason: String, timeout: Duration) {
        // A failure means that it is gone, or so far behind that only the kill helps.
        let _ = self.link.send(&Message::Stop { reason, timeout_ms: timeout.as_millis() as u64 }, &[]);
        if !self.ends_within(timeout) {
            let _ = self.pidfd.kill(Signal::SIGKILL);
            // It ends as soon as the kernel lets it; a second is for one that hangs in a system call.
            self.ends_within(Duration::from_secs(1));
        }
        self.reap();
    }

    /// How it ended; None while it has not, or where somebody else has taken notice of its end (a
    /// server's own handler) or will (init).
    pub fn reap(&self) -> Option<WaitStatus> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        waitid(Id::PIDFd(self.pidfd.as_fd()), flags).ok().filter(|status| *status != WaitStatus::StillAlive)
    }
}

/// In the forked copy, before the exec: a session of its own, default signals, no descriptors but 0 to 2.
fn isolate(dies_with: Option<Pid>) -> io::Result<()> {
    setsid()?;
    reset_signals();
    // At the exec, not now: one of them carries the outcome of the exec to the parent.
    close_at_exec(3)?;
    if let Some(parent) = dies_with {
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
    }
    Ok(())
}

/// Default dispositions and an empty mask, for another program.
pub fn reset_signals() {
    // SAFETY: plain system calls; resetting what cannot be reset (SIGKILL, the C library's own signals)
    // fails and changes nothing.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Keeps the descriptors from this one on from another program.
pub fn close_at_exec(first: RawFd) -> io::Result<()> {
    // SAFETY: a system call on numbers.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(closed).map(drop).map_err(io::Error::from)
}
