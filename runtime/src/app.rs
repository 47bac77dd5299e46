//! Applications: which interpreter, which callable, and when to import it again.

use std::ffi::{c_int, CString};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use burrow_abi::{burrow_str, RuntimeApp, BURROW_LOG_ERR, BURROW_LOG_INFO, UNKNOWN, WSGI};
use pyo3_ffi as ffi;

use crate::attach::Attached;
use crate::interpreter::{self, Interpreter};
use crate::object::{fs_decoded, latin1, take_exception, Object, Result};
use crate::wsgi::environ::Template;
use crate::{log, worker};

/// One application, for the life of the process.
pub struct App {
    pub target: Target,
    /// The script's, as the system takes it.
    path: Option<CString>,
    pub callable: Vec<u8>,
    pub group: Vec<u8>,
    pub multithread: bool,
    /// What a setting says that it is.
    stated: c_int,
    /// What the last import gave, as [`burrow_abi::RuntimeApi::interface`] says it.
    interface: AtomicI32,
    interpreter: OnceLock<&'static Interpreter>,
    /// Held, without the GIL, around an import, so that one application's slow import keeps no other
    /// waiting and no two threads import the same script.
    importing: Mutex<()>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// The script's modification time when it was last read; see [`modified`].
    modified: AtomicI64,
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

/// What an import gave. Replaced as a whole by the next one; requests keep theirs to the end.
pub struct Loaded {
    pub callable: Object,
    pub template: Template,
    /// The script's `reload_required`, which is asked whether it is to be imported again.
    reload_required: Option<Object>,
}

/// No file has this modification time.
const NEVER: i64 = i64::MIN;

/// The record of an application. See [`burrow_abi::RuntimeApi::app`].
pub unsafe extern "C" fn open(
    target: burrow_str,
    callable: burrow_str,
    group: burrow_str,
    multithread: c_int,
    interface: c_int,
) -> *mut RuntimeApp {
    // SAFETY: the strings are the caller's for the length of the call; they are copied.
    let (target, callable, group) = unsafe { (target.bytes(), callable.bytes(), group.bytes()) };
    let (target, named) = match target.iter().position(|byte| *byte == b':') {
        _ if target.starts_with(b"/") => (Target::Script(target.to_vec()), &b""[..]),
        Some(colon) => (Target::Module(target[..colon].to_vec()), &target[colon + 1..]),
        None => (Target::Module(target.to_vec()), &b""[..]),
    };
    let callable = [named, callable, b"application"].into_iter().find(|name| !name.is_empty());
    let path = match &target {
        Target::Script(path) => CString::new(&path[..]).ok(),
        Target::Module(_) => None,
    };
    Box::into_raw(Box::new(App {
        target,
        path,
        callable: callable.unwrap_or_default().to_vec(),
        group: group.to_vec(),
        multithread: multithread != 0,
        stated: interface,
        interface: AtomicI32::new(UNKNOWN),
        interpreter: OnceLock::new(),
        importing: Mutex::new(()),
        loaded: Mutex::new(None),
        modified: AtomicI64::new(0),
    }))
    .cast()
}

/// Imports it now. See [`burrow_abi::RuntimeApi::load`].
pub unsafe extern "C" fn load(app: *mut RuntimeApp) -> c_int {
    // SAFETY: made by `open`, never freed.
    let app = unsafe { &*app.cast::<App>() };
    let Some(interpreter) = app.interpreter() else { return -1 };
    let _busy = interpreter.busy();
    let Some(loaded) = app.loaded(interpreter, None) else { return -1 };
    // A request may have replaced the import meanwhile: its last reference goes while attached.
    let _attached = Attached::to(interpreter);
    drop(loaded);
    0
}

impl App {
    /// The group's interpreter; made at first use. Called detached.
    pub fn interpreter(&self) -> Option<&'static Interpreter> {
        if let Some(interpreter) = self.interpreter.get() {
            return Some(interpreter);
        }
        let interpreter = interpreter::of_group(&self.group)?;
        Some(self.interpreter.get_or_init(|| interpreter))
    }

    /// The group's interpreter, once it was used.
    pub fn made_interpreter(&self) -> Option<&'static Interpreter> {
        self.interpreter.get().copied()
    }

    /// The application, imported if it is not yet, or again if its script has another modification time than
    /// `modified` (see [`Self::modified_now`]; None: it is not looked at). None when it does not import; that
    /// was logged. Called detached, since it may wait long.
    pub fn loaded(&self, interpreter: &'static Interpreter, modified: Option<i64>) -> Option<Arc<Loaded>> {
        if let Some(loaded) = self.current(modified) {
            if modified.is_none() || !self.asks_to_reload(interpreter, &loaded) {
                return Some(loaded);
            }
            self.modified.store(NEVER, Ordering::Relaxed);
            // Perhaps the last reference, if another thread has replaced it.
            let _attached = Attached::to(interpreter);
            drop(loaded);
        }
        let _importing = self.importing.lock().unwrap();
        let now = self.modified_now();
        // Another thread may have imported it while this one waited.
        if let Some(loaded) = self.current(modified.map(|_| now)) {
            return Some(loaded);
        }
        self.announce(interpreter);
        let attached = Attached::to(interpreter);
        let old = match self.import(&attached) {
            Ok(loaded) => {
                self.modified.store(now, Ordering::Relaxed);
                let interface = if self.stated == UNKNOWN { WSGI } else { self.stated };
                self.interface.store(interface, Ordering::Release);
                self.loaded.lock().unwrap().replace(Arc::new(loaded))
            }
            Err(_) => {
                if let Some(exception) = take_exception().filter(|_| !worker::has_interrupted()) {
                    self.report_import(&attached, exception);
                }
                return None;
            }
        };
        // Its Python objects go while this thread is attached.
        drop(old);
        self.loaded.lock().unwrap().clone()
    }

    /// What it is; UNKNOWN before its import.
    pub fn interface(&self) -> c_int {
        self.interface.load(Ordering::Acquire)
    }

    /// Whether the import would have to be looked at again, where the script was modified then (0: look).
    pub fn may_have_changed(&self, modified: i64) -> bool {
        let modified = if modified == 0 { self.modified_now() } else { modified };
        modified != self.modified.load(Ordering::Relaxed)
    }

    /// Whether it was imported.
    pub fn is_loaded(&self) -> bool {
        self.loaded.lock().unwrap().is_some()
    }

    /// Whether its script has another modification time, in microseconds, than what was imported, or asks for
    /// that itself. For a worker, where nothing replaces an import and so none ends here.
    pub fn is_outdated(&self, modified: i64) -> bool {
        let loaded = self.loaded.lock().unwrap().clone();
        loaded.zip(self.interpreter()).is_some_and(|(loaded, interpreter)| {
            self.modified.load(Ordering::Relaxed) != modified || self.asks_to_reload(interpreter, &loaded)
        })
    }

    /// Whether the script itself wants to be imported again.
    fn asks_to_reload(&self, interpreter: &'static Interpreter, loaded: &Loaded) -> bool {
        let (Some(function), Target::Script(path)) = (&loaded.reload_required, &self.target) else {
            return false;
        };
        let attached = Attached::to(interpreter);
        let state = attached.interpreter.state();
        let asked = fs_decoded(path).and_then(|path| state.reload_required(function, &path));
        asked.unwrap_or_else(|_| {
            take_exception().into_iter().for_each(|exception| self.report(&attached, exception));
            false
        })
    }

    /// Never the last reference, which must go attached: nothing is cloned that may be replaced meanwhile
    /// and not used.
    fn current(&self, modified: Option<i64>) -> Option<Arc<Loaded>> {
        if modified.is_some_and(|modified| modified != self.modified.load(Ordering::Relaxed)) {
            return None;
        }
        self.loaded.lock().unwrap().clone()
    }

    fn import(&self, attached: &Attached) -> Result<Loaded> {
        let state = attached.interpreter.state();
        let name = latin1(&self.callable)?;
        let template = Template::new(self, state)?;
        match &self.target {
            Target::Script(path) => {
                let path = fs_decoded(path)?;
                let callable = state.load_script(&path, &name)?;
                let reload_required = state.reload_required_of(&path)?;
                Ok(Loaded { callable, template, reload_required })
            }
            Target::Module(module) => {
                let callable = state.load_module(&fs_decoded(module)?, &name)?;
                Ok(Loaded { callable, template, reload_required: None })
            }
        }
    }

    fn announce(&self, interpreter: &Interpreter) {
        if let Target::Script(_) = self.target {
            let again = if self.loaded.lock().unwrap().is_some() { "Reloading" } else { "Loading" };
            let line = format!("{again} WSGI script '{}' into {}.", self.name(), interpreter.description());
            log::line(BURROW_LOG_INFO, line.as_bytes());
        }
    }

    /// Logs why it does not import.
    fn report_import(&self, attached: &Attached, exception: Object) {
        let place = attached.interpreter.description();
        match attached.interpreter.state().import_failed(&self.name(), &place, &exception) {
            Ok(false) => {}
            Ok(true) => self.report(attached, exception),
            Err(_) => {
                take_exception();
                self.report(attached, exception);
            }
        }
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
        let Some(path) = &self.path else { return 0 };
        let mut data = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: a NUL-terminated path; the structure is filled where the call succeeds.
        unsafe {
            if libc::stat(path.as_ptr(), data.as_mut_ptr()) != 0 {
                return 0;
            }
            let data = data.assume_init();
            data.st_mtime * 1_000_000 + data.st_mtime_nsec / 1000
        }
    }
}
