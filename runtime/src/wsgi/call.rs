//! One request's state between Python and the server: the head, and what has been sent.

use std::ffi::{c_long, c_void};
use std::mem;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::{Mutex, RwLock, RwLockReadGuard};
use std::time::Instant;

use burrow_abi::{
    burrow_body, burrow_head, burrow_io, burrow_outcome, burrow_request, BURROW_ABORTED, BURROW_DONE,
    BURROW_FAILED, BURROW_FLUSH, BURROW_GONE, BURROW_HEADER_ONLY, BURROW_LAST, BURROW_LOG_ERR,
    BURROW_REQUEST_METHOD, BURROW_TIMEOUT,
};
use pyo3_ffi as ffi;

use crate::app::App;
use crate::attach::Attached;
use crate::bootstrap::State;
use crate::head::Head;
use crate::log;
use crate::object::{raise_pending, raise_runtime_error, Object, Result};
use crate::observe::{self, Watch};
use crate::sync::{Guarded, Shared};
use crate::worker::greenlets;

/// Bodies up to this many bytes are copied, so that the GIL is taken once and the objects freed before
/// anything is sent.
pub const COPIED: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq)]
enum Progress {
    /// Nothing was sent.
    Open,
    /// The head was sent, the answer is not whole.
    Started,
    /// Everything was sent.
    Complete,
}

/// Of the application, by [`Call::interrupt`].
#[derive(Clone, Copy, PartialEq)]
enum Interruption {
    Possible,
    Sent,
    /// The application has returned.
    Over,
}

pub struct Call<'r> {
    app: &'r App,
    pub request: &'r burrow_request,
    pub io: &'r burrow_io,
    pub exchange: *mut c_void,
    head: Guarded<Option<Head>>,
    progress: Shared<Progress>,
    sent: Shared<u64>,
    excess: Shared<bool>,
    failed: Shared<bool>,
    timed_out: Shared<bool>,
    gone: Shared<bool>,
    finished: Shared<bool>,
    interruption: Mutex<Interruption>,
    /// As Python calls the thread.
    thread: c_long,
    /// A small body that `end` sends, together with the head.
    body: Guarded<Option<Vec<u8>>>,
    /// When the application was called, in microseconds since the epoch.
    pub started: i64,
    /// What `mod_wsgi.request_data()` gives; taken out before the thread detaches for good.
    pub data: Guarded<Option<Object>>,
    /// For those who look on, if there are any.
    pub watch: Option<Box<Watch>>,
    /// Held while a thread sends.
    pub sending: Mutex<()>,
    /// Threads of the application read it while they are in here: the request does not end before.
    inside: RwLock<()>,
}

impl<'r> Call<'r> {
    pub fn new(
        app: &'r App,
        request: &'r burrow_request,
        io: &'r burrow_io,
        exchange: *mut c_void,
        watch: Option<Box<Watch>>,
    ) -> Self {
        Call {
            app,
            request,
            io,
            exchange,
            head: Guarded::new(None),
            progress: Shared::new(Progress::Open),
            sent: Shared::new(0),
            excess: Shared::new(false),
            failed: Shared::new(false),
            timed_out: Shared::new(false),
            gone: Shared::new(false),
            finished: Shared::new(false),
            interruption: Mutex::new(Interruption::Possible),
            // SAFETY: no precondition.
            thread: unsafe { libc::pthread_self() } as c_long,
            body: Guarded::new(None),
            started: observe::now(),
            data: Guarded::new(None),
            watch,
            sending: Mutex::new(()),
            inside: RwLock::new(()),
        }
    }

    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    pub fn set_gone(&self) {
        self.gone.set(true);
    }

    pub fn fail(&self) {
        self.failed.set(true);
    }

    /// The application was interrupted: it took too long.
    pub fn time_out(&self) {
        self.fail();
        self.timed_out.set(true);
    }

    /// Raises RequestTimeout in the application, as soon as it executes Python code. Called by another thread,
    /// attached to the same interpreter.
    pub fn interrupt(&self, state: &State) {
        if self.begin_interruption() {
            // SAFETY: attached, as the caller vouches; a live class.
            unsafe { ffi::PyThreadState_SetAsyncExc(self.thread, state.request_timeout.as_ptr()) };
        }
    }

    /// Whether the application is to be interrupted by the caller, attached: it was not yet, and has not returned.
    pub fn begin_interruption(&self) -> bool {
        let mut interruption = self.interruption.lock().unwrap();
        let possible = *interruption == Interruption::Possible;
        if possible {
            *interruption = Interruption::Sent;
        }
        possible
    }

    /// The application has returned: what has not reached it yet must not reach anything else.
    pub fn withdraw_interruption(&self, _attached: &Attached) {
        let mut interruption = self.interruption.lock().unwrap();
        if mem::replace(&mut *interruption, Interruption::Over) == Interruption::Sent {
            // SAFETY: attached; NULL takes back what is pending.
            unsafe { ffi::PyThreadState_SetAsyncExc(self.thread, std::ptr::null_mut()) };
        }
    }

    /// Logs what the application has raised.
    pub fn report(&self, attached: &Attached, exception: Object) {
        self.app.report(attached, exception);
    }

    /// Replaces the head. It was not sent yet.
    pub fn set_head(&self, head: Head) -> Result<()> {
        let Ok(_guard) = self.sending.try_lock() else {
            return raise_runtime_error("another thread is sending this answer");
        };
        *self.head.write() = Some(head);
        Ok(())
    }

    /// 0 while there is no head.
    pub fn status(&self) -> u16 {
        self.head.read().as_ref().map_or(0, |head| head.status)
    }

    pub fn has_head(&self) -> bool {
        self.head.read().is_some()
    }

    pub fn is_started(&self) -> bool {
        self.progress.get() != Progress::Open
    }

    fn is_head_request(&self) -> bool {
        // SAFETY: the request's strings live as long as the call.
        unsafe { self.request.vars[BURROW_REQUEST_METHOD as usize].bytes() == b"HEAD" }
    }

    /// Whether the client gets no body, whatever the application makes.
    pub fn is_bodiless(&self) -> bool {
        self.is_head_request() || self.head.read().as_ref().is_some_and(Head::is_bodiless)
    }

    /// The whole body is known: its length becomes the Content-Length if the application gave none.
    pub fn set_length(&self, length: u64) {
        let bodiless = self.is_bodiless();
        // Another thread that sends has no use for it any more.
        let Ok(_guard) = self.sending.try_lock() else { return };
        if self.is_started() {
            return;
        }
        if let Some(head) = self.head.write().as_mut() {
            // An empty body may stand for "none was made" there: no length is better than a wrong one.
            if !(bodiless && length == 0) {
                head.content_length.get_or_insert(length);
            }
        }
    }

    /// The bytes that may still be sent under the application's Content-Length.
    pub fn room(&self) -> u64 {
        let length = self.head.read().as_ref().and_then(|head| head.content_length);
        length.map_or(u64::MAX, |length| length.saturating_sub(self.sent.get()))
    }

    /// Keeps a small whole body for `end`, which runs without the GIL.
    pub fn keep(&self, body: &[u8]) {
        *self.body.write() = Some(body.to_vec());
    }

    /// Whether no more data will reach the client, so that an endless iteration may stop.
    pub fn is_over(&self) -> bool {
        self.gone.get() || (self.progress.get() == Progress::Complete && self.is_bodiless())
    }

    /// Sends a piece of the body at once, with the head if that is still to be sent; waits, detached, as
    /// long as the client is slow. There is a head. False when the client has gone.
    pub fn send(&self, attached: &Attached, data: &[u8], flush: bool) -> Result<bool> {
        self.exclusively(attached, || self.transmit(data, if flush { BURROW_FLUSH } else { 0 }))
    }

    /// Sends `length` bytes of a file. False when the client has gone.
    pub fn send_file(&self, attached: &Attached, file: OwnedFd, offset: i64, length: u64) -> Result<bool> {
        self.exclusively(attached, || {
            let room = self.room();
            let length = length.min(room);
            // Whoever receives the descriptor closes it.
            let fd = file.into_raw_fd();
            let body = burrow_body { data: std::ptr::null(), len: length as usize, fd, offset };
            self.pass(&body, if length == room { BURROW_LAST } else { 0 })
        })
    }

    /// Runs `work` with the GIL released.
    pub fn detached<T>(&self, attached: &Attached, work: impl FnOnce() -> T) -> T {
        let Some(watch) = &self.watch else { return attached.detached(work) };
        let (result, waited) = attached.detached_timed(work);
        watch.gil.add(0, waited);
        result
    }

    /// Runs `work`, which gives something to the server, detached and as the only sender.
    fn exclusively(&self, attached: &Attached, work: impl FnOnce() -> bool) -> Result<bool> {
        // Tried, not waited for: this thread is attached.
        let Ok(guard) = self.sending.try_lock() else {
            return raise_runtime_error("another thread is sending this answer");
        };
        let sent = self.detached(attached, work);
        drop(guard);
        if !sent {
            self.gone.set(true);
            raise_pending()?;
        }
        Ok(sent)
    }

    /// The request does not end before the result is dropped. To be had while the pointer to this call, which
    /// led here, cannot be taken away.
    pub fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.inside.read().unwrap()
    }

    /// Waits, detached, until no other thread of the application is in here any more. Python can no longer
    /// reach this call when it is called.
    pub fn settle(&self, attached: &Attached) {
        while self.inside.try_write().is_err() {
            attached.detached(|| {
                if !greenlets::pause() {
                    drop(self.inside.write());
                }
            });
        }
    }

    fn transmit(&self, data: &[u8], flags: u32) -> bool {
        let room = self.room();
        if data.len() as u64 > room {
            self.excess.set(true);
        }
        let data = if self.is_bodiless() { &[][..] } else { &data[..data.len().min(room as usize)] };
        let whole = room != u64::MAX && data.len() as u64 == room;
        let last = flags & BURROW_LAST != 0 || self.is_bodiless() || whole;
        if self.progress.get() == Progress::Complete || (data.is_empty() && self.is_started() && !last) {
            return true;
        }
        let body = burrow_body { data: data.as_ptr().cast(), len: data.len(), fd: -1, offset: 0 };
        self.pass(&body, if last { BURROW_LAST } else { flags })
    }

    /// Gives the server a piece, and the head with the first one.
    fn pass(&self, body: &burrow_body, flags: u32) -> bool {
        if flags & BURROW_LAST != 0 {
            log::flush_thread();
        }
        let head = self.head.read();
        let head = head.as_ref().expect("checked by every caller");
        let send = self.io.send.expect("every server sends");
        let began = self.watch.as_ref().map(|_| Instant::now());
        // SAFETY: the head and the data live until the call returns.
        let send = |head: *const burrow_head| unsafe { send(self.exchange, head, body, flags) };
        let result =
            if self.is_started() { send(std::ptr::null()) } else { head.described(|head| send(head)) };
        if let (Some(watch), Some(began)) = (&self.watch, began) {
            watch.output.add(body.len, began.elapsed());
        }
        self.sent.set(self.sent.get() + body.len as u64);
        self.progress.set(if flags & BURROW_LAST != 0 { Progress::Complete } else { Progress::Started });
        result == 0
    }

    /// Says how the request ended, once all is sent. Called detached.
    pub fn end(&self) -> burrow_outcome {
        self.finish();
        match self.progress.get() {
            _ if self.gone.get() => BURROW_GONE,
            Progress::Open if self.timed_out.get() => BURROW_TIMEOUT,
            Progress::Open => BURROW_FAILED,
            Progress::Started => BURROW_ABORTED,
            Progress::Complete => BURROW_DONE,
        }
    }

    /// Sends what is left of the answer. Called detached.
    pub fn finish(&self) {
        if self.finished.replace(true) {
            return;
        }
        log::flush_thread();
        if !self.failed.get() && !self.gone.get() {
            self.complete();
        }
        if self.excess.get() {
            self.complain("sent more than its Content-Length; the rest was dropped");
        }
    }

    fn complete(&self) {
        let body = self.body.write().take().unwrap_or_default();
        let lengthless = self.room() == u64::MAX || self.request.flags & BURROW_HEADER_ONLY != 0;
        if !self.transmit(&body, if lengthless { BURROW_LAST } else { 0 }) {
            self.gone.set(true);
        } else if self.progress.get() != Progress::Complete {
            let sent = self.sent.get();
            let length = sent + self.room();
            self.complain(&format!(
                "sent {sent} bytes of its Content-Length of {length}; the connection is cut"
            ));
        }
    }

    /// Logs what the application did wrong without raising.
    fn complain(&self, what: &str) {
        let line = format!("burrow: WSGI script '{}' {what}.", self.app.name());
        log::line(BURROW_LOG_ERR, line.as_bytes());
    }
}
