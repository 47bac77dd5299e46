//! What becomes of a child that an application forks: it may work and exit, but not serve.

use std::cell::Cell;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::worker;

static CHILD: AtomicBool = AtomicBool::new(false);
/// The child is to serve: a worker that is forked from its template.
static SERVES: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The forking thread's mask.
    static MASK: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
}

/// A signal that reached the child before it has handlers of its own would be lost in the server's, which
/// only take notes for its event loop.
extern "C" fn before() {
    // SAFETY: both sets are filled before they are read.
    unsafe {
        let (mut all, mut mask) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut mask);
        MASK.set(Some(mask));
    }
}

extern "C" fn in_parent() {
    if let Some(mask) = MASK.take() {
        // SAFETY: the set was filled by `before`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut()) };
    }
}

/// Default dispositions and an empty mask: else nobody could end the child. Handlers that the application has
/// set in a worker stay.
extern "C" fn in_child() {
    worker::abandon();
    if SERVES.load(Ordering::Relaxed) {
        return in_parent();
    }
    CHILD.store(true, Ordering::Relaxed);
    // SAFETY: all of these may be called in a forked child; what is read is filled before.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            if libc::sigaction(signal, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction != libc::SIG_IGN
                && !worker::is_the_applications(action.sa_sigaction)
            {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Takes notice of forks from now on.
pub fn watch() {
    // SAFETY: the handlers call only what a forked child may.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
}

/// Until the result is dropped, children are those that serve.
pub fn children_serve() -> impl Drop {
    struct Serve;
    impl Drop for Serve {
        fn drop(&mut self) {
            SERVES.store(false, Ordering::Relaxed);
        }
    }
    SERVES.store(true, Ordering::Relaxed);
    Serve
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
