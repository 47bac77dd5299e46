//! What other threads tell an event loop: a queue, and an eventfd that the loop watches.

use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::event_loop::Message;

pub struct Inbox {
    eventfd: EventFd,
    state: Mutex<State>,
    /// The watchdog has something to do.
    used: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<Message>,
    /// The loop has been told, and takes everything that is in the queue by then.
    told: bool,
    /// … by the eventfd.
    written: bool,
    /// How often the loop has taken what there was.
    taken: u64,
    /// The watchdog sleeps.
    unwatched: bool,
}

impl Inbox {
    pub fn new() -> nix::Result<Inbox> {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Inbox { eventfd, state: Mutex::default(), used: Condvar::new() })
    }

    pub fn descriptor(&self) -> i32 {
        self.eventfd.as_raw_fd()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Queues messages, and wakes the loop if it does not know of any yet.
    pub fn push(&self, messages: impl Iterator<Item = Message>) {
        let mut state = self.lock();
        state.queue.extend(messages);
        let tell = !std::mem::replace(&mut state.told, true);
        state.written |= tell;
        let watch = std::mem::take(&mut state.unwatched);
        drop(state);
        if tell {
            // It cannot fail: the counter does not get near its end.
            let _ = self.eventfd.write(1);
        }
        if watch {
            self.used.notify_one();
        }
    }

    /// On the loop, which takes what there is soon in any case.
    pub fn expect(&self) {
        self.lock().told = true;
    }

    /// Takes what there is. On the loop, which was told.
    pub fn take(&self, into: &mut Vec<Message>) {
        let mut state = self.lock();
        if std::mem::take(&mut state.written) {
            // Where whoever writes it has not come to that yet, the loop comes here once more.
            let _ = self.eventfd.read();
        }
        state.told = false;
        state.taken += 1;
        std::mem::swap(&mut state.queue, into);
    }

    /// How often the loop has taken what there was.
    pub fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// Waits until something is pushed. Gives `taken` as of before.
    pub fn wait_for_use(&self) -> u64 {
        let mut state = self.lock();
        let taken = state.taken;
        state.unwatched = !state.told;
        while state.unwatched {
            state = self.used.wait(state).expect("no panic under this lock");
        }
        taken
    }
}
