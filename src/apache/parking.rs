//! Where threads of httpd's wait for an event loop. It wakes all that it has served in one turn with one system call:
//! one by one, each of them would take the processor from it before it comes to the next.
//!
//! Where there is one processor they take it from nobody else either, see [`preempt_nobody`].

use std::cell::RefCell;
use std::mem::{self, size_of_val};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::Duration;

use burrow_daemon::page;
use libc::{FUTEX_PRIVATE_FLAG, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET, SCHED_BATCH, SCHED_OTHER};
use nix::errno::Errno;

/// Nobody who was served waits longer for what the loop does next, if that is over.
const LONGEST: i64 = 1000;

/// Places for as many threads as a futex can tell apart, by its bits.
struct Row {
    taken: AtomicU32,
    /// The futex: those who have been woken and do not know yet.
    woken: AtomicU32,
}

/// More than a process of httpd's has threads, mostly.
static ROWS: [Row; 32] = [const { Row { taken: AtomicU32::new(0), woken: AtomicU32::new(0) } }; 32];

/// A thread's place.
#[derive(Clone, Copy)]
pub struct Place {
    row: &'static Row,
    bit: u32,
}

/// Who is to be woken.
struct Waking {
    /// At most one for each row.
    places: Vec<Place>,
    /// When the first of them came, in microseconds of CLOCK_MONOTONIC.
    since: i64,
}

thread_local! {
    static WAKING: RefCell<Waking> = const { RefCell::new(Waking { places: Vec::new(), since: 0 }) };
}

impl Place {
    /// None where all are taken.
    pub fn take() -> Option<Place> {
        ROWS.iter().find_map(|row| {
            let with_another = |taken| (taken != u32::MAX).then(|| taken | (taken + 1));
            let before = row.taken.fetch_update(AcqRel, Relaxed, with_another).ok()?;
            Some(Place { row, bit: 1 << before.trailing_ones() })
        })
    }

    /// Nobody waits here any more. Whoever is still woken here is the next one, who is to look in vain.
    pub fn leave(self) {
        self.row.woken.fetch_and(!self.bit, AcqRel);
        self.row.taken.fetch_and(!self.bit, AcqRel);
    }

    /// Waits until it is woken, for so long at most; perhaps in vain.
    pub fn wait(self, timeout: Duration) {
        let until = page::now() + timeout.as_micros() as i64;
        let until = libc::timespec { tv_sec: until / 1_000_000, tv_nsec: until % 1_000_000 * 1000 };
        loop {
            let woken = self.row.woken.load(Acquire);
            if woken & self.bit != 0 {
                self.row.woken.fetch_and(!self.bit, AcqRel);
                return;
            }
            // The others of the row may be woken meanwhile: then it is EAGAIN.
            if self.row.futex(FUTEX_WAIT_BITSET, woken, &until, self.bit) == Err(Errno::ETIMEDOUT) {
                return;
            }
        }
    }

    /// Wakes whoever waits here, with the next call of [`wake_all`] on this thread at the latest.
    pub fn wake_soon(self) {
        WAKING.with_borrow_mut(|waking| {
            let now = page::now();
            match waking.places.iter_mut().find(|each| ptr::eq(each.row, self.row)) {
                Some(known) => known.bit |= self.bit,
                None => waking.places.push(self),
            }
            if waking.since == 0 {
                waking.since = now;
            } else if now - waking.since > LONGEST {
                waking.wake();
            }
        });
    }

    /// Wakes whoever waits here.
    pub fn wake(self) {
        self.row.woken.fetch_or(self.bit, AcqRel);
        // It cannot fail.
        let _ = self.row.futex(FUTEX_WAKE_BITSET, i32::MAX as u32, ptr::null(), self.bit);
    }
}

impl Waking {
    fn wake(&mut self) {
        self.since = 0;
        self.places.drain(..).for_each(Place::wake);
    }
}

/// Whoever wakes the calling thread from now on goes on first, where the process has one processor. httpd's listener
/// wakes threads while it has the lock of their queue: were it interrupted there, all who are done would sleep for the
/// lock before they sleep for work. What sched(7) has the policy for: no "extra preemptions (between the workload's
/// tasks)". On another processor, though, the thread would wait until what computes there has used up its slice. A
/// policy that was chosen for httpd stays.
pub fn preempt_nobody() {
    // SAFETY: no precondition.
    if processors() == Some(1) && unsafe { libc::sched_getscheduler(0) } == SCHED_OTHER {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: of this thread alone. Where that is forbidden, nothing is lost but time.
        unsafe { libc::sched_setscheduler(0, SCHED_BATCH, &none) };
    }
}

/// How many the calling thread may run on; None: so many that the set is too small.
fn processors() -> Option<i32> {
    // SAFETY: all zero is the empty set, which has that size.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        let got = libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        (got == 0).then(|| libc::CPU_COUNT(&set))
    }
}

/// Wakes those that are to be woken soon.
pub fn wake_all() {
    WAKING.with_borrow_mut(Waking::wake);
}

impl Row {
    fn futex(&self, what: i32, value: u32, until: *const libc::timespec, bits: u32) -> nix::Result<()> {
        let futex = self.woken.as_ptr();
        // SAFETY: a word that lives for ever, and a time that lives for the call.
        let done = unsafe {
            let (what, unused) = (what | FUTEX_PRIVATE_FLAG, ptr::null::<u32>());
            libc::syscall(libc::SYS_futex, futex, what, value, until, unused, bits)
        };
        Errno::result(done).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn those_are_woken_who_are_meant() {
        const LONG: Duration = Duration::from_secs(60);
        let places: Vec<_> = (0..40).map(|_| Place::take().unwrap()).collect();
        let (tell, told) = channel();
        thread::scope(|scope| {
            for (number, place) in places.iter().enumerate() {
                let tell = tell.clone();
                scope.spawn(move || {
                    place.wait(LONG);
                    tell.send(number).unwrap();
                });
            }
            for meant in [vec![3, 35], (0..3).chain(4..35).chain(36..40).collect()] {
                meant.iter().for_each(|number| places[*number].wake_soon());
                wake_all();
                let mut woken: Vec<_> = meant.iter().map(|_| told.recv().unwrap()).collect();
                woken.sort();
                assert_eq!(woken, meant);
            }
        });
        places.into_iter().for_each(Place::leave);
    }

    #[test]
    fn the_policy_is_the_threads_alone() {
        // SAFETY: no precondition.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let usual = policy();
        let batch = if usual == SCHED_OTHER { SCHED_BATCH } else { usual };
        let with_all = if processors() == Some(1) { batch } else { usual };
        let with_all_and_with_one = thread::spawn(move || {
            preempt_nobody();
            let with_all = policy();
            // SAFETY: a set of that size, of this thread alone.
            unsafe {
                let mut one: libc::cpu_set_t = mem::zeroed();
                libc::CPU_SET(libc::sched_getcpu() as usize, &mut one);
                libc::sched_setaffinity(0, size_of_val(&one), &one);
            }
            preempt_nobody();
            (with_all, policy())
        });
        assert_eq!(with_all_and_with_one.join().unwrap(), (with_all, batch));
        assert_eq!(policy(), usual);
    }

    #[test]
    fn a_place_is_free_again() {
        let place = Place::take().unwrap();
        place.wait(Duration::ZERO);
        place.wake_soon();
        wake_all();
        place.leave();
        assert_eq!(place.row.woken.load(Relaxed) & place.bit, 0);
    }
}
