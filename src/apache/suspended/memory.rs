//! The memory of a connection that httpd's thread may still write to.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::*};
use std::sync::Arc;

use super::connection::Functions;

thread_local! {
    /// Of the connection that this thread of httpd's has suspended last. Where it suspends another one, or
    /// ends, it has left the function that writes there (see c/apache/suspended.c).
    static HELD: Cell<Option<Arc<Memory>>> = const { Cell::new(None) };
}

/// Released once neither the loop nor the thread that the connection came on have it.
pub struct Memory {
    functions: Functions,
    /// NULL until the connection is closed.
    pool: AtomicPtr<c_void>,
}

impl Memory {
    pub fn new(functions: Functions) -> Arc<Memory> {
        Arc::new(Memory { functions, pool: AtomicPtr::new(null_mut()) })
    }

    /// On the thread that the connection came on.
    pub fn hold(memory: Arc<Memory>) {
        HELD.set(Some(memory));
    }

    /// The connection ends.
    ///
    /// # Safety
    /// `pool` is what its `finish` has returned.
    pub unsafe fn close(&self, pool: *mut c_void) {
        self.pool.store(pool, Release);
        // SAFETY: the caller's word.
        unsafe { self.functions.close(pool) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let pool = self.pool.load(Acquire);
        if !pool.is_null() {
            // SAFETY: it is closed, and nobody writes to it any more.
            unsafe { self.functions.release(pool) };
        }
    }
}
