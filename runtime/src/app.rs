//! Applications, and which of its copies gets a request.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering};
use std::sync::OnceLock;

use burrow_abi::{burrow_str, script_modified, RuntimeApp, BURROW_LOG_ERR, UNKNOWN, WHOLE_SCRIPT, WSGI};
use burrow_daemon::page;
use pyo3_ffi as ffi;

use crate::attach::Attached;
use crate::bootstrap::State;
use crate::instance::Instance;
use crate::interpreter::{self, Interpreter};
use crate::log;
use crate::object::{Object, Result};

/// One application, for the life of the process.
pub struct App {
    pub target: Target,
    pub callable: Vec<u8>,
    pub group: Vec<u8>,
    pub multithread: bool,
    /// What the last import gave, as [`burrow_abi::RuntimeApi::interface`] says it.
    interface: AtomicI32,
    /// How many imports are under way.
    imports: AtomicU32,
    /// When one began or ended, in microseconds of CLOCK_MONOTONIC.
    import_changed: AtomicI64,
    /// One for each interpreter that it runs in.
    instances: OnceLock<Box<[Instance]>>,
}

pub enum Target {
    Script(Vec<u8>),
    Module(Vec<u8>),
}

impl Target {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Target::Script(path) => path,
            Target::Module(name) => name,
        }
    }
}

/// The record of an application. See [`burrow_abi::RuntimeApi::app`].
pub unsafe extern "C" fn open(
    target: burrow_str,
    callable: burrow_str,
    group: burrow_str,
    copies: u32,
    multithread: c_int,
) -> *mut RuntimeApp {
    // SAFETY: the strings are the caller's for the length of the call; they are copied.
    let (target, callable, group) = unsafe { (target.bytes(), callable.bytes(), group.bytes()) };
    let (target, named) = match target.iter().position(|byte| *byte == b':') {
        _ if target.starts_with(b"/") => (Target::Script(target.to_vec()), &b""[..]),
        Some(colon) => (Target::Module(target[..colon].to_vec()), &target[colon + 1..]),
        None => (Target::Module(target.to_vec()), &b""[..]),
    };
    let callable = [named, callable, b"application"].into_iter().find(|name| !name.is_empty());
    let app: &'static App = Box::leak(Box::new(App {
        target,
        callable: callable.unwrap_or_default().to_vec(),
        group: group.to_vec(),
        multithread: multithread != 0,
        interface: AtomicI32::new(UNKNOWN),
        imports: AtomicU32::new(0),
        import_changed: AtomicI64::new(0),
        instances: OnceLock::new(),
    }));
    let slots = interpreter::slots(group, copies);
    app.instances.get_or_init(|| slots.into_iter().map(|slot| Instance::new(app, slot)).collect());
    std::ptr::from_ref(app).cast_mut().cast()
}

/// Imports it now. See [`burrow_abi::RuntimeApi::load`].
pub unsafe extern "C" fn load(app: *mut RuntimeApp) -> c_int {
    // SAFETY: made by `open`, never freed.
    let app = unsafe { &*app.cast::<App>() };
    if app.instances().iter().all(Instance::load) {
        0
    } else {
        -1
    }
}

/// The copy of an application that a request was given to, which counts there until this is dropped.
pub struct Chosen(&'static Instance);

impl Chosen {
    pub fn instance(&self) -> &'static Instance {
        self.0
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.0.slot.end();
    }
}

/// An import that is under way until this is dropped.
pub struct Import(&'static App);

impl Drop for Import {
    fn drop(&mut self) {
        self.0.import_changed.store(page::now(), Ordering::Release);
        self.0.imports.fetch_sub(1, Ordering::AcqRel);
    }
}

impl App {
    /// An import begins.
    pub fn begin_import(&'static self) -> Import {
        self.import_changed.store(page::now(), Ordering::Release);
        self.imports.fetch_add(1, Ordering::AcqRel);
        Import(self)
    }

    /// Whether an import is under way, and when the last one began or ended, in microseconds of CLOCK_MONOTONIC.
    pub fn last_import(&self) -> (bool, i64) {
        let is_importing = self.imports.load(Ordering::Acquire) > 0;
        (is_importing, self.import_changed.load(Ordering::Acquire))
    }

    pub fn instances(&'static self) -> &'static [Instance] {
        self.instances.get().expect("set by `open`")
    }

    /// The copy that gets a request: the least busy one.
    pub fn choose(&'static self) -> Chosen {
        self.choose_of(|_| true).expect("there is one at least")
    }

    /// The least busy copy of those.
    pub fn choose_of(&'static self, is_one: impl Fn(&Instance) -> bool) -> Option<Chosen> {
        loop {
            let those = self.instances().iter().filter(|instance| is_one(instance));
            let counted = those.map(|instance| (instance.slot.requests(), instance));
            let (requests, instance) = counted.min_by_key(|(requests, _)| *requests)?;
            if instance.slot.begin(requests) {
                return Some(Chosen(instance));
            }
        }
    }

    /// The interpreters that it was asked for in.
    pub fn interpreters(&'static self) -> impl Iterator<Item = &'static Interpreter> {
        self.instances().iter().filter_map(Instance::made_interpreter)
    }

    /// What it is; UNKNOWN before its import.
    pub fn interface(&self) -> c_int {
        self.interface.load(Ordering::Acquire)
    }

    /// An import has given a callable: what it is.
    pub fn learn_interface(&self, interface: c_int) {
        self.interface.store(interface, Ordering::Release);
    }

    /// The callable that requests are for, and its interface.
    pub fn interface_of(&self, state: &State, callable: Object) -> Result<(Object, c_int)> {
        if self.callable == WHOLE_SCRIPT {
            return Ok((callable, WSGI));
        }
        state.interface_of(&callable)
    }

    /// Whether the import would have to be looked at again, where the script was modified then (0: look).
    pub fn may_have_changed(&'static self, modified: i64) -> bool {
        let modified = if modified == 0 { self.modified_now() } else { modified };
        self.instances().iter().any(|instance| instance.is_of_another_time(modified))
    }

    /// Whether it was imported.
    pub fn is_loaded(&'static self) -> bool {
        self.instances().iter().any(Instance::is_loaded)
    }

    /// Whether its script has another modification time, in microseconds, than what was imported, or asks for
    /// that itself. For a worker, where nothing replaces an import and so none ends here.
    pub fn is_outdated(&'static self, modified: i64) -> bool {
        self.instances().iter().any(|instance| instance.is_outdated(modified))
    }

    /// In a process that was forked: it is another one. Called attached.
    pub fn name_process(&'static self) {
        self.instances().iter().for_each(|instance| instance.name_process());
    }

    /// Logs what the application has raised, in mod_wsgi's words.
    pub fn report(&self, attached: &Attached, exception: Object) {
        let state = attached.interpreter.state();
        // SAFETY: a live object and a builtin type.
        let exits = unsafe { ffi::PyObject_IsInstance(exception.as_ptr(), ffi::PyExc_SystemExit) == 1 };
        let (number, how, end) = if exits { (175, "by", "; ignored.") } else { (174, "processing", ".") };
        // SAFETY: a live object.
        let kind = unsafe { crate::object::type_name(exception.as_ptr()) };
        let (name, place) = (self.name(), attached.interpreter.description());
        let line = format!(
            "WSGI{number:04}: [script {name}] {kind} exception raised {how} WSGI script '{name}' for {place}{end}"
        );
        log::line(BURROW_LOG_ERR, line.as_bytes());
        state.report(Some(exception));
    }

    /// Path or module name, for messages.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.target.bytes()).into_owned()
    }

    /// The script's modification time in microseconds; 0 for a module or when there is no such file.
    pub fn modified_now(&self) -> i64 {
        match &self.target {
            Target::Script(path) => script_modified(path),
            Target::Module(_) => 0,
        }
    }
}
