//! Signals: the handler takes a note of them, and the keeper does what they ask for.
//!
//! No thread blocks any, so that children start with an empty mask; the kernel prefers the main thread.

use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use libc::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use pyo3_ffi as ffi;

use super::existing;

const OURS: [c_int; 6] = [SIGTERM, SIGINT, SIGUSR1, SIGXCPU, SIGHUP, SIGUSR2];

/// Those that have come, by their numbers.
static NOTED: AtomicU64 = AtomicU64::new(0);
/// The main thread is in an application's script, which SIGTERM ends.
static INTERRUPTS: AtomicBool = AtomicBool::new(false);
/// It has done so.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes the signals over from Python, which is left unaware of it.
pub fn install() -> io::Result<()> {
    // Without SA_RESTART: a script that sleeps is to be woken.
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_ONSTACK, SigSet::empty());
    for signal in OURS {
        let signal = Signal::try_from(signal)?;
        // SAFETY: the handler calls only what one may.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// The handler's address.
pub fn handler() -> usize {
    note as extern "C" fn(c_int) as usize
}

extern "C" fn note(signal: c_int) {
    // SAFETY: errno is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    NOTED.fetch_or(1 << signal, SeqCst);
    // Once: what a script does about its SystemExit is left in peace.
    if matches!(signal, SIGTERM | SIGINT) && INTERRUPTS.load(SeqCst) && !INTERRUPTED.swap(true, SeqCst) {
        // Now, so that the system call which this signal has interrupted is not gone on with.
        // SAFETY: may be called in a signal handler.
        unsafe { ffi::PyErr_SetInterruptEx(SIGTERM) };
    }
    if let Some(worker) = existing() {
        worker.control.wake();
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Those that have come since the last call.
pub fn take() -> impl Iterator<Item = c_int> {
    let noted = NOTED.swap(0, SeqCst);
    OURS.into_iter().filter(move |signal| noted & 1 << signal != 0)
}

/// Sends SIGXCPU once the process has used so many seconds of processor time. Its children may use more.
pub fn limit_cpu_time(seconds: f64) -> io::Result<()> {
    let value = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    // SAFETY: zeroes are valid in all of these, which are filled before they are read.
    let result = unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = SIGXCPU;
        let mut timer = std::mem::zeroed();
        let mut when: libc::itimerspec = std::mem::zeroed();
        when.it_value.tv_sec = value.as_secs() as i64;
        when.it_value.tv_nsec = value.subsec_nanos().into();
        match libc::timer_create(libc::CLOCK_PROCESS_CPUTIME_ID, &mut event, &mut timer) {
            0 => libc::timer_settime(timer, 0, &when, std::ptr::null_mut()),
            failed => failed,
        }
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether SIGTERM raises SystemExit in the main thread.
pub fn interruptible(on: bool) {
    INTERRUPTS.store(on, SeqCst);
}

/// Raises SystemExit in the main thread, where it is interruptible and a signal has not done so.
pub fn interrupt_main_thread() {
    if INTERRUPTS.load(SeqCst) && !has_interrupted() {
        // SAFETY: no precondition. The kernel gives it to the main thread, which blocks no signal.
        unsafe { libc::kill(libc::getpid(), SIGTERM) };
    }
}

/// Whether the main thread's script was sent a SystemExit.
pub fn has_interrupted() -> bool {
    INTERRUPTED.load(SeqCst)
}

/// As people call it.
pub fn name(signal: c_int) -> &'static str {
    Signal::try_from(signal).map_or("", Signal::as_str)
}
