//! Who takes requests. Where one event loop runs all applications that is the loop itself: it watches the epoll that
//! threads wait in otherwise, and a request comes to it without one of them.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use burrow_daemon::page::SLOTS;
use burrow_daemon::request::Addressed;

use super::connections::{Event, AT_ONCE};
use super::threads::{self, Attended, Desk};
use super::{fail, greenlets, worker};
use crate::asgi::EventLoop;

thread_local! {
    /// Of the loop's thread, as long as it takes requests.
    static DESK: RefCell<Option<Box<Desk>>> = const { RefCell::new(None) };
}

/// From here on requests are taken.
pub fn open() -> io::Result<()> {
    if greenlets::are_used() {
        return greenlets::open();
    }
    let Some(event_loop) = the_event_loop() else { return threads::start(None) };
    // It has as much to do as servers find connections for.
    worker().page.summary().threads.store(SLOTS as u32, Relaxed);
    event_loop.watch(worker().connections.descriptor(), || {
        let desk = DESK.take().unwrap_or_else(|| Box::new(Desk::new()));
        if let Err(error) = receive(desk) {
            fail(&error);
        }
    });
    Ok(())
}

/// The one that runs all applications of the configuration.
fn the_event_loop() -> Option<&'static EventLoop> {
    let mut loops = worker().config.apps.iter().map(|app| {
        let address = Addressed {
            target: &app.target,
            callable: &app.callable,
            application_group: &app.application_group,
            queue_deadline: 0,
        };
        worker().applications.find(&address).event_loop()
    });
    let first = loops.next()??;
    loops.all(|other| other.is_some_and(|other| std::ptr::eq(first, other))).then_some(first)
}

/// Takes what there is. On the loop's thread.
fn receive(mut desk: Box<Desk>) -> io::Result<()> {
    let mut events = worker().connections.look(AT_ONCE)?.into_iter();
    while let Some(event) = events.next() {
        let mut next = match event {
            Event::Arrived(connection) => Some(connection),
            Event::Connecting => desk.accept()?,
        };
        while let Some(connection) = next {
            // Where the process is about to end the connection ends with it.
            let Some(entry) = worker().control.try_enter() else { return Ok(()) };
            next = match desk.attend(&connection, entry, true) {
                Ok(Attended::ForThread(entry)) => return retreat((desk, connection, entry), events),
                attended => desk.go_on(connection, attended)?,
            };
        }
    }
    DESK.set(Some(desk));
    Ok(())
}

/// A request is not for the loop: from here on threads take them all, and what was to come next.
fn retreat(job: threads::Job, next: impl Iterator<Item = Event>) -> io::Result<()> {
    for event in next {
        if let Event::Arrived(connection) = event {
            worker().connections.give_back(&connection, true)?;
        }
    }
    if let Some(event_loop) = the_event_loop() {
        event_loop.unwatch(worker().connections.descriptor());
    }
    threads::start(Some(job))
}
