//! The server master's side: starts the manager, tells it of reloads, ends it.

use super::{
    child::Child,
    configuration::{Configuration, Rolls},
    Role,
};
use crate::settings::{ServerKind, Settings};
use nix::unistd::{getpid, getppid, Pid};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

/// Lives in the server's master process across its reloads.
#[derive(Debug)]
pub struct Master {
    server: ServerKind,
    binary: PathBuf,
    /// Told from others beside it, such as the next one during a binary upgrade.
    instance: String,
    /// How often the server has been configured.
    generation: u64,
    rolls: Rolls,
    /// The settings that were configured last.
    serial: u64,
    /// The next settings are those of a full restart.
    restarts: bool,
    /// The process that configured last.
    pid: Pid,
    /// In a worker: the server's master.
    parent: Option<Pid>,
    child: Option<Child>,
}

impl Master {
    pub fn new(server: ServerKind, binary: PathBuf) -> Master {
        let (instance, rolls) = (token(), Rolls::default());
        let (generation, serial, restarts) = (0, 0, false);
        let (pid, parent, child) = (getpid(), None, None);
        Master { server, binary, instance, generation, rolls, serial, restarts, pid, parent, child }
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Starts the manager, or tells the running one of a new configuration. Returns the pid of a
    /// process that had to be started. Waits for nothing.
    pub fn configure(&mut self, settings: &Settings, log: BorrowedFd<'_>) -> io::Result<Option<Pid>> {
        self.generation += 1;
        // Not where only the manager has died.
        if self.serial != settings.serial() {
            self.serial = settings.serial();
            self.rolls.reloads += 1;
            self.rolls.restarts += u64::from(std::mem::take(&mut self.restarts));
        }
        self.pid = getpid();
        let master = self.final_pid();
        let configuration = Configuration::new(settings, self.generation, &self.instance, self.rolls);
        let configuration = configuration.to_file()?;
        if let Some(child) = self.child.as_mut().filter(|child| !child.ends_within(Duration::ZERO)) {
            match child.configure(master, configuration.as_fd(), log) {
                // It is ending this very moment.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(failed_to(&format!("tell process {}", child.pid()), error)),
                Ok(()) => return Ok(None),
            }
        }
        let role = match self.server {
            ServerKind::Apache => Role::Manager,
            ServerKind::Nginx => Role::Guardian,
        };
        let mut child = Child::start(&self.binary, role, self.server, &self.instance, log, false)
            .map_err(|error| failed_to(&format!("start {}", self.binary.display()), error))?;
        child.configure(master, configuration.as_fd(), log)?;
        let pid = child.pid();
        self.child = Some(child);
        Ok(Some(pid))
    }

    /// The process that `configure` started has ended, if it has: the next one starts another.
    pub fn child_died(&mut self) {
        self.child.take_if(|child| child.ends_within(Duration::ZERO));
    }

    /// The server starts afresh, not by a mere reload: all groups are replaced.
    pub fn restarts(&mut self) {
        self.restarts = true;
    }

    /// Ends the manager, and kills it when that takes too long.
    pub fn stop(&mut self, timeout: Duration) {
        // Not in a forked copy: a process of another module may run the whole server's clean-up.
        if self.final_pid().is_some_and(|pid| pid != getpid()) {
            return;
        }
        if let Some(child) = self.child.take() {
            child.stop("the server stops".to_owned(), timeout);
        }
    }

    /// In a worker: lets go of the link. A server that is one process, for debugging, is no worker.
    pub fn detach(&mut self) {
        if self.pid == getpid() {
            return;
        }
        self.parent = Some(getppid());
        if let Some(child) = self.child.take() {
            if self.final_pid().is_none() {
                child.name_master();
            }
        }
    }

    /// In a worker: the master has ended, and the manager with it.
    pub fn is_gone(&self) -> bool {
        self.parent.is_some_and(|parent| parent != getppid())
    }

    /// The master's pid, where it is known: nginx goes into the background after its first
    /// configuration, httpd before.
    fn final_pid(&self) -> Option<Pid> {
        (self.server == ServerKind::Apache || self.generation > 1).then_some(self.pid)
    }
}

/// The standard library's hashers have keys from the kernel's random numbers.
fn token() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

fn failed_to(action: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {action} (burrow's manager): {error}"))
}
