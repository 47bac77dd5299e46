//! The threads that take requests: each receives one, serves it and sends the answer, all by itself.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Builder;

use burrow_abi::{
    burrow_outcome, burrow_pair, burrow_request, ASGI, BURROW_FAILED, BURROW_REQUEST_METHOD,
    BURROW_REQUEST_URI, ON_LOOP,
};
use burrow_daemon::{page, request};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags};

use super::applications::Application;
use super::connections::{Connection, Event};
use super::control::Entry;
use super::exchange::{Exchange, IO};
use super::greenlets::{self, Kept};
use super::incoming::{malformed, Received, AHEAD};
use super::outgoing::Sender;
use super::{fail, log, on_loop, reception, worker};
use crate::observe;
use crate::wsgi;

/// What the system gives a thread where nothing else was asked for.
const STACK_SIZE: usize = 8 << 20;
const SIGNAL_STACK_SIZE: usize = 64 << 10;

/// For a server that has connected, in ms: more than it takes, and less than others mind.
const FIRST_REQUEST: u16 = 200;

/// Starts as many as were asked for.
pub fn start() -> io::Result<()> {
    let config = &worker().config;
    let stack_size = if config.stack_size == 0 { STACK_SIZE } else { config.stack_size as usize };
    for number in 1..=config.threads {
        Builder::new().name(format!("burrow:{number}")).stack_size(stack_size).spawn(|| {
            add_signal_stack();
            let Err(error) = work();
            fail(&error)
        })?;
    }
    Ok(())
}

/// For faulthandler to say where a thread was that has used its stack up.
fn add_signal_stack() {
    let space = vec![0u8; SIGNAL_STACK_SIZE].leak();
    let stack = libc::stack_t { ss_sp: space.as_mut_ptr().cast(), ss_flags: 0, ss_size: space.len() };
    // SAFETY: the space is nobody else's, and lives as long as the process.
    unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
}

fn work() -> io::Result<std::convert::Infallible> {
    let worker = worker();
    let mut desk = Box::<Desk>::default();
    loop {
        worker.reserve.come();
        let event = worker.connections.wait()?;
        worker.reserve.leave();
        let is_new = matches!(event, Event::Connecting);
        let next = desk.look_at(event)?;
        if let Some(connection) = next.as_ref().filter(|_| is_new) {
            await_first(connection);
        }
        desk.handle(next)?;
    }
}

/// A server connects for a request, and sends it at once. Another process may have a free thread for the next
/// connection, of which this one would accept more than it has threads if it went back before.
fn await_first(connection: &Connection) {
    // Whatever comes of this, the connection is looked at next.
    let _ = poll(&mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)], FIRST_REQUEST);
}

/// What became of a connection.
pub enum Attended {
    /// Nothing had arrived, or it was served.
    Done(Entry<'static>),
    /// An event loop serves it, and has the connection.
    Lent,
    /// What was received is for a thread that may wait.
    ForThread,
}

/// What a thread works with, from request to request.
pub struct Desk {
    received: Received,
    /// That was set aside, and is to be served next.
    is_waiting: bool,
    /// Room for what arrives of a body, for an answer's frames and for headers.
    body: Vec<u8>,
    frames: Vec<u8>,
    pairs: Vec<burrow_pair>,
}

// SAFETY: the pairs are made anew, from what was received, before they are used.
unsafe impl Send for Desk {}

impl Default for Desk {
    fn default() -> Desk {
        let (frames, pairs) = (Vec::new(), Vec::new());
        Desk { received: Received::new(), is_waiting: false, body: vec![0; AHEAD], frames, pairs }
    }
}

impl Desk {
    /// The connection that an event is about, if there is one.
    pub fn look_at(self: &mut Box<Desk>, event: Event) -> io::Result<Option<Connection>> {
        match event {
            // One by one, each of them would wait behind all connections that are in use.
            Event::Connecting if worker().config.processes == 1 => self.accept_all().map(|()| None),
            // Another process may have a free thread for the next one.
            Event::Connecting => self.accept(),
            Event::Arrived(connection, desk) => {
                if let Some(desk) = desk {
                    *self = desk;
                    worker().connections.watch_room(&connection, false)?;
                }
                Ok(Some(connection))
            }
        }
    }

    /// Leaves the request that was received last to whoever waits for the next one.
    pub fn set_aside(mut self: Box<Desk>, connection: Connection) -> io::Result<()> {
        self.is_waiting = true;
        worker().connections.set_aside(connection, self)
    }

    /// Serves the requests that come one behind the other on connections.
    pub fn handle(&mut self, mut next: Option<Connection>) -> io::Result<()> {
        while let Some(connection) = next {
            // Where the process is about to end the connection ends with it.
            let Some(entry) = worker().control.try_enter() else { break };
            let attended = self.attend(&connection, entry, false);
            next = self.go_on(connection, attended)?;
        }
        Ok(())
    }

    /// Accepts a connection, if one is there, and says who we are.
    fn accept(&mut self) -> io::Result<Option<Connection>> {
        let worker = worker();
        loop {
            let connection = match worker.connections.accept(&worker.config.peers) {
                Err(error) if is_exhaustion(&error) => {
                    // Of descriptors, for instance: what holds them ends with this process.
                    log::error(&format!(
                        "no further connection is accepted, another process is asked for: {error}"
                    ));
                    worker.connections.listen(false)?;
                    worker.control.retire("resource_limit");
                    None
                }
                accepted => accepted?,
            };
            let Some(connection) = connection else { return Ok(None) };
            worker.page.open(connection.slot);
            let mut sender = Sender::new(connection.as_fd(), &mut self.frames);
            match sender.hello(connection.slot, worker.page.descriptors()) {
                Ok(()) => return Ok(Some(connection)),
                // The server has gone already.
                Err(_) => worker.connections.close(connection)?,
            }
        }
    }

    /// Accepts the connections that are there, and leaves them to whoever takes requests.
    pub fn accept_all(&mut self) -> io::Result<()> {
        while let Some(connection) = self.accept()? {
            worker().connections.offer(connection)?;
        }
        Ok(())
    }

    /// Gives back a connection that nobody has any more. It is to be attended to again where something has
    /// arrived meanwhile.
    pub fn go_on(
        &self,
        connection: Connection,
        attended: io::Result<Attended>,
    ) -> io::Result<Option<Connection>> {
        let connections = &worker().connections;
        match attended {
            Ok(Attended::Done(_entry)) => connections.release(connection),
            Ok(Attended::Lent) => Ok(None),
            Ok(Attended::ForThread) => unreachable!("threads serve everything"),
            Err(error) => {
                if error.kind() == ErrorKind::InvalidData {
                    log::error(&format!("a connection is closed, since its server has sent {error}"));
                }
                connections.close(connection).map(|()| None)
            }
        }
    }

    /// Serves the request that has arrived, if one has. An error where the connection is to be closed.
    pub fn attend(
        &mut self,
        connection: &Connection,
        entry: Entry<'static>,
        on_loop: bool,
    ) -> io::Result<Attended> {
        match std::mem::take(&mut self.is_waiting) || self.received.receive(connection.as_fd())? {
            true => self.serve(connection, entry, on_loop),
            false => Ok(Attended::Done(entry)),
        }
    }

    /// Serves the request that was received; `on_loop`: only if an event loop does that.
    fn serve(
        &mut self,
        connection: &Connection,
        entry: Entry<'static>,
        on_loop: bool,
    ) -> io::Result<Attended> {
        let worker = worker();
        let socket = connection.as_fd();
        let read = request::read(self.received.payload(), &mut self.pairs);
        let (address, mut request) = read.ok_or_else(|| malformed("what is no request"))?;
        let now = page::now();
        let application = worker.applications.find(&address);
        application.look_at_script(&mut request, now);
        let is_looped = application.interface(&request) == ASGI;
        if on_loop && !is_looped {
            return Ok(Attended::ForThread);
        }
        if address.queue_deadline != 0 && now > address.queue_deadline {
            // The server has answered it by now.
            return Err(ErrorKind::TimedOut.into());
        }
        let [method, uri] = [BURROW_REQUEST_METHOD, BURROW_REQUEST_URI].map(|var| text(&request, var));
        worker.page.take(connection.slot, now, method, uri);
        request.daemon_start = observe::now();
        let (limit, served) = (worker.config.maximum_requests, &worker.page.summary().served);
        if limit > 0 && served.load(Relaxed) >= limit {
            worker.control.retire("maximum_requests");
        }
        let request = Kept::new(request);
        if !is_looped {
            let body = self.received.body(socket, &mut self.body);
            let sender = Sender::new(socket, &mut self.frames);
            let exchange = Kept::new(Exchange::new(&request, connection.slot, body, sender));
            worker.requests.begin(connection.slot, now, application, exchange.pointer());
            // Greenlets are known by that, also those that wait for an import or the rest of a body.
            let _bound = greenlets::are_used().then(|| crate::log::bind(exchange.pointer()));
            let served = serve(application, &exchange);
            let is_served = !matches!(served, Ok(ON_LOOP));
            let finished =
                served.and_then(|outcome| if is_served { exchange.finish(outcome) } else { Ok(()) });
            if !worker.requests.end(connection.slot) {
                return Err(ErrorKind::TimedOut.into());
            }
            finished?;
            if is_served {
                return Ok(Attended::Done(entry));
            }
        }
        // SAFETY: it was read from there, and nothing was received since.
        unsafe { on_loop::submit(&self.received, &request, (connection, now), application, entry)? };
        reception::look();
        Ok(Attended::Lent)
    }
}

fn serve(application: &'static Application, exchange: &Exchange) -> io::Result<burrow_outcome> {
    if let Some(why) = application.refusal() {
        let _bound = crate::log::bind(exchange.pointer());
        log::error(&why);
        return exchange.forbid();
    }
    if greenlets::are_used() && !application.is_loaded() && !application.load() {
        return Ok(BURROW_FAILED);
    }
    // SAFETY: the application's record is the runtime's; the rest lives until `serve` returns.
    let outcome = unsafe { wsgi::serve(application.runtime(), exchange.request, &IO, exchange.pointer()) };
    application.announce();
    Ok(outcome)
}

fn is_exhaustion(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

fn text(request: &burrow_request, var: u32) -> &'static [u8] {
    // SAFETY: it is there while the request is.
    unsafe { request.vars[var as usize].bytes() }
}
