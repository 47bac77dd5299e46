//! The connections from servers: which thread has which, and who waits for the next request.
//!
//! Threads wait in one epoll. A connection is in it edge-triggered, so that nothing has to be switched off
//! while a thread has it and on again afterwards: what arrives meanwhile is noted in its state. The listening
//! socket is in it level-triggered and exclusive: of all the group's workers one that has a free thread is
//! woken, and where none has, connections wait in the backlog.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering::*};
use std::sync::{Arc, Mutex};

use burrow_abi::BURROW_TIMEOUT;
use burrow_daemon::config;
use burrow_daemon::frame::{Header, Kind};
use burrow_daemon::page::SLOTS;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{accept4, getsockopt, send, setsockopt, sockopt, MsgFlags, SockFlag};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd;

use super::on_loop::LoopExchange;
use super::threads::Desk;
use super::{log, worker};

/// What the epoll says where it is not a connection's place.
const LISTENER: u64 = u64::MAX;

/// How much an event loop looks at before it does something else.
pub const AT_ONCE: usize = 64;

// The states of a place.
/// There is no connection.
const FREE: u8 = 0;
/// Nobody has it: the epoll reports what arrives.
const IDLE: u8 = 1;
/// A thread has it.
const TAKEN: u8 = 2;
/// A thread has it, and the epoll has reported something meanwhile.
const AGAIN: u8 = 3;
/// An event loop has it, to which what happens is reported.
const LENT: u8 = 4;
/// Nobody has it, with a request that was received: the epoll reports that there is room to answer.
const ASIDE: u8 = 5;

pub struct Connections {
    epoll: Epoll,
    listener: OwnedFd,
    places: Box<[Place]>,
    vacancies: Mutex<Vacancies>,
    /// Servers are to close their connections.
    closing: AtomicBool,
    /// For one read or write; 0: no limit.
    timeout: TimeVal,
    /// 0: the system's.
    send_buffer_size: usize,
    receive_buffer_size: usize,
}

/// Where a connection is, or can be.
struct Place {
    /// Closed by whoever makes the place FREE.
    fd: AtomicI32,
    state: AtomicU8,
    /// It is in the epoll: not before it is idle for the first time.
    watched: AtomicBool,
    /// The server was told to close it.
    dismissed: AtomicBool,
    /// While it is LENT.
    exchange: Mutex<Option<Arc<LoopExchange>>>,
    /// While it is ASIDE.
    desk: Mutex<Option<Box<Desk>>>,
}

struct Vacancies {
    /// In the order in which they became free: a server may still look at the slot of a connection that has
    /// ended.
    places: VecDeque<usize>,
    /// Connections are to be accepted, if there is a place.
    wanted: bool,
    /// The listening socket is in the epoll.
    listening: bool,
}

/// What a thread has waited for.
pub enum Event {
    /// Somebody connects.
    Connecting,
    /// Something has arrived on a connection, which is this thread's now; with what it was set aside with.
    Arrived(Connection, Option<Box<Desk>>),
}

/// A connection that the calling thread has.
pub struct Connection {
    pub slot: usize,
    fd: RawFd,
}

impl Connection {
    /// The same, for an event loop, which is to give it back.
    pub fn lent(&self) -> Connection {
        Connection { slot: self.slot, fd: self.fd }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: only who has the connection closes it, and then no longer has it.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Connections {
    pub fn new(listener: OwnedFd, config: &config::Worker) -> io::Result<Connections> {
        let place = || Place {
            fd: AtomicI32::new(-1),
            state: AtomicU8::new(FREE),
            watched: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
            exchange: Mutex::new(None),
            desk: Mutex::new(None),
        };
        Ok(Connections {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listener,
            places: (0..SLOTS).map(|_| place()).collect(),
            vacancies: Mutex::new(Vacancies {
                places: (0..SLOTS).collect(),
                wanted: false,
                listening: false,
            }),
            closing: AtomicBool::new(false),
            timeout: TimeVal::microseconds((config.socket_timeout * 1e6) as i64),
            send_buffer_size: config.send_buffer_size,
            receive_buffer_size: config.receive_buffer_size,
        })
    }

    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// From here on connections are accepted, or no longer.
    pub fn listen(&self, wanted: bool) -> io::Result<()> {
        let mut vacancies = self.vacancies.lock().unwrap();
        vacancies.wanted = wanted;
        self.watch_listener(&mut vacancies)
    }

    fn watch_listener(&self, vacancies: &mut Vacancies) -> io::Result<()> {
        let count = SLOTS - vacancies.places.len();
        worker().page.summary().connections.store(count as u32, Relaxed);
        let listening = vacancies.wanted && !vacancies.places.is_empty();
        if listening && !vacancies.listening {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
            self.epoll.add(&self.listener, EpollEvent::new(flags, LISTENER))?;
        } else if !listening && vacancies.listening {
            self.epoll.delete(&self.listener)?;
        }
        vacancies.listening = listening;
        Ok(())
    }

    /// Waits for something to do.
    pub fn wait(&self) -> io::Result<Event> {
        let mut events = [EpollEvent::empty()];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    if let Some(event) = self.look_at(&events[0]) {
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// What an event loop watches that takes requests itself.
    pub fn descriptor(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// What there is to do now, at most so many.
    pub fn look(&self, most: usize) -> io::Result<Vec<Event>> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        match self.epoll.wait(&mut events[..most.min(AT_ONCE)], EpollTimeout::ZERO) {
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
            Ok(count) => Ok(events[..count].iter().filter_map(|event| self.look_at(event)).collect()),
        }
    }

    /// What the epoll has reported, where it is the calling thread's concern.
    fn look_at(&self, event: &EpollEvent) -> Option<Event> {
        match event.data() {
            LISTENER => Some(Event::Connecting),
            slot => self.claim(slot as usize, event.events()),
        }
    }

    /// Takes a connection that nobody has. One that somebody has is to be looked at again.
    fn claim(&self, slot: usize, flags: EpollFlags) -> Option<Event> {
        let place = &self.places[slot];
        let next = |state| match state {
            IDLE | ASIDE => Some(TAKEN),
            TAKEN => Some(AGAIN),
            _ => None,
        };
        let connection = || Connection { slot, fd: place.fd.load(Relaxed) };
        loop {
            match place.state.fetch_update(SeqCst, SeqCst, next) {
                Ok(IDLE) => return Some(Event::Arrived(connection(), None)),
                Ok(ASIDE) => return Some(Event::Arrived(connection(), place.desk.lock().unwrap().take())),
                // Where it has just been given back, it is looked at once more.
                Err(LENT) if !self.lent(slot).is_some_and(|exchange| exchange.report(flags)) => {}
                _ => return None,
            }
        }
    }

    /// What an event loop serves on a connection.
    pub fn lent(&self, slot: usize) -> Option<Arc<LoopExchange>> {
        self.places[slot].exchange.lock().unwrap().clone()
    }

    /// Gives the connection, which the calling thread has, to an event loop.
    pub fn lend(&self, connection: &Connection, exchange: Arc<LoopExchange>) -> io::Result<()> {
        let place = &self.places[connection.slot];
        *place.exchange.lock().unwrap() = Some(exchange.clone());
        if place.state.swap(LENT, SeqCst) == AGAIN {
            exchange.report(EpollFlags::EPOLLIN);
        }
        if !place.watched.swap(true, Relaxed) {
            self.epoll.add(connection.as_fd(), arrivals(connection.slot))?;
        }
        Ok(())
    }

    /// The event loop is done with it. The calling thread has it then, and closes it.
    pub fn take_back(&self, connection: &Connection) -> Connection {
        let place = &self.places[connection.slot];
        place.state.store(TAKEN, SeqCst);
        *place.exchange.lock().unwrap() = None;
        connection.lent()
    }

    /// The event loop is done with it for now. `again`: something has arrived, which is to be reported.
    pub fn give_back(&self, connection: &Connection, again: bool) -> io::Result<()> {
        let place = &self.places[connection.slot];
        *place.exchange.lock().unwrap() = None;
        place.state.store(IDLE, SeqCst);
        if again {
            self.epoll.modify(connection.as_fd(), &mut arrivals(connection.slot))?;
        }
        if self.closing.load(SeqCst) {
            self.dismiss(connection.slot)?;
        }
        Ok(())
    }

    /// Leaves a request that was received to whoever waits for the next one.
    pub fn set_aside(&self, connection: Connection, desk: Box<Desk>) -> io::Result<()> {
        let place = &self.places[connection.slot];
        // Whoever claims it waits until it is watched: only then it can be closed.
        let mut aside = place.desk.lock().unwrap();
        *aside = Some(desk);
        place.state.store(ASIDE, SeqCst);
        if !place.watched.swap(true, Relaxed) {
            self.epoll.add(connection.as_fd(), arrivals(connection.slot))?;
        }
        self.watch_room(&connection, true)
    }

    /// Whether the epoll is to report that there is room to send.
    pub fn watch_room(&self, connection: &Connection, wanted: bool) -> io::Result<()> {
        let more = if wanted { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        let mut event = EpollEvent::new(arrivals(connection.slot).events() | more, connection.slot as u64);
        Ok(self.epoll.modify(connection.as_fd(), &mut event)?)
    }

    /// Accepts a connection whose peer is one of these users, if another worker was not quicker and there is
    /// a place.
    pub fn accept(&self, peers: &[u32]) -> io::Result<Option<Connection>> {
        let slot = {
            let mut vacancies = self.vacancies.lock().unwrap();
            let Some(slot) = vacancies.places.pop_front() else { return Ok(None) };
            self.watch_listener(&mut vacancies)?;
            slot
        };
        if self.count() == SLOTS {
            // No other connection is accepted until there is room again.
            self.dismiss_idle()?;
        }
        let place = &self.places[slot];
        match self.accept_from(peers) {
            Ok(Some(socket)) => {
                place.watched.store(false, Relaxed);
                place.dismissed.store(false, Relaxed);
                let connection = Connection { slot, fd: socket.into_raw_fd() };
                place.fd.store(connection.fd, Relaxed);
                place.state.store(TAKEN, SeqCst);
                Ok(Some(connection))
            }
            other => {
                self.vacate(slot)?;
                other.map(|_| None)
            }
        }
    }

    fn accept_from(&self, peers: &[u32]) -> io::Result<Option<OwnedFd>> {
        let socket = loop {
            let socket = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                // SAFETY: it has just been made, for nobody else.
                Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ECONNABORTED | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
            if peers.contains(&peer.uid()) {
                break socket;
            }
            log::error(&format!(
                "process {} of user {} has connected, who is not the server's: refused",
                peer.pid(),
                peer.uid()
            ));
        };
        if self.timeout.num_microseconds() > 0 {
            setsockopt(&socket, sockopt::ReceiveTimeout, &self.timeout)?;
            setsockopt(&socket, sockopt::SendTimeout, &self.timeout)?;
        }
        if self.send_buffer_size > 0 {
            setsockopt(&socket, sockopt::SndBuf, &self.send_buffer_size)?;
        }
        if self.receive_buffer_size > 0 {
            setsockopt(&socket, sockopt::RcvBuf, &self.receive_buffer_size)?;
        }
        Ok(Some(socket))
    }

    /// The thread is done with a connection for now. Gives it back where something has arrived meanwhile.
    pub fn release(&self, connection: Connection) -> io::Result<Option<Connection>> {
        let place = &self.places[connection.slot];
        if !place.watched.swap(true, Relaxed) {
            self.epoll.add(connection.as_fd(), arrivals(connection.slot))?;
        }
        if place.state.compare_exchange(TAKEN, IDLE, SeqCst, SeqCst).is_err() {
            place.state.store(TAKEN, SeqCst);
            return Ok(Some(connection));
        }
        if self.closing.load(SeqCst) {
            self.dismiss(connection.slot)?;
        }
        Ok(None)
    }

    /// Leaves a new connection to whoever waits for the next request.
    pub fn offer(&self, connection: Connection) -> io::Result<()> {
        let place = &self.places[connection.slot];
        place.watched.store(true, Relaxed);
        place.state.store(IDLE, SeqCst);
        Ok(self.epoll.add(connection.as_fd(), arrivals(connection.slot))?)
    }

    /// From here on servers are told to close their connections, as soon as no request is on them.
    pub fn dismiss_all(&self) -> io::Result<()> {
        self.closing.store(true, SeqCst);
        self.dismiss_idle()
    }

    fn dismiss_idle(&self) -> io::Result<()> {
        (0..SLOTS).try_for_each(|slot| self.dismiss(slot))
    }

    /// Tells the server to close a connection. Nothing happens where a thread has it, who releases it.
    fn dismiss(&self, slot: usize) -> io::Result<()> {
        let place = &self.places[slot];
        if place.state.compare_exchange(IDLE, TAKEN, SeqCst, SeqCst).is_err() {
            return Ok(());
        }
        let connection = Connection { slot, fd: place.fd.load(Relaxed) };
        if !place.dismissed.swap(true, Relaxed) {
            let frame = Header { kind: Kind::GoAway, flags: 0, length: 0 }.bytes();
            // A server that has gone, or does not read, needs no telling.
            let _ = send(connection.fd, &frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
        if place.state.swap(IDLE, SeqCst) == AGAIN {
            // What was reported meanwhile is reported once more.
            self.epoll.modify(connection.as_fd(), &mut arrivals(slot))?;
        }
        Ok(())
    }

    /// Closes a connection.
    pub fn close(&self, connection: Connection) -> io::Result<()> {
        let place = &self.places[connection.slot];
        if place.watched.load(Relaxed) {
            // A child that was just forked may still hold it: closing alone would not take it out.
            self.epoll.delete(connection.as_fd())?;
        }
        place.state.store(FREE, SeqCst);
        if let Err(Errno::EBADF) = unistd::close(place.fd.swap(-1, Relaxed)) {
            // Threads that wait in the epoll would not notice that it is closed like the rest.
            return Err(io::Error::other("its descriptors were closed by the application"));
        }
        self.vacate(connection.slot)
    }

    /// Tells the server that the time for its request is up, and not to use the connection again. Its
    /// thread has it, and neither closes it nor sends anything meanwhile.
    pub fn time_out(&self, slot: usize) {
        let dismissal = Header { kind: Kind::GoAway, flags: 0, length: 0 }.bytes();
        let end = Header { kind: Kind::Abort, flags: 0, length: 1 }.bytes();
        let frames = [&dismissal[..], &end, &[BURROW_TIMEOUT as u8]].concat();
        // Nobody waits for a server that does not read.
        let _ = send(
            self.places[slot].fd.load(Relaxed),
            &frames,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        );
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        SLOTS - self.vacancies.lock().unwrap().places.len()
    }

    /// In a child that the application forked: these are its parent's. Does what a signal handler may.
    pub fn abandon(&self) {
        let places = self.places.iter().map(|place| place.fd.load(Relaxed)).filter(|fd| *fd >= 0);
        for fd in places.chain([self.epoll.0.as_raw_fd(), self.listener.as_raw_fd()]) {
            // SAFETY: the child's own copies, which nothing there uses.
            unsafe { libc::close(fd) };
        }
    }

    fn vacate(&self, slot: usize) -> io::Result<()> {
        let mut vacancies = self.vacancies.lock().unwrap();
        vacancies.places.push_back(slot);
        if self.closing.load(SeqCst) {
            worker().control.wake();
        }
        self.watch_listener(&mut vacancies)
    }
}

fn arrivals(slot: usize) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, slot as u64)
}
