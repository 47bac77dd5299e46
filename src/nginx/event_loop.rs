//! The way back from application threads to the event loop: a queue and an eventfd that wakes it.

use super::answer::Answer;
use super::block::Block;
use super::exchange::{self, Exchange};
use crate::embedded;
use burrow_abi::{burrow_level, burrow_loop_ops, burrow_outcome, burrow_str, burrow_verdict};
use burrow_daemon::page;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::*};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};

/// The loop looks at its other events after this many messages.
const BATCH: usize = 512;
/// Microseconds that an answer waits for others, if these are soon over.
const LONGEST: i64 = 1000;

pub enum Message {
    Answer(Arc<Exchange>, Answer),
    Finish(Arc<Exchange>, burrow_outcome),
    ReadMore(Arc<Exchange>),
    Verdict(Arc<Exchange>, burrow_verdict, Box<[u8]>),
    Log(Option<Arc<Exchange>>, burrow_level, Box<[u8]>),
}

struct EventLoop {
    ops: burrow_loop_ops,
    eventfd: OwnedFd,
    /// The loop sleeps, or is about to: whoever queues next wakes it.
    asleep: AtomicBool,
    /// Since when something waits for a wake, in microseconds of CLOCK_MONOTONIC; 0: nothing does.
    waits_since: AtomicI64,
    sender: Sender<Message>,
    /// Taken by the loop alone.
    receiver: Mutex<Receiver<Message>>,
}

/// Lives as long as the process: threads may queue to the very end.
static LOOP: OnceLock<EventLoop> = OnceLock::new();

/// Returns the descriptor to watch.
pub fn open(ops: burrow_loop_ops) -> io::Result<RawFd> {
    let new = EventLoop::new(ops)?;
    let fd = new.eventfd.as_raw_fd();
    if LOOP.set(new).is_err() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    embedded::log::set_sink(queue_line);
    Ok(fd)
}

/// The log's sink while there is an event loop.
fn queue_line(exchange: *mut c_void, level: burrow_level, line: &[u8]) {
    // SAFETY: the log passes on what the runtime was given by `Exchange::serve`, or NULL.
    let exchange = (!exchange.is_null()).then(|| unsafe { exchange::borrow(exchange) });
    log(exchange, level, line);
}

/// Queues a line for the error log.
pub fn log(exchange: Option<Arc<Exchange>>, level: burrow_level, line: &[u8]) {
    post(Message::Log(exchange, level, line.into()));
}

/// Queues a message for the event loop.
pub fn post(message: Message) {
    if let Some(event_loop) = LOOP.get() {
        event_loop.post(message);
    }
}

/// Queues a message; `wake` follows soon.
pub fn post_soon(message: Message) {
    if let Some(event_loop) = LOOP.get() {
        event_loop.post_soon(message);
    }
}

/// Queues a message; `handle_queued` follows.
pub fn post_quietly(message: Message) {
    if let Some(event_loop) = LOOP.get() {
        // The receiver is never dropped.
        let _ = event_loop.sender.send(message);
    }
}

/// Wakes the event loop for what was queued by `post_soon`, where it sleeps.
pub unsafe extern "C" fn wake() {
    if let Some(event_loop) = LOOP.get() {
        event_loop.wake_if_asleep();
    }
}

/// Handles what is queued. On the event loop.
pub fn drain() {
    if let Some(event_loop) = LOOP.get() {
        event_loop.drain();
    }
}

/// The same for what was queued on the event loop itself, quietly.
pub fn handle_queued() {
    if let Some(event_loop) = LOOP.get() {
        event_loop.handle_queued();
    }
}

impl EventLoop {
    fn new(ops: burrow_loop_ops) -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let (sender, receiver) = channel();
        let receiver = Mutex::new(receiver);
        let (asleep, waits_since) = (AtomicBool::new(true), AtomicI64::new(0));
        Ok(EventLoop { ops, eventfd, asleep, waits_since, sender, receiver })
    }

    fn post(&self, message: Message) {
        // The receiver is never dropped.
        let _ = self.sender.send(message);
        self.wake_if_asleep();
    }

    fn post_soon(&self, message: Message) {
        // The receiver is never dropped.
        let _ = self.sender.send(message);
        let now = page::now();
        match self.waits_since.load(Relaxed) {
            0 => self.waits_since.store(now, Relaxed),
            since if now - since > LONGEST => self.wake_if_asleep(),
            _ => {}
        }
    }

    fn wake_if_asleep(&self) {
        self.waits_since.store(0, Relaxed);
        if self.asleep.swap(false, SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        let one = 1u64;
        // SAFETY: writes the eight bytes of `one`. It cannot fail: the counter does not get near its end.
        unsafe { libc::write(self.eventfd.as_raw_fd(), ptr::from_ref(&one).cast(), 8) };
    }

    fn drain(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into `count`. That it fails when nothing is to be read is fine.
        unsafe { libc::read(self.eventfd.as_raw_fd(), ptr::from_mut(&mut count).cast(), 8) };
        self.handle_queued();
    }

    fn handle_queued(&self) {
        let receiver = self.receiver.lock().expect("no panic under this lock");
        for _ in 0..BATCH {
            let message = receiver.try_recv().or_else(|empty| {
                if self.asleep.load(SeqCst) {
                    return Err(empty);
                }
                // What was queued before this store woke nobody: look once more.
                self.asleep.store(true, SeqCst);
                receiver.try_recv().inspect(|_| self.asleep.store(false, SeqCst)).map_err(|_| empty)
            });
            match message {
                Ok(message) => self.handle(message),
                Err(_) => return,
            }
        }
        self.wake();
    }

    fn handle(&self, message: Message) {
        // SAFETY: the ops are called on the event loop with a request that has not been released.
        unsafe {
            match message {
                Message::Answer(exchange, answer) => self.respond(&exchange, answer),
                Message::Finish(exchange, outcome) => {
                    let request = exchange.server_request();
                    if let (false, Some(finish)) = (request.is_null(), self.ops.finish) {
                        finish(request, outcome);
                    }
                }
                Message::ReadMore(exchange) => {
                    let request = exchange.server_request();
                    if let (false, Some(read_more)) = (request.is_null(), self.ops.read_more) {
                        read_more(request);
                    }
                }
                Message::Verdict(exchange, verdict, text) => {
                    let request = exchange.server_request();
                    if let (false, Some(answer)) = (request.is_null(), self.ops.answer) {
                        answer(request, verdict, burrow_str::new(&text));
                    }
                }
                Message::Log(exchange, level, line) => {
                    let request = exchange.map_or(ptr::null_mut(), |exchange| exchange.server_request());
                    embedded::log::to_server(request, level, &line);
                }
            }
        }
    }

    /// # Safety
    /// On the event loop.
    unsafe fn respond(&self, exchange: &Exchange, answer: Answer) {
        let request = exchange.server_request();
        let (false, Some(respond)) = (request.is_null(), self.ops.respond) else { return };
        let Answer { block, head, body, flags } = answer;
        let head = head.as_ref().map_or(ptr::null(), ptr::from_ref);
        if body.len > 0 {
            // The head lies in the chunk as well, and lives as long as that.
            respond(request, head, Block::into_raw(block), &body, flags);
        } else {
            respond(request, head, ptr::null_mut(), &body, flags);
            drop(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wakes(event_loop: &EventLoop) -> u64 {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into `count`.
        unsafe { libc::read(event_loop.eventfd.as_raw_fd(), ptr::from_mut(&mut count).cast(), 8) };
        count
    }

    fn line() -> Message {
        Message::Log(None, burrow_abi::BURROW_LOG_INFO, (*b"a line").into())
    }

    #[test]
    fn a_wake_that_follows_soon_is_not_waited_for() {
        let event_loop = EventLoop::new(burrow_loop_ops::default()).unwrap();
        event_loop.post_soon(line());
        assert_eq!(wakes(&event_loop), 0);
        event_loop.waits_since.fetch_sub(LONGEST + 1, Relaxed);
        event_loop.post_soon(line());
        assert_eq!(wakes(&event_loop), 1);
        event_loop.drain();
        event_loop.post_soon(line());
        assert_eq!(wakes(&event_loop), 0);
    }

    #[test]
    fn one_wake_for_all_that_is_queued() {
        let event_loop = EventLoop::new(burrow_loop_ops::default()).unwrap();
        event_loop.post(line());
        event_loop.post(line());
        assert_eq!(wakes(&event_loop), 1);
        event_loop.drain();
        event_loop.post(line());
        assert_eq!(wakes(&event_loop), 1);
        for _ in 0..BATCH {
            event_loop.post(line());
        }
        assert_eq!(wakes(&event_loop), 0);
        event_loop.drain();
        assert_eq!(wakes(&event_loop), 1, "one is left");
        event_loop.drain();
        assert_eq!(wakes(&event_loop), 0);
    }
}
