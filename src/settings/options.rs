//! Options of Python and of its interpreters, and those that have no effect here, with the reason.

use std::collections::HashMap;
use std::ffi::c_int;
use std::fmt::Display;
use std::str::FromStr;

use burrow_abi::{ANY_LOOP, ASGI, ASYNCIO, UNKNOWN, UVLOOP, WSGI};

use super::interpreters::{Interpreters, Restriction, Scope};
use super::websocket::WEBSOCKET_LIMITS;
use crate::python::load::Options;

/// What the options make of embedded Python.
pub struct Embedded {
    pub python: Options,
    pub interpreters: Interpreters,
    /// Run the exit functions when the process ends.
    pub run_exit_functions: bool,
    /// Of process groups, by name.
    switch_intervals: HashMap<Box<[u8]>, f64>,
}

impl Default for Embedded {
    fn default() -> Self {
        Embedded {
            python: Options::default(),
            interpreters: Interpreters::default(),
            run_exit_functions: true,
            switch_intervals: HashMap::new(),
        }
    }
}

type Check = fn(&str) -> Result<(), String>;

/// Options without an effect: name, what may be written, and the reason.
const WITHOUT_EFFECT: &[(&str, Check, &str)] = &[
    ("verbose-debugging", is_flag, "mod_wsgi does nothing with it either; LogLevel says how much is logged"),
    ("accept-mutex", is_mutex, "no lock is taken to accept a connection"),
    ("socket-rotation", is_flag, "a reload keeps the sockets of process groups"),
    ("case-sensitivity", is_flag, "no name of a module is made from the letters of a path"),
    (
        "python-eggs",
        is_path,
        "nothing unpacks eggs any more; set PYTHON_EGG_CACHE in the script if something does",
    ),
    ("telemetry-service", is_telemetry_service, "there is no telemetry yet: nothing is sent"),
    ("telemetry-options", is_telemetry_options, "there is no telemetry yet: nothing is sent"),
    ("slow-requests", is_seconds, "there is no telemetry yet: slow requests are not reported"),
    ("group-authoritative", is_flag, "Require says what is needed; mod_wsgi does nothing with it either"),
    ("ignore-activity", is_flag, "every request counts for inactivity-timeout"),
];

impl Embedded {
    /// Sets an option. The reason where it has no effect.
    pub fn set(
        &mut self,
        name: &str,
        value: &str,
        scope: Option<Scope>,
    ) -> Result<Option<&'static str>, String> {
        match name {
            "python-optimize" => self.python.optimize = between(value, 0, 2)?,
            "python-hash-seed" => {
                self.python.hash_seed = match value {
                    "random" => None,
                    number => Some(
                        between(number, 0, u32::MAX).map_err(|message| format!("{message}, or random"))?,
                    ),
                }
            }
            "python-warnings" => self.python.warnings.push(value.into()),
            "dont-write-bytecode" => self.python.dont_write_bytecode = flag(value)?,
            "switch-interval" => self.set_switch_interval(value, scope)?,
            "destroy-interpreter" => self.run_exit_functions = flag(value)?,
            "restrict-stdin" => self.restrict(Restriction::Stdin, value, scope)?,
            "restrict-stdout" => self.restrict(Restriction::Stdout, value, scope)?,
            "restrict-signal" => self.restrict(Restriction::Signal, value, scope)?,
            "python-path" => {
                let paths = super::path_list(value.as_bytes())?;
                match scope {
                    Some(scope) => self.interpreters.add_paths(scope, paths),
                    None => self.interpreters.add_embedded_paths(paths),
                }
            }
            "interface" => self.interpreters.set_interface(scope.unwrap_or_default(), interface(value)?),
            "loop" => self.interpreters.set_event_loop(scope.unwrap_or_default(), event_loop(value)?),
            "per-interpreter-gil" => self.interpreters.set_own_gil(scope.unwrap_or_default(), flag(value)?),
            _ => {
                if let Some(limit) = WEBSOCKET_LIMITS.iter().find(|limit| limit.name == name) {
                    let value = limit.read(value)?;
                    self.interpreters.limit_websockets(scope.unwrap_or_default(), limit, value);
                    return Ok(None);
                }
                let (_, check, reason) = WITHOUT_EFFECT
                    .iter()
                    .find(|(known, ..)| *known == name)
                    .ok_or_else(|| format!("there is no option {name}"))?;
                check(value)?;
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    fn restrict(&mut self, what: Restriction, value: &str, scope: Option<Scope>) -> Result<(), String> {
        self.interpreters.restrict(scope.unwrap_or_default(), what, flag(value)?);
        Ok(())
    }

    /// Interpreters that share a lock share the interval.
    fn set_switch_interval(&mut self, value: &str, scope: Option<Scope>) -> Result<(), String> {
        let interval: f64 = number(value)?;
        if !interval.is_finite() || interval <= 0.0 {
            return Err(format!("'{value}' is not a positive number of seconds"));
        }
        let Scope { process_group, application_group } = scope.unwrap_or_default();
        if application_group.is_some() {
            return Err(
                "the interpreters of a process share one lock, and the switch interval is its own: leave \
                 application-group out"
                    .into(),
            );
        }
        match process_group {
            Some(group) if !group.is_empty() => drop(self.switch_intervals.insert(group, interval)),
            _ => self.python.switch_interval = interval,
        }
        Ok(())
    }

    /// The interval of a process group that has no option for it; 0 is CPython's own.
    pub fn switch_interval_of(&self, process_group: &[u8]) -> f64 {
        self.switch_intervals.get(process_group).copied().unwrap_or(self.python.switch_interval)
    }
}

/// What an application's callable is said to be.
pub fn interface(value: &str) -> Result<c_int, String> {
    one_of(value, &[("auto", UNKNOWN), ("wsgi", WSGI), ("asgi", ASGI)])
}

/// The event loop of ASGI applications.
pub fn event_loop(value: &str) -> Result<c_int, String> {
    one_of(value, &[("auto", ANY_LOOP), ("asyncio", ASYNCIO), ("uvloop", UVLOOP)])
}

fn one_of(value: &str, choices: &[(&str, c_int)]) -> Result<c_int, String> {
    let chosen = choices.iter().find(|(name, _)| value.eq_ignore_ascii_case(name));
    chosen.map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("'{value}' is none of {}", names.join(", "))
    })
}

/// On or Off, in any case of letters.
pub fn flag(value: &str) -> Result<bool, String> {
    if value.eq_ignore_ascii_case("on") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("off") {
        Ok(false)
    } else {
        Err(format!("'{value}' is neither On nor Off"))
    }
}

pub fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("'{value}' is not a number that is possible here"))
}

pub fn between<T: FromStr + PartialOrd + Display>(value: &str, least: T, most: T) -> Result<T, String> {
    match value.parse() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("'{value}' is not a number from {least} to {most}")),
    }
}

fn is_flag(value: &str) -> Result<(), String> {
    flag(value).map(drop)
}

fn is_path(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("a path is missing".into());
    }
    Ok(())
}

fn is_mutex(value: &str) -> Result<(), String> {
    const KINDS: [&str; 6] = ["default", "flock", "fcntl", "sysvsem", "posixsem", "pthread"];
    if KINDS.iter().any(|kind| value.eq_ignore_ascii_case(kind)) {
        return Ok(());
    }
    Err(format!("'{value}' is none of {}", KINDS.join(", ")))
}

fn is_seconds(value: &str) -> Result<(), String> {
    match number::<f64>(value)? {
        seconds if seconds.is_finite() && seconds >= 0.0 => Ok(()),
        _ => Err(format!("'{value}' is not a number of seconds")),
    }
}

/// "unix:/path [interval=seconds]".
fn is_telemetry_service(value: &str) -> Result<(), String> {
    let (target, interval) = value.split_once(' ').unwrap_or((value, ""));
    if !target.strip_prefix("unix:").is_some_and(|path| path.starts_with('/')) {
        return Err(format!("'{target}' is not of the form unix:/path"));
    }
    if interval.is_empty() {
        return Ok(());
    }
    match interval.strip_prefix("interval=").map(str::parse::<f64>) {
        Some(Ok(seconds)) if seconds.is_finite() && seconds >= 0.5 => Ok(()),
        _ => Err(format!("'{interval}' is not interval= with at least 0.5 seconds")),
    }
}

/// "None", "All", "CaptureUserAgent", or the last with a sign.
fn is_telemetry_options(value: &str) -> Result<(), String> {
    let words: Vec<&str> = value.split_whitespace().collect();
    let signed = |word: &&&str| word.starts_with(['+', '-']);
    let is = |word: &str, name: &str| word.eq_ignore_ascii_case(name);
    let known = |word: &&&str| {
        is(word.trim_start_matches(['+', '-']), "CaptureUserAgent") || is(word, "None") || is(word, "All")
    };
    if let Some(unknown) = words.iter().find(|word| !known(word)) {
        return Err(format!(
            "'{unknown}' is none of None, All, CaptureUserAgent, +CaptureUserAgent and -CaptureUserAgent"
        ));
    }
    match words.iter().filter(signed).count() {
        _ if words.is_empty() => Err("options are missing".into()),
        0 => Ok(()),
        count if count == words.len() => Ok(()),
        _ => Err("options with a sign and such without cannot be mixed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<Embedded, String> {
        let mut embedded = Embedded::default();
        embedded.set(name, value, None).map(|_| embedded)
    }

    #[test]
    fn flags_of_python() {
        assert_eq!(set("python-optimize", "2").unwrap().python.optimize, 2);
        assert!(set("python-optimize", "3").is_err());
        assert_eq!(set("python-hash-seed", "4294967295").unwrap().python.hash_seed, Some(u32::MAX));
        assert_eq!(set("python-hash-seed", "random").unwrap().python.hash_seed, None);
        assert!(set("python-hash-seed", "-1").err().unwrap().contains("or random"));
        assert!(set("dont-write-bytecode", "oN").unwrap().python.dont_write_bytecode);
        assert_eq!(set("switch-interval", "0.01").unwrap().python.switch_interval, 0.01);
        for bad in ["0", "-1", "NaN", "inf", "soon"] {
            assert!(set("switch-interval", bad).is_err(), "{bad}");
        }
        assert!(!set("destroy-interpreter", "Off").unwrap().run_exit_functions);
    }

    #[test]
    fn warnings_add_up() {
        let mut embedded = Embedded::default();
        for filter in ["error", "ignore::DeprecationWarning"] {
            embedded.set("python-warnings", filter, None).unwrap();
        }
        assert_eq!(embedded.python.warnings.len(), 2);
    }

    #[test]
    fn what_does_nothing_is_explained() {
        let reason = |name, value| Embedded::default().set(name, value, None);
        assert!(reason("accept-mutex", "Flock").unwrap().is_some());
        assert!(reason("accept-mutex", "spin").is_err());
        assert!(reason("socket-rotation", "maybe").is_err());
        assert!(reason("colour", "blue").is_err());
    }

    #[test]
    fn telemetry_is_checked() {
        for good in ["unix:/run/telemetry", "unix:/run/telemetry interval=0.5"] {
            assert_eq!(is_telemetry_service(good), Ok(()), "{good}");
        }
        for bad in ["udp:host:1", "unix:here", "unix:/a interval=0.1", "unix:/a interval=x", "unix:/a 5"] {
            assert!(is_telemetry_service(bad).is_err(), "{bad}");
        }
        for good in ["None", "all", "+CaptureUserAgent", "-captureuseragent"] {
            assert_eq!(is_telemetry_options(good), Ok(()), "{good}");
        }
        for bad in ["", "+None", "Everything", "CaptureUserAgent +CaptureUserAgent"] {
            assert!(is_telemetry_options(bad).is_err(), "{bad}");
        }
        assert!(is_seconds("0").is_ok() && is_seconds("-1").is_err());
    }

    #[test]
    fn a_switch_interval_is_for_a_lock() {
        let mut embedded = Embedded::default();
        let of = |process: Option<&str>, application: Option<&str>| {
            Some(Scope {
                process_group: process.map(|name| name.as_bytes().into()),
                application_group: application.map(|name| name.as_bytes().into()),
            })
        };
        assert!(embedded.set("switch-interval", "1", of(None, Some("shop"))).is_err());
        embedded.set("switch-interval", "2", of(Some("shop"), None)).unwrap();
        assert_eq!(embedded.python.switch_interval, 0.0);
        embedded.set("switch-interval", "1", of(Some(""), None)).unwrap();
        assert_eq!((embedded.python.switch_interval, embedded.switch_interval_of(b"shop")), (1.0, 2.0));
        assert_eq!(embedded.switch_interval_of(b"tools"), 1.0);
    }
}
