//! The thread that drives what is suspended. It starts with the first WebSocket, and an idle one costs it no
//! wake-up.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use burrow_abi::BURROW_LOG_WARN;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::websocket::WebSocket;
use super::{Buffer, PIECE};
use crate::embedded::log::report_process;
use crate::embedded::with_signals_blocked;

/// What epoll's events of [`Shared::signal`] say; no WebSocket has the number 0.
const SIGNAL: u64 = 0;

/// What other threads have for it.
enum Message {
    Add(Box<WebSocket>),
    Look(u64),
    Retire,
    /// It touches nothing any more once it has said so.
    Stop(SyncSender<()>),
}

struct Shared {
    epoll: Epoll,
    signal: EventFd,
    messages: Mutex<Vec<Message>>,
}

static LOOP: OnceLock<Result<&'static Shared, Errno>> = OnceLock::new();
/// The process takes no further connections.
static RETIRED: AtomicBool = AtomicBool::new(false);

/// Has the loop look at a WebSocket.
#[derive(Clone, Copy)]
pub struct Wake(u64);

impl Wake {
    pub fn wake(&self) {
        post(Message::Look(self.0));
    }
}

/// Starts it where it does not run yet.
pub fn is_running() -> bool {
    let made = LOOP.get_or_init(|| {
        start().inspect_err(|error| {
            let cost = "each WebSocket holds a thread";
            report_process(
                BURROW_LOG_WARN,
                &format!("the loop of WebSockets does not start ({error}): {cost}"),
            );
        })
    });
    made.is_ok()
}

pub fn add(websocket: Box<WebSocket>) {
    post(Message::Add(websocket));
}

/// The process takes no further connections.
pub fn retire() {
    RETIRED.store(true, SeqCst);
    post(Message::Retire);
}

/// The process is about to end: no connection is touched from here on.
pub fn stop() {
    let (sender, stopped) = sync_channel(1);
    if post(Message::Stop(sender)) {
        stopped.recv().expect("the loop does not end");
    }
}

/// Before a descriptor is closed that was watched: where a child of the application's has it, too, closing alone would
/// not take it out of the epoll.
pub fn forget(descriptor: BorrowedFd) {
    if let Some(Ok(shared)) = LOOP.get() {
        // It may not be in there.
        let _ = shared.epoll.delete(descriptor);
    }
}

/// Whether there is a loop that gets it.
fn post(message: Message) -> bool {
    let Some(Ok(shared)) = LOOP.get() else { return false };
    let mut messages = shared.messages.lock().expect("nothing panics while it holds the lock");
    if messages.is_empty() {
        // It cannot fail: the counter does not get near its end.
        let _ = shared.signal.write(1);
    }
    messages.push(message);
    true
}

fn start() -> Result<&'static Shared, Errno> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let signal = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    epoll.add(&signal, EpollEvent::new(EpollFlags::EPOLLIN, SIGNAL))?;
    let shared: &Shared = Box::leak(Box::new(Shared { epoll, signal, messages: Mutex::default() }));
    let driver = Driver {
        shared,
        websockets: HashMap::new(),
        last: 0,
        due: BTreeSet::new(),
        again: Vec::new(),
        buffer: Box::new([0; PIECE]),
    };
    let thread = thread::Builder::new().name("burrow:sockets".into());
    let spawned = with_signals_blocked(|| thread.spawn(|| driver.run()));
    spawned.map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))?;
    Ok(shared)
}

struct Driver {
    shared: &'static Shared,
    /// By a number that is never used again.
    websockets: HashMap<u64, WebSocket>,
    last: u64,
    /// Those that something takes too long of, unless something happens.
    due: BTreeSet<(Instant, u64)>,
    /// Those that have more to do at once.
    again: Vec<u64>,
    buffer: Box<Buffer>,
}

impl Driver {
    fn run(mut self) -> ! {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            // Fails only when a signal comes, and then with no event.
            let count = self.shared.epoll.wait(&mut events, self.timeout()).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    SIGNAL => self.take_messages(),
                    data => self.ready(data, event.events()),
                }
            }
            for number in mem::take(&mut self.again) {
                self.advance(number);
            }
            self.expire();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.again.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some((due, _)) = self.due.first() else { return EpollTimeout::NONE };
        // Not a moment too early, which would be in vain.
        let left = due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
    }

    fn take_messages(&mut self) {
        let _ = self.shared.signal.read();
        let messages =
            mem::take(&mut *self.shared.messages.lock().expect("nothing panics while it holds the lock"));
        for message in messages {
            match message {
                Message::Add(websocket) => self.add(*websocket),
                Message::Look(number) => self.advance(number),
                Message::Retire => self.retire(),
                Message::Stop(stopped) => {
                    let _ = stopped.send(());
                    loop {
                        thread::park();
                    }
                }
            }
        }
    }

    fn add(&mut self, mut websocket: WebSocket) {
        self.last += 1;
        let number = self.last;
        websocket.begin(Wake(number));
        if RETIRED.load(SeqCst) {
            websocket.retire();
        }
        self.websockets.insert(number, websocket);
        self.advance(number);
    }

    fn retire(&mut self) {
        self.websockets.values_mut().for_each(WebSocket::retire);
        self.again.extend(self.websockets.keys());
    }

    /// Something has happened to the client, or to its peer, whose numbers are odd.
    fn ready(&mut self, data: u64, events: EpollFlags) {
        let number = data >> 1;
        let Some(websocket) = self.websockets.get_mut(&number) else { return };
        match data & 1 {
            0 => websocket.client_ready(events),
            _ => websocket.peer_ready(events),
        }
        self.advance(number);
    }

    fn advance(&mut self, number: u64) {
        let Some(websocket) = self.websockets.get_mut(&number) else { return };
        let (is_over, again) = websocket.advance(&mut self.buffer);
        let due = websocket.next_due().filter(|_| !is_over);
        if due != websocket.due {
            if let Some(before) = websocket.due {
                self.due.remove(&(before, number));
            }
            self.due.extend(due.map(|due| (due, number)));
            websocket.due = due;
        }
        if is_over {
            self.websockets.remove(&number);
        } else if again {
            self.again.push(number);
        } else if let Err(error) = watch(&self.shared.epoll, number, websocket) {
            report_process(BURROW_LOG_WARN, &format!("a WebSocket is cut: epoll: {error}"));
            websocket.lose_client();
            self.again.push(number);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(&(due, number)) = self.due.first().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, number));
            if let Some(websocket) = self.websockets.get_mut(&number) {
                websocket.due = None;
                websocket.expire(now);
            }
            self.advance(number);
        }
    }
}

/// Has epoll watch what the WebSocket waits for.
fn watch(epoll: &Epoll, number: u64, websocket: &mut WebSocket) -> nix::Result<()> {
    let mut watched = websocket.watched;
    for (side, interest) in websocket.interests().into_iter().enumerate() {
        let before = mem::replace(&mut watched[side], interest.and_then(|(_, events)| events));
        let Some((descriptor, _)) = interest else { continue };
        let event = |events| EpollEvent::new(events, number << 1 | side as u64);
        match (before, watched[side]) {
            (None, Some(events)) => epoll.add(descriptor, event(events))?,
            (Some(before), Some(events)) if before != events => {
                epoll.modify(descriptor, &mut event(events))?;
            }
            (Some(_), None) => epoll.delete(descriptor)?,
            _ => {}
        }
    }
    websocket.watched = watched;
    Ok(())
}
