//! The connections of a server that waits on a thread for each request.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{connect, setsockopt, socket, sockopt, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::time::TimeVal;

use burrow_abi::BURROW_LOG_WARN;

use super::pool::{Connection, Pool, Worker};
use super::{watch, Group};
use crate::embedded::log::report_process;
use crate::manager;

/// Whoever is waited for, it is looked at the others so often at least.
pub const GLANCE: Duration = Duration::from_secs(1);
/// Between two attempts where nobody listens yet.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

pub type Link = Connection<OwnedFd>;

/// Idle connections, for all threads of this process.
pub struct Links(Mutex<Pool<OwnedFd>>);

impl Links {
    pub fn new(processes: usize, threads: usize) -> Links {
        Links(Mutex::new(Pool::new(processes, threads)))
    }

    fn pool(&self) -> MutexGuard<'_, Pool<OwnedFd>> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }

    /// An idle connection to a worker that serves at once, else a new one within this time.
    pub fn get(&self, group: &Group, timeout: Duration) -> io::Result<Link> {
        let idle = self.pool().take();
        idle.map_or_else(|| open(group, timeout).map(Connection::new), Ok)
    }

    /// Keeps a connection whose last answer is whole.
    pub fn put(&self, link: Link) {
        let closed = self.pool().put(link);
        drop(closed);
    }

    /// A connection's HELLO.
    pub fn greet(
        &self,
        group: &Arc<Group>,
        link: &mut Link,
        payload: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let Some(worker) = self.pool().greet(link, payload, descriptors)? else { return Ok(()) };
        if let Err(error) = watch::watch(group, worker) {
            let cost = "a worker that is replaced waits until its connections are used";
            report_process(BURROW_LOG_WARN, &format!("workers cannot be watched ({error}): {cost}"));
        }
        Ok(())
    }

    /// Closes the idle connections to a worker, one of which has ended.
    pub fn close_all(&self, worker: &Arc<Worker>) {
        let closed = self.pool().remove_all(worker);
        drop(closed);
    }

    /// Closes the idle connections to a worker that drains or has died.
    pub fn forget(&self, worker: &Arc<Worker>) {
        let closed = self.pool().forget(worker);
        drop(closed);
    }

    /// Closes those that are idle, and the others when they are.
    pub fn close(&self) {
        let closed = self.pool().close();
        drop(closed);
    }
}

/// Connects to whichever worker takes it.
fn open(group: &Group, timeout: Duration) -> io::Result<OwnedFd> {
    let deadline = Instant::now() + timeout;
    let path = group.socket().ok_or_else(|| io::Error::other("this server has no manager"))?;
    let address = UnixAddr::new(path)?;
    let mut pause = SHORTEST_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match open_once(group, &address, left) {
            // Nobody listens, or more wait than may.
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN | Errno::EINTR)
                if !left.is_zero() && !manager::is_orphan() =>
            {
                sleep(pause.min(left));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Ok(socket) => return Ok(socket),
            Err(errno) => return Err(io::Error::other(format!("{}: {}", path.display(), errno.desc()))),
        }
    }
}

fn open_once(group: &Group, address: &UnixAddr, timeout: Duration) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let microseconds = timeout.subsec_micros().max(1);
    // Of connect() where the queue is full; what is sent waits in poll().
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(timeout.as_secs() as i64, microseconds.into()))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(GLANCE.as_secs() as i64, 0))?;
    if group.send_buffer_size > 0 {
        setsockopt(&socket, sockopt::SndBuf, &group.send_buffer_size)?;
    }
    if group.receive_buffer_size > 0 {
        setsockopt(&socket, sockopt::RcvBuf, &group.receive_buffer_size)?;
    }
    connect(socket.as_raw_fd(), address)?;
    Ok(socket)
}
