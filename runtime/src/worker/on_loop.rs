//! One request that an event loop serves (`LoopIo` of the interface), over a connection that nobody waits on.
//!
//! The loop's thread reads and sends. Whoever waits in the epoll reports what happens on the connection, also
//! behind the application's end, until answer and body are through.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use burrow_abi::{
    burrow_body, burrow_head, burrow_outcome, burrow_pair, burrow_request, LoopIo, Submission, BURROW_DONE,
    BURROW_GONE, BURROW_LAST, EXPIRED, GONE, READABLE, RETIRED, WRITABLE,
};
use burrow_daemon::frame::{File, Kind, BODY_MAX};
use burrow_daemon::head::SWITCHING_PROTOCOLS;
use burrow_daemon::request;
use nix::sys::epoll::EpollFlags;

use super::applications::Application;
use super::arriving::Arriving;
use super::connections::Connection;
use super::control::Entry;
use super::exchange::{complain, frame_flags};
use super::incoming::Received;
use super::leaving::Leaving;
use super::outgoing::{add, add_body, add_head};
use super::worker;
use crate::asgi;

static IO: LoopIo = LoopIo { read, send, finish, flush };

thread_local! {
    /// Frames that are being made; empty between calls.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Begins as [`super::exchange::Exchange`] does, for log lines.
#[repr(C)]
pub struct LoopExchange {
    /// Points into the following ones.
    request: *const burrow_request,
    described: Box<burrow_request>,
    _payload: Box<[u8]>,
    _pairs: Box<[burrow_pair]>,
    application: &'static Application,
    connection: Connection,
    /// When it was taken, in microseconds of CLOCK_MONOTONIC.
    since: i64,
    state: Mutex<State>,
}

// SAFETY: what the pointers point to is never changed, and lives as long.
unsafe impl Send for LoopExchange {}
// SAFETY: as above; the rest is behind a lock.
unsafe impl Sync for LoopExchange {}

struct State {
    arriving: Arriving,
    leaving: Leaving,
    /// The loop waits for more of the body.
    reads: bool,
    /// The loop waits for room.
    holds: bool,
    /// The connection's bytes belong to the application: there is no time limit any more.
    is_upgraded: bool,
    /// The page says that it is over.
    done: bool,
    phase: Phase,
    /// A request is in progress, until this is dropped.
    entry: Option<Entry<'static>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// The loop has it.
    Serving,
    /// The rest of the answer leaves, and of the body arrives.
    Settling,
    /// The connection is no longer ours.
    Over,
}

/// Gives the request that was received last on the connection to its application's loop. It was taken `since`
/// then.
///
/// # Safety
/// `request` is what was received, which is there.
pub unsafe fn submit(
    received: &Received,
    request: &burrow_request,
    (connection, since): (&Connection, i64),
    application: &'static Application,
    entry: Entry<'static>,
) -> io::Result<()> {
    let payload: Box<[u8]> = received.payload().into();
    // SAFETY: the caller has read it from there.
    let (described, pairs) = unsafe { request::moved(request, received.payload(), &payload) };
    let described = Box::new(described);
    let exchange = Arc::new(LoopExchange {
        request: &*described,
        described,
        _payload: payload,
        _pairs: pairs,
        application,
        connection: connection.lent(),
        since,
        state: Mutex::new(State {
            arriving: received.arriving(),
            leaving: Leaving::default(),
            reads: false,
            holds: false,
            is_upgraded: false,
            done: false,
            phase: Phase::Serving,
            entry: Some(entry),
        }),
    });
    worker().requests.begin(connection.slot, since, application, exchange.pointer());
    let submission = Submission {
        app: application.runtime(),
        request: exchange.request,
        io: &IO,
        exchange: exchange.pointer(),
    };
    worker().connections.lend(connection, exchange)?;
    // SAFETY: all of it lives until `finish`.
    unsafe { asgi::submit(&submission, 1) };
    Ok(())
}

impl LoopExchange {
    /// As the functions below get it.
    fn pointer(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    fn wake(&self, events: u32) {
        if events != 0 {
            // SAFETY: it is not finished, as the callers, who have the lock, have seen.
            unsafe { asgi::wake(self.application.runtime(), self.pointer(), events) };
        }
    }

    /// Something has happened on the connection. False where it is no longer ours.
    pub fn report(&self, flags: EpollFlags) -> bool {
        let state = &mut *self.lock();
        if state.phase == Phase::Over {
            return false;
        }
        state.arriving.look_again();
        let closed = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        if state.phase == Phase::Settling {
            let settled = if closed { Err(ErrorKind::ConnectionReset.into()) } else { self.settle(state) };
            self.leave(state, settled);
            return true;
        }
        let mut events = if closed { GONE } else { 0 };
        if std::mem::take(&mut state.reads) {
            events |= READABLE;
        }
        // An error is met again by whoever sends next, and told by GONE.
        if state.holds && flags.contains(EpollFlags::EPOLLOUT) && self.push(state).unwrap_or(false) {
            state.holds = false;
            events |= WRITABLE;
        }
        self.wake(events);
        true
    }

    /// The time for the request that was taken then is up.
    pub fn expire(&self, since: i64) {
        let state = self.lock();
        if state.phase == Phase::Serving && self.since == since {
            self.wake(EXPIRED);
        }
    }

    /// Sends what is left to be sent. Whether that was all; if not, room for it will be reported.
    fn push(&self, state: &mut State) -> io::Result<bool> {
        let through = state.leaving.flush(self.connection.as_fd())?;
        worker().connections.watch_room(&self.connection, !through)?;
        Ok(through)
    }

    fn begin_answer(&self, state: &State) -> bool {
        state.is_upgraded || worker().requests.answer(self.connection.slot)
    }

    /// Says in the page that it is over, if that was not said yet.
    fn done(&self, state: &mut State) {
        if !std::mem::replace(&mut state.done, true) {
            worker().page.done(self.connection.slot);
        }
    }

    /// 0, or 1 where the next piece has to wait.
    fn send(
        &self,
        head: Option<&burrow_head>,
        (data, file): (&[u8], Option<(File, OwnedFd)>),
        flags: u32,
    ) -> io::Result<c_int> {
        let state = &mut *self.lock();
        if !self.begin_answer(state) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if head.is_some_and(|head| head.status == SWITCHING_PROTOCOLS) {
            state.is_upgraded = true;
            worker().requests.end(self.connection.slot);
        }
        if flags & BURROW_LAST != 0 && file.is_none() && data.len() <= BODY_MAX {
            // Before the server has the answer and looks for a free worker for its next request.
            self.done(state);
        }
        let was_through = state.leaving.is_empty();
        FRAMES.with_borrow_mut(|frames| {
            let added = self.add(state, frames, head, data, file, frame_flags(flags));
            frames.clear();
            added
        })?;
        let through = state.leaving.is_empty();
        if !through && was_through {
            worker().connections.watch_room(&self.connection, true)?;
        }
        state.holds = !through;
        Ok(c_int::from(!through))
    }

    fn add(
        &self,
        state: &mut State,
        frames: &mut Vec<u8>,
        head: Option<&burrow_head>,
        data: &[u8],
        file: Option<(File, OwnedFd)>,
        flags: u8,
    ) -> io::Result<()> {
        let (socket, leaving) = (self.connection.as_fd(), &mut state.leaving);
        let is_alone = data.is_empty() && file.is_none();
        if let Some(head) = head {
            // SAFETY: its strings are there while `send` runs.
            unsafe { add_head(frames, head, if is_alone { flags } else { 0 })? };
        }
        if let Some((file, descriptor)) = file {
            add(frames, Kind::File, flags, &file.bytes());
            return leaving.send_with(socket, std::mem::take(frames), descriptor);
        }
        if is_alone && head.is_some() {
            return leaving.send(socket, [frames, &[]]);
        }
        let mut pieces = data.chunks(BODY_MAX).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let is_last = pieces.peek().is_none();
            let rest = add_body(frames, piece, if is_last { flags } else { 0 });
            leaving.send(socket, [frames, rest])?;
            frames.clear();
            if is_last {
                return Ok(());
            }
        }
    }

    /// The loop is through with it.
    fn finish(&self, outcome: burrow_outcome) {
        let state = &mut *self.lock();
        self.done(state);
        state.phase = Phase::Settling;
        let ended = match outcome {
            _ if !self.begin_answer(state) => Err(ErrorKind::TimedOut.into()),
            BURROW_DONE => Ok(()),
            BURROW_GONE => Err(ErrorKind::ConnectionReset.into()),
            outcome => {
                let mut frame = Vec::new();
                add(&mut frame, Kind::Abort, 0, &[outcome as u8]);
                state.leaving.send(self.connection.as_fd(), [&frame, &[]])
            }
        };
        let settled = ended.and_then(|()| self.settle(state));
        self.application.announce();
        self.leave(state, settled);
    }

    /// Whether the answer has left and the body has arrived; if not, what happens next is reported.
    fn settle(&self, state: &mut State) -> io::Result<bool> {
        let through = state.leaving.is_empty() || self.push(state)?;
        if through {
            // The end of the process need not wait for what the client may still send.
            state.entry = None;
        }
        Ok(state.arriving.discard(self.connection.as_fd())? && through)
    }

    /// Gives the connection back, once all is settled, or closes it.
    fn leave(&self, state: &mut State, settled: io::Result<bool>) {
        if matches!(settled, Ok(false)) {
            return;
        }
        state.phase = Phase::Over;
        let connections = &worker().connections;
        let in_time = worker().requests.end(self.connection.slot);
        let given_back = if settled.is_ok() && in_time {
            connections.give_back(&self.connection, !state.arriving.is_exhausted())
        } else {
            connections.close(connections.take_back(&self.connection))
        };
        state.entry = None;
        if let Err(error) = given_back {
            super::fail(&error);
        }
    }
}

/// # Safety
/// `exchange` is what was submitted, and not finished.
unsafe fn of<'a>(exchange: *mut c_void) -> &'a LoopExchange {
    // SAFETY: the caller's word: it is lent until then.
    unsafe { &*exchange.cast() }
}

unsafe extern "C" fn read(exchange: *mut c_void, buffer: *mut c_char, length: usize) -> isize {
    // SAFETY: the interface: the exchange, and so many writable bytes.
    let (exchange, space) = unsafe { (of(exchange), std::slice::from_raw_parts_mut(buffer.cast(), length)) };
    let state = &mut *exchange.lock();
    let read = state.arriving.read(exchange.connection.as_fd(), space);
    if state.arriving.takes_retirement() {
        exchange.wake(RETIRED);
    }
    match read {
        Ok(Some(count)) => count as isize,
        Ok(None) => {
            state.reads = true;
            -2
        }
        Err(error) => complain(&error) as isize,
    }
}

unsafe extern "C" fn send(
    exchange: *mut c_void,
    head: *const burrow_head,
    body: *const burrow_body,
    flags: u32,
) -> c_int {
    // SAFETY: the interface: all of them are valid for the length of the call; the descriptor is ours.
    let sent = unsafe {
        let (exchange, head, body) = (of(exchange), head.as_ref(), &*body);
        let file = (body.fd >= 0).then(|| {
            let file = File { offset: body.offset as u64, length: body.len as u64 };
            (file, OwnedFd::from_raw_fd(body.fd))
        });
        let data = match body.len {
            _ if file.is_some() => &[],
            0 => &[],
            length => std::slice::from_raw_parts(body.data.cast(), length),
        };
        exchange.send(head, (data, file), flags)
    };
    sent.unwrap_or_else(|error| complain(&error))
}

unsafe extern "C" fn finish(exchange: *mut c_void, outcome: burrow_outcome) {
    // SAFETY: the interface. It may be freed at the end, but not in the middle.
    let exchange = unsafe {
        Arc::increment_strong_count(exchange.cast::<LoopExchange>());
        Arc::from_raw(exchange.cast::<LoopExchange>())
    };
    exchange.finish(outcome);
}

/// All was sent at once.
unsafe extern "C" fn flush() {}
