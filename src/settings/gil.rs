//! Python's locks: which directives ask for one in each interpreter, or for none, and whether a Python can do so.

use std::num::NonZero;
use std::thread::available_parallelism;

use super::interpreters::Scope;
use super::options::between;
use super::usage::Place;
use crate::python::locate::Version;

/// The oldest Python whose interpreters can have locks of their own.
const OLDEST: u32 = 12;
const MOST_COPIES: u32 = 256;

/// What a directive asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A lock in each interpreter.
    OwnGil,
    /// No lock at all.
    FreeThreading,
    /// Several interpreters for one application, which need a lock each.
    Copies,
}

struct Asked {
    wish: Wish,
    on: bool,
    scope: Scope,
    place: Place,
}

/// Everything that was asked for.
#[derive(Default)]
pub struct Gil(Vec<Asked>);

impl Gil {
    pub fn ask(&mut self, wish: Wish, on: bool, scope: Scope, place: Place) -> Result<(), String> {
        if wish == Wish::FreeThreading && scope.application_group.is_some() {
            return Err("a process runs with Python's lock or without it: leave application-group out".into());
        }
        self.0.push(Asked { wish, on, scope, place });
        Ok(())
    }

    fn of<'a>(&'a self, wish: Wish, process_group: &'a [u8]) -> impl Iterator<Item = &'a Asked> {
        let group = |asked: &'a Asked| asked.scope.process_group.as_deref();
        self.0
            .iter()
            .filter(move |asked| asked.wish == wish && group(asked).is_none_or(|name| name == process_group))
    }

    /// Whether the Python of a process group ("" is the server's own processes) runs without a lock.
    pub fn is_free_threaded(&self, process_group: &[u8]) -> bool {
        // The later of equally precise ones.
        let last = self.of(Wish::FreeThreading, process_group).max_by_key(|asked| asked.scope.precision());
        last.is_some_and(|asked| asked.on)
    }

    /// Whether the Python of a process group can do what it is asked for; `has_copies` where the group's own
    /// options want several interpreters.
    pub fn check(&self, process_group: &[u8], python: Version, has_copies: bool) -> Result<(), String> {
        let on = |wish| self.of(wish, process_group).filter(|asked| asked.on).last();
        let say = |asked: &Asked, why: &str| format!("{} in {}: {why}", asked.place.directive, asked.place);
        let copies = on(Wish::Copies).filter(|_| process_group.is_empty());
        let say_copies = |why: &str| copies.map_or(format!("interpreters=: {why}"), |asked| say(asked, why));
        let has_copies = has_copies || copies.is_some();
        if self.is_free_threaded(process_group) {
            let asked = on(Wish::FreeThreading).expect("is_free_threaded has found it");
            if !python.free_threaded {
                return Err(say(
                    asked,
                    &format!(
                        "this Python {python} cannot run without its lock: that takes a free-threaded build, \
                         such as python3.14t"
                    ),
                ));
            }
            if has_copies {
                return Err(say_copies(
                    "one interpreter's threads use all processors already, since WSGIFreeThreading is on: remove \
                     this; for more event loops of an ASGI application there is processes= of a process group",
                ));
            }
        } else if python.minor < OLDEST {
            let why = format!(
                "the interpreters of Python {python} share one lock: Python 3.{OLDEST} or newer is needed, and \
                 3.13 recommended"
            );
            if has_copies {
                return Err(say_copies(&why));
            }
            if let Some(asked) = on(Wish::OwnGil) {
                return Err(say(asked, &why));
            }
        }
        Ok(())
    }
}

/// A number of interpreters; "auto": one for each processor that this process may use.
pub fn copies(value: &str) -> Result<u32, String> {
    match value {
        "auto" => Ok(available_parallelism().map_or(1, NonZero::get).min(MOST_COPIES as usize) as u32),
        number => between(number, 1, MOST_COPIES).map_err(|message| format!("{message}, or auto")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let (directive, file) = ("WSGIPerInterpreterGIL".into(), "site.conf".into());
        Place { directive, file, line: 7, virtual_host: None }
    }

    fn asked(lines: &[(Wish, bool, Option<&str>)]) -> Gil {
        let mut gil = Gil::default();
        for (wish, on, process_group) in lines {
            let process_group = process_group.map(|name| name.as_bytes().into());
            gil.ask(*wish, *on, Scope { process_group, application_group: None }, place()).unwrap();
        }
        gil
    }

    const fn python(minor: u32, free_threaded: bool) -> Version {
        Version { major: 3, minor, free_threaded }
    }

    #[test]
    fn an_old_python_is_refused_with_the_line_that_asks_too_much() {
        let gil = asked(&[(Wish::OwnGil, true, None)]);
        let message = gil.check(b"shop", python(11, false), false).unwrap_err();
        assert!(message.starts_with("WSGIPerInterpreterGIL in site.conf:7: "), "{message}");
        assert!(message.contains("3.11") && message.contains("3.12 or newer"), "{message}");
        assert_eq!(gil.check(b"shop", python(12, false), false), Ok(()));
        assert_eq!(asked(&[(Wish::OwnGil, false, None)]).check(b"", python(10, false), false), Ok(()));
        assert_eq!(asked(&[(Wish::OwnGil, true, Some("x"))]).check(b"", python(10, false), false), Ok(()));
        assert!(asked(&[]).check(b"shop", python(11, false), true).unwrap_err().contains("interpreters="));
        let embedded = asked(&[(Wish::Copies, true, Some(""))]);
        assert!(embedded.check(b"", python(11, false), false).is_err());
        assert_eq!(embedded.check(b"shop", python(11, false), false), Ok(()));
    }

    #[test]
    fn free_threading_takes_such_a_build_and_wins() {
        let gil = asked(&[(Wish::FreeThreading, true, None), (Wish::FreeThreading, false, Some("shop"))]);
        assert!(gil.is_free_threaded(b"") && !gil.is_free_threaded(b"shop"));
        assert!(gil.check(b"", python(13, false), false).unwrap_err().contains("free-threaded build"));
        assert_eq!(gil.check(b"", python(13, true), false), Ok(()));
        assert!(gil.check(b"", python(13, true), true).unwrap_err().contains("all processors already"));
        let scope = Scope { process_group: None, application_group: Some(b"shop"[..].into()) };
        assert!(Gil::default().ask(Wish::FreeThreading, true, scope, place()).is_err());
    }

    #[test]
    fn a_number_of_copies() {
        assert_eq!((copies("1"), copies("256")), (Ok(1), Ok(256)));
        assert!(copies("auto").unwrap() >= 1);
        for bad in ["0", "257", "many"] {
            assert!(copies(bad).unwrap_err().ends_with("or auto"), "{bad}");
        }
    }
}
