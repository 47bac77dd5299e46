//! Processes that start leave the processors to those who serve, on Linux 6.12 and later.
//!
//! They have the lowest weight and the longest slices. Where nobody else wants a processor they get no less of it, but
//! who wakes up meanwhile, for a request, has it at once and need not wait until a slice is over.

use nix::{
    errno::Errno,
    sys::wait::{waitpid, WaitStatus},
    time::ClockId,
    unistd::{fork, getpgid, getpid, ForkResult, Pid},
};
use std::{fs, sync::OnceLock, time::Duration};

/// The longest slice there is, in ns.
const LONGEST: u64 = 100_000_000;
/// As long as the kernel thinks fit.
const DEFAULT: u64 = 0;
const LOWEST: i32 = 19;
/// The thread or process that asks.
const SELF: Pid = Pid::from_raw(0);

/// Whether the kernel can do this, and this process may undo it. It has one thread.
pub fn can_be_lowered() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        // SAFETY: one thread, as the caller vouches.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let usual = niceness();
                let has_slice = lower_thread().is_ok() && slice(SELF) == Ok(LONGEST);
                let can = has_slice && set_niceness(libc::PRIO_PROCESS, SELF, usual).is_ok();
                // SAFETY: ends this copy without what belongs to the end of the manager.
                unsafe { libc::_exit((!can).into()) }
            }
            Ok(ForkResult::Parent { child }) => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
            Err(_) => false,
        }
    })
}

/// For this process, which has one thread and leads a session. What it starts has its niceness, too.
pub fn lower() {
    if lower_thread().is_ok() {
        set_niceness_of_session(SELF, LOWEST);
    }
}

/// Undoes that for a process and those that it has started. A failure means that they have ended.
pub fn restore(process: Pid) {
    let usual = niceness();
    let _ = set_niceness(libc::PRIO_PGRP, process, usual);
    let _ = set_slice(process, DEFAULT);
    set_niceness_of_session(process, 0);
    // Those that have a session or group of their own, also where whoever has started them has left them to this process.
    let own = children(process).into_iter().filter_map(|child| getpgid(Some(child)).ok());
    for group in own.chain(left_behind()) {
        let _ = set_niceness(libc::PRIO_PGRP, group, usual);
    }
}

/// The groups of processes that were started at the lowest priority and became this process's, but for those of processes
/// that still have it: they start with a slice as the kernel thinks fit.
fn left_behind() -> impl Iterator<Item = Pid> {
    let is_low = |child: &Pid| attributes(*child).is_ok_and(|its| its.sched_nice == LOWEST);
    let groups = children(getpid()).into_iter().filter(is_low).filter_map(|child| getpgid(Some(child)).ok());
    groups.filter(|group| slice(*group) != Ok(LONGEST))
}

fn children(process: Pid) -> Vec<Pid> {
    let pids = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    pids.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
}

/// How long a process has had processors.
pub fn processor_time(process: Pid) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(process).and_then(ClockId::now);
    clock.map_or(Duration::MAX, Duration::from)
}

fn lower_thread() -> nix::Result<()> {
    let mut attributes = attributes(SELF)?;
    // What it starts would also lose a privileged niceness or policy.
    if attributes.sched_nice < 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Err(Errno::EPERM);
    }
    (attributes.sched_runtime, attributes.sched_nice) = (LONGEST, LOWEST);
    attributes.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64; // the slice
    set(SELF, &attributes)
}

fn slice(thread: Pid) -> nix::Result<u64> {
    attributes(thread).map(|now| now.sched_runtime)
}

fn set_slice(thread: Pid, slice: u64) -> nix::Result<()> {
    let mut attributes = attributes(thread)?;
    (attributes.sched_runtime, attributes.sched_flags) = (slice, 0);
    set(thread, &attributes)
}

/// Of this thread.
fn niceness() -> i32 {
    attributes(SELF).map_or(LOWEST, |own| own.sched_nice)
}

/// Of a thread, or of all threads of a process group.
fn set_niceness(kind: libc::__priority_which_t, which: Pid, niceness: i32) -> nix::Result<()> {
    // SAFETY: a system call on numbers.
    Errno::result(unsafe { libc::setpriority(kind, which.as_raw() as u32, niceness) }).map(drop)
}

/// Where the kernel shares out processors by session first (autogroup), it is this that counts.
fn set_niceness_of_session(process: Pid, niceness: i32) {
    let name = if process == SELF { "self".into() } else { process.to_string() };
    // A failure means that it does not, or that the process has ended.
    let _ = fs::write(format!("/proc/{name}/autogroup"), niceness.to_string());
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
