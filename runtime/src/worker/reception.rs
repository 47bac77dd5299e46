//! Who takes requests. Where one event loop runs all applications that is the loop itself: it watches the epoll that
//! threads wait in otherwise, and a request comes to it without one of them.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Mutex;

use burrow_daemon::page::SLOTS;

use super::connections::{Event, AT_ONCE};
use super::threads::{self, Attended, Desk};
use super::{fail, greenlets, worker};
use crate::asgi::EventLoop;

/// Whether there are threads. Locked by whoever decides who takes requests.
#[derive(Default)]
pub struct Reception(Mutex<bool>);

thread_local! {
    /// Of the loop's thread, as long as it takes requests.
    static DESK: RefCell<Option<Box<Desk>>> = const { RefCell::new(None) };
}

/// From here on requests are taken.
pub fn open() -> io::Result<()> {
    if greenlets::are_used() {
        worker().reserve.close();
        return greenlets::open();
    }
    look();
    if worker().reserve.is_closed() {
        Ok(())
    } else {
        let_threads()
    }
}

/// The loop takes the requests from here on, if it runs all applications by now.
pub fn look() {
    let worker = worker();
    if worker.reserve.is_closed() {
        return;
    }
    let _deciding = worker.reception.0.lock().unwrap();
    let Some(event_loop) = worker.applications.event_loop() else { return };
    if worker.reserve.close() {
        // It has as much to do as servers find connections for.
        worker.page.summary().threads.store(SLOTS as u32, Relaxed);
        event_loop.watch(worker.connections.descriptor(), |event_loop| {
            if let Err(error) = receive(event_loop, DESK.take().unwrap_or_default()) {
                fail(&error);
            }
        });
    }
}

fn let_threads() -> io::Result<()> {
    let worker = worker();
    let mut has_threads = worker.reception.0.lock().unwrap();
    worker.page.summary().threads.store(worker.config.threads, Relaxed);
    worker.reserve.open();
    match std::mem::replace(&mut *has_threads, true) {
        true => Ok(()),
        false => threads::start(),
    }
}

/// Takes what there is. On the loop's thread.
fn receive(event_loop: &EventLoop, mut desk: Box<Desk>) -> io::Result<()> {
    let mut events = worker().connections.look(AT_ONCE)?.into_iter();
    while let Some(event) = events.next() {
        let mut next = desk.look_at(event)?;
        while let Some(connection) = next {
            // Where the process is about to end the connection ends with it.
            let Some(entry) = worker().control.try_enter() else { return Ok(()) };
            next = match desk.attend(&connection, entry, true) {
                Ok(Attended::ForThread) => {
                    desk.set_aside(connection)?;
                    return retreat(event_loop, events);
                }
                attended => desk.go_on(connection, attended)?,
            };
        }
    }
    DESK.set(Some(desk));
    Ok(())
}

/// A request is not for the loop: from here on threads take them, and what was to come next.
fn retreat(event_loop: &EventLoop, next: impl Iterator<Item = Event>) -> io::Result<()> {
    for event in next {
        match event {
            Event::Arrived(connection, Some(desk)) => desk.set_aside(connection)?,
            Event::Arrived(connection, None) => worker().connections.give_back(&connection, true)?,
            Event::Connecting => {}
        }
    }
    event_loop.unwatch(worker().connections.descriptor());
    let_threads()
}
