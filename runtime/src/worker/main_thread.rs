//! Python's main thread: it imports the applications, runs Python's signal handlers and, at the end, the exit
//! functions.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::{c_int, CStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use burrow_abi::{burrow_str, WHOLE_SCRIPT};
use burrow_daemon::config::App;
use burrow_daemon::control::FromWorker;
use burrow_daemon::request::Addressed;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{pipe2, read, write};
use pyo3_ffi as ffi;

use super::{errands, frozen_stacks, greenlets, keeper, reception, signals, title, worker};
use crate::attach::Attached;
use crate::bootstrap::{self, named, text_of};
use crate::object::{boolean, fs_decoded, integer, take_exception, Object, Result};
use crate::{interpreter, start};

const SOURCE: &CStr = bootstrap::text(concat!(include_str!("main.py"), "\0").as_bytes());

/// What other threads ask of it.
pub struct MainThread {
    /// Signals of which subscribers are to be told.
    signals: Mutex<VecDeque<c_int>>,
    /// What is to be imported.
    imports: Mutex<VecDeque<App>>,
    /// Why the process ends.
    reason: Mutex<Option<String>>,
    /// Written to when there is something of this, and by Python when a signal handler has to run.
    wake: OwnedFd,
    woken: OwnedFd,
    /// How often it has come around.
    rounds: AtomicU64,
}

impl MainThread {
    pub fn new() -> io::Result<MainThread> {
        let (woken, wake) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let (signals, imports, reason) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(MainThread { signals, imports, reason, wake, woken, rounds: AtomicU64::new(0) })
    }

    /// Tells those who have subscribed to signals.
    pub fn publish(&self, signal: c_int) {
        self.signals.lock().unwrap().push_back(signal);
        self.wake();
    }

    /// Imports an application, if nobody has yet.
    pub fn import(&self, app: App) {
        self.imports.lock().unwrap().push_back(app);
        self.wake();
    }

    /// Runs the exit functions and ends the process. A script that runs gets a SystemExit.
    pub fn end(&self, reason: String) {
        self.reason.lock().unwrap().get_or_insert(reason);
        signals::interrupt_main_thread();
        self.wake();
    }

    fn is_to_end(&self) -> bool {
        self.reason.lock().unwrap().is_some()
    }

    /// How often it has come around.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Relaxed)
    }

    /// Has it come around.
    pub fn wake(&self) {
        // Where the pipe is full the thread is awake.
        let _ = write(&self.wake, b"!");
    }

    /// Waits for the end and does, until then, what is asked for.
    fn wait(&self) -> io::Result<String> {
        loop {
            while let Some(signal) = { self.signals.lock().unwrap().pop_front() } {
                publish(signal);
            }
            while let Some(app) = { self.imports.lock().unwrap().pop_front() } {
                interruptibly(|| import(&app));
            }
            if let Some(reason) = self.reason.lock().unwrap().take() {
                return Ok(reason);
            }
            if greenlets::are_used() {
                greenlets::wait_on_main_thread(self.woken.as_fd());
            } else {
                match poll(&mut [PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.rounds.fetch_add(1, Relaxed);
            while read(&self.woken, &mut [0; 64]).is_ok() {}
            run_signal_handlers();
        }
    }
}

/// The life of the worker. Called detached.
pub fn live(link: OwnedFd) -> io::Result<Infallible> {
    let worker = worker();
    // One that comes before the handlers are ours waits for them.
    let mut ours = SigSet::empty();
    ours.add(Signal::SIGTERM);
    let before = ours.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    prepare();
    signals::install()?;
    before.thread_set_mask()?;
    worker.frozen_stacks.install()?;
    if worker.config.cpu_time_limit > 0.0 {
        signals::limit_cpu_time(worker.config.cpu_time_limit)?;
    }
    if let Some(name) = &worker.config.display_name {
        title::set(name.as_bytes());
    }
    keeper::start(link)?;
    errands::start(None)?;
    let is_service = worker.config.threads == 0;
    if is_service {
        worker.control.set_ready();
    }
    let broken = interruptibly(import_applications).flatten();
    match broken {
        // It was sent a SystemExit, or not begun: the reason follows.
        _ if signals::has_interrupted() || worker.main_thread.is_to_end() => {}
        // The script has ended.
        _ if is_service => worker.main_thread.end(String::new()),
        Some(app) => {
            worker.control.tell(FromWorker::Broken { app: app.clone() });
            worker.control.end(1)
        }
        None => {
            reception::open()?;
            worker.control.set_ready();
        }
    }
    let reason = worker.main_thread.wait()?;
    // SAFETY: this is the main thread.
    unsafe { start::stop(burrow_str::new(reason.as_bytes())) };
    worker.control.end((broken.is_some() && !signals::has_interrupted()).into())
}

/// Python's part of what comes before the imports.
pub fn prepare_imports() {
    python(|globals| {
        let locale = fs_decoded(worker().config.locale.as_deref().unwrap_or_default().as_bytes())?;
        named(globals, c"set_up_for_imports")?.call(&[&locale]).map(drop)
    });
}

/// Before this process is forked. The threads that stand in the way.
pub fn freeze() -> String {
    let threads = python(|globals| Ok(text_of(&named(globals, c"freeze")?.call(&[])?)));
    threads.unwrap_or_else(|| "they cannot be told".into())
}

/// Python's part of the preparations.
fn prepare() {
    let worker = worker();
    python(|globals| {
        let number = |number| integer(number as u64);
        let wakeup = number(worker.main_thread.wake.as_raw_fd())?;
        let stacks = [number(frozen_stacks::signal())?, number(worker.frozen_stacks.descriptor())?];
        let is_service = boolean(worker.config.threads == 0);
        named(globals, c"set_up")?.call(&[&is_service, &wakeup, &stacks[0], &stacks[1]]).map(drop)
    });
}

/// Does something with main.py. None where it has raised an exception, which was logged.
fn python<T>(work: impl FnOnce(&Object) -> Result<T>) -> Option<T> {
    let attached = Attached::to(interpreter::main());
    let result = bootstrap::run(&[SOURCE], &[]).and_then(|globals| work(&globals));
    if result.is_err() {
        attached.interpreter.state().report(take_exception());
    }
    result.ok()
}

/// Does what the end of the process interrupts. None where that was asked for before.
fn interruptibly<T>(work: impl FnOnce() -> T) -> Option<T> {
    signals::interruptible(true);
    // Whoever wanted the end until now has interrupted nothing.
    let result = (!worker().main_thread.is_to_end()).then(work);
    signals::interruptible(false);
    // What has come too late for a script concerns nobody.
    run_signal_handlers();
    result
}

/// Imports what the configuration names. The first that does not import.
pub fn import_applications() -> Option<&'static App> {
    worker().config.apps.iter().find(|app| !import(app))
}

/// False where it does not import.
fn import(app: &App) -> bool {
    let callable = match worker().config.threads {
        0 => WHOLE_SCRIPT,
        _ => &app.callable,
    };
    let address = Addressed {
        target: &app.target,
        callable,
        application_group: &app.application_group,
        queue_deadline: 0,
    };
    worker().applications.find(&address).import()
}

fn publish(signal: c_int) {
    for interpreter in interpreter::all() {
        let _busy = interpreter.busy();
        let attached = Attached::to(interpreter);
        interpreter.state().signalled(&attached, signals::name(signal), signal as u64);
    }
}

/// Those that the application has set, for signals that have come.
fn run_signal_handlers() {
    let main = interpreter::main();
    let _busy = main.busy();
    let _attached = Attached::to(main);
    // SAFETY: attached, on Python's main thread.
    if unsafe { ffi::PyErr_CheckSignals() } != 0 && !signals::has_interrupted() {
        main.state().report(take_exception());
    } else {
        take_exception();
    }
}
