//! Processes by descriptor: a pid may by now be somebody else's, a pidfd never is.

use nix::{errno::Errno, sys::signal::Signal, unistd::Pid};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Becomes readable when the process ends.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    pub fn open(pid: Pid) -> nix::Result<Pidfd> {
        // SAFETY: a system call on numbers; a descriptor that it returns belongs to nobody else.
        unsafe {
            let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
            Ok(Pidfd(OwnedFd::from_raw_fd(fd as i32)))
        }
    }

    /// None: fails where there is no such process any more.
    pub fn kill(&self, signal: impl Into<Option<Signal>>) -> nix::Result<()> {
        let signal = signal.into().map_or(0, |signal| signal as i32);
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a system call on numbers; NULL stands for what kill(2) would say.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_info, 0) };
        Errno::result(sent).map(drop)
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
