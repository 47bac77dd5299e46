//! How long a process that starts has a processor when others want it, too: Linux 6.12 and later let it choose.
//!
//! With long slices it gets no less time, but those who wake up meanwhile, for a request, have the processor at once
//! and need not wait until a slice is over.

use nix::{
    errno::Errno,
    sys::wait::{waitpid, WaitStatus},
    unistd::{fork, ForkResult, Pid},
};
use std::sync::OnceLock;

/// The longest there is, in ns.
const LONGEST: u64 = 100_000_000;
/// As long as the kernel thinks fit.
const DEFAULT: u64 = 0;
/// The thread that asks.
const SELF: Pid = Pid::from_raw(0);

/// Whether the kernel knows slices, and this process may restore those of others. It has one thread.
pub fn are_known() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        // SAFETY: one thread, as the caller vouches.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                lengthen();
                let is_long = attributes(SELF).is_ok_and(|now| now.sched_runtime == LONGEST);
                let is_known = is_long && restore(SELF).is_ok();
                // SAFETY: ends this copy without what belongs to the end of the manager.
                unsafe { libc::_exit((!is_known).into()) }
            }
            Ok(ForkResult::Parent { child }) => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
            Err(_) => false,
        }
    })
}

/// For this thread alone: threads and processes that it starts have the usual ones.
pub fn lengthen() {
    let Ok(mut attributes) = attributes(SELF) else { return };
    // What it starts would also lose a privileged niceness or policy.
    if attributes.sched_nice >= 0 && attributes.sched_policy == libc::SCHED_OTHER as u32 {
        attributes.sched_runtime = LONGEST;
        attributes.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64;
        let _ = set(SELF, &attributes);
    }
}

/// Undoes that for the main thread of a process.
pub fn restore(process: Pid) -> nix::Result<()> {
    let mut attributes = attributes(process)?;
    if attributes.sched_runtime == LONGEST {
        (attributes.sched_runtime, attributes.sched_flags) = (DEFAULT, 0);
        set(process, &attributes)?;
    }
    Ok(())
}

fn attributes(thread: Pid) -> nix::Result<libc::sched_attr> {
    // SAFETY: it consists of numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&attributes);
    // SAFETY: there is room for so many bytes.
    let read =
        unsafe { libc::syscall(libc::SYS_sched_getattr, thread.as_raw(), &raw mut attributes, size, 0) };
    Errno::result(read).map(|_| attributes)
}

fn set(thread: Pid, attributes: &libc::sched_attr) -> nix::Result<()> {
    // SAFETY: they are there for the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, thread.as_raw(), &raw const *attributes, 0) };
    Errno::result(set).map(drop)
}
