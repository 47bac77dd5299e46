//! The Python stacks of all threads, for the manager or the log.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use burrow_daemon::control::FromWorker;
use burrow_daemon::page;
use nix::sys::memfd::{memfd_create, MFdFlags};

use super::errands::Errand;
use super::{greenlets, log, worker};
use crate::attach::Attached;
use crate::interpreter::Interpreter;
use crate::object::{take_exception, Raised};

/// For Python to be entered, and once more to be left; then the stacks are had without.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who is to get them.
#[derive(Clone, Copy)]
pub enum Reader {
    Manager,
    Log,
}

/// What the keeper knows of those that are wanted.
#[derive(Default)]
pub struct Wanted {
    by: Vec<Reader>,
    until: Option<Instant>,
    was_extended: bool,
}

impl Wanted {
    pub fn add(&mut self, reader: Reader) {
        self.by.push(reader);
        if self.until.is_none() {
            // Those of the last time, where they came too late.
            worker().errands.forget_stacks();
            worker().errands.send(Errand::Stacks);
            self.until = Some(Instant::now() + PATIENCE);
        }
    }

    /// When to look again.
    pub fn due(&self) -> Option<Instant> {
        self.until
    }

    /// Passes them on, if they are there or nobody can enter Python.
    pub fn look(&mut self) {
        let Some(until) = self.until else { return };
        let text = match worker().errands.take_stacks() {
            Some(text) => text,
            None if until > Instant::now() => return,
            None if !self.was_extended && !worker().errands.are_at_the_door() => {
                self.was_extended = true;
                return self.until = Some(Instant::now() + PATIENCE);
            }
            None => frozen(),
        };
        self.until = None;
        self.was_extended = false;
        let text =
            format!("Process {} of process group '{}'\n{text}", std::process::id(), worker().config.group);
        for reader in self.by.drain(..) {
            match reader {
                Reader::Manager => send(&text),
                Reader::Log => to_log(&text),
            }
        }
    }
}

/// The stacks, had without entering Python.
pub fn frozen() -> String {
    worker().frozen_stacks.text().unwrap_or_else(|error| format!("The stacks cannot be had: {error}\n"))
}

pub fn to_log(text: &str) {
    text.lines().filter(|line| !line.is_empty()).for_each(log::error);
}

fn send(text: &str) {
    let file = || -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"burrow stacks", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file.into())
    };
    match file() {
        Ok(file) => worker().control.send(FromWorker::Stacks, Some(file)),
        Err(error) => log::error(&format!("no file for the stacks of the threads: {error}")),
    }
}

/// What a thread is and serves.
pub fn title(thread: i32) -> String {
    named(thread) + &worker().requests.of_thread(thread).map(serving).unwrap_or_default()
}

pub fn named(thread: i32) -> String {
    let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap_or_default();
    format!("Thread {thread} ({})", name.trim_end())
}

/// What follows whoever serves the request of a slot.
pub fn serving(slot: usize) -> String {
    let Some(serving) = worker().page.serving(slot) else { return String::new() };
    let seconds = (page::now() - serving.since) as f64 / 1e6;
    format!(", serving {} for {seconds:.1} s", serving.what)
}

/// The stacks of all threads that are in an interpreter.
pub fn of(attached: &Attached) -> String {
    let interpreter = attached.interpreter;
    let lines = interpreter.state().threads(attached).unwrap_or_else(|_| failed(interpreter));
    let mut titles: HashMap<u64, String> = lines
        .lines()
        .filter_map(|line| {
            let (thread, title) = line.split_once(' ')?;
            Some((thread.parse().ok()?, title.to_owned()))
        })
        .collect();
    let mut stacks = || {
        let more = if greenlets::are_used() {
            greenlets::frames(attached, &mut titles)?
        } else {
            // A thread that takes requests may be known to several.
            titles.extend(worker().requests.threads().map(|(ident, thread)| (ident, title(thread))));
            Vec::new()
        };
        interpreter.state().stacks(attached, &titles, more)
    };
    stacks().unwrap_or_else(|Raised| failed(interpreter))
}

fn failed(interpreter: &Interpreter) -> String {
    interpreter.state().report(take_exception());
    String::new()
}
