//! The applications that this worker has been asked for, and what the manager learns of them.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::*};
use std::sync::{OnceLock, RwLock};

use burrow_abi::{burrow_request, burrow_str, same, RuntimeApp, ASGI, BURROW_RELOADING};
use burrow_daemon::config;
use burrow_daemon::control::FromWorker;
use burrow_daemon::request::Addressed;

use super::{greenlets, log, ownership, worker};
use crate::app::{self, App};
use crate::asgi::{self, EventLoop};
use crate::interpreter::Interpreter;

#[derive(Default)]
pub struct Applications(RwLock<Vec<&'static Application>>);

pub struct Application {
    /// As the server names it.
    key: config::App,
    runtime: *mut RuntimeApp,
    /// The manager knows that it is imported.
    known: AtomicBool,
    /// The modification time of its script that the manager was last told of.
    reported: AtomicI64,
    /// When its script was last looked at, in microseconds of CLOCK_MONOTONIC.
    looked_at: AtomicI64,
}

/// For so many microseconds a script is taken to be what it was: to look costs as much as to receive a request.
const LOOK: i64 = 1000;

// SAFETY: `runtime` is an `App`, which threads may share.
unsafe impl Send for Application {}
// SAFETY: as above.
unsafe impl Sync for Application {}

thread_local! {
    /// What this thread was last asked for.
    static LAST: Cell<Option<&'static Application>> = const { Cell::new(None) };
}

impl Applications {
    /// The application of a request; a new one is not imported yet.
    pub fn find(&self, address: &Addressed) -> &'static Application {
        if let Some(last) = LAST.get().filter(|last| last.is(address)) {
            return last;
        }
        let known = self.0.read().unwrap().iter().find(|each| each.is(address)).copied();
        let found = known.unwrap_or_else(|| self.add(address));
        LAST.set(Some(found));
        found
    }

    fn add(&self, address: &Addressed) -> &'static Application {
        let mut all = self.0.write().unwrap();
        // Another thread may have been quicker.
        if let Some(known) = all.iter().find(|each| each.is(address)) {
            return known;
        }
        let key = config::App {
            target: address.target.to_vec(),
            callable: address.callable.to_vec(),
            application_group: address.application_group.to_vec(),
        };
        // Virtual hosts that share it have names of their own for the one interpreter.
        let twin = all.iter().find(|each| import_of(&each.key) == import_of(&key));
        let runtime = twin.map_or_else(|| open(&key), |each| each.runtime);
        let added = Box::leak(Box::new(Application::new(key, runtime)));
        all.push(added);
        added
    }

    /// The event loop that runs all of them, where there is one.
    pub fn event_loop(&self) -> Option<&'static EventLoop> {
        let all = self.0.read().unwrap();
        let mut loops = all.iter().map(|each| each.event_loop());
        let first = loops.next()??;
        loops.all(|other| other.is_some_and(|other| std::ptr::eq(first, other))).then_some(first)
    }

    /// For a process that was forked: what was imported is imported there, too. Called attached.
    pub fn share(&self) -> Applications {
        let all = self.0.read().unwrap().clone();
        all.iter().for_each(|each| each.app().name_process());
        Applications(RwLock::new(all))
    }

    /// Tells a new manager what the last one knew.
    pub fn announce_again(&self) {
        for each in self.0.read().unwrap().iter().filter(|each| each.known.load(Relaxed)) {
            worker().control.tell(FromWorker::Imported { app: each.key.clone() });
            if each.reported.load(Relaxed) != 0 {
                worker().control.tell(FromWorker::Changed { app: each.key.clone() });
            }
        }
    }
}

/// Whether an application has the main interpreter, whatever its application group.
fn has_main_interpreter(target: &[u8]) -> bool {
    static FIRST: OnceLock<Vec<u8>> = OnceLock::new();
    worker().config.main_interpreter && FIRST.get_or_init(|| target.to_vec()) == target
}

/// The application group whose interpreter an application has.
fn interpreter_of(key: &config::App) -> &[u8] {
    let has_main = worker().config.greenlets || has_main_interpreter(&key.target);
    if has_main {
        b""
    } else {
        &key.application_group
    }
}

/// What tells its import from others.
fn import_of(key: &config::App) -> [&[u8]; 3] {
    [&key.target, &key.callable, interpreter_of(key)]
}

/// What the runtime is to know of an application.
fn open(key: &config::App) -> *mut RuntimeApp {
    let config = &worker().config;
    let group = interpreter_of(key);
    if config.greenlets && !has_main_interpreter(&key.target) && !key.application_group.is_empty() {
        let target = String::from_utf8_lossy(&key.target);
        log::warn(&format!("'{target}' has the main interpreter, since async=gevent needs that"));
    }
    let [target, callable, group] = [&key.target, &key.callable, group].map(burrow_str::new);
    // SAFETY: the strings are there for the call.
    unsafe { app::open(target, callable, group, config.copies, (config.threads > 1).into()) }
}

impl Application {
    fn new(key: config::App, runtime: *mut RuntimeApp) -> Application {
        Application {
            key,
            runtime,
            known: AtomicBool::new(false),
            reported: AtomicI64::new(0),
            looked_at: AtomicI64::new(0),
        }
    }

    fn is(&self, address: &Addressed) -> bool {
        same(&self.key.target, address.target)
            && same(&self.key.callable, address.callable)
            && same(&self.key.application_group, address.application_group)
    }

    /// Why its script must not be run.
    pub fn refusal(&self) -> Option<String> {
        if self.app().is_loaded() {
            return None;
        }
        ownership::refusal(&self.key.target)
    }

    /// What would become of this request: see [`burrow_abi::RuntimeApi::interface`].
    pub fn interface(&self, request: &burrow_request) -> c_int {
        // SAFETY: made by `app::open`; a live request.
        unsafe { asgi::interface(self.runtime, request) }
    }

    /// The event loop that runs it, where it is imported, and there is one.
    fn event_loop(&self) -> Option<&'static EventLoop> {
        match self.app().instances() {
            [instance] if self.app().interface() == ASGI => instance.event_loop(),
            _ => None,
        }
    }

    /// For [`crate::wsgi::serve`].
    pub fn runtime(&self) -> *mut RuntimeApp {
        self.runtime
    }

    /// Whether it is being imported, and when an import last began or ended, in microseconds of CLOCK_MONOTONIC.
    pub fn last_import(&self) -> (bool, i64) {
        self.app().last_import()
    }

    /// Where it is or will be imported, as far as that was needed yet.
    pub fn interpreters(&self) -> impl Iterator<Item = &'static Interpreter> + '_ {
        self.app().interpreters()
    }

    fn app(&self) -> &'static App {
        // SAFETY: made by `app::open`, never freed.
        unsafe { &*self.runtime.cast() }
    }

    /// Imports one that the manager has named. False where it does not import.
    pub fn import(&self) -> bool {
        self.known.store(true, Relaxed);
        if let Some(why) = self.refusal() {
            // Requests for it are forbidden, which keeps nobody from those for others.
            log::error(&why);
            return true;
        }
        self.load()
    }

    /// Imports it, if it is not yet. False where it does not import.
    pub fn load(&self) -> bool {
        // SAFETY: made by `app::open`.
        greenlets::one_at_a_time(|| unsafe { app::load(self.runtime) == 0 })
    }

    /// Whether it is imported.
    pub fn is_loaded(&self) -> bool {
        self.app().is_loaded()
    }

    /// A worker serves the code that it has imported. Where the script is another one by now, the manager
    /// is told, once, and replaces the worker. `now`: microseconds of CLOCK_MONOTONIC.
    pub fn look_at_script(&self, request: &mut burrow_request, now: i64) {
        if request.flags & BURROW_RELOADING == 0 {
            return;
        }
        request.flags &= !BURROW_RELOADING;
        let modified = match request.script_modified {
            0 if now - self.looked_at.load(Relaxed) < LOOK => return,
            0 => {
                self.looked_at.store(now, Relaxed);
                self.app().modified_now()
            }
            known => known,
        };
        let changed = self.app().is_outdated(modified);
        if changed && self.reported.swap(modified, Relaxed) != modified {
            worker().control.tell(FromWorker::Changed { app: self.key.clone() });
        }
    }

    /// After a request: the manager is told of what was imported for it.
    pub fn announce(&self) {
        if !self.known.load(Relaxed) && self.app().is_loaded() && !self.known.swap(true, Relaxed) {
            worker().control.tell(FromWorker::Imported { app: self.key.clone() });
        }
    }
}
