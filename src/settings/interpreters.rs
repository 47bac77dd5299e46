//! What can differ from interpreter to interpreter: the sections that ask for it, and what comes of them.

use std::collections::BTreeSet;
use std::ffi::c_int;

use burrow_abi::{WebSocketLimits, ANY_LOOP, UNKNOWN};

use super::websocket::Limit;

/// The interpreters that an option is for. None: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Empty: the server's own processes.
    pub process_group: Option<Box<[u8]>>,
    /// Empty: the main interpreter.
    pub application_group: Option<Box<[u8]>>,
}

impl Scope {
    fn holds(&self, process_group: &[u8], application_group: Option<&[u8]>) -> bool {
        self.process_group.as_deref().is_none_or(|name| name == process_group)
            && self.application_group.as_deref().is_none_or(|name| application_group == Some(name))
    }

    /// How closely it describes an interpreter.
    pub(super) fn precision(&self) -> u8 {
        u8::from(self.process_group.is_some()) + 2 * u8::from(self.application_group.is_some())
    }
}

/// What an interpreter keeps from its applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    Stdin,
    Stdout,
    Signal,
}

/// What comes of all options for one interpreter.
#[derive(Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Besides those of all interpreters.
    pub paths: Vec<Vec<u8>>,
    pub restrict_stdin: bool,
    pub restrict_stdout: bool,
    pub restrict_signal: bool,
    /// It has a lock of its own.
    pub own_gil: bool,
    /// What its applications are, and their event loop, as burrow_abi has it.
    pub interface: c_int,
    pub event_loop: c_int,
    pub websocket: WebSocketLimits,
}

impl Default for Interpreter {
    fn default() -> Self {
        Interpreter {
            paths: Vec::new(),
            restrict_stdin: false,
            restrict_stdout: false,
            restrict_signal: true,
            own_gil: false,
            interface: UNKNOWN,
            event_loop: ANY_LOOP,
            websocket: WebSocketLimits::default(),
        }
    }
}

#[derive(Clone, Debug)]
enum Choice {
    Restrict(Restriction, bool),
    OwnGil(bool),
    Interface(c_int),
    EventLoop(c_int),
    WebSocket(&'static Limit, u32),
    Paths(Vec<Vec<u8>>),
}

/// The options as they were written.
#[derive(Clone, Debug, Default)]
pub struct Interpreters {
    /// Of all in the server's own processes.
    embedded_paths: Vec<Vec<u8>>,
    options: Vec<(Scope, Choice)>,
}

impl Interpreters {
    pub fn restrict(&mut self, scope: Scope, what: Restriction, on: bool) {
        self.options.push((scope, Choice::Restrict(what, on)));
    }

    pub fn set_own_gil(&mut self, scope: Scope, on: bool) {
        self.options.push((scope, Choice::OwnGil(on)));
    }

    pub fn set_interface(&mut self, scope: Scope, interface: c_int) {
        self.options.push((scope, Choice::Interface(interface)));
    }

    pub fn set_event_loop(&mut self, scope: Scope, event_loop: c_int) {
        self.options.push((scope, Choice::EventLoop(event_loop)));
    }

    pub fn limit_websockets(&mut self, scope: Scope, limit: &'static Limit, value: u32) {
        self.options.push((scope, Choice::WebSocket(limit, value)));
    }

    /// Process groups have a `python-path` of their own.
    pub fn add_embedded_paths(&mut self, paths: Vec<Vec<u8>>) {
        self.embedded_paths.extend(paths);
    }

    pub fn add_paths(&mut self, scope: Scope, paths: Vec<Vec<u8>>) {
        self.options.push((scope, Choice::Paths(paths)));
    }

    /// Those of a process group: for each application group that an option names, and last for any other.
    pub fn in_group(&self, process_group: &[u8]) -> Vec<(Option<Vec<u8>>, Interpreter)> {
        let names: BTreeSet<&[u8]> =
            self.options.iter().filter_map(|(scope, _)| scope.application_group.as_deref()).collect();
        let named = names.into_iter().map(|name| (Some(name.to_owned()), self.of(process_group, name)));
        named.chain([(None, self.collect(process_group, None))]).collect()
    }

    /// The most precise scope wins, among equals the later option. Folders add up, those in front that win.
    pub fn of(&self, process_group: &[u8], application_group: &[u8]) -> Interpreter {
        self.collect(process_group, Some(application_group))
    }

    /// None: of an application group that no option names.
    fn collect(&self, process_group: &[u8], application_group: Option<&[u8]>) -> Interpreter {
        let holds = |(scope, _): &&(Scope, Choice)| scope.holds(process_group, application_group);
        let mut options: Vec<_> = self.options.iter().filter(holds).collect();
        options.sort_by_key(|(scope, _)| scope.precision());
        let mut interpreter = Interpreter::default();
        for (_, option) in options {
            match option {
                Choice::Paths(paths) => drop(interpreter.paths.splice(..0, paths.iter().cloned())),
                Choice::Restrict(Restriction::Stdin, on) => interpreter.restrict_stdin = *on,
                Choice::Restrict(Restriction::Stdout, on) => interpreter.restrict_stdout = *on,
                Choice::Restrict(Restriction::Signal, on) => interpreter.restrict_signal = *on,
                Choice::OwnGil(on) => interpreter.own_gil = *on,
                Choice::Interface(interface) => interpreter.interface = *interface,
                Choice::EventLoop(event_loop) => interpreter.event_loop = *event_loop,
                Choice::WebSocket(limit, value) => limit.apply(&mut interpreter.websocket, *value),
            }
        }
        if process_group.is_empty() {
            interpreter.paths.extend_from_slice(&self.embedded_paths);
        }
        interpreter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(process: Option<&str>, application: Option<&str>) -> Scope {
        Scope {
            process_group: process.map(|name| name.as_bytes().into()),
            application_group: application.map(|name| name.as_bytes().into()),
        }
    }

    #[test]
    fn defaults_are_mod_wsgis() {
        let plain = Interpreters::default().of(b"", b"shop");
        assert!(!plain.restrict_stdin && !plain.restrict_stdout && plain.restrict_signal);
        assert!(plain.paths.is_empty());
    }

    #[test]
    fn the_most_precise_scope_wins_and_the_later_option_among_equals() {
        let mut all = Interpreters::default();
        all.restrict(scope(Some(""), Some("shop")), Restriction::Stdout, true);
        all.restrict(scope(None, Some("shop")), Restriction::Stdout, false);
        all.restrict(scope(None, None), Restriction::Stdin, true);
        all.restrict(scope(Some(""), None), Restriction::Stdin, false);
        all.restrict(scope(Some(""), None), Restriction::Signal, true);
        all.restrict(scope(Some(""), None), Restriction::Signal, false);
        let shop = all.of(b"", b"shop");
        assert!(shop.restrict_stdout && !shop.restrict_stdin && !shop.restrict_signal);
        let daemon = all.of(b"tools", b"");
        assert!(daemon.restrict_stdin && !daemon.restrict_stdout && daemon.restrict_signal);
    }

    #[test]
    fn an_empty_name_is_the_main_interpreter_alone() {
        let mut all = Interpreters::default();
        all.restrict(scope(None, Some("")), Restriction::Stdin, true);
        assert!(all.of(b"", b"").restrict_stdin);
        assert!(!all.of(b"", b"shop").restrict_stdin);
    }

    #[test]
    fn a_process_group_has_those_that_are_named_and_the_rest() {
        let mut all = Interpreters::default();
        all.restrict(scope(Some("tools"), Some("shop")), Restriction::Stdin, true);
        all.restrict(scope(Some("other"), None), Restriction::Stdin, true);
        all.restrict(scope(None, None), Restriction::Stdout, true);
        let of_tools = all.in_group(b"tools");
        assert_eq!(of_tools.len(), 2);
        assert_eq!(of_tools[0].0.as_deref(), Some(b"shop".as_slice()));
        assert!(of_tools[0].1.restrict_stdin && of_tools[0].1.restrict_stdout);
        assert_eq!(of_tools[1].0, None);
        assert!(!of_tools[1].1.restrict_stdin && of_tools[1].1.restrict_stdout);
    }

    #[test]
    fn folders_add_up() {
        let mut all = Interpreters::default();
        all.add_paths(scope(None, Some("shop")), vec![b"/shop".to_vec()]);
        all.add_paths(scope(None, None), vec![b"/all".to_vec(), b"/more".to_vec()]);
        all.add_embedded_paths(vec![b"/embedded".to_vec()]);
        let paths = |process: &[u8], application: &[u8]| {
            String::from_utf8(all.of(process, application).paths.join(&b' ')).unwrap()
        };
        assert_eq!(paths(b"", b"shop"), "/shop /all /more /embedded");
        assert_eq!(paths(b"", b"tools"), "/all /more /embedded");
        assert_eq!(paths(b"group", b"tools"), "/all /more");
    }
}
