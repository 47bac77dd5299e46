//! Lines in the server's error log, which is descriptor 2, and following that file when it is rotated.

use crate::settings::ServerKind;
use burrow_daemon::log;
use nix::{
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::{fstat, stat, FileStat, SFlag},
    },
    unistd::dup2_stderr,
};
use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
};

/// By syslog's numbers.
#[derive(Clone, Copy)]
pub enum Level {
    Error = 3,
    Notice = 5,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Notice => "notice",
        }
    }
}

pub struct Log {
    server: ServerKind,
    role: &'static str,
    file: Option<Followed>,
    /// The least severe level that is logged, by syslog's numbers; 0: all are.
    level: u32,
}

/// A log that is a file: its path, and what wakes us when its folder changes.
struct Followed {
    path: PathBuf,
    inotify: Inotify,
}

impl Log {
    pub fn new(server: ServerKind, role: &'static str) -> Log {
        let mut log = Log { server, role, file: None, level: 0 };
        log.follow();
        log
    }

    pub fn server(&self) -> &'static str {
        super::name(self.server)
    }

    /// Logs to this file from now on. One that is followed already may have been renamed meanwhile: its new
    /// name is not the log's.
    pub fn replace(&mut self, log: OwnedFd) -> io::Result<()> {
        let is_followed = self.file.is_some() && is_same(&fstat(&log)?, &fstat(io::stderr())?);
        dup2_stderr(log)?;
        if !is_followed {
            self.follow();
        }
        Ok(())
    }

    /// What the server logs. httpd writes notices to a file whatever its level is.
    pub fn set_level(&mut self, level: u32) {
        self.level = if self.server == ServerKind::Nginx { level } else { 0 };
    }

    /// One line, in the server's own style.
    pub fn write(&self, level: Level, text: &str) {
        if self.level != 0 && level as u32 > self.level {
            return;
        }
        // The only thread.
        let thread = std::process::id() as i32;
        let beginning = log::beginning(self.server(), level.name(), thread);
        let line = format!("{beginning}burrow {}: {text}\n", self.role);
        // There is nowhere else to say that the log is gone.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Becomes readable when `reopen` has something to look at. None for pipes, terminals and the like.
    pub fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.inotify.as_fd())
    }

    /// Opens the file that has the log's name now, if it is another one; whether it is.
    pub fn reopen(&self) -> bool {
        let Some(file) = &self.file else { return false };
        while file.inotify.read_events().is_ok() {}
        let (Ok(named), Ok(ours)) = (stat(&file.path), fstat(io::stderr())) else { return false };
        if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) {
            return false;
        }
        // The path was resolved when it was remembered: a link in that place now is not the log.
        let mut options = File::options();
        options.append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let new = options.open(&file.path);
        new.is_ok_and(|new| is_regular(&new) && dup2_stderr(new).is_ok())
    }

    fn follow(&mut self) {
        self.file = if is_regular(io::stderr()) { followed().ok() } else { None };
        self.reopen();
    }
}

fn followed() -> io::Result<Followed> {
    let path = std::fs::read_link("/proc/self/fd/2")?;
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
    Ok(Followed { path, inotify })
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn is_regular(file: impl AsFd) -> bool {
    fstat(file).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG)
}
