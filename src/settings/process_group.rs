//! Process groups of daemon mode, as the configuration describes them.

mod definitions;

pub use definitions::OPTIONS;

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::path::Path;
use std::time::Duration;

use burrow_abi::{WebSocketLimits, ASGI};

use super::accounts;
use super::environment::{self, Variable};
use super::websocket::WEBSOCKET_LIMITS;
use super::{gil, options, Instance};
use definitions::Kind;

/// A little less than the connections that a process can have.
const MOST_GREENLETS: u64 = 1000;

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
            let known = definitions::find(option)?;
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
            if matches!(known.kind, Kind::PythonHome | Kind::Python) && self.values.contains_key("chroot") {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn group(options: &[(&'static str, &'static str)]) -> Result<ProcessGroup, String> {
        ProcessGroup::new("shop", options.iter().copied())
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
