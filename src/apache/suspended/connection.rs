//! The client's side of a WebSocket: a connection of httpd's, with its filters.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

use burrow_abi::burrow_suspension;
use nix::errno::Errno;
use nix::sys::socket::{recv, MsgFlags};

use super::memory::Memory;
use super::{event_loop, Buffer, PIECE};
use crate::daemon::client::{Gone, Read};

/// What c/shim.h says that can be done with a suspended connection.
#[derive(Clone, Copy)]
pub struct Functions(pub burrow_suspension);

impl Functions {
    /// # Safety
    /// c/shim.h.
    pub unsafe fn close(&self, pool: *mut c_void) {
        // SAFETY: the caller's word.
        unsafe { self.0.close.expect("httpd can close")(pool) };
    }

    /// # Safety
    /// c/shim.h.
    pub unsafe fn release(&self, pool: *mut c_void) {
        // SAFETY: the caller's word.
        unsafe { self.0.release.expect("httpd can free")(pool) };
    }
}

pub struct Connection {
    functions: Functions,
    /// Until it is finished.
    exchange: *mut c_void,
    /// What `finish` has returned, else NULL.
    pool: *mut c_void,
    descriptor: RawFd,
    memory: Arc<Memory>,
    /// There was nothing to be read the last time, and epoll has not said anything since.
    is_dry: bool,
    /// Some of what it was sent has not left.
    is_full: bool,
}

// SAFETY: it is used by one thread at a time.
unsafe impl Send for Connection {}

impl Connection {
    pub fn new(functions: Functions, exchange: *mut c_void, descriptor: BorrowedFd) -> Self {
        Connection {
            functions,
            exchange,
            pool: null_mut(),
            descriptor: descriptor.as_raw_fd(),
            memory: Memory::new(functions),
            is_dry: false,
            is_full: false,
        }
    }

    /// What log lines are bound to.
    pub fn exchange(&self) -> *mut c_void {
        self.exchange
    }

    pub fn memory(&self) -> Arc<Memory> {
        self.memory.clone()
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: open until `drop`.
        unsafe { BorrowedFd::borrow_raw(self.descriptor) }
    }

    /// For how long the client may take nothing of what it is sent.
    pub fn timeout(&self) -> Duration {
        Duration::from_micros(self.functions.0.timeout.max(0) as u64)
    }

    pub fn is_dry(&self) -> bool {
        self.is_dry
    }

    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// There may be something.
    pub fn wet(&mut self) {
        self.is_dry = false;
    }

    pub fn read(&mut self, into: &mut [u8]) -> Result<Read, Gone> {
        let read = self.functions.0.read.expect("httpd can read");
        // SAFETY: until `finish` the exchange is there; there is room for so much.
        match unsafe { read(self.exchange, into.as_mut_ptr().cast(), into.len()) } {
            0 => Ok(Read::End),
            -2 => {
                self.is_dry = true;
                Ok(Read::NothingYet)
            }
            count => {
                let count = usize::try_from(count).map_err(|_| Gone)?;
                self.is_dry = self.functions.0.drains != 0 && count < into.len();
                Ok(Read::Bytes(count))
            }
        }
    }

    /// At most [`PIECE`] bytes, where nothing is pending.
    pub fn send(&mut self, data: &[u8]) -> Result<(), Gone> {
        debug_assert!(data.len() <= PIECE);
        let send = self.functions.0.send.expect("httpd can send");
        // SAFETY: until `finish` the exchange is there.
        match unsafe { send(self.exchange, data.as_ptr().cast(), data.len()) } {
            pending @ (0 | 1) => {
                self.is_full = pending == 1;
                Ok(())
            }
            _ => Err(Gone),
        }
    }

    /// What is pending, as far as there is room.
    pub fn flush(&mut self) -> Result<(), Gone> {
        self.send(b"")
    }

    /// The last of what is sent has been. The request is logged; it and its exchange are no more.
    pub fn finish(&mut self) {
        let finish = self.functions.0.finish.expect("httpd can finish");
        // SAFETY: once.
        self.pool = unsafe { finish(self.exchange) };
        self.exchange = null_mut();
    }

    /// Behind `finish`: reads some of what the client still sends, lest closing the socket takes back what it has
    /// not read. Whether it has closed its side.
    pub fn discard(&self, into: &mut Buffer) -> bool {
        match recv(self.descriptor, into, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error, Errno::EAGAIN | Errno::EINTR),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        event_loop::forget(self.descriptor());
        if !self.pool.is_null() {
            // SAFETY: of `finish`.
            unsafe { self.memory.close(self.pool) };
        }
    }
}
