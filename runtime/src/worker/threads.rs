//! The threads that take requests: each receives one, serves it and sends the answer, all by itself.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Builder;

use burrow_abi::{
    burrow_outcome, burrow_pair, burrow_request, ASGI, BURROW_REQUEST_METHOD, BURROW_REQUEST_URI, ON_LOOP,
};
use burrow_daemon::{page, request};
use nix::errno::Errno;

use super::applications::Application;
use super::connections::{Connection, Event};
use super::control::Entry;
use super::exchange::{Exchange, IO};
use super::incoming::{malformed, Received, AHEAD};
use super::outgoing::Sender;
use super::{fail, log, on_loop, worker};
use crate::observe;
use crate::wsgi;

/// What the system gives a thread where nothing else was asked for.
const STACK_SIZE: usize = 8 << 20;
const SIGNAL_STACK_SIZE: usize = 64 << 10;

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
    let mut desk = Desk::new();
    loop {
        worker.reserve.come();
        let event = worker.connections.wait()?;
        worker.reserve.leave();
        let mut next = match event {
            Event::Arrived(connection) => Some(connection),
            Event::Connecting => desk.accept()?,
        };
        while let Some(connection) = next {
            let entry = worker.control.enter();
            next = match desk.attend(&connection, entry) {
                Ok(Some(_entry)) => worker.connections.release(connection)?,
                Ok(None) => None,
                Err(error) => {
                    if error.kind() == ErrorKind::InvalidData {
                        log::error(&format!("a connection is closed, since its server has sent {error}"));
                    }
                    worker.connections.close(connection)?;
                    None
                }
            }
        }
    }
}

/// What a thread works with, from request to request.
struct Desk {
    received: Received,
    /// Room for what arrives of a body, for an answer's frames and for headers.
    body: Vec<u8>,
    frames: Vec<u8>,
    pairs: Vec<burrow_pair>,
}

impl Desk {
    fn new() -> Desk {
        Desk { received: Received::new(), body: vec![0; AHEAD], frames: Vec::new(), pairs: Vec::new() }
    }

    /// Accepts a connection and says who we are.
    fn accept(&mut self) -> io::Result<Option<Connection>> {
        let worker = worker();
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
        if sender.hello(connection.slot, worker.page.descriptors()).is_err() {
            // The server has gone already.
            worker.connections.close(connection)?;
            return Ok(None);
        }
        Ok(Some(connection))
    }

    /// Serves the request that has arrived, if one has. None where an event loop does that from here on, which
    /// has the connection then. An error where that is to be closed.
    fn attend(
        &mut self,
        connection: &Connection,
        entry: Entry<'static>,
    ) -> io::Result<Option<Entry<'static>>> {
        let worker = worker();
        let socket = connection.as_fd();
        if !self.received.receive(socket)? {
            return Ok(Some(entry));
        }
        let read = request::read(self.received.payload(), &mut self.pairs);
        let (address, mut request) = read.ok_or_else(|| malformed("what is no request"))?;
        let now = page::now();
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
        let application = worker.applications.find(&address);
        application.look_at_script(&mut request);
        if application.interface(&request) != ASGI {
            let body = self.received.body(socket, &mut self.body);
            let sender = Sender::new(socket, &mut self.frames);
            let exchange = Exchange::new(&request, connection.slot, body, sender);
            worker.requests.begin(connection.slot, now, application, exchange.pointer());
            let served = serve(application, &exchange);
            let is_served = !matches!(served, Ok(ON_LOOP));
            let finished =
                served.and_then(|outcome| if is_served { exchange.finish(outcome) } else { Ok(()) });
            if !worker.requests.end(connection.slot) {
                return Err(ErrorKind::TimedOut.into());
            }
            finished?;
            if is_served {
                return Ok(Some(entry));
            }
        }
        on_loop::submit(&self.received, &request, (connection, now), application, entry)?;
        Ok(None)
    }
}

fn serve(application: &'static Application, exchange: &Exchange) -> io::Result<burrow_outcome> {
    if let Some(why) = application.refusal() {
        let _bound = crate::log::bind(exchange.pointer());
        log::error(&why);
        return exchange.forbid();
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
