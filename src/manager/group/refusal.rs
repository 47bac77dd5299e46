//! Requests of a group that has no process and cannot start one: nobody else would take them from its queue.

use super::{Group, State};
use burrow_abi::BURROW_UNAVAILABLE;
use burrow_daemon::frame::{Header, Kind};
use nix::{
    fcntl::{fcntl, FcntlArg, OFlag},
    sys::{
        signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal},
        socket::{accept4, send, MsgFlags, SockFlag},
    },
    unistd::alarm,
};
use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// How many are answered before something else is looked at.
const AT_ONCE: usize = 64;
/// How many stay open: a server that is still sending is not to find its connection closed before the answer.
const KEPT: usize = 16;

/// Connections that have got their answer.
pub type Refused = VecDeque<OwnedFd>;

impl Group {
    /// The queue, where what is in it would wait in vain.
    pub fn forsaken(&self) -> Option<BorrowedFd<'_>> {
        let is_served = || self.workers.iter().any(|worker| worker.state == State::Ready);
        self.listener.as_ref().filter(|_| self.backoff.is_hopeless() && !is_served()).map(AsFd::as_fd)
    }

    /// Answers what is in the queue: 503.
    pub fn refuse(&mut self) {
        let Some(queue) = &self.listener else { return };
        let header = Header { kind: Kind::Abort, flags: 0, length: 1 }.bytes();
        let answer = [&header[..], &[BURROW_UNAVAILABLE as u8]].concat();
        let _interruption = interrupt_soon();
        for _ in 0..AT_ONCE {
            let Ok(connection) = accept(queue.as_fd()) else { break };
            // A server that has gone needs none.
            let _ = send(connection.as_raw_fd(), &answer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            self.refused.push_back(connection);
        }
        self.refused.drain(..self.refused.len().saturating_sub(KEPT));
    }
}

/// The next in the queue. O_NONBLOCK is common to all who have the queue, and the group's processes are among them.
fn accept(queue: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    fcntl(queue, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let socket = accept4(queue.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: it has just been made, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Until the result is dropped, a call that waits ends after a second: one of the group's processes could be quicker
/// than `accept`, and keep the manager from all others.
fn interrupt_soon() -> impl Drop {
    struct Interruption;
    impl Drop for Interruption {
        fn drop(&mut self) {
            alarm::cancel();
        }
    }
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing; the call that it interrupts says EINTR.
    let _ = unsafe { sigaction(Signal::SIGALRM, &action) };
    alarm::set(1);
    Interruption
}
