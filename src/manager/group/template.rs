//! preload=on: one process imports the applications, and the others are forked from it.

use super::{worker, Group, Host, Level, State, Worker};
use burrow_daemon::{control::ToWorker, packet::Link};
use nix::unistd::Pid;
use std::{io, os::fd::BorrowedFd, time::Duration};

impl Group {
    /// Whether a process that is to be started now is forked from another one.
    pub(super) fn preloads(&self) -> bool {
        self.spec.worker.is_template && !self.unfit
    }

    /// The process that others are forked from, or which is going to be that.
    pub(super) fn template(&self) -> Option<usize> {
        let label = self.label();
        let is_current = |worker: &Worker| worker.is_template && worker.settings == label;
        self.workers.iter().position(|worker| is_current(worker) && !worker.is_ending())
    }

    /// Of the processes that are missing, how many can be started now: without a template it is that alone, and
    /// one that imports is waited for.
    pub(super) fn startable(&self, missing: usize) -> usize {
        if !self.preloads() {
            return missing;
        }
        match self.template().map(|index| self.workers[index].state) {
            None => missing.min(1),
            Some(State::Template) => missing,
            Some(_) => 0,
        }
    }

    /// How many processes it has yet to fork.
    pub(super) fn ordered(&self) -> usize {
        self.template().map_or(0, |index| self.workers[index].orders.len())
    }

    /// It answers in the order in which it was told.
    pub(super) fn order(template: &mut Worker, link: Link, files: [BorrowedFd<'_>; 3]) -> io::Result<()> {
        if !template.send(&ToWorker::Fork, &files) {
            return Err(io::Error::other("the process that it is to be forked from does not listen"));
        }
        template.orders.push_back(link);
        Ok(())
    }

    /// It says that it has forked a process; 0: that it could not.
    pub(super) fn forked(&mut self, host: &Host, template: Pid, pid: i32) {
        let (pid, uid) = (Pid::from_raw(pid), self.spec.launch.uid);
        let timeout = self.startup_timeout();
        let is_known = self.workers.iter().any(|worker| worker.pid == pid);
        let Some(template) = self.workers.iter_mut().find(|worker| worker.pid == template) else { return };
        let Some(link) = template.orders.pop_front() else { return };
        let settings = template.settings.clone();
        // It is the tenant's, who could name any process.
        let is_ours = pid.as_raw() > 0 && !is_known && worker::is_child_of(pid, uid);
        match is_ours.then(|| Worker::started(pid, link, settings, timeout)) {
            Some(Ok(worker)) => self.workers.push(worker),
            _ => {
                self.backoff.failed(false, Duration::ZERO);
                self.say(host, Level::Error, "a process could not be forked");
            }
        }
    }

    /// Nothing can be forked from it.
    pub(super) fn cannot_fork(&mut self, host: &Host, is_current: bool, reason: &str) {
        if is_current {
            self.unfit = true;
            let reason = super::printable(reason);
            let text = format!("preload=on is not possible: {reason}; each process imports for itself");
            self.say(host, Level::Error, &text);
        }
    }

    /// It has ended though nobody wanted that; the next process that is missing makes another one necessary.
    pub(super) fn lost_template(&mut self, host: &Host, template: &Worker, how: &str) {
        self.backoff.failed(true, template.started.elapsed().unwrap_or_default());
        self.say(host, Level::Error, &format!("{how}, from which the others are forked"));
    }

    pub(super) fn startup_timeout(&self) -> Duration {
        // A service is at work as soon as it runs.
        let seconds = if self.is_service() { 0.0 } else { self.spec.worker.startup_timeout };
        Duration::from_secs_f64(seconds)
    }
}
