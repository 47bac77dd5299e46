//! A thread that waits for workers to drain or to die, so that their idle connections are closed: a draining
//! worker goes on until they are. It costs a request nothing, and an idle process no wake-up.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::pool::Worker;
use super::Group;
use crate::embedded::with_signals_blocked;

type Workers = HashMap<u64, (Arc<Group>, Arc<Worker>)>;

struct Watch {
    epoll: Epoll,
    workers: Mutex<Workers>,
}

/// Has the worker's connections closed when it is time.
pub fn watch(group: &Arc<Group>, worker: Arc<Worker>) -> io::Result<()> {
    static WATCH: OnceLock<Result<&Watch, Errno>> = OnceLock::new();
    static LAST: AtomicU64 = AtomicU64::new(0);
    let watch = (*WATCH.get_or_init(start))?;
    let number = LAST.fetch_add(1, Relaxed);
    let mut workers = watch.workers.lock().expect("nothing panics while it holds the lock");
    watch.epoll.add(&worker.notice, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
    workers.insert(number, (group.clone(), worker));
    Ok(())
}

fn start() -> Result<&'static Watch, Errno> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let watch: &Watch = Box::leak(Box::new(Watch { epoll, workers: Mutex::default() }));
    let thread = thread::Builder::new().name("burrow:workers".into());
    let spawned = with_signals_blocked(|| thread.spawn(|| run(watch)));
    spawned.map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))?;
    Ok(watch)
}

fn run(watch: &Watch) {
    let mut events = [EpollEvent::empty(); 16];
    loop {
        // Fails only when a signal comes, and then with no event.
        let count = watch.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..count] {
            let mut workers = watch.workers.lock().expect("nothing panics while it holds the lock");
            let Some((group, worker)) = workers.remove(&event.data()) else { continue };
            drop(workers);
            // Others have the same pipe open: it does not leave the set by being closed.
            let _ = watch.epoll.delete(&worker.notice);
            group.links.forget(&worker);
        }
    }
}
