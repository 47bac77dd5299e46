//! preload=on: a process that imports the applications once, and from which the workers are forked, so that
//! they share the memory of what is imported.
//!
//! It has one thread: a fork copies no other, and what the others held would stay so.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use burrow_daemon::control::{FromWorker, ToWorker};
use burrow_daemon::packet::Link;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::wait::waitpid;
use nix::unistd::{dup2_stderr, dup2_stdout, fork, setsid, ForkResult};
use pyo3_ffi as ffi;

use super::{exit, main_thread};
use crate::attach::Attached;
use crate::{fork, interpreter};

/// The life of the template, as long as its manager's. Returns in a worker that it has forked, with that one's
/// connection to the manager. Called detached.
pub fn live(link: OwnedFd) -> io::Result<OwnedFd> {
    let manager = Link::from(link);
    if let Some(app) = main_thread::import_applications() {
        last_words(&manager, &FromWorker::Broken { app: app.clone() }, 1);
    }
    if let Some(reason) = unfit() {
        last_words(&manager, &FromWorker::Unfit { reason }, 0);
    }
    manager.send(&FromWorker::Template, &[])?;
    loop {
        match receive(&manager)? {
            Some((ToWorker::Fork, files)) => {
                let Ok(files) = <[OwnedFd; 3]>::try_from(files) else { continue };
                if let Some(link) = fork_worker(&manager, files)? {
                    return Ok(link);
                }
            }
            Some((ToWorker::Log, logs)) => {
                for log in logs {
                    dup2_stdout(&log)?;
                    dup2_stderr(&log)?;
                }
            }
            Some((ToWorker::Drain { .. } | ToWorker::Stop { .. }, _)) | None => exit(0),
            Some(_) => {}
        }
    }
}

/// Without the manager there is nobody to listen.
fn last_words(manager: &Link, message: &FromWorker, status: i32) -> ! {
    let _ = manager.send(message, &[]);
    exit(status)
}

/// The next message; None where the manager has gone.
fn receive(manager: &Link) -> io::Result<Option<(ToWorker, Vec<OwnedFd>)>> {
    loop {
        match manager.receive() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(manager.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {}
            received => return received,
        }
    }
}

/// Why nothing may be forked from this process; else what it has is kept out of the garbage collector's
/// hands, which would write to it and so copy it.
fn unfit() -> Option<String> {
    if interpreter::all().len() > 1 {
        return Some(
            "its applications have several interpreters: give them one application group (%{GLOBAL}), or a \
             process group each"
                .into(),
        );
    }
    let threads = main_thread::freeze();
    (!threads.is_empty()).then(|| format!("there are threads after the import: {threads}"))
}

/// Forks a worker and tells the manager. Returns there, with its connection to the manager.
///
/// The worker's parent ends at once, so that the manager has the worker and learns how it ends.
fn fork_worker(manager: &Link, [listener, configuration, link]: [OwnedFd; 3]) -> io::Result<Option<OwnedFd>> {
    let (mut told, mut tell) = io::pipe()?;
    let attached = Attached::to(interpreter::main());
    let serve = fork::children_serve();
    // SAFETY: attached, on the only thread: the children can do whatever this process could.
    let forked = unsafe {
        ffi::PyOS_BeforeFork();
        fork()
    };
    match forked {
        Ok(ForkResult::Child) => {
            // SAFETY: as above.
            let status = match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    drop(serve);
                    // SAFETY: this is the forked child, whose thread is attached.
                    unsafe { ffi::PyOS_AfterFork_Child() };
                    super::begin(listener, configuration)?;
                    setsid()?;
                    drop(attached);
                    return Ok(Some(link));
                }
                Ok(ForkResult::Parent { child }) => tell.write_all(&child.as_raw().to_ne_bytes()).is_err(),
                Err(_) => true,
            };
            exit(status.into())
        }
        Ok(ForkResult::Parent { child }) => {
            drop(tell);
            // Nothing else waits for it.
            let _ = waitpid(child, None);
        }
        Err(_) => drop(tell),
    }
    drop(serve);
    // SAFETY: attached, and the fork is over.
    unsafe { ffi::PyOS_AfterFork_Parent() };
    drop(attached);
    let mut pid = [0; 4];
    let pid = told.read_exact(&mut pid).map_or(0, |()| i32::from_ne_bytes(pid));
    manager.send(&FromWorker::Forked { pid }, &[])?;
    Ok(None)
}
