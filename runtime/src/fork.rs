//! What becomes of a child that an application forks: it may work and exit, but not serve.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static CHILD: AtomicBool = AtomicBool::new(false);

extern "C" fn in_child() {
    CHILD.store(true, Ordering::Relaxed);
    // The server's handlers only take notes for its event loop, and its threads block every signal:
    // nobody could end the child.
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: all of these may be called in a forked child; the action is filled before it is read.
        unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            if libc::sigaction(signal, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction != libc::SIG_IGN
            {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
    // SAFETY: the set is filled by sigemptyset.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Takes notice of forks from now on.
pub fn watch() {
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

pub fn is_child() -> bool {
    CHILD.load(Ordering::Relaxed)
}

/// The application came back in a child that it forked: the request is its parent's, and the connection
/// too, so the child ends.
pub fn leave_child() -> ! {
    log(b"burrow: a child that the application forked has returned from it, and ends; use os._exit()");
    // SAFETY: ends the process at once, without the server's exit functions.
    unsafe { libc::_exit(1) }
}

/// A child has no way to the server's log but the descriptor, which both servers point at it.
pub fn log(line: &[u8]) {
    // There is nobody to tell if it fails.
    let _ = std::io::stderr().write_all(&[line, b"\n"].concat());
}
