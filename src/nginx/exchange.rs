//! A request in flight: made and fed on the event loop, served on an application thread.

use super::answer::{Answer, ANSWER_HIGH, PIECE_COST};
use super::block::{size_of_pairs, Block};
use super::event_loop::{self, Message};
use super::on_loop::{self, OnLoop};
use super::question::Question;
use crate::embedded::{self, App, Entry};
use burrow_abi::{
    burrow_body, burrow_head, burrow_io, burrow_outcome, burrow_request, slice, BURROW_BODY_HIGH,
    BURROW_FAILURE, BURROW_FLUSH, BURROW_GONE, BURROW_LAST, BURROW_LOG_ERR, BURROW_RELOADING,
    BURROW_UNAVAILABLE, GONE, ON_LOOP, READABLE, WRITABLE,
};
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// The largest piece that is copied at once; longer ones go out as several.
const PIECE: usize = 1 << 20;

pub struct Exchange {
    app: &'static App,
    /// Points into the server's memory, which is there until the exchange is released, or into `block`.
    request: UnsafeCell<burrow_request>,
    block: UnsafeCell<Option<Block>>,
    /// Instead of running the application.
    question: Option<Question>,
    /// What the event loop calls the request; NULL once released. Only the loop looks at it.
    server_request: AtomicPtr<c_void>,
    state: Mutex<State>,
    changed: Condvar,
}

// SAFETY: the cells are changed by `set_script_modified` and `keep` alone, before others than the event loop have
// the exchange; from then on the request leads into the block. `server_request` is only handed back to the loop.
unsafe impl Send for Exchange {}
// SAFETY: as above; all else is behind the mutex.
unsafe impl Sync for Exchange {}

#[derive(Default)]
struct State {
    body: VecDeque<Part>,
    /// Body bytes in memory, unread.
    buffered: usize,
    /// The event loop was told to stop reading.
    paused: bool,
    /// No more body: `true` when it is whole.
    end: Option<bool>,
    /// What of the answer has not left.
    unsent: usize,
    /// The answer is whole.
    last: bool,
    /// The server's request is gone.
    gone: bool,
    /// Application threads that wait for a change.
    waiting: usize,
    /// Where an event loop of Python's serves it.
    on_loop: Option<OnLoop>,
}

enum Part {
    Bytes { data: Vec<u8>, at: usize },
    File { file: OwnedFd, offset: i64, len: usize },
}

/// What the runtime calls for this server. The `exchange` is the reference that `serve` holds.
static IO: burrow_io = burrow_io { read: Some(read), send: Some(send) };

unsafe extern "C" fn read(exchange: *mut c_void, buf: *mut c_char, len: usize) -> isize {
    // SAFETY: `serve` passed the pointer and holds the exchange; the runtime gives `len` bytes.
    unsafe { borrow(exchange).read(buf.cast(), len) }
}

unsafe extern "C" fn send(
    exchange: *mut c_void,
    head: *const burrow_head,
    body: *const burrow_body,
    flags: u32,
) -> c_int {
    // SAFETY: `serve` passed the pointer, which is that of an Arc; the runtime vouches for the rest.
    let sent = unsafe { borrow(exchange).send(head.as_ref(), &*body, flags) };
    if sent {
        0
    } else {
        -1
    }
}

/// A reference of one's own to the exchange that the runtime names.
///
/// # Safety
/// `exchange` is what `serve` passed to the runtime, and `serve` has not returned.
pub unsafe fn borrow(exchange: *mut c_void) -> Arc<Exchange> {
    // SAFETY: the pointer is that of the Arc that `serve` holds.
    unsafe {
        Arc::increment_strong_count(exchange.cast::<Exchange>());
        Arc::from_raw(exchange.cast())
    }
}

impl Exchange {
    /// # Safety
    /// `request` points at what it says, until the exchange is released.
    pub unsafe fn new(
        app: &'static App,
        request: &burrow_request,
        question: Option<Question>,
        server_request: *mut c_void,
    ) -> Arc<Self> {
        Arc::new(Exchange {
            app,
            request: UnsafeCell::new(*request),
            block: UnsafeCell::new(None),
            question,
            server_request: AtomicPtr::new(server_request),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub fn app(&self) -> &'static App {
        self.app
    }

    pub fn request(&self) -> &burrow_request {
        // SAFETY: changed only as `set_script_modified` says.
        unsafe { &*self.request.get() }
    }

    /// The server's request, NULL once it is gone. On the event loop.
    pub fn server_request(&self) -> *mut c_void {
        self.server_request.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.changed.wait(state).expect("no panic under this lock");
        state.waiting -= 1;
        state
    }

    // ---- the event loop's side

    /// Whether the server's request is gone.
    pub fn is_released(&self) -> bool {
        self.server_request().is_null()
    }

    /// Whether it asks for a script that may have changed to be imported again.
    pub fn reloads(&self) -> bool {
        self.request().flags & BURROW_RELOADING != 0
    }

    /// Says when the script was modified, where it is known.
    ///
    /// # Safety
    /// On the event loop, which has not handed it over yet; nobody has a reference from `request`.
    pub unsafe fn set_script_modified(&self, modified: i64) {
        // SAFETY: the caller vouches that this is the only reference.
        unsafe { (*self.request.get()).script_modified = modified };
    }

    /// Copies the request's strings, for whoever is to serve it elsewhere. Once.
    ///
    /// # Safety
    /// As `set_script_modified`, and it is not released; or it was called before.
    pub unsafe fn keep(&self) {
        // SAFETY: the caller vouches that these are the only references, and `new` was told that the strings are
        // there.
        unsafe {
            if (*self.block.get()).is_some() {
                return;
            }
            let request = &mut *self.request.get();
            let headers = slice(request.headers, request.n_headers);
            let params = slice(request.params, request.n_params);
            let tls = slice(request.tls, request.n_tls);
            let pairs: usize = [headers, params, tls].map(size_of_pairs).iter().sum();
            let vars: usize = request.vars.iter().map(|var| var.len).sum();
            let mut block = Block::new(pairs + vars + request.body.len);
            request.headers = block.copy_pairs(headers);
            request.params = block.copy_pairs(params);
            request.tls = block.copy_pairs(tls);
            request.vars.iter_mut().for_each(|var| *var = block.copy(*var));
            request.body = block.copy(request.body);
            *self.block.get() = Some(block);
        }
    }

    /// Runs the application here, while everybody waits. Not where it is released.
    pub fn serve_here(self: &Arc<Self>) {
        if !self.is_released() {
            self.run();
        }
    }

    /// Body bytes have arrived. Returns how many wait to be read.
    pub fn add_body(&self, data: &[u8]) -> usize {
        let mut state = self.lock();
        // To a reader no bytes are the end; nginx marks that with an empty buffer.
        if !data.is_empty() {
            state.body.push_back(Part::Bytes { data: data.to_vec(), at: 0 });
            state.buffered += data.len();
        }
        state.paused = state.buffered >= BURROW_BODY_HIGH as usize;
        self.tell(&mut state, READABLE);
        state.buffered
    }

    pub fn add_body_file(&self, file: OwnedFd, offset: i64, len: usize) {
        let mut state = self.lock();
        state.body.push_back(Part::File { file, offset, len });
        self.tell(&mut state, READABLE);
    }

    pub fn end_body(&self, whole: bool) {
        let mut state = self.lock();
        state.end = Some(whole);
        self.tell(&mut state, READABLE);
    }

    /// Wakes whoever waits for this.
    fn tell(&self, state: &mut State, event: u32) {
        match &mut state.on_loop {
            Some(on_loop) => on_loop.tell(self, event),
            // It is a system call, whoever waits.
            None if state.waiting > 0 => self.changed.notify_all(),
            None => {}
        }
    }

    pub fn sent(&self, pieces: usize, bytes: usize) {
        let mut state = self.lock();
        let waiting = state.unsent > ANSWER_HIGH;
        state.unsent -= pieces * PIECE_COST + bytes;
        if waiting && state.unsent <= ANSWER_HIGH {
            self.tell(&mut state, WRITABLE);
        }
    }

    pub fn release(&self) {
        self.server_request.store(ptr::null_mut(), Relaxed);
        let mut state = self.lock();
        state.gone = true;
        state.body.clear();
        self.tell(&mut state, GONE);
    }

    // ---- the application's side

    /// Whether the event loop serves it itself, and nothing may wait.
    pub fn runs_on_event_loop(&self) -> bool {
        self.app.threads() == 0 && self.question.is_none()
    }

    /// Runs the application, or asks the script, on the calling thread.
    pub fn serve(self: &Arc<Self>) {
        if self.lock().gone {
            return self.finish(BURROW_GONE);
        }
        match &self.question {
            Some(question) => {
                // SAFETY: as in `run`.
                let (verdict, text) = unsafe { question.ask(self.app, self.request(), self.as_c()) };
                event_loop::post(Message::Verdict(self.clone(), verdict, text));
            }
            None => self.run(),
        }
    }

    fn run(self: &Arc<Self>) {
        // SAFETY: the request's strings are there for this call, and so is the exchange, as `IO`'s functions and
        // the log need.
        match unsafe { embedded::serve(self.app, self.request(), &IO, self.as_c()) } {
            ON_LOOP => {
                // SAFETY: it was kept, or this is the event loop, which has it still.
                unsafe { self.keep() };
                on_loop::submit(vec![self.clone()]);
            }
            outcome => self.finish(outcome),
        }
    }

    fn as_c(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self).cast_mut().cast()
    }

    /// Tells the event loop how it ended, unless the last piece of the answer says so.
    pub fn finish(self: &Arc<Self>, outcome: burrow_outcome) {
        if self.question.is_some() {
            return event_loop::post(Message::Verdict(self.clone(), BURROW_FAILURE, Box::default()));
        }
        let state = self.lock();
        if !state.last && !state.gone {
            drop(state);
            event_loop::post(Message::Finish(self.clone(), outcome));
        }
    }

    /// It will not be served: answers 503.
    pub fn unavailable(self: &Arc<Self>, why: &str) {
        event_loop::log(Some(self.clone()), BURROW_LOG_ERR, why.as_bytes());
        self.finish(BURROW_UNAVAILABLE);
    }

    /// Up to `len` bytes of the body; 0 at its end, -1 when the client is gone.
    ///
    /// # Safety
    /// `buf` has room for `len` bytes.
    unsafe fn read(self: &Arc<Self>, buf: *mut u8, len: usize) -> isize {
        let mut state = self.lock();
        loop {
            // SAFETY: as the caller vouches.
            match unsafe { self.take_body(state, buf, len) } {
                Ok(count) => return count,
                // nginx has all of a body before it submits such a request.
                Err(_) if self.runs_on_event_loop() => return -1,
                Err(locked) => state = self.wait(locked),
            }
        }
    }

    /// As `read`; the state where it would wait.
    ///
    /// # Safety
    /// As `read`.
    unsafe fn take_body<'a>(
        self: &Arc<Self>,
        mut state: MutexGuard<'a, State>,
        buf: *mut u8,
        len: usize,
    ) -> Result<isize, MutexGuard<'a, State>> {
        if state.gone || len == 0 {
            return Ok(if state.gone { -1 } else { 0 });
        }
        match (state.body.pop_front(), state.end) {
            (Some(Part::Bytes { data, at }), _) => {
                let n = len.min(data.len() - at);
                // SAFETY: `n` bytes fit in `buf` and lie in `data` from `at`.
                unsafe { buf.copy_from_nonoverlapping(data[at..].as_ptr(), n) };
                if at + n < data.len() {
                    state.body.push_front(Part::Bytes { data, at: at + n });
                }
                state.buffered -= n;
                if state.paused && state.buffered < BURROW_BODY_HIGH as usize / 2 {
                    state.paused = false;
                    event_loop::post(Message::ReadMore(self.clone()));
                }
                Ok(n as isize)
            }
            (Some(Part::File { file, offset, len: left }), _) => {
                drop(state);
                // SAFETY: `buf` has room for `len` bytes.
                let n = unsafe { libc::pread(file.as_raw_fd(), buf.cast(), len.min(left), offset) };
                if n <= 0 {
                    return Ok(-1);
                }
                let read = n as usize;
                if read < left {
                    let rest = Part::File { file, offset: offset + n as i64, len: left - read };
                    self.lock().body.push_front(rest);
                }
                Ok(n)
            }
            (None, Some(whole)) => Ok(if whole { 0 } else { -1 }),
            (None, None) => Err(state),
        }
    }

    /// Sends a piece of the answer; `false` when the client is gone.
    ///
    /// # Safety
    /// `head` and `body` point at what they say, and a descriptor in `body` is the caller's to give.
    pub unsafe fn send(
        self: &Arc<Self>,
        mut head: Option<&burrow_head>,
        body: &burrow_body,
        flags: u32,
    ) -> bool {
        // SAFETY: the caller gives the descriptor away.
        let mut file = (body.fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(body.fd) });
        let piece = if file.is_some() { usize::MAX } else { PIECE };
        let mut at = 0;
        loop {
            let len = piece.min(body.len - at);
            let flags = if at + len == body.len { flags } else { 0 };
            let Some(post) = self.reserve(len, flags) else {
                return false;
            };
            let part = burrow_body { data: body.data.wrapping_add(at), len, ..*body };
            // SAFETY: the part lies in the body.
            let answer = unsafe { Answer::new(head.take(), part, file.take(), flags) };
            post(Message::Answer(self.clone(), answer));
            at += len;
            if at == body.len {
                return true;
            }
        }
    }

    /// Waits until there is room for bytes of the answer; an event loop of Python's has waited before. Gives the
    /// function to post them with; None when the client is gone.
    fn reserve(&self, bytes: usize, flags: u32) -> Option<fn(Message)> {
        let mut state = self.lock();
        let (on_loop, here) = (state.on_loop.is_some(), self.runs_on_event_loop());
        let waits = !on_loop && !here;
        while bytes > 0 && state.unsent > ANSWER_HIGH && !state.gone && waits {
            state = self.wait(state);
        }
        if state.gone || state.last {
            return None;
        }
        if bytes > 0 {
            state.unsent += PIECE_COST + bytes;
        }
        state.last = flags & BURROW_LAST != 0;
        Some(match flags & BURROW_FLUSH {
            _ if here && !on_loop => event_loop::post_quietly,
            0 if on_loop => event_loop::post_soon,
            // Nobody knows what keeps the application busy then.
            _ => event_loop::post,
        })
    }

    // ---- the side of an event loop of Python's, which never waits

    /// The event loop serves it from here on. False where the client has left already.
    pub fn enter_loop(&self, entry: Entry) -> bool {
        let mut state = self.lock();
        if !state.gone {
            state.on_loop = Some(OnLoop::new(entry));
        }
        !state.gone
    }

    pub fn leave_loop(self: &Arc<Self>, outcome: burrow_outcome) {
        let mut state = self.lock();
        state.on_loop = None;
        if !state.last && !state.gone {
            event_loop::post_soon(Message::Finish(self.clone(), outcome));
        }
    }

    /// As `read`; None where there is nothing yet, which the loop is told of.
    ///
    /// # Safety
    /// As `read`.
    pub unsafe fn try_read(self: &Arc<Self>, buf: *mut u8, len: usize) -> Option<isize> {
        // SAFETY: as the caller vouches.
        match unsafe { self.take_body(self.lock(), buf, len) } {
            Ok(count) => Some(count),
            Err(mut state) => {
                state.on_loop.as_mut().expect("the loop reads").wait_for(READABLE);
                None
            }
        }
    }

    /// Whether the next piece of the answer has to wait, until the loop is told that it need not.
    pub fn is_full(&self) -> bool {
        let mut state = self.lock();
        let full = state.unsent > ANSWER_HIGH && !state.gone;
        if let Some(on_loop) = state.on_loop.as_mut().filter(|_| full) {
            on_loop.wait_for(WRITABLE);
        }
        full
    }
}

#[cfg(test)]
mod tests;
