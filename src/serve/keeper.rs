//! The process that the user sees. It waits for a child that does the work, so that even when it is
//! killed outright somebody is left to stop the server and to remove what was written.

use std::process::{exit, ExitCode};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{kill, raise, signal, SigHandler, SigSet, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, getpid, getppid, pipe2, read, setpgid, ForkResult, Pid};

use super::say;

/// The signals that mean "stop". A terminal's SIGHUP ends the keeper, and by that the rest; under nohup
/// it does not.
const STOP_SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT];

/// While there is nothing to clean up, a stop is an end.
pub fn exit_on_stop_signals() {
    extern "C" fn end(_: i32) {
        // SAFETY: async-signal-safe.
        unsafe { libc::_exit(0) }
    }
    for stop in STOP_SIGNALS {
        // SAFETY: the handler makes one system call and never returns.
        unsafe { signal(stop, SigHandler::Handler(end)) }.expect("a signal that can be handled");
    }
    // SAFETY: no handler. Where SIGCHLD is ignored, as some parents leave it, nobody can be waited for.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.expect("a signal that can be handled");
}

/// The signals that this process and its child wait for; blocks them in the calling thread.
pub fn block_signals() -> SigSet {
    let mut signals: SigSet = STOP_SIGNALS.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().expect("a valid set of signals");
    signals
}

/// Runs `work` in a child, passes signals on to it, and returns what it returned.
pub fn keep<E>(work: impl FnOnce() -> u8) -> Result<ExitCode, E> {
    let signals = block_signals();
    let keeper = getpid();
    let (released, release) = pipe2(OFlag::O_CLOEXEC).expect("a pipe can be made");
    // SAFETY: the process has one thread.
    match unsafe { fork() }.expect("a process can be made") {
        ForkResult::Parent { child } => {
            // And with it the port, which a server can bind only when nobody has it any more.
            drop(work);
            drop((released, release));
            Ok(ExitCode::from(wait(child, &signals)))
        }
        ForkResult::Child => {
            // A terminal's Ctrl-C comes from the keeper, once.
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            prctl::set_pdeathsig(Signal::SIGTERM).expect("a valid signal");
            // Whatever the server's workers leave behind becomes our child.
            prctl::set_child_subreaper(true).expect("supported since Linux 3.4");
            if getppid() != keeper {
                let _ = raise(Signal::SIGTERM);
            }
            // The end of the pipe: the keeper has let go.
            drop(release);
            let _ = read(&released, &mut [0]);
            exit(work().into())
        }
    }
}

fn wait(child: Pid, signals: &SigSet) -> u8 {
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return code as u8,
                Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as u8,
                _ => {}
            },
            Ok(stop) => match kill(child, stop) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => say(&format!("cannot stop the server: {error}")),
            },
            Err(_) => {}
        }
    }
}
