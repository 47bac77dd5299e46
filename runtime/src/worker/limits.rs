//! Time limits and the like: what interrupts a request, and what makes a worker ask to be replaced.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use burrow_daemon::page;

use super::errands::Errand;
use super::keeper::after;
use super::{log, worker};

/// How often is looked while requests are in progress, in seconds.
const OFTEN: f64 = 1.0;

/// A hub that does not come around for so long is blocked.
const BLOCKED: Duration = Duration::from_secs(2);

/// What a look has found.
pub enum Verdict {
    /// The worker is to be replaced, for this reason.
    Replace(&'static str),
    /// Nothing in Python goes on.
    Deadlock,
}

/// What the keeper knows of them.
pub struct Limits {
    /// For one request, in microseconds, without the import of its application; 0: no limit.
    request: i64,
    /// For the import; 0: no limit.
    import: i64,
    /// For its end once it was interrupted; 0: it is not.
    interruption: i64,
    /// Requests that took too long, by slot.
    late: HashMap<usize, Late>,
    /// How many had been taken at the last look, and whether there was one since the look before.
    served: u64,
    busy: bool,
    /// When it was last so; None: not yet.
    active: Option<Instant>,
    /// When the process is to be replaced.
    restart: Option<Instant>,
    /// How often the hub of greenlets had come around when it was last asked to, and when that was.
    asked: Option<(u64, Instant)>,
    /// It was said that it does not.
    told: bool,
}

struct Late {
    since: i64,
    given_up: bool,
}

impl Limits {
    pub fn new() -> Limits {
        let config = &worker().config;
        // mod_wsgi's factor: the more threads there are, the less harm does a request that takes long.
        let threads = if config.greenlets { 1 } else { config.threads.max(1) };
        let factor = 1.0 + f64::from(threads).ln();
        Limits {
            request: (config.request_timeout * factor * 1e6) as i64,
            import: (config.startup_timeout * 1e6) as i64,
            interruption: (config.interrupt_timeout * 1e6) as i64,
            late: HashMap::new(),
            served: 0,
            busy: false,
            active: None,
            restart: after(config.restart_interval),
            asked: None,
            told: false,
        }
    }

    /// Looks at everything that has a limit.
    pub fn look(&mut self) -> Option<Verdict> {
        let passed = |due: Option<Instant>| due.is_some_and(|due| due <= Instant::now());
        self.look_for_activity();
        self.look_at_hub();
        let reason = if is_deadlocked(self.busy) {
            return Some(Verdict::Deadlock);
        } else if let Some(reason) = self.give_requests_up() {
            reason
        } else if passed(self.restart) {
            self.restart = None;
            "restart_interval"
        } else if passed(self.idle_until()) {
            self.active = None;
            "inactivity_timeout"
        } else if is_too_large() {
            "max_memory"
        } else {
            return None;
        };
        Some(Verdict::Replace(reason))
    }

    /// When to look again. What begins until then makes it earlier.
    pub fn due(&self) -> Option<Instant> {
        [self.next_look(), self.restart, self.idle_until()].into_iter().flatten().min()
    }

    fn look_for_activity(&mut self) {
        let served = worker().page.summary().served.load(Relaxed);
        self.busy = worker().control.active() > 0 || served != self.served;
        self.served = served;
        if self.busy {
            self.active = Some(Instant::now());
        }
    }

    /// Whether the hub of greenlets comes around while there are requests.
    fn look_at_hub(&mut self) {
        if !worker().config.greenlets || !self.busy {
            return;
        }
        let rounds = worker().main_thread.rounds();
        match self.asked.filter(|(before, _)| *before == rounds) {
            None => {
                (self.asked, self.told) = (Some((rounds, Instant::now())), false);
                worker().main_thread.wake();
            }
            Some((_, since)) if !self.told && since.elapsed() >= BLOCKED => {
                self.told = true;
                worker().errands.send(Errand::Blocked);
            }
            Some(_) => {}
        }
    }

    /// None where there is no need to, or nothing is in progress: the next request wakes us.
    fn next_look(&self) -> Option<Instant> {
        let config = &worker().config;
        let limits = [
            self.request as f64,
            self.import as f64,
            config.deadlock_timeout,
            config.inactivity_timeout,
            config.max_memory as f64,
            f64::from(u8::from(config.greenlets)),
        ];
        if limits.iter().all(|limit| *limit <= 0.0) || (!self.busy && worker().control.doze()) {
            return None;
        }
        let often =
            [OFTEN, self.request as f64 / 1e6, self.import as f64 / 1e6, config.deadlock_timeout / 2.0];
        let often = often.into_iter().filter(|seconds| *seconds > 0.0).map(|seconds| (seconds * 1e6) as i64);
        let now = page::now();
        let ends = worker().requests.in_progress().filter_map(|(slot, since)| self.limit(slot, since));
        let wait = often.chain(ends.map(|end| end - now)).min()?;
        Some(Instant::now() + Duration::from_micros(wait.max(0) as u64))
    }

    fn idle_until(&self) -> Option<Instant> {
        let timeout = worker().config.inactivity_timeout;
        let active = self.active.filter(|_| timeout > 0.0 && !self.busy)?;
        Some(active + Duration::from_secs_f64(timeout))
    }

    /// When something is to be done about a request, in microseconds of CLOCK_MONOTONIC.
    fn limit(&self, slot: usize, since: i64) -> Option<i64> {
        let late = self.late.get(&slot).filter(|late| late.since == since);
        let (is_importing, changed) = import_for(slot, since);
        let time = match late {
            Some(late) if late.given_up => 0,
            _ if is_importing => self.import,
            Some(_) if self.request > 0 => self.request + self.interruption,
            _ => self.request,
        };
        (time > 0).then(|| since.max(changed) + time)
    }

    /// Interrupts requests that take too long. Why the process is to be replaced, where there is one that this has
    /// not ended, and whose client is told so.
    fn give_requests_up(&mut self) -> Option<&'static str> {
        let now = page::now();
        let requests: Vec<_> = worker().requests.in_progress().collect();
        self.late.retain(|slot, late| requests.contains(&(*slot, late.since)));
        let mut reason = None;
        for (slot, since) in requests {
            if self.limit(slot, since).is_none_or(|limit| limit > now) {
                continue;
            }
            let (is_importing, _) = import_for(slot, since);
            let was_interrupted = self.late.contains_key(&slot);
            let given_up = is_importing || self.interruption == 0 || was_interrupted;
            self.late.insert(slot, Late { since, given_up });
            if given_up {
                reason = Some(if is_importing { "startup_timeout" } else { "request_timeout" });
                give_up_request(slot, since);
            } else {
                worker().requests.set_late(slot, since);
                worker().errands.send(Errand::Interrupt { slot, since });
            }
        }
        reason
    }
}

/// Whether a request's application is being imported, and since when it is, or is not.
fn import_for(slot: usize, since: i64) -> (bool, i64) {
    worker().requests.find(slot, since).map_or((false, 0), |(application, _)| application.last_import())
}

/// Answers that the time is up, if nothing was answered yet.
pub fn give_up_request(slot: usize, since: i64) {
    if let Some(serving) = worker().page.serving(slot).filter(|serving| serving.since == since) {
        let seconds = (page::now() - since) as f64 / 1e6;
        log::error(&format!("{} is given up after {seconds:.1} s", serving.what));
    }
    worker().requests.expire(slot, since, || worker().connections.time_out(slot));
}

fn is_deadlocked(busy: bool) -> bool {
    let (errands, timeout) = (&worker().errands, worker().config.deadlock_timeout);
    match errands.out_since() {
        _ if timeout <= 0.0 => false,
        Some(since) => (page::now() - since) as f64 / 1e6 >= timeout,
        None => {
            if busy {
                errands.send(Errand::Probe);
            }
            false
        }
    }
}

fn is_too_large() -> bool {
    let limit = worker().config.max_memory;
    limit > 0 && resident().is_some_and(|bytes| bytes > limit)
}

fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: no precondition.
    Some(pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}
