//! Processes that end, or have to be made to.

use super::{Group, Host, Level, State, Worker};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

impl Group {
    /// Ends what takes longer than it may.
    pub(super) fn enforce(&mut self, host: &Host, now: Instant) {
        let label = self.label();
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            if !worker.is_overdue(now) {
                continue;
            }
            let pid = worker.pid;
            if !matches!(worker.state, State::Starting(_)) {
                worker.destroy();
                self.say(host, Level::Error, &format!("process {pid} did not end in time and is killed"));
                continue;
            }
            let is_current = worker.settings == label;
            worker.stop("startup_timeout", self.spec.shutdown_timeout());
            let seconds = self.spec.worker.startup_timeout;
            self.say(
                host,
                Level::Error,
                &format!("process {pid} was not ready within {seconds} s (startup-timeout)"),
            );
            if is_current {
                self.did_not_start(host);
            }
        }
    }

    /// Goes on with the processes from before, where there are any and it is for what is new. What has once worked
    /// is tried again.
    pub(super) fn did_not_start(&mut self, host: &Host) -> Duration {
        if !self.proven && !self.held && self.workers.iter().any(|worker| worker.state == State::Ready) {
            self.held = true;
            self.say(host, Level::Error, "the processes from before go on, until the next change or reload");
        }
        self.backoff.failed(false, Duration::ZERO)
    }

    /// A process has ended.
    pub fn ended(&mut self, host: &Host, pid: Pid) {
        let Some(index) = self.workers.iter().position(|worker| worker.pid == pid) else { return };
        let worker = self.workers.swap_remove(index);
        self.account_for(host, &worker);
        self.orphans.add(worker, self.spec.shutdown_timeout());
    }

    /// Says how a process has ended, and when the next one may start.
    fn account_for(&mut self, host: &Host, worker: &Worker) {
        let (serving, how) = (worker.serving(), worker.reap());
        let mut text = format!("process {} {how}", worker.pid);
        if !serving.is_empty() {
            text = format!("{text} while it served {serving}");
        }
        if worker.state == State::Template {
            return self.lost_template(host, worker, &text);
        }
        if !worker.is_up() {
            // It was asked to: what is worth a line is only what that has cost.
            if !serving.is_empty() {
                self.say(host, Level::Error, &text);
            }
            return;
        }
        let delay = match worker.was_ready {
            true => self.backoff.failed(true, worker.started.elapsed().unwrap_or_default()),
            false if worker.settings == self.label() => {
                self.say(host, Level::Error, &format!("{text} before it was ready"));
                self.did_not_start(host)
            }
            false => return, // It would have been replaced anyway.
        };
        let next = match delay {
            _ if self.held => return,
            Duration::ZERO => "another one starts".to_owned(),
            delay => format!("another one starts in {:.1} s", delay.as_secs_f32()),
        };
        let text = if worker.was_ready { format!("{text}; {next}") } else { next };
        self.say(host, Level::Error, &text);
    }
}
