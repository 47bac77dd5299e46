//! Connections of one server process to the workers of a process group, and which of them a request gets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use burrow_daemon::frame::Hello;
use burrow_daemon::page;
use nix::sys::stat::fstat;
use nix::sys::statfs::{fstatfs, FsType};

/// The file system of pipes, from the kernel's magic.h.
const PIPEFS: FsType = FsType(0x5049_5045);

/// A worker that this process has connections to, as it shows itself.
pub struct Worker {
    page: page::Reader,
    /// The number of the page's file: unique while it is mapped.
    inode: u64,
    /// Readable once the worker drains or has died.
    pub notice: OwnedFd,
}

impl Worker {
    /// Takes no further connections: it is being replaced.
    pub fn is_draining(&self) -> bool {
        self.page.summary().is_draining()
    }

    /// What it says that its pid is.
    pub fn pid(&self) -> u32 {
        self.page.summary().pid.load(Relaxed)
    }

    fn busy(&self) -> u32 {
        self.page.summary().busy.load(Relaxed)
    }
}

/// A connection. `C` is what the server holds of it.
pub struct Connection<C> {
    pub handle: C,
    /// Since its HELLO: whose it is, and its slot of the page.
    worker: Option<(Arc<Worker>, u32)>,
    /// Requests that were sent.
    sent: u32,
}

impl<C> Connection<C> {
    pub fn new(handle: C) -> Self {
        Connection { handle, worker: None, sent: 0 }
    }

    /// To be called before anything of a request is sent.
    pub fn begin(&mut self) {
        self.sent = self.sent.wrapping_add(1);
    }

    /// Whether a thread has taken the request that was sent last. No worker reads one before its HELLO.
    pub fn is_taken(&self) -> bool {
        self.worker.as_ref().is_some_and(|(worker, slot)| worker.page.taken(*slot) == self.sent)
    }

    /// Whose it is, once that is known.
    pub fn worker(&self) -> Option<&Arc<Worker>> {
        self.worker.as_ref().map(|(worker, _)| worker)
    }

    /// Since when a thread has that request, in microseconds of CLOCK_MONOTONIC.
    pub fn taken_since(&self) -> Option<i64> {
        let (worker, slot) = self.worker.as_ref().filter(|_| self.is_taken())?;
        Some(worker.page.since(*slot))
    }

    /// Whether its worker is likely to be on the calling thread's processor.
    pub fn is_near(&self) -> bool {
        self.worker.as_ref().is_some_and(|(worker, _)| worker.page.is_near())
    }

    /// Whether its HELLO has come.
    pub fn is_greeted(&self) -> bool {
        self.worker.is_some()
    }
}

/// Idle connections to a worker, where it has fewer threads: requests come in bursts, and connecting for what is
/// beyond is dear. Other processes of the server have room beside.
const LEAST_LIMIT: usize = page::SLOTS / 4;

/// The connections that are idle, by worker.
pub struct Pool<C> {
    /// The one that was used last comes first.
    workers: Vec<(Arc<Worker>, Vec<Connection<C>>)>,
    /// Idle connections to each worker, at most.
    limit: usize,
    /// The group has one worker.
    is_single: bool,
}

impl<C> Pool<C> {
    /// For a group of so many workers with so many threads each.
    pub fn new(processes: usize, threads: usize) -> Self {
        Pool { workers: Vec::new(), limit: threads.max(LEAST_LIMIT), is_single: processes == 1 }
    }

    /// An idle connection to the least busy worker that would serve a request at once. None: a new connection
    /// waits until any worker takes it. Where there is but one it waits for that on any connection.
    pub fn take(&mut self) -> Option<Connection<C>> {
        let serves = |worker: &Worker| match self.is_single {
            true => !worker.is_draining(),
            false => worker.page.has_free_thread(),
        };
        let free = self.workers.iter_mut().filter(|(worker, idle)| !idle.is_empty() && serves(worker));
        // What was just sent is not taken yet, and a server sends many requests at a time.
        let load = |worker: &Arc<Worker>, idle: &[_]| {
            worker.busy().max((Arc::strong_count(worker) - 1 - idle.len()) as u32)
        };
        free.min_by_key(|(worker, idle)| load(worker, idle)).and_then(|(_, idle)| idle.pop())
    }

    /// Keeps a connection whose last answer is whole. What is not kept is to be closed.
    #[must_use]
    pub fn put(&mut self, connection: Connection<C>) -> Option<Connection<C>> {
        let keeps = |(worker, _): &&(Arc<Worker>, u32)| !worker.is_draining() && !worker.page.is_crowded();
        let Some((worker, _)) = connection.worker.as_ref().filter(keeps) else {
            return Some(connection);
        };
        let index = self.workers.iter().position(|(other, _)| Arc::ptr_eq(other, worker));
        match index.filter(|index| self.workers[*index].1.len() < self.limit) {
            Some(index) => {
                self.workers[index].1.push(connection);
                // Of equals the one that was used last is next: processes of the server that send at the same
                // moment prefer different ones.
                self.workers[..=index].rotate_right(1);
                None
            }
            None => Some(connection),
        }
    }

    /// Takes out the idle connection with this handle.
    pub fn remove(&mut self, is: impl Fn(&C) -> bool) -> Option<Connection<C>> {
        self.workers.iter_mut().find_map(|(_, idle)| {
            let index = idle.iter().position(|connection| is(&connection.handle))?;
            Some(idle.swap_remove(index))
        })
    }

    /// Takes out all idle connections to a worker: one of them has ended, so it has most likely died.
    #[must_use]
    pub fn remove_all(&mut self, of: &Arc<Worker>) -> Vec<Connection<C>> {
        let found = self.workers.iter_mut().find(|(worker, _)| Arc::ptr_eq(worker, of));
        found.map(|(_, idle)| std::mem::take(idle)).unwrap_or_default()
    }

    /// Forgets a worker that drains or has died. What comes back is to be closed.
    #[must_use]
    pub fn forget(&mut self, gone: &Arc<Worker>) -> Vec<Connection<C>> {
        let index = self.workers.iter().position(|(worker, _)| Arc::ptr_eq(worker, gone));
        index.map(|index| self.workers.swap_remove(index).1).unwrap_or_default()
    }

    /// Keeps no connection from now on. What comes back is to be closed.
    #[must_use]
    pub fn close(&mut self) -> Vec<Connection<C>> {
        self.limit = 0;
        self.workers.drain(..).flat_map(|(_, idle)| idle).collect()
    }

    /// A connection's HELLO, with the descriptors that came along. The worker, where this is its first
    /// connection.
    pub fn greet(
        &mut self,
        connection: &mut Connection<C>,
        payload: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Option<Arc<Worker>>> {
        let refused = || io::Error::other("the worker's HELLO is not one of this release");
        let hello = Hello::read(payload).filter(|_| !connection.is_greeted()).ok_or_else(refused)?;
        let [page, notice] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| refused())?;
        let inode = fstat(&page)?.st_ino;
        let known =
            self.workers.iter().find(|(worker, _)| worker.inode == inode).map(|(worker, _)| worker.clone());
        let (worker, is_new) = match known {
            Some(worker) => (worker, false),
            // Nothing else may be waited for: a file system in user space would decide how long.
            None if fstatfs(notice.as_fd())?.filesystem_type() != PIPEFS => return Err(refused()),
            None => (Arc::new(Worker { page: page::Reader::new(page)?, inode, notice }), true),
        };
        if is_new {
            self.workers.retain(|(worker, idle)| !idle.is_empty() || Arc::strong_count(worker) > 1);
            self.workers.push((worker.clone(), Vec::new()));
        }
        connection.worker = Some((worker.clone(), hello.slot));
        Ok(is_new.then_some(worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burrow_daemon::page::Writer;
    use std::fs::File;

    fn greet(pool: &mut Pool<u32>, page: &Writer, handle: u32) -> Connection<u32> {
        let mut connection = Connection::new(handle);
        let descriptors = page.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
        pool.greet(&mut connection, &Hello { slot: handle }.bytes(), descriptors.into()).unwrap();
        connection
    }

    #[test]
    fn the_least_busy_worker_gets_the_request() {
        let (one, other) = (Writer::new(2).unwrap(), Writer::new(2).unwrap());
        let mut pool = Pool::new(2, 2);
        for (page, handle) in [(&one, 1), (&one, 2), (&other, 3)] {
            let connection = greet(&mut pool, page, handle);
            assert!(pool.put(connection).is_none());
        }
        one.take(1, 0, b"GET", b"/");
        assert_eq!(pool.take().unwrap().handle, 3);
        assert_eq!(pool.take().unwrap().handle, 2, "the only worker with idle connections");
        one.take(2, 0, b"GET", b"/");
        assert!(pool.take().is_none(), "it has no free thread");
        one.done(1);
        assert_eq!(pool.take().unwrap().handle, 1);
    }

    #[test]
    fn a_burst_is_spread_before_any_of_it_is_taken() {
        let (one, other) = (Writer::new(2).unwrap(), Writer::new(2).unwrap());
        let mut pool = Pool::new(2, 2);
        for (page, handle) in [(&one, 1), (&one, 2), (&other, 3), (&other, 4)] {
            let connection = greet(&mut pool, page, handle);
            assert!(pool.put(connection).is_none());
        }
        let sent: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
        assert_eq!(sent.iter().map(|connection| connection.handle).collect::<Vec<_>>(), [4, 2, 3, 1]);
    }

    #[test]
    fn of_equals_the_one_that_was_used_last_is_next() {
        let pages = [(); 3].map(|()| Writer::new(1).unwrap());
        let mut pool = Pool::new(3, 1);
        for (handle, page) in (0..).zip(&pages) {
            let connection = greet(&mut pool, page, handle);
            assert!(pool.put(connection).is_none());
        }
        let sent: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert_eq!(sent.iter().map(|connection| connection.handle).collect::<Vec<_>>(), [2, 1, 0]);
        for connection in sent {
            let handle = connection.handle;
            assert!(pool.put(connection).is_none());
            let again = pool.take().unwrap();
            assert_eq!(again.handle, handle);
            assert!(pool.put(again).is_none());
        }
    }

    #[test]
    fn the_only_worker_is_waited_for_on_any_connection() {
        let page = Writer::new(1).unwrap();
        for (processes, is_waited_for) in [(1, true), (2, false)] {
            let mut pool = Pool::new(processes, 1);
            let connection = greet(&mut pool, &page, 1);
            assert!(pool.put(connection).is_none());
            page.take(1, 0, b"GET", b"/");
            assert_eq!(pool.take().is_some(), is_waited_for);
            page.done(1);
        }
    }

    #[test]
    fn what_was_taken_is_known() {
        let page = Writer::new(1).unwrap();
        let mut pool = Pool::new(1, 1);
        page.open(5);
        let mut connection = greet(&mut pool, &page, 5);
        connection.begin();
        assert!(!connection.is_taken());
        page.take(5, 0, b"GET", b"/");
        assert!(connection.is_taken());
        connection.begin();
        assert!(!connection.is_taken());
        assert!(!Connection::new(()).is_taken());
    }

    #[test]
    fn no_more_are_kept_than_can_be_of_use() {
        let page = Writer::new(1).unwrap();
        let mut pool = Pool::new(1, 1);
        for handle in 0..LEAST_LIMIT as u32 {
            let connection = greet(&mut pool, &page, handle);
            assert!(pool.put(connection).is_none());
        }
        let more = greet(&mut pool, &page, 1000);
        assert_eq!(pool.put(more).unwrap().handle, 1000);
        assert_eq!(pool.remove(|handle| *handle == 1).unwrap().handle, 1);
        let last = greet(&mut pool, &page, 1001);
        page.drain();
        assert_eq!(pool.put(last).unwrap().handle, 1001, "its worker drains");
        assert!(pool.take().is_none());
        assert!(pool.put(Connection::new(4)).is_some(), "there was no HELLO");
    }

    #[test]
    fn none_is_kept_where_others_need_room() {
        let page = Writer::new(1).unwrap();
        let mut pool = Pool::new(1, 1);
        let connection = greet(&mut pool, &page, 1);
        page.summary().connections.store(page::SLOTS as u32, Relaxed);
        let connection = pool.put(connection).unwrap();
        page.summary().connections.store(page::SLOTS as u32 / 2, Relaxed);
        assert!(pool.put(connection).is_none());
    }

    #[test]
    fn workers_are_forgotten() {
        let (one, other) = (Writer::new(1).unwrap(), Writer::new(1).unwrap());
        let mut pool = Pool::new(1, 1);
        let first = greet(&mut pool, &one, 1);
        let worker = first.worker.as_ref().unwrap().0.clone();
        assert!(pool.put(first).is_none());
        let second = greet(&mut pool, &other, 2);
        assert_eq!(pool.workers.len(), 2);
        assert!(pool.put(second).is_none());
        let handles = |closed: Vec<Connection<u32>>| -> Vec<_> {
            closed.iter().map(|connection| connection.handle).collect()
        };
        assert_eq!(handles(pool.remove_all(&worker)), [1]);
        let third = greet(&mut pool, &one, 3);
        assert_eq!(pool.workers.len(), 2, "it is known still");
        assert!(pool.put(third).is_none());
        assert_eq!(handles(pool.forget(&worker)), [3]);
        assert_eq!(handles(pool.close()), [2]);
        assert!(pool.take().is_none());
    }

    #[test]
    fn a_hello_comes_once_and_with_a_page() {
        let page = Writer::new(1).unwrap();
        let mut pool = Pool::new(1, 1);
        let mut greeted = greet(&mut pool, &page, 1);
        let mut again = |connection: &mut Connection<u32>, descriptors: Vec<OwnedFd>| {
            pool.greet(connection, &Hello { slot: 1 }.bytes(), descriptors).is_err()
        };
        assert!(again(&mut greeted, page.descriptors().map(|fd| fd.try_clone_to_owned().unwrap()).into()));
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        assert!(again(&mut Connection::new(2), vec![]));
        assert!(again(&mut Connection::new(2), vec![null(), null()]));
    }
}
