//! The page: what a worker shows of itself in shared memory, so that nobody has to ask.
//!
//! Its size is sealed, so that reading it can never fail, and only the worker can write it. Whoever reads
//! takes it for a hint, but for one thing: whether a request that was sent on a connection has been taken
//! by a thread ([`Reader::taken`]), which decides whether it may be sent to another worker.
//!
//! Memory wakes nobody, so a pipe comes with it: readable once the worker drains, and when it has died.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicU8, Ordering::*};

use nix::fcntl::{fcntl, FcntlArg, OFlag, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use nix::sys::stat::fstat;
use nix::time::{clock_gettime, ClockId};
use nix::unistd::{ftruncate, pipe2, write};

/// Connections that a worker can have at once.
pub const SLOTS: usize = 1024;
/// With so many none is kept that is idle: a server's process that has none must be able to connect.
const CROWD: u32 = (SLOTS - SLOTS / 4) as u32;
/// Bytes of a request's description.
const WHAT: usize = 108;

/// The beginning of the page: the version, then what concerns the whole worker.
#[repr(C, align(64))]
pub struct Summary {
    version: AtomicU32,
    pub pid: AtomicU32,
    /// Threads that take requests.
    pub threads: AtomicU32,
    /// Those of them that serve one.
    pub busy: AtomicU32,
    /// Not 0 once it takes no further connection: it is being replaced.
    draining: AtomicU32,
    /// Connections that it has.
    pub connections: AtomicU32,
    /// Requests taken since its start.
    pub served: AtomicU64,
    /// The processor that the last one was taken on.
    processor: AtomicU32,
}

/// One connection, while a server has it and until the next one gets its place.
#[repr(C, align(64))]
pub struct Slot {
    /// How many requests of this connection a thread has taken. Begins at 0 with each connection.
    taken: AtomicU32,
    /// Not 0 while one is being served.
    serving: AtomicU32,
    /// Since when, in microseconds of CLOCK_MONOTONIC.
    since: AtomicI64,
    length: AtomicU32,
    /// Method and URI, cut off.
    what: [AtomicU8; WHAT],
}

#[repr(C)]
struct Page {
    summary: Summary,
    slots: [Slot; SLOTS],
}

impl Slot {
    fn serving(&self) -> Option<Serving> {
        if self.serving.load(Acquire) == 0 {
            return None;
        }
        let length = (self.length.load(Relaxed) as usize).min(WHAT);
        let bytes: Vec<u8> = self.what[..length].iter().map(|byte| byte.load(Relaxed)).collect();
        let what = String::from_utf8_lossy(&bytes).replace(|c: char| c.is_control(), "?");
        Some(Serving { since: self.since.load(Relaxed), what })
    }
}

impl Summary {
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed) != 0
    }
}

const VERSION: u32 = 1;
const SIZE: usize = std::mem::size_of::<Page>();

/// A mapped page.
struct Mapped(NonNull<Page>);

// SAFETY: all of it is atomic.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(file: impl AsFd, protection: ProtFlags) -> io::Result<Mapped> {
        let size = SIZE.try_into().expect("a page has a size");
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, file, 0)? };
        Ok(Mapped(address.cast()))
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped as long as self lives, of this size, which is sealed; any bytes are a page.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`; nothing that `page` gave out outlives self. It cannot fail.
        let _ = unsafe { munmap(self.0.cast(), SIZE) };
    }
}

/// The worker's own page.
pub struct Writer {
    map: Mapped,
    file: OwnedFd,
    notice: OwnedFd,
    notice_writer: OwnedFd,
}

impl Writer {
    pub fn new(threads: u32) -> io::Result<Writer> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"burrow page", flags)?;
        ftruncate(&file, SIZE as i64)?;
        let map = Mapped::new(&file, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL))?;
        let summary = &map.page().summary;
        summary.pid.store(std::process::id(), Relaxed);
        summary.threads.store(threads, Relaxed);
        summary.version.store(VERSION, Release);
        let (notice, notice_writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Writer { map, file, notice, notice_writer })
    }

    /// What comes with every HELLO: the file for [`Reader::new`], and the pipe that says when it is over.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.file.as_fd(), self.notice.as_fd()]
    }

    /// The pipe's other end. A child that the worker forks closes it: else its death goes unnoticed.
    pub fn notice_writer(&self) -> RawFd {
        self.notice_writer.as_raw_fd()
    }

    /// Says that no further connection is taken.
    pub fn drain(&self) {
        if self.summary().draining.swap(1, Relaxed) == 0 {
            // The pipe is empty until now, so this cannot fail. Nobody ever reads it.
            let _ = write(&self.notice_writer, b"d");
        }
    }

    pub fn summary(&self) -> &Summary {
        &self.map.page().summary
    }

    /// Gives the slot to a new connection.
    pub fn open(&self, slot: usize) {
        self.map.page().slots[slot].taken.store(0, Release);
    }

    /// A thread takes the next request of a connection. To be done before anything of it is acted on.
    pub fn take(&self, slot: usize, since: i64, method: &[u8], uri: &[u8]) {
        let slot = &self.map.page().slots[slot];
        slot.since.store(since, Relaxed);
        slot.taken.fetch_add(1, SeqCst);
        let text = method.iter().chain(b" ").chain(uri).take(WHAT);
        let length = slot.what.iter().zip(text).map(|(byte, text)| byte.store(*text, Relaxed)).count();
        slot.length.store(length as u32, Relaxed);
        slot.serving.store(1, Release);
        self.summary().busy.fetch_add(1, Relaxed);
        self.summary().served.fetch_add(1, Relaxed);
        self.summary().processor.store(processor(), Relaxed);
    }

    /// What is being served in a slot.
    pub fn serving(&self, slot: usize) -> Option<Serving> {
        self.map.page().slots[slot].serving()
    }

    /// The request that was taken has ended.
    pub fn done(&self, slot: usize) {
        self.map.page().slots[slot].serving.store(0, Release);
        self.summary().busy.fetch_sub(1, Relaxed);
    }
}

/// The page of a worker, which is not trusted.
pub struct Reader(Mapped);

/// A request that a worker is serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Microseconds of CLOCK_MONOTONIC.
    pub since: i64,
    /// Method and URI, cut off.
    pub what: String,
}

impl Reader {
    /// Maps a page that came from a worker. Refuses what could shrink under the reader.
    pub fn new(file: impl AsFd) -> io::Result<Reader> {
        let refused = |why| Err(io::Error::other(why));
        let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) || fstat(&file)?.st_size != SIZE as i64 {
            return refused("what the worker sent is no page");
        }
        let reader = Reader(Mapped::new(&file, ProtFlags::PROT_READ)?);
        match reader.summary().version.load(Acquire) {
            VERSION => Ok(reader),
            _ => refused("the worker is of another release: stop the server and start it"),
        }
    }

    pub fn summary(&self) -> &Summary {
        &self.0.page().summary
    }

    /// How many requests of a connection have been taken.
    pub fn taken(&self, slot: u32) -> u32 {
        self.0.page().slots[slot as usize].taken.load(SeqCst)
    }

    /// When a connection's last request was taken, in microseconds of CLOCK_MONOTONIC.
    pub fn since(&self, slot: u32) -> i64 {
        self.0.page().slots[slot as usize].since.load(Relaxed)
    }

    /// Whether another request would be served at once.
    pub fn has_free_thread(&self) -> bool {
        let summary = self.summary();
        !summary.is_draining() && summary.busy.load(Relaxed) < summary.threads.load(Relaxed)
    }

    /// Whether the worker was last seen on the calling thread's processor.
    pub fn is_near(&self) -> bool {
        self.summary().processor.load(Relaxed) == processor()
    }

    /// Whether a connection should rather be closed than be idle.
    pub fn is_crowded(&self) -> bool {
        self.summary().connections.load(Relaxed) >= CROWD
    }

    /// What is being served.
    pub fn serving(&self) -> Vec<Serving> {
        self.0.page().slots.iter().filter_map(Slot::serving).collect()
    }
}

/// The one that the calling thread is on.
fn processor() -> u32 {
    // SAFETY: no precondition.
    unsafe { libc::sched_getcpu() as u32 }
}

/// Microseconds of CLOCK_MONOTONIC, which all processes of a machine share.
pub fn now() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::unistd::read;

    #[test]
    fn readers_see_what_the_worker_does() {
        let writer = Writer::new(1).unwrap();
        let [page, notice] = writer.descriptors();
        let reader = Reader::new(page).unwrap();
        writer.open(3);
        assert_eq!(reader.taken(3), 0);
        assert!(reader.has_free_thread());
        writer.take(3, 17, b"GET", &[b'/'; 200]);
        assert_eq!((reader.taken(3), reader.since(3)), (1, 17));
        assert!(!reader.has_free_thread());
        let what = format!("GET {}", "/".repeat(WHAT - 4));
        assert_eq!(reader.serving(), [Serving { since: 17, what }]);
        writer.done(3);
        assert!(reader.serving().is_empty() && reader.has_free_thread());
        let mut byte = [0];
        assert_eq!(read(notice, &mut byte), Err(Errno::EAGAIN));
        writer.drain();
        assert!(!reader.has_free_thread());
        assert_eq!(read(notice, &mut byte), Ok(1));
    }

    #[test]
    fn nobody_else_can_write_or_shrink_it() {
        let writer = Writer::new(1).unwrap();
        let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        assert!(Mapped::new(writer.descriptors()[0], write).is_err());
        assert!(ftruncate(writer.descriptors()[0], 0).is_err());
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let file = memfd_create(c"other", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&file, SIZE as i64).unwrap();
        assert!(Reader::new(&file).is_err());
    }
}
