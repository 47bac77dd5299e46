//! An application in one of the interpreters that it runs in: its import, and when to import it again.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use burrow_abi::{ASGI, BURROW_LOG_ERR, BURROW_LOG_INFO, UNKNOWN, WSGI};

use crate::app::{App, Target};
use crate::asgi::{self, EventLoop};
use crate::attach::{self, Attached};
use crate::bootstrap::State;
use crate::interpreter::{Interpreter, Slot};
use crate::object::{fs_decoded, latin1, take_exception, Object, Result};
use crate::worker::greenlets;
use crate::wsgi::environ::Template;
use crate::{log, worker};

pub struct Instance {
    app: &'static App,
    pub slot: &'static Slot,
    interpreter: OnceLock<&'static Interpreter>,
    /// Held, without the GIL, around an import, so that one application's slow import keeps no other
    /// waiting and no two threads import the same script.
    importing: Mutex<()>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// The script's modification time when it was last read; see [`App::modified_now`].
    modified: AtomicI64,
}

/// What an import gave. Replaced as a whole by the next one; requests keep theirs to the end.
pub struct Loaded {
    pub callable: Object,
    pub template: Template,
    /// None where it is a WSGI application, or a script of hooks.
    pub asgi: Option<asgi::Application>,
    /// The script's `reload_required`, which is asked whether it is to be imported again.
    reload_required: Option<Object>,
}

/// No file has this modification time.
const NEVER: i64 = i64::MIN;

impl Instance {
    pub fn new(app: &'static App, slot: &'static Slot) -> Instance {
        Instance {
            app,
            slot,
            interpreter: OnceLock::new(),
            importing: Mutex::new(()),
            loaded: Mutex::new(None),
            modified: AtomicI64::new(0),
        }
    }

    /// Its interpreter; made at first use. Called detached.
    pub fn interpreter(&self) -> Option<&'static Interpreter> {
        if let Some(interpreter) = self.interpreter.get() {
            return Some(interpreter);
        }
        attach::let_go();
        // For time limits it is a part of the import.
        let _import = self.app.begin_import();
        let interpreter = self.slot.interpreter()?;
        Some(self.interpreter.get_or_init(|| interpreter))
    }

    /// Its interpreter, once it was used.
    pub fn made_interpreter(&self) -> Option<&'static Interpreter> {
        self.interpreter.get().copied()
    }

    /// Imports the application now, and waits until its lifespan has begun, if it has one. False when that fails
    /// (logged).
    pub fn load(&'static self) -> bool {
        let Some(interpreter) = self.interpreter() else { return false };
        let _busy = interpreter.busy();
        let Some(loaded) = self.loaded(interpreter, None) else { return false };
        let begun = worker::is_template()
            || self.begin_inherited(interpreter, &loaded)
                && loaded.asgi.as_ref().is_none_or(asgi::Application::wait);
        // A request may have replaced the import meanwhile: its last reference goes while attached.
        let _attached = Attached::to(interpreter);
        drop(loaded);
        begun
    }

    /// An ASGI application that was imported by the process that this one was forked from begins here. Called
    /// detached.
    fn begin_inherited(&'static self, interpreter: &'static Interpreter, loaded: &Arc<Loaded>) -> bool {
        if loaded.asgi.is_none() || self.app.interface() == ASGI {
            return true;
        }
        let Some(event_loop) = interpreter.event_loop() else { return false };
        self.app.learn_interface(ASGI);
        event_loop.begin(self, loaded.clone(), None);
        true
    }

    /// The application, imported if it is not yet, or again if its script has another modification time than
    /// `modified` (see [`App::modified_now`]; None: it is not looked at). None when it does not import; that
    /// was logged. Called detached, since it may wait long.
    pub fn loaded(
        &'static self,
        interpreter: &'static Interpreter,
        modified: Option<i64>,
    ) -> Option<Arc<Loaded>> {
        if let Some(loaded) = self.current(modified) {
            if modified.is_none() || loaded.reload_required.is_none() {
                return Some(loaded);
            }
            let attached = Attached::to(interpreter);
            if !self.asks_to_reload(&attached, &loaded) {
                return Some(loaded);
            }
            self.modified.store(NEVER, Ordering::Relaxed);
            // Perhaps the last reference, if another thread has replaced it: it goes while attached.
            drop(loaded);
        }
        attach::let_go();
        let _importing = self.importing.lock().unwrap();
        let now = self.app.modified_now();
        // Another thread may have imported it while this one waited.
        if let Some(loaded) = self.current(modified.map(|_| now)) {
            return Some(loaded);
        }
        self.announce(interpreter);
        let _import = self.app.begin_import();
        let attached = Attached::to(interpreter);
        let loaded = match self.import(&attached) {
            Ok(loaded) => Arc::new(loaded),
            Err(_) => {
                if let Some(exception) = take_exception().filter(|_| !worker::has_interrupted()) {
                    self.report_import(&attached, exception);
                }
                return None;
            }
        };
        let (event_loop, interface) = match loaded.asgi {
            Some(_) if greenlets::are_used() => {
                self.refuse_asgi();
                return None;
            }
            // Its event loop is a thread of the processes that are forked from this one.
            Some(_) if worker::is_template() => (None, UNKNOWN),
            Some(_) => (Some(attached.detached(|| interpreter.event_loop())?), ASGI),
            None => (None, WSGI),
        };
        self.modified.store(now, Ordering::Relaxed);
        let old = self.loaded.lock().unwrap().replace(loaded.clone());
        self.app.learn_interface(interface);
        match event_loop {
            Some(event_loop) => event_loop.begin(self, loaded.clone(), old),
            // Its Python objects go while this thread is attached.
            None => drop(old),
        }
        Some(loaded)
    }

    /// The application did not start: the next request imports it again.
    pub fn forget(&self, import: &Arc<Loaded>) {
        let forgotten = self.loaded.lock().unwrap().take_if(|current| Arc::ptr_eq(current, import));
        if forgotten.is_some() {
            self.app.learn_interface(UNKNOWN);
        }
    }

    /// What requests are served with now. Called attached.
    pub fn current_import(&self) -> Option<Arc<Loaded>> {
        self.loaded.lock().unwrap().clone()
    }

    /// The event loop that serves its requests; None where there is none, or it is not imported.
    pub fn event_loop(&self) -> Option<&'static EventLoop> {
        self.made_interpreter()?.running_loop().filter(|_| self.is_loaded())
    }

    pub fn app(&self) -> &'static App {
        self.app
    }

    /// Whether it was imported, from a script of another modification time.
    pub fn is_of_another_time(&self, modified: i64) -> bool {
        self.is_loaded() && self.modified.load(Ordering::Relaxed) != modified
    }

    /// Whether it was imported.
    pub fn is_loaded(&self) -> bool {
        self.loaded.lock().unwrap().is_some()
    }

    /// Whether its script has another modification time, in microseconds, than what was imported, or asks to be
    /// imported again itself. Called detached.
    pub fn is_outdated(&self, modified: i64) -> bool {
        match &*self.loaded.lock().unwrap() {
            None => return false,
            Some(_) if self.modified.load(Ordering::Relaxed) != modified => return true,
            Some(loaded) if loaded.reload_required.is_none() => return false,
            Some(_) => {}
        }
        let Some(interpreter) = self.made_interpreter() else { return false };
        let attached = Attached::to(interpreter);
        // Its last reference may be this one by then: it goes while attached.
        self.current_import().is_some_and(|loaded| self.asks_to_reload(&attached, &loaded))
    }

    /// Whether the script itself wants to be imported again.
    fn asks_to_reload(&self, attached: &Attached, loaded: &Loaded) -> bool {
        let (Some(function), Target::Script(path)) = (&loaded.reload_required, &self.app.target) else {
            return false;
        };
        let state = attached.interpreter.state();
        let asked = fs_decoded(path).and_then(|path| state.reload_required(function, &path));
        asked.unwrap_or_else(|_| {
            take_exception().into_iter().for_each(|exception| self.app.report(attached, exception));
            false
        })
    }

    /// In a process that was forked: it is another one. Called attached.
    pub fn name_process(&self) {
        if let Some(loaded) = &*self.loaded.lock().unwrap() {
            if loaded.template.name_process().is_err() {
                take_exception();
            }
        }
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
        let name = latin1(&self.app.callable)?;
        let template = Template::new(self.app, state)?;
        match &self.app.target {
            Target::Script(path) => {
                let path = fs_decoded(path)?;
                let (callable, asgi) = self.interface_of(state, state.load_script(&path, &name)?)?;
                let reload_required = state.reload_required_of(&path)?;
                Ok(Loaded { callable, template, asgi, reload_required })
            }
            Target::Module(module) => {
                let (callable, asgi) =
                    self.interface_of(state, state.load_module(&fs_decoded(module)?, &name)?)?;
                Ok(Loaded { callable, template, asgi, reload_required: None })
            }
        }
    }

    fn interface_of(&self, state: &State, callable: Object) -> Result<(Object, Option<asgi::Application>)> {
        let (callable, interface) = self.app.interface_of(state, callable)?;
        Ok((callable, (interface == ASGI).then(asgi::Application::default)))
    }

    fn refuse_asgi(&self) {
        let line = format!(
            "burrow: '{}' is an ASGI application, and async=gevent is for WSGI: it needs another process group",
            self.app.name()
        );
        log::line(BURROW_LOG_ERR, line.as_bytes());
    }

    fn announce(&self, interpreter: &Interpreter) {
        if let Target::Script(_) = self.app.target {
            let again = if self.loaded.lock().unwrap().is_some() { "Reloading" } else { "Loading" };
            let line =
                format!("{again} WSGI script '{}' into {}.", self.app.name(), interpreter.description());
            log::line(BURROW_LOG_INFO, line.as_bytes());
        }
    }

    /// Logs why it does not import.
    fn report_import(&self, attached: &Attached, exception: Object) {
        let place = attached.interpreter.description();
        match attached.interpreter.state().import_failed(&self.app.name(), &place, &exception) {
            Ok(false) => {}
            Ok(true) => self.app.report(attached, exception),
            Err(_) => {
                take_exception();
                self.app.report(attached, exception);
            }
        }
    }
}
