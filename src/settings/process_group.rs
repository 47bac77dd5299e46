//! Process groups of daemon mode, as the configuration describes them: one table of their options.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::path::Path;
use std::time::Duration;

use burrow_abi::{WebSocketLimits, ASGI};

use super::accounts;
use super::environment::{self, Variable};
use super::options::{between, flag, number};
use super::websocket::WEBSOCKET_LIMITS;
use super::{gil, options, Instance};
use crate::python::Installation;

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
/// A little less than the connections that a process can have.
const MOST_GREENLETS: u64 = 1000;

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

/// A process group, validated.
#[derive(Debug)]
pub struct ProcessGroup {
    pub name: String,
    values: BTreeMap<&'static str, String>,
    environment: Vec<Variable>,
}

impl ProcessGroup {
    pub fn new<'a>(
        name: &str,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        if name.is_empty() || name.starts_with('%') || name.contains(|c: char| c.is_control() || c == '/') {
            return Err(format!("'{name}' cannot name a process group"));
        }
        let mut group =
            ProcessGroup { name: name.to_owned(), values: BTreeMap::new(), environment: Vec::new() };
        for (option, value) in options {
            let known = OPTIONS.iter().find(|known| known.name == option).ok_or_else(|| unknown(option))?;
            if known.kind == Kind::Variable {
                let variable =
                    environment::variable(value).map_err(|message| format!("env={value}: {message}"))?;
                group.environment.push(variable);
            } else if group.values.insert(known.name, value.to_owned()).is_some() {
                return Err(format!("option {option} is there twice"));
            }
        }
        group.check()?;
        if let Some(file) = group.written("env-file") {
            let of_file =
                environment::read(Path::new(file)).map_err(|message| format!("env-file={message}"))?;
            group.environment.splice(0..0, of_file);
        }
        Ok(group)
    }

    fn check(&self) -> Result<(), String> {
        for known in OPTIONS {
            let Some(value) = self.values.get(known.name) else { continue };
            // A Python below another root cannot be looked at from here.
            if matches!(known.kind, PythonHome | Python) && self.values.contains_key("chroot") {
                continue;
            }
            known.kind.check(value).map_err(|message| format!("{}={value}: {message}", known.name))?;
        }
        if self.values.contains_key("script-user") && self.values.contains_key("script-group") {
            return Err("there can be script-user or script-group, not both".into());
        }
        if self.values.contains_key("python") && self.values.contains_key("python-home") {
            return Err("there can be python or python-home, not both".into());
        }
        if self.is_on("preload") && self.number("threads") == 0 {
            return Err("preload=on is for processes that take requests: remove it, or threads=0".into());
        }
        if self.is_on("preload") && self.copies() > 0 {
            return Err("preload=on needs one interpreter: remove it, or interpreters=".into());
        }
        if self.has_greenlets() {
            self.check_greenlets()
        } else {
            Ok(())
        }
    }

    fn check_greenlets(&self) -> Result<(), String> {
        let refused = if self.is_on("preload") {
            "has an event loop that no fork copies: remove it, or preload=on"
        } else if self.copies() > 0 {
            "needs the main interpreter: remove it, or interpreters="
        } else if self.interface() == Some(ASGI) || self.written("loop").is_some() {
            "is for WSGI applications: remove it, or interface=asgi and loop="
        } else if !(1..=MOST_GREENLETS).contains(&self.number("threads")) {
            "takes from 1 to 1000 requests at once: write that for threads="
        } else {
            return Ok(());
        };
        Err(format!("async=gevent {refused}"))
    }

    /// Whether requests are greenlets.
    pub fn has_greenlets(&self) -> bool {
        self.written("async").is_some()
    }

    /// What was written for an option.
    pub fn written(&self, option: &str) -> Option<&str> {
        self.values.get(option).map(String::as_str)
    }

    /// What was written for an option, else its default.
    pub fn value(&self, option: &str) -> &str {
        if option == "threads" && self.has_greenlets() {
            return self.written(option).unwrap_or("1000");
        }
        let default = || OPTIONS.iter().find(|known| known.name == option).map(|known| known.default);
        self.written(option).or_else(default).unwrap_or_default()
    }

    /// The value of an option that is a number; 0 where none is written and there is no default.
    pub fn number(&self, option: &str) -> u64 {
        self.value(option).parse().unwrap_or_default()
    }

    /// How many interpreters each application has; 0: one.
    pub fn copies(&self) -> u32 {
        // It was possible when it was checked.
        self.written("interpreters").and_then(|value| gil::copies(value).ok()).unwrap_or_default()
    }

    /// What its applications are, where it is said.
    pub fn interface(&self) -> Option<c_int> {
        self.written("interface").and_then(|value| options::interface(value).ok())
    }

    pub fn event_loop(&self) -> Option<c_int> {
        self.written("loop").and_then(|value| options::event_loop(value).ok())
    }

    /// Of its WebSockets, where they are not as all others'.
    pub fn websocket(&self, mut limits: WebSocketLimits) -> WebSocketLimits {
        for limit in WEBSOCKET_LIMITS {
            if let Some(Ok(value)) = self.written(limit.name).map(|value| limit.read(value)) {
                limit.apply(&mut limits, value);
            }
        }
        limits
    }

    pub fn is_on(&self, option: &str) -> bool {
        self.value(option).eq_ignore_ascii_case("on")
    }

    pub fn seconds(&self, option: &str) -> Duration {
        Duration::from_secs(self.number(option))
    }

    /// What is added to the environment, a later variable in the place of an earlier one of its name.
    pub fn environment(&self) -> &[Variable] {
        &self.environment
    }

    /// Who the processes run as.
    pub fn uid(&self, instance: &Instance) -> u32 {
        self.account("user", accounts::user, instance.uid)
    }

    pub fn gid(&self, instance: &Instance) -> u32 {
        self.account("group", accounts::group, instance.gid)
    }

    /// Who may connect.
    pub fn socket_uid(&self, instance: &Instance) -> u32 {
        self.account("socket-user", accounts::user, instance.uid)
    }

    fn account(&self, option: &str, look_up: fn(&str) -> Result<u32, String>, default: u32) -> u32 {
        // It could be looked up when it was checked.
        self.written(option).and_then(|name| look_up(name).ok()).unwrap_or(default)
    }
}

fn unknown(option: &str) -> String {
    let near = OPTIONS.iter().find(|known| known.name.replace('-', "") == option.replace(['-', '_'], ""));
    match near {
        Some(near) => format!("there is no option {option}; write {}", near.name),
        None => format!("there is no option {option}"),
    }
}

impl Kind {
    fn check(self, value: &str) -> Result<(), String> {
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

    fn group(options: &[(&'static str, &'static str)]) -> Result<ProcessGroup, String> {
        ProcessGroup::new("shop", options.iter().copied())
    }

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

    #[test]
    fn what_is_written_wins_over_the_default() {
        let shop = group(&[("processes", "1"), ("user", "#65534"), ("umask", "0027")]).unwrap();
        assert_eq!((shop.written("processes"), shop.written("threads")), (Some("1"), None));
        assert_eq!((shop.value("threads"), shop.value("deadlock-timeout")), ("15", "300"));
    }

    #[test]
    fn bad_values_are_refused_with_the_option() {
        for (option, value, says) in [
            ("processes", "0", "from 1 to"),
            ("threads", "-1", "from 0 to"),
            ("interpreters", "0", "from 1 to 256, or auto"),
            ("request-timeout", "1m", "from 0 to"),
            ("header-buffer-size", "100", "at least 8192"),
            ("memory-limit", "-1", "write 0"),
            ("umask", "0o27", "octal"),
            ("umask", "1777", "octal"),
            ("switch-interval", "0", "positive"),
            ("server-metrics", "yes", "neither On nor Off"),
            ("user", "nobody-there", "no such user"),
            ("user", "root", "root"),
            ("user", "#0", "root"),
            ("group", "nobody-there", "no group"),
            ("supplementary-groups", "daemon,nobody-there", "nobody-there"),
            ("home", "shop", "relative"),
            ("python-path", "/shop:lib", "'lib' is a relative path"),
            ("python-home", "/nonexistent", "does not exist"),
            ("python", "bin/python", "relative"),
            ("python", "/nonexistent", "does not exist"),
            ("python", "/usr", "python-home"),
            ("env", "1A=x", "NAME=VALUE"),
            ("env-file", "/nonexistent", "cannot be read"),
            ("colour", "blue", "no option colour"),
            ("python_home", "/usr", "write python-home"),
        ] {
            let message = group(&[(option, value)]).unwrap_err();
            assert!(message.contains(says) && message.contains(option), "{option}={value}: {message}");
        }
    }

    #[test]
    fn options_that_exclude_each_other() {
        assert!(group(&[("threads", "1"), ("threads", "2")]).unwrap_err().contains("twice"));
        assert!(group(&[("script-user", "root"), ("script-group", "root")]).unwrap_err().contains("both"));
        assert!(group(&[("python", "/usr/bin/python3"), ("python-home", "/usr")])
            .unwrap_err()
            .contains("both"));
        assert!(group(&[("preload", "on"), ("threads", "0")]).unwrap_err().contains("threads=0"));
        assert!(group(&[("chroot", "/srv"), ("python-home", "/nonexistent")]).is_ok());
    }

    #[test]
    fn variables_add_up_behind_those_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "A=file\n").unwrap();
        let path = file.path().to_str().unwrap();
        let shop = ProcessGroup::new("shop", [("env", "A=1"), ("env-file", path), ("env", "B=2")]).unwrap();
        let names: Vec<_> =
            shop.environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(names, ["A=file", "A=1", "B=2"]);
    }

    #[test]
    fn accounts_are_numbers_in_the_end() {
        let instance = Instance { uid: 33, gid: 34, ..Instance::default() };
        let plain = group(&[]).unwrap();
        assert_eq!((plain.uid(&instance), plain.gid(&instance), plain.socket_uid(&instance)), (33, 34, 33));
        let shop = group(&[("user", "#65534"), ("socket-user", "root")]).unwrap();
        assert_eq!((shop.uid(&instance), shop.socket_uid(&instance)), (65534, 0));
    }

    #[test]
    fn names_are_names() {
        for bad in ["", "%{GLOBAL}", "a/b", "a\nb"] {
            assert!(ProcessGroup::new(bad, []).is_err(), "{bad}");
        }
    }
}
