//! nginx only: restarts a manager that has died, and gives every new one the last configuration.

use super::{
    child::Child,
    inbox::{Event, Inbox},
    log::Level,
    Role,
};
use crate::settings::ServerKind;
use nix::{sys::wait::WaitStatus, unistd::getpid};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// This very program, also when an upgrade has replaced its file.
const MYSELF: &str = "/proc/self/exe";

/// Between the end of a manager and the next: doubled each time, until one lives for `HEALTHY`.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
const HEALTHY: Duration = Duration::from_secs(60);

pub fn run(server: ServerKind, instance: &str) -> io::Result<()> {
    let mut inbox = Inbox::open(Role::Guardian, server)?;
    let mut guardian = Guardian {
        server,
        instance,
        configuration: None,
        manager: None,
        started: Instant::now(),
        delay: FIRST_DELAY,
        due: None,
    };
    loop {
        let watched: Vec<_> = guardian.manager.iter().map(Child::pidfd).collect();
        let trouble = match inbox.next(&watched, guardian.due)? {
            Event::Configure(configuration) => {
                guardian.configuration = Some(configuration);
                guardian.configure()
            }
            Event::Due => guardian.configure(),
            Event::Ready(_) => Err(guardian.bury()),
            Event::LogMoved => Ok(()),
            Event::Stop { reason, timeout } => {
                if let Some(manager) = guardian.manager {
                    manager.stop(reason, timeout);
                }
                return Ok(());
            }
        };
        if let Err(text) = trouble {
            inbox.log.write(Level::Error, &text);
        }
    }
}

struct Guardian<'a> {
    server: ServerKind,
    instance: &'a str,
    configuration: Option<OwnedFd>,
    manager: Option<Child>,
    started: Instant,
    delay: Duration,
    /// When to start the next manager.
    due: Option<Instant>,
}

impl Guardian<'_> {
    /// Tells the manager of the last configuration, or starts one with it.
    fn configure(&mut self) -> Result<(), String> {
        let Some(configuration) = &self.configuration else { return Ok(()) };
        let log = io::stderr();
        self.due = None;
        let manager = match &mut self.manager {
            Some(manager) => manager,
            None => {
                let started = Child::start(
                    Path::new(MYSELF),
                    Role::Manager,
                    self.server,
                    self.instance,
                    log.as_fd(),
                    true,
                );
                match started {
                    Ok(manager) => {
                        self.started = Instant::now();
                        self.manager.insert(manager)
                    }
                    Err(error) => return Err(self.retry(&format!("cannot start the manager: {error}"))),
                }
            }
        };
        match manager.configure(Some(getpid()), configuration.as_fd(), log.as_fd()) {
            // It has just ended; that event is on its way and leads back here.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(format!("manager {}: {error}", manager.pid())),
            Ok(()) => Ok(()),
        }
    }

    /// Takes leave of a manager that has ended, and says how.
    fn bury(&mut self) -> String {
        let Some(manager) = self.manager.take() else { return String::new() };
        if self.started.elapsed() >= HEALTHY {
            self.delay = FIRST_DELAY;
        }
        let cause = match manager.reap() {
            Some(WaitStatus::Signaled(_, signal, _)) => format!("was ended by {signal}"),
            Some(WaitStatus::Exited(_, code)) => format!("ended with code {code}"),
            _ => "ended".to_owned(),
        };
        self.retry(&format!("manager {} {cause}", manager.pid()))
    }

    /// Has another one started after the delay, and tells it with the reason.
    fn retry(&mut self, reason: &str) -> String {
        let delay = self.delay;
        self.due = Some(Instant::now() + delay);
        self.delay = (delay * 2).min(LONGEST_DELAY);
        format!("{reason}; another one starts in {} s", delay.as_secs_f32())
    }
}
