//! What can be said of a process group: one table of options, for both servers.

use std::path::Path;

use crate::python::Installation;
use crate::settings::options::{self, between, flag, number};
use crate::settings::websocket::WEBSOCKET_LIMITS;
use crate::settings::{accounts, gil};

/// What may be written for an option.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number, from the least to the most.
    Number(i64, i64),
    /// A number of bytes: 0, or at least this many.
    Bytes(i64),
    /// A number of interpreters, or "auto".
    Copies,
    /// What the applications are.
    Interface,
    /// That of ASGI applications.
    EventLoop,
    /// What runs many requests in one thread.
    Async,
    /// One of those, by its index.
    WebSocketLimit(usize),
    /// Seconds with a fraction, more than 0.
    Fraction,
    /// Permission bits, octal.
    Mode,
    Flag,
    /// A user, by name or as #id; whether it may be root.
    User {
        root: bool,
    },
    Group,
    /// Groups, separated by commas.
    Groups,
    /// A folder's whole path.
    Folder,
    /// Folders' whole paths, separated by colons.
    Folders,
    /// A virtual environment or installation of Python.
    PythonHome,
    /// A python itself.
    Python,
    /// NAME=VALUE; may be there several times.
    Variable,
    /// A file of such lines.
    Variables,
    Text,
}

use Kind::*;

/// An option of a process group.
pub struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written; empty where there is none.
    pub default: &'static str,
    pub meaning: &'static str,
}

const fn option(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Definition {
    Definition { name, kind, default, meaning }
}

const ANY_COUNT: Kind = Number(0, i32::MAX as i64);
const SECONDS: Kind = ANY_COUNT;

/// All options, for both servers.
pub const OPTIONS: &[Definition] = &[
    option("processes", Number(1, 32767), "1", "processes of the group"),
    option(
        "threads",
        Number(0, 32767),
        "15",
        "threads that take requests in each process; 0: the script alone runs",
    ),
    option(
        "async",
        Async,
        "",
        "gevent: requests are greenlets, in each process as many as threads= says (1000) at once, and the standard \
         library is patched before the applications are imported",
    ),
    option(
        "interpreters",
        Copies,
        "",
        "copies of each application in each process, in interpreters with a lock of their own, or auto: one for \
         each processor",
    ),
    option("interface", Interface, "auto", "what the applications are: wsgi or asgi; else their callables tell"),
    option("loop", EventLoop, "auto", "of ASGI applications: asyncio or uvloop; else uvloop where it can be imported"),
    option("websocket-max-message", WebSocketLimit(0), "16777216", "bytes of the longest message that a client may send"),
    option(
        "websocket-ping-interval",
        WebSocketLimit(1),
        "20",
        "seconds of a client's silence until it is pinged, and until it is given up; 0: never",
    ),
    option("websocket-idle-timeout", WebSocketLimit(2), "0", "seconds without a message until it is closed; 0: never"),
    option("user", User { root: false }, "", "who the processes run as; else as the server's workers"),
    option("group", Group, "", "the group that they run as; else that of the server's workers"),
    option("supplementary-groups", Groups, "", "further groups"),
    option("umask", Mode, "", "permissions that new files do not get; else as the server"),
    option("home", Folder, "", "the working directory, also on sys.path; else the user's home"),
    option("chroot", Folder, "", "the root directory"),
    option("env", Kind::Variable, "", "NAME=VALUE of the environment; may be there several times"),
    option("env-file", Variables, "", "a file of such lines, read whenever the server reads its configuration"),
    option("lang", Text, "", "LANG"),
    option("locale", Text, "", "LC_ALL"),
    option("python-home", PythonHome, "", "the virtual environment or installation"),
    option("python", Python, "", "the python itself, where its folder has several"),
    option("python-path", Folders, "", "folders for sys.path"),
    option("python-eggs", Folder, "", "where eggs are unpacked"),
    option("switch-interval", Fraction, "0.005", "seconds until a thread that waits gets Python's lock"),
    option("display-name", Text, "", "how ps shows the processes"),
    option("script-user", User { root: true }, "", "who has to own a script and its folder"),
    option("script-group", Group, "", "the group that has to own a script and its folder"),
    option("socket-user", User { root: true }, "", "who may connect; else the user of the server's workers"),
    option("listen-backlog", ANY_COUNT, "100", "requests that wait to be taken"),
    option("connect-timeout", SECONDS, "15", "until a request that no process takes is answered 503"),
    option(
        "socket-timeout",
        SECONDS,
        "",
        "for one read or write between server and process; else the server's",
    ),
    option("queue-timeout", SECONDS, "45", "that a request waits for a thread, then 504; 0: no limit"),
    option("request-timeout", SECONDS, "0", "for one request, then its process is replaced; 0: no limit"),
    option(
        "interrupt-timeout",
        SECONDS,
        "0",
        "after which a request is interrupted, the process stays; 0: never",
    ),
    option("graceful-timeout", SECONDS, "15", "for requests in progress when a process is to be replaced"),
    option("eviction-timeout", SECONDS, "0", "the same on SIGUSR1; 0: graceful-timeout"),
    option("shutdown-timeout", SECONDS, "5", "for the end of a process, then it is killed"),
    option("deadlock-timeout", SECONDS, "300", "for which Python's lock may not be got; 0: no limit"),
    option("startup-timeout", SECONDS, "60", "for an import, at the start of a process or for a request; 0: no limit"),
    option("inactivity-timeout", SECONDS, "0", "without a request, then a process is replaced; 0: never"),
    option("restart-interval", SECONDS, "0", "after which a process is replaced; 0: never"),
    option("maximum-requests", ANY_COUNT, "0", "after which a process is replaced; 0: never"),
    option(
        "maximum-requests-jitter",
        ANY_COUNT,
        "0",
        "up to so many more, by chance, so that not all processes are replaced at once",
    ),
    option("cpu-time-limit", SECONDS, "0", "of processor time, then a process is replaced; 0: no limit"),
    option("cpu-priority", Number(-20, 20), "0", "niceness"),
    option("max-memory", Bytes(0), "0", "resident bytes, then a process is replaced; 0: no limit"),
    option("memory-limit", Bytes(0), "0", "of data; 0: no limit"),
    option("virtual-memory-limit", Bytes(0), "0", "of address space; 0: no limit"),
    option("stack-size", Bytes(16384), "0", "of a thread; 0: the system's"),
    option("send-buffer-size", Bytes(512), "0", "of the sockets, at both ends; 0: the system's"),
    option("receive-buffer-size", Bytes(512), "0", "of the sockets, at both ends; 0: the system's"),
    option("header-buffer-size", Bytes(8192), "0", "the longest line of a head; 0: 32768"),
    option(
        "response-buffer-size",
        Bytes(65536),
        "0",
        "of an answer that the client is slow to take; 0: 8388608",
    ),
    option("response-socket-timeout", SECONDS, "0", "for one write to the client; 0: socket-timeout"),
    option("response-flush-delay", ANY_COUNT, "5", "milliseconds without output, then what there is leaves"),
    option(
        "restart-on-reload",
        Flag,
        "",
        "whether a reload of the server replaces the processes though their settings are the same; else On for \
         httpd, Off for nginx",
    ),
    option(
        "preload",
        Flag,
        "Off",
        "whether the applications are imported once and the processes forked from there, so that they share memory",
    ),
    option("server-metrics", Flag, "Off", "whether applications may read the server's own metrics"),
];

/// The option of this name.
pub fn find(name: &str) -> Result<&'static Definition, String> {
    if let Some(known) = OPTIONS.iter().find(|known| known.name == name) {
        return Ok(known);
    }
    let near = OPTIONS.iter().find(|known| known.name.replace('-', "") == name.replace(['-', '_'], ""));
    Err(match near {
        Some(near) => format!("there is no option {name}; write {}", near.name),
        None => format!("there is no option {name}"),
    })
}

impl Kind {
    /// Whether that can be written.
    pub fn check(self, value: &str) -> Result<(), String> {
        match self {
            Text => {}
            Number(least, most) => drop(between(value, least, most)?),
            Bytes(least) => match number::<i64>(value)? {
                bytes if bytes == 0 || bytes >= least.max(1) => {}
                _ => return Err(format!("write 0 or at least {least} bytes")),
            },
            Copies => drop(gil::copies(value)?),
            Interface => drop(options::interface(value)?),
            EventLoop => drop(options::event_loop(value)?),
            Async if value == "gevent" => {}
            Async => return Err("write gevent".into()),
            WebSocketLimit(index) => drop(WEBSOCKET_LIMITS[index].read(value)?),
            Fraction => match number::<f64>(value)? {
                seconds if seconds.is_finite() && seconds > 0.0 => {}
                _ => return Err("write a positive number of seconds".into()),
            },
            Mode => match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o777 => {}
                _ => return Err("write permission bits in octal, such as 0027".into()),
            },
            Flag => drop(flag(value)?),
            User { root } => {
                let id = accounts::user(value)?;
                if id == 0 && !root {
                    return Err("applications do not run as root: name another user".into());
                }
            }
            Group => drop(accounts::group(value)?),
            Groups => drop(accounts::groups(value)?),
            Folder => check_absolute(value)?,
            Folders => value.split(':').filter(|path| !path.is_empty()).try_for_each(check_absolute)?,
            PythonHome => {
                check_absolute(value)?;
                Installation::find(Path::new(value)).map(drop)?;
            }
            Python => {
                check_absolute(value)?;
                Installation::of_executable(Path::new(value)).map(drop)?;
            }
            Variables => check_absolute(value)?,
            // Checked where it is added.
            Kind::Variable => {}
        }
        Ok(())
    }
}

fn check_absolute(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(format!("'{path}' is a relative path: write the whole path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_option_once_and_its_defaults_are_possible() {
        let mut names: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
        for option in OPTIONS.iter().filter(|option| !option.default.is_empty()) {
            assert_eq!(option.kind.check(option.default), Ok(()), "{}", option.name);
        }
        assert!(OPTIONS.iter().all(|option| !option.meaning.is_empty()));
    }
}
