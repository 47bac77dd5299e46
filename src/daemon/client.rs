//! The client of a request, as the functions of c/shim.h reach it.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::ptr::null_mut;

use burrow_abi::{burrow_body, burrow_client, burrow_head, burrow_io, burrow_suspension};

/// It has left.
#[derive(Debug)]
pub struct Gone;

/// What came of a read.
pub enum Read {
    Bytes(usize),
    End,
    NothingYet,
}

/// What the client is to get.
pub enum Body<'a> {
    Bytes(&'a [u8]),
    File(OwnedFd, u64, u64),
}

pub struct Client<'a> {
    io: &'a burrow_io,
    client: &'a burrow_client,
    exchange: *mut c_void,
}

impl<'a> Client<'a> {
    /// # Safety
    /// `exchange` is what the functions expect, and used by nobody else meanwhile.
    pub unsafe fn new(io: &'a burrow_io, client: &'a burrow_client, exchange: *mut c_void) -> Self {
        Client { io, client, exchange }
    }

    /// What log lines are bound to.
    pub fn exchange(&self) -> *mut c_void {
        self.exchange
    }

    /// Nothing says when there are more bytes of the request's body: `read` waits for them.
    pub fn blocks(&self) -> Result<bool, Gone> {
        self.descriptor().map(|descriptor| descriptor.is_none())
    }

    /// Bytes of the request's body that are there.
    pub fn read(&self, into: &mut [MaybeUninit<u8>]) -> Result<Read, Gone> {
        let read = if self.blocks()? { self.io.read } else { self.client.read };
        let read = read.expect("the server can read");
        // SAFETY: see `new`; the function writes no more than there is room for.
        match unsafe { read(self.exchange, into.as_mut_ptr().cast(), into.len()) } {
            0 => Ok(Read::End),
            -2 => Ok(Read::NothingYet),
            count => usize::try_from(count).map(Read::Bytes).map_err(|_| Gone),
        }
    }

    /// What can be waited for, where there is such a thing.
    pub fn descriptor(&self) -> Result<Option<BorrowedFd<'_>>, Gone> {
        let descriptor = self.client.descriptor.expect("the server says what can be waited for");
        // SAFETY: see `new`.
        match unsafe { descriptor(self.exchange) } {
            -2 => Err(Gone),
            -1 => Ok(None),
            // SAFETY: the server's own, open as long as the request.
            fd => Ok(Some(unsafe { BorrowedFd::borrow_raw(fd) })),
        }
    }

    /// Whether its connection can outlive this request's thread.
    pub fn can_suspend(&self) -> bool {
        let Some(suspend) = self.client.suspend else { return false };
        // SAFETY: see `new`.
        unsafe { suspend(self.exchange, null_mut(), null_mut()) == 0 }
    }

    /// Has its connection outlive this request's thread, which has to return at once then.
    ///
    /// # Safety
    /// `websocket` is what `burrow_suspended` expects.
    pub unsafe fn suspend(&self, websocket: *mut c_void) -> Option<burrow_suspension> {
        let mut suspension = burrow_suspension::default();
        // SAFETY: see `new`; the caller's word.
        let done = unsafe { self.client.suspend?(self.exchange, websocket, &mut suspension) };
        (done == 0).then_some(suspension)
    }

    /// Whether it wants more.
    pub fn send(&self, head: Option<&burrow_head>, body: Body, flags: u32) -> Result<bool, Gone> {
        let body = match body {
            Body::Bytes(data) => {
                burrow_body { data: data.as_ptr().cast(), len: data.len(), fd: -1, offset: 0 }
            }
            Body::File(file, offset, length) => burrow_body {
                data: std::ptr::null(),
                len: length as usize,
                fd: file.into_raw_fd(),
                offset: offset as i64,
            },
        };
        let send = self.io.send.expect("the server can send");
        let head = head.map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: see `new`; the receiver owns the descriptor.
        match unsafe { send(self.exchange, head, &body, flags) } {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(Gone),
        }
    }
}
