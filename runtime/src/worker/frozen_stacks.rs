//! The Python stacks of all threads where nobody can enter Python: a thread in C code keeps its lock.
//!
//! Each thread in turn gets a signal, whose handler writes the stack of the thread that it runs on: that needs
//! no lock, and is right whatever interpreter the thread is in. The writing is faulthandler's. Done to threads
//! that run Python code meanwhile it ends the process now and then, so [`super::stacks`] comes first.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::Mutex;

use nix::poll::{poll, PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{memfd_create, MFdFlags};

use super::{existing, thread_id};

/// How long one thread has for it.
const PATIENCE_MS: u16 = 1000;

pub struct FrozenStacks {
    /// What is written to.
    file: Mutex<File>,
    descriptor: RawFd,
    /// Says that it was.
    written: EventFd,
    /// faulthandler's, by its address; 0: there is none yet.
    handler: AtomicUsize,
}

/// The signal: as likely as any to be nobody's.
pub fn signal() -> c_int {
    libc::SIGRTMAX() - 3
}

impl FrozenStacks {
    pub fn new() -> io::Result<FrozenStacks> {
        let file = File::from(memfd_create(c"burrow stacks", MFdFlags::MFD_CLOEXEC)?);
        let descriptor = file.as_raw_fd();
        let written = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(FrozenStacks { file: Mutex::new(file), descriptor, written, handler: AtomicUsize::new(0) })
    }

    /// For faulthandler.register.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// In a child that the application forked. Does what a signal handler may.
    pub fn abandon(&self) {
        // SAFETY: the child's own copy, which nothing there uses.
        unsafe { libc::close(self.written.as_fd().as_raw_fd()) };
    }

    /// Puts a handler of ours around faulthandler's, which was registered for [`signal`].
    pub fn install(&self) -> io::Result<()> {
        // SAFETY: the handler calls only faulthandler's, and what else one may; nix knows no such signals.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal(), std::ptr::null(), &mut action);
            self.handler.store(action.sa_sigaction, SeqCst);
            action.sa_sigaction = handler();
            action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            match libc::sigaction(signal(), &action, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// All of them but the calling thread's.
    pub fn text(&self) -> io::Result<String> {
        let mut file = self.file.lock().unwrap();
        let mut text = String::new();
        for thread in threads()?.into_iter().filter(|thread| *thread != thread_id()) {
            let stack = self.stack(&mut file, thread)?;
            if !(stack.is_empty() || stack.contains("<no Python frame>")) {
                text += &format!("\n{}:\n{stack}", super::stacks::title(thread));
            }
        }
        Ok(text)
    }

    fn stack(&self, file: &mut File, thread: i32) -> io::Result<String> {
        if blocks_signals(thread) {
            return Ok(String::new());
        }
        file.set_len(0)?;
        file.rewind()?;
        let _ = self.written.read();
        // SAFETY: no precondition. A thread that has ended meanwhile is no error.
        if unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) } != 0 {
            return Ok(String::new());
        }
        let mut written = [PollFd::new(self.written.as_fd(), PollFlags::POLLIN)];
        if poll(&mut written, PATIENCE_MS)? == 0 {
            return Ok("  it takes no signal\n".into());
        }
        let mut stack = String::new();
        file.rewind()?;
        file.read_to_string(&mut stack)?;
        Ok(stack)
    }
}

/// The handler's address.
pub fn handler() -> usize {
    write_stack as extern "C" fn(c_int) as usize
}

extern "C" fn write_stack(signal: c_int) {
    let Some(worker) = existing() else { return };
    // SAFETY: errno is this thread's; the address is that of faulthandler's handler, or 0.
    unsafe {
        let errno = *libc::__errno_location();
        let handler = worker.frozen_stacks.handler.load(SeqCst);
        if handler > libc::SIG_IGN {
            std::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal);
        }
        let _ = worker.frozen_stacks.written.write(1);
        *libc::__errno_location() = errno;
    }
}

/// All threads of the process.
fn threads() -> io::Result<Vec<i32>> {
    let names =
        fs::read_dir("/proc/self/task")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// Whether a thread keeps signals away. One that is still in the handler keeps this one alone.
fn blocks_signals(thread: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(u64::MAX);
    let ours = 1 << (signal() - 1);
    mask & ours != 0 && mask != ours
}
