//! What `mod_wsgi.request_metrics()` and `process_metrics()` count: all requests of the process, in whatever
//! interpreter, from the first `start_recording_metrics()` on. api.py makes dicts of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use burrow_abi::burrow_request;
use pyo3_ffi::{PyMethodDef, PyObject};

use crate::module::method;
use crate::object::{integers, none, tuple, Object, Result};
use crate::observe::{thread_id, Cpu, Spent};

static RECORDED: AtomicBool = AtomicBool::new(false);
static TOTALS: Mutex<Totals> = Mutex::new(Totals::new());

/// Four for each power of two of milliseconds up to 65,536, and one for what is longer.
const BUCKETS: usize = 65;

/// How long something took, over a number of requests; in microseconds.
#[derive(Clone, Copy)]
struct Phase {
    total: u64,
    shortest: u64,
    longest: u64,
    buckets: [u64; BUCKETS],
}

/// Server, queue, daemon, application, whole request, waiting for the GIL, reading, writing.
const PHASES: usize = 8;

/// One of the threads that serve requests; times in microseconds.
#[derive(Clone, Copy, Default)]
struct Thread {
    requests: u64,
    /// When its request began, and from when on that is not yet in `busy`; None while it has none.
    began: Option<(Instant, Instant)>,
    /// Of the sample:
    completed: u64,
    busy: u64,
    cpu: u64,
    longest: u64,
}

struct Totals {
    /// Since recording began.
    requests: u64,
    busy: Duration,
    active: u32,
    /// Those in progress on event loops.
    on_loops: u32,
    /// When `busy` was brought up to date.
    updated: Option<Instant>,
    threads: Vec<Thread>,
    /// Of the sample.
    phases: [Phase; PHASES],
    statuses: [u64; 5],
    completed: u64,
    gil_waits: u64,
    /// Bytes and calls; of input, of output.
    io: [[u64; 2]; 2],
}

impl Phase {
    const NONE: Phase = Phase { total: 0, shortest: u64::MAX, longest: 0, buckets: [0; BUCKETS] };

    fn add(&mut self, time: u64) {
        self.total += time;
        self.shortest = self.shortest.min(time);
        self.longest = self.longest.max(time);
        self.buckets[bucket(time)] += 1;
    }

    fn described(&self) -> Result<Object> {
        let ends = [self.total, self.shortest, self.longest];
        integers(&[&ends[..], &self.buckets].concat())
    }
}

/// The bucket of a time in microseconds.
fn bucket(time: u64) -> usize {
    let millis = time / 1000;
    if millis == 0 {
        return 0;
    }
    let octave = millis.ilog2() as usize;
    // The first two bits behind the leading one, of the microseconds so that 1.5 ms has them too.
    let quarter = ((time * 4 / 1000) >> octave) as usize - 4;
    (octave * 4 + quarter).min(BUCKETS - 1)
}

impl Totals {
    const fn new() -> Totals {
        Totals {
            requests: 0,
            busy: Duration::ZERO,
            active: 0,
            on_loops: 0,
            updated: None,
            threads: Vec::new(),
            phases: [Phase::NONE; PHASES],
            statuses: [0; 5],
            completed: 0,
            gil_waits: 0,
            io: [[0; 2]; 2],
        }
    }

    /// Adds up the time that threads were busy until now, and gives that moment.
    fn advance(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(before) = self.updated.replace(now) {
            self.busy += (now - before) * self.active;
        }
        now
    }

    /// A request that the calling thread has served.
    fn count(&mut self, ended: &Ended) {
        self.requests += 1;
        self.completed += 1;
        for (phase, time) in self.phases.iter_mut().zip(ended.phases()) {
            phase.add(time);
        }
        // An application that never gave a status has failed.
        let class = usize::from(ended.status).checked_div(100).filter(|class| (1..=5).contains(class));
        self.statuses[class.unwrap_or(5) - 1] += 1;
        self.gil_waits += ended.gil.count.get();
        for (index, spent) in [ended.input, ended.output].into_iter().enumerate() {
            self.io[index][0] += spent.bytes.get();
            self.io[index][1] += spent.count.get();
        }
        let thread = self.thread(thread_id());
        thread.requests += 1;
        thread.completed += 1;
        thread.cpu += micros(ended.cpu.user + ended.cpu.system);
    }

    fn thread(&mut self, id: u32) -> &mut Thread {
        let index = id as usize - 1;
        if self.threads.len() <= index {
            self.threads.resize(index + 1, Thread::default());
        }
        &mut self.threads[index]
    }
}

pub fn are_recorded() -> bool {
    RECORDED.load(Ordering::Relaxed)
}

/// A request begins on a thread.
pub fn begin(thread: u32) {
    let mut totals = TOTALS.lock().unwrap();
    let now = totals.advance();
    totals.active += 1;
    totals.thread(thread).began = Some((now, now));
}

/// One begins on an event loop, which is never busy with one alone.
pub fn begin_on_loop() {
    TOTALS.lock().unwrap().on_loops += 1;
}

/// When a request came, was queued for a process group and taken there; in microseconds since the epoch.
#[derive(Clone, Copy)]
pub struct Times {
    pub request: i64,
    pub queue: i64,
    pub daemon: i64,
}

impl Times {
    pub fn of(request: &burrow_request) -> Times {
        Times { request: request.request_start, queue: request.queue_start, daemon: request.daemon_start }
    }
}

/// A request that has ended.
pub struct Ended<'a> {
    pub times: Times,
    /// When the application was called, and was done.
    pub started: i64,
    pub finished: i64,
    /// 0: it never gave one.
    pub status: u16,
    pub gil: &'a Spent,
    pub input: &'a Spent,
    pub output: &'a Spent,
    pub cpu: Cpu,
}

impl Ended<'_> {
    fn phases(&self) -> [u64; PHASES] {
        let between = |from: i64, to: i64| (to - from).max(0) as u64;
        // Where the server's own process serves the request, it is its part until the application is called.
        let (queued, taken) = match self.times.daemon {
            0 => (self.started, self.started),
            taken => (self.times.queue, taken),
        };
        [
            between(self.times.request, queued),
            between(queued, taken),
            between(taken, self.started),
            between(self.started, self.finished),
            between(self.times.request, self.finished),
            micros(self.gil.time.get()),
            micros(self.input.time.get()),
            micros(self.output.time.get()),
        ]
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// It has ended, on the thread where it began.
pub fn end(ended: &Ended) {
    let mut totals = TOTALS.lock().unwrap();
    let now = totals.advance();
    totals.active -= 1;
    let thread = totals.thread(thread_id());
    if let Some((began, counted)) = thread.began.take() {
        thread.busy += micros(now - counted);
        thread.longest = thread.longest.max(micros(now - began));
    }
    totals.count(ended);
}

/// … or on an event loop's.
pub fn end_on_loop(ended: &Ended) {
    let mut totals = TOTALS.lock().unwrap();
    totals.on_loops -= 1;
    totals.count(ended);
}

pub fn functions() -> [PyMethodDef; 2] {
    [method(c"_record_metrics", record), method(c"_metrics", metrics)]
}

unsafe extern "C" fn record(_module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    TOTALS.lock().unwrap().advance();
    RECORDED.store(true, Ordering::Relaxed);
    none()
}

/// _metrics(drain): the counters, as tuples of numbers; begins a new sample if `drain` is true.
unsafe extern "C" fn metrics(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let mut drain = 0;
    // SAFETY: the format asks for one truth value.
    if unsafe { pyo3_ffi::PyArg_ParseTuple(args, c"p:_metrics".as_ptr(), &mut drain) } == 0 {
        return std::ptr::null_mut();
    }
    described(drain != 0).map_or(std::ptr::null_mut(), Object::into_ptr)
}

fn described(drain: bool) -> Result<Object> {
    let mut totals = TOTALS.lock().unwrap();
    let now = totals.advance();
    let counters = [
        &[totals.requests, totals.busy.as_micros() as u64, (totals.active + totals.on_loops).into()][..],
        &[totals.completed, totals.gil_waits],
        totals.io.as_flattened(),
        &totals.statuses,
    ]
    .concat();
    let phases = totals.phases;
    let threads: Vec<[u64; 6]> = totals
        .threads
        .iter_mut()
        .map(|thread| {
            let micros = |since: Instant| (now - since).as_micros() as u64;
            let (elapsed, more) =
                thread.began.map_or((0, 0), |(began, counted)| (micros(began), micros(counted)));
            let busy = thread.busy + more;
            let seen = [thread.requests, thread.completed, busy, thread.cpu, elapsed, thread.longest];
            if drain {
                let began = thread.began.map(|(began, _)| (began, now));
                *thread = Thread { requests: thread.requests, began, ..Thread::default() };
            }
            seen
        })
        .collect();
    if drain {
        let kept = std::mem::replace(&mut *totals, Totals::new());
        let Totals { requests, busy, active, on_loops, updated, threads, .. } = kept;
        *totals = Totals { requests, busy, active, on_loops, updated, threads, ..Totals::new() };
    }
    // Making objects may let other threads run, which need the counters.
    drop(totals);
    tuple(vec![
        integers(&counters)?,
        tuple(phases.iter().map(Phase::described).collect::<Result<_>>()?)?,
        tuple(threads.iter().map(|thread| integers(thread)).collect::<Result<_>>()?)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_quarters_of_octaves() {
        assert_eq!([0, 999, 1000, 1249, 1250, 1500, 1999].map(bucket), [0, 0, 0, 0, 1, 2, 3]);
        assert_eq!([2000, 2499, 2500, 4000, 8000].map(bucket), [4, 4, 5, 8, 12]);
        assert_eq!([65_535_999, 65_536_000, u64::MAX / 4].map(bucket), [63, 64, 64]);
    }
}
