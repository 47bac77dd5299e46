//! A request that an application's event loop answers: what the loop and whoever carries it out here share.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard};

use burrow_abi::{
    burrow_body, burrow_head, burrow_level, burrow_outcome, slice, LoopIo, RuntimeApi, RuntimeApp,
    BURROW_BODY_HIGH, BURROW_FLUSH, BURROW_GONE, BURROW_LAST, GONE, READABLE, WRITABLE,
};
use nix::sys::eventfd::EventFd;

use super::parking::{self, Place};
use super::suspended::Wake;
use crate::daemon::client::Body;
use crate::nginx::{Answer, ANSWER_HIGH, PIECE_COST};

const SWITCHING_PROTOCOLS: u32 = 101;

/// What c/shim.h says that an `exchange` of httpd's begins with: the host's.
#[repr(C)]
struct ServerExchange {
    exchange: AtomicPtr<Exchange>,
}

/// A piece of the answer.
pub struct Piece {
    /// Without the body where that is of a file.
    answer: Answer,
    file: Option<(OwnedFd, u64, u64)>,
    cost: usize,
}

impl Piece {
    /// # Safety
    /// `head` and `body` point at what they say, and a descriptor in `body` is the caller's to give.
    unsafe fn new(head: Option<&burrow_head>, body: &burrow_body, flags: u32) -> Self {
        let len = if body.fd < 0 { body.len } else { 0 };
        // SAFETY: the caller gives the descriptor away.
        let file = (body.fd >= 0)
            .then(|| unsafe { (OwnedFd::from_raw_fd(body.fd), body.offset as u64, body.len as u64) });
        let bytes = burrow_body { len, fd: -1, ..*body };
        // SAFETY: the caller's word.
        let answer = unsafe { Answer::new(head, bytes, None, flags) };
        Piece { answer, file, cost: PIECE_COST + len }
    }

    /// Head and body; a file only once.
    pub fn parts(&mut self) -> (Option<&burrow_head>, Body<'_>) {
        let body = match self.file.take() {
            Some((file, offset, len)) => Body::File(file, offset, len),
            None => Body::Bytes(self.bytes()),
        };
        (self.answer.head.as_ref(), body)
    }

    /// Those of the body.
    pub fn bytes(&self) -> &[u8] {
        let body = &self.answer.body;
        // SAFETY: the answer's block holds them.
        unsafe { slice(body.data.cast(), body.len) }
    }

    pub fn flags(&self) -> u32 {
        self.answer.flags
    }
}

/// What has arrived of a request's body.
#[derive(Default)]
pub struct Arrived {
    pub bytes: Vec<u8>,
    /// No more follows: `false` where the client has left in the middle of it.
    pub end: Option<bool>,
}

/// What whoever carries it out is to do.
pub enum Work {
    /// All of it, in this order.
    Do {
        lines: Vec<(burrow_level, Box<[u8]>)>,
        pieces: VecDeque<Piece>,
        /// Somebody wants more of the request's body, and there is room for it.
        reads: bool,
    },
    /// Nothing now: the next thing to do wakes it there.
    Park(Place),
    /// Nothing, for longer: the next thing to do is told to the thread's eventfd, or to the loop. The client is to be
    /// waited for as well, for what poll() calls this; None: it is gone.
    Wait(Option<i16>),
    Return(burrow_outcome),
}

/// How whoever carries it out sleeps, or is about to: with work for him comes the call that wakes him.
#[derive(Default)]
enum Sleep {
    #[default]
    Awake,
    Parked(Place),
    Waiting,
    Suspended(Wake),
}

pub struct Exchange {
    runtime: &'static RuntimeApi,
    app: *mut RuntimeApp,
    server_exchange: *mut c_void,
    wake: Arc<EventFd>,
    state: Mutex<State>,
}

// SAFETY: the pointers are only handed back to the runtime, which takes them on any thread.
unsafe impl Send for Exchange {}
// SAFETY: as above; all else is behind the mutex.
unsafe impl Sync for Exchange {}

#[derive(Default)]
struct State {
    body: Vec<u8>,
    /// How much of `body` was read.
    read: usize,
    /// No more body: `true` when it is whole.
    end: Option<bool>,
    /// The application has asked for the body.
    is_wanted: bool,
    /// … and READABLE is due.
    reader_waits: bool,
    pieces: VecDeque<Piece>,
    /// The cost of the pieces that have not left.
    unsent: usize,
    /// WRITABLE is due.
    sender_waits: bool,
    /// The answer is whole.
    last: bool,
    is_upgraded: bool,
    gone: bool,
    lines: Vec<(burrow_level, Box<[u8]>)>,
    outcome: Option<burrow_outcome>,
    sleep: Sleep,
}

impl State {
    fn unread(&self) -> usize {
        self.body.len() - self.read
    }

    fn add_body(&mut self, arrived: Arrived) {
        if self.unread() == 0 {
            self.body = arrived.bytes;
        } else {
            self.body.drain(..self.read);
            self.body.extend_from_slice(&arrived.bytes);
        }
        self.read = 0;
        self.end = arrived.end;
    }

    fn reads(&self) -> bool {
        self.is_wanted && self.end.is_none() && !self.gone && self.unread() < BURROW_BODY_HIGH as usize
    }

    /// What there is to do, if anything.
    fn work(&mut self, may_read: bool) -> Option<Work> {
        let reads = may_read && self.reads();
        if reads || !self.lines.is_empty() || !self.pieces.is_empty() {
            let (lines, pieces) = (mem::take(&mut self.lines), mem::take(&mut self.pieces));
            return Some(Work::Do { lines, pieces, reads });
        }
        self.outcome.map(|outcome| Work::Return(if self.gone { BURROW_GONE } else { outcome }))
    }

    /// What the client is to be waited for.
    fn interest(&self) -> Option<i16> {
        match self.is_upgraded {
            _ if self.gone => None,
            _ if self.reads() => Some(libc::POLLIN),
            // Where it has closed its own side, it may still want all that is sent.
            true => Some(0),
            false => Some(libc::POLLRDHUP),
        }
    }
}

impl Exchange {
    /// One that log lines and the loop's calls are bound to from here on; `unbind` has to follow. Of its body that
    /// much is there.
    ///
    /// # Safety
    /// `server_exchange` is what `burrow_serve` was called with.
    pub unsafe fn bind(
        runtime: &'static RuntimeApi,
        app: *mut RuntimeApp,
        server_exchange: *mut c_void,
        wake: Arc<EventFd>,
        body: Arrived,
    ) -> Arc<Self> {
        let state = Mutex::new(State { body: body.bytes, end: body.end, ..State::default() });
        let exchange = Arc::new(Exchange { runtime, app, server_exchange, wake, state });
        // SAFETY: c/shim.h.
        let slot = unsafe { &(*server_exchange.cast::<ServerExchange>()).exchange };
        slot.store(Arc::as_ptr(&exchange).cast_mut(), Release);
        exchange
    }

    /// The loop has finished it.
    pub fn unbind(&self) {
        // SAFETY: see `bind`.
        let slot = unsafe { &(*self.server_exchange.cast::<ServerExchange>()).exchange };
        slot.store(std::ptr::null_mut(), Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    // ---- the side of httpd's thread, or of the loop of suspended connections

    /// What there is to do for the thread, which may park here.
    pub fn work(&self, may_read: bool, place: Option<Place>) -> Work {
        let mut state = self.lock();
        if let Some(work) = state.work(may_read) {
            return work;
        }
        match (state.interest(), place) {
            (Some(libc::POLLRDHUP), Some(place)) => {
                state.sleep = Sleep::Parked(place);
                Work::Park(place)
            }
            (interest, _) => {
                state.sleep = Sleep::Waiting;
                Work::Wait(interest)
            }
        }
    }

    /// What there is to do for the loop.
    pub fn work_suspended(&self, may_read: bool, wake: Wake) -> Work {
        let mut state = self.lock();
        state.work(may_read).unwrap_or_else(|| {
            state.sleep = Sleep::Suspended(wake);
            Work::Wait(state.interest())
        })
    }

    pub fn add_body(&self, arrived: Arrived) {
        if arrived.bytes.is_empty() && arrived.end.is_none() {
            // Whoever waits for it would ask at once for more.
            return;
        }
        let mut state = self.lock();
        state.add_body(arrived);
        let readable = if mem::take(&mut state.reader_waits) { READABLE } else { 0 };
        let gone = if state.end == Some(false) { GONE } else { 0 };
        if readable | gone != 0 {
            self.tell(&state, readable | gone);
        }
    }

    /// A piece has left.
    pub fn sent(&self, piece: &Piece) {
        let mut state = self.lock();
        state.unsent -= piece.cost;
        if state.sender_waits && state.unsent <= ANSWER_HIGH / 2 {
            state.sender_waits = false;
            self.tell(&state, WRITABLE);
        }
    }

    /// The client is gone.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.gone = true;
        state.pieces.clear();
        self.tell(&state, GONE);
    }

    /// Under the lock, so that nothing is told to a loop that has finished.
    fn tell(&self, state: &State, events: u32) {
        if state.outcome.is_none() {
            // SAFETY: it was submitted, and has not been finished.
            unsafe { (self.runtime.wake)(self.app, self.server_exchange, events) };
        }
    }

    // ---- the loop's side

    /// Has whoever carries it out look for work: not under the lock, for which it would have to wait at once.
    fn wake(&self, state: MutexGuard<'_, State>) {
        self.wake_by(state, Place::wake_soon);
    }

    /// The same without others who are woken soon.
    fn wake_now(&self, state: MutexGuard<'_, State>) {
        self.wake_by(state, Place::wake);
    }

    fn wake_by(&self, mut state: MutexGuard<'_, State>, wake: fn(Place)) {
        let sleep = mem::take(&mut state.sleep);
        drop(state);
        match sleep {
            Sleep::Awake => {}
            Sleep::Parked(place) => wake(place),
            Sleep::Waiting => {
                // It cannot fail: the counter does not get near its end.
                let _ = self.wake.write(1);
            }
            Sleep::Suspended(wake) => wake.wake(),
        }
    }

    fn read(&self, into: &mut [u8]) -> isize {
        let mut state = self.lock();
        let count = into.len().min(state.unread());
        if count == 0 && !into.is_empty() {
            return match state.end {
                _ if state.gone => -1,
                Some(whole) => {
                    if whole {
                        0
                    } else {
                        -1
                    }
                }
                None => {
                    (state.is_wanted, state.reader_waits) = (true, true);
                    self.wake(state);
                    -2
                }
            };
        }
        let was_full = !state.reads();
        into[..count].copy_from_slice(&state.body[state.read..state.read + count]);
        state.read += count;
        if was_full && state.reads() {
            self.wake(state);
        }
        count as isize
    }

    /// # Safety
    /// `head` and `body` point at what they say, and a descriptor in `body` is the caller's to give.
    unsafe fn send(&self, head: Option<&burrow_head>, body: &burrow_body, flags: u32) -> c_int {
        let mut state = self.lock();
        if head.is_some_and(|head| head.status == SWITCHING_PROTOCOLS) {
            (state.is_upgraded, state.is_wanted) = (true, true);
        }
        let flags = if state.is_upgraded { flags | BURROW_FLUSH } else { flags };
        // SAFETY: the caller's word.
        let piece = unsafe { Piece::new(head, body, flags) };
        if state.gone || state.last {
            return -1;
        }
        state.unsent += piece.cost;
        state.pieces.push_back(piece);
        state.last = flags & BURROW_LAST != 0;
        let is_full = state.unsent > ANSWER_HIGH;
        state.sender_waits |= is_full;
        // Behind the last piece comes `finish`.
        if flags & BURROW_FLUSH != 0 {
            // Nobody knows what keeps the application busy then.
            self.wake_now(state);
        } else if is_full {
            self.wake(state);
        }
        is_full.into()
    }

    fn finish(&self, outcome: burrow_outcome) {
        let mut state = self.lock();
        state.outcome = Some(outcome);
        self.wake(state);
    }

    /// Has a line logged by whoever carries it out: httpd's request is his alone.
    fn log(&self, level: burrow_level, line: &[u8]) {
        let mut state = self.lock();
        state.lines.push((level, line.into()));
        self.wake(state);
        parking::wake_all();
    }
}

/// What the runtime calls for this server.
pub static IO: LoopIo = LoopIo { read, send, finish, flush };

/// The exchange that the server's is bound to, if any.
///
/// # Safety
/// `exchange` is what `burrow_serve` or `burrow_ask` was called with, and the call has not returned.
unsafe fn bound(exchange: *mut c_void) -> Option<Arc<Exchange>> {
    // SAFETY: c/shim.h; where it is set, whoever set it holds the exchange.
    unsafe {
        let exchange = (*exchange.cast::<ServerExchange>()).exchange.load(Acquire);
        (!exchange.is_null()).then(|| {
            Arc::increment_strong_count(exchange);
            Arc::from_raw(exchange)
        })
    }
}

/// The log's sink on httpd.
pub(crate) fn log(exchange: *mut c_void, level: burrow_level, line: &[u8]) {
    // SAFETY: lines are bound to requests in progress, or to none.
    let bound = (!exchange.is_null()).then(|| unsafe { bound(exchange) }).flatten();
    match bound {
        Some(exchange) => exchange.log(level, line),
        None => crate::embedded::log::to_server(exchange, level, line),
    }
}

/// # Safety
/// As `bound`; `IO`'s functions are called between `bind` and `unbind` only.
unsafe fn exchange(exchange: *mut c_void) -> Arc<Exchange> {
    // SAFETY: the caller's word.
    unsafe { bound(exchange) }.expect("the loop's calls come between submit and finish")
}

unsafe extern "C" fn read(to: *mut c_void, buf: *mut c_char, len: usize) -> isize {
    // SAFETY: the runtime passes what was submitted, and a buffer of that length.
    unsafe { exchange(to).read(std::slice::from_raw_parts_mut(buf.cast(), len)) }
}

unsafe extern "C" fn send(
    to: *mut c_void,
    head: *const burrow_head,
    body: *const burrow_body,
    flags: u32,
) -> c_int {
    // SAFETY: the runtime passes what was submitted, and vouches for the rest.
    unsafe { exchange(to).send(head.as_ref(), &*body, flags) }
}

unsafe extern "C" fn finish(to: *mut c_void, outcome: burrow_outcome) {
    // SAFETY: the runtime passes what was submitted.
    unsafe { exchange(to) }.finish(outcome);
}

extern "C" fn flush() {
    parking::wake_all();
}
