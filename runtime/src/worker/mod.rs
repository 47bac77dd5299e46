//! Daemon mode: the worker process, which is the application's own python running [`run`].
//!
//! ```text
//!  main thread     Python's: imports the applications, runs Python's signal handlers and, at the end, the
//!                  exit functions
//!  burrow:keeper   the manager's messages, signals, time limits; never waits for Python
//!  burrow:errands  does what it wants of Python, one for each of Python's locks
//!  burrow:1 …      take requests: each is received, served and answered by one thread; or, by greenlets on the
//!                  main thread
//! ```

mod applications;
mod arriving;
mod connections;
mod control;
mod errands;
mod exchange;
mod frozen_stacks;
pub mod greenlets;
mod incoming;
mod keeper;
mod leaving;
mod limits;
mod log;
mod main_thread;
mod manager;
mod on_loop;
mod outgoing;
mod ownership;
mod reception;
mod requests;
mod reserve;
mod settings;
mod signals;
mod stacks;
mod template;
mod threads;
mod title;

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::*};

use burrow_daemon::config::{self, CONFIGURATION, CONTROL, LISTENER};
use burrow_daemon::{memory, page};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::unistd::gettid;
use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyModuleDef, PyModuleDef_Slot, PyObject};

use crate::module::{method, table};
use crate::{host, start};
use applications::Applications;
use connections::Connections;
use control::Control;
pub use errands::watch;
use errands::Errands;
use frozen_stacks::FrozenStacks;
use main_thread::MainThread;
use reception::Reception;
use requests::Requests;
use reserve::Reserve;

/// All of the process, once it knows what it is.
struct Worker {
    config: config::Worker,
    page: page::Writer,
    connections: Connections,
    reserve: Reserve,
    reception: Reception,
    requests: Requests,
    applications: Applications,
    frozen_stacks: FrozenStacks,
    control: Control,
    errands: Errands,
    main_thread: MainThread,
}

/// NULL, or what lives as long as the process. Another one in a process that is forked from its template.
static WORKER: AtomicPtr<Worker> = AtomicPtr::new(ptr::null_mut());

fn worker() -> &'static Worker {
    existing().expect("set before anything else runs")
}

/// None: not yet, or this process is none.
fn existing() -> Option<&'static Worker> {
    // SAFETY: see WORKER.
    unsafe { WORKER.load(Acquire).as_ref() }
}

/// The extension module `burrow_runtime`, which has the one function `run`.
#[no_mangle]
pub unsafe extern "C" fn PyInit_burrow_runtime() -> *mut PyObject {
    let slots = vec![
        #[cfg(Py_GIL_DISABLED)]
        PyModuleDef_Slot { slot: ffi::Py_mod_gil, value: ffi::Py_MOD_GIL_NOT_USED },
    ];
    let def = PyModuleDef {
        m_base: ffi::PyModuleDef_HEAD_INIT,
        m_name: c"burrow_runtime".as_ptr(),
        m_doc: std::ptr::null(),
        m_size: 0,
        m_methods: table(vec![method(c"run", run)], PyMethodDef::zeroed()),
        m_slots: table(slots, PyModuleDef_Slot { slot: 0, value: std::ptr::null_mut() }).cast(),
        m_traverse: None,
        m_clear: None,
        m_free: None,
    };
    // SAFETY: a definition that lives for ever.
    unsafe { ffi::PyModuleDef_Init(Box::leak(Box::new(def))) }
}

/// Is a worker until its end. Called once, on the main thread.
unsafe extern "C" fn run(_module: *mut PyObject, _arguments: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by Python, so attached; the manager has passed the descriptors.
    let Err(why) = unsafe { live() };
    log::cannot_start(&why);
    exit(1)
}

/// # Safety
/// The thread is attached to the main interpreter; nobody else closes the descriptors of [`config`].
unsafe fn live() -> Result<Infallible, String> {
    let begun = || -> io::Result<OwnedFd> {
        // SAFETY: the caller's word.
        let (listener, file, link) = unsafe { (take(LISTENER)?, take(CONFIGURATION)?, take(CONTROL)?) };
        begin(listener, file)?;
        Ok(link)
    };
    let link = begun().map_err(|error| error.to_string())?;
    memory::keep_freed();
    host::set(settings::host());
    // SAFETY: the caller's word.
    unsafe { start::adopt()? };
    main_thread::prepare_imports();
    if worker().config.greenlets {
        greenlets::prepare()?;
    }
    let link = if worker().config.is_template { template::live(link) } else { Ok(link) };
    link.and_then(main_thread::live).map_err(|error| error.to_string())
}

/// Makes this process the worker of a configuration. One that is forked has the applications of its template.
fn begin(listener: OwnedFd, configuration: OwnedFd) -> io::Result<()> {
    let config = config::Worker::from_file(configuration)?;
    log::set_style(&config.server);
    config.check_version()?;
    let worker = Worker {
        page: page::Writer::new(config.threads)?,
        connections: Connections::new(listener, &config)?,
        reserve: Reserve::default(),
        reception: Reception::default(),
        requests: Requests::new(),
        applications: existing().map(|template| template.applications.share()).unwrap_or_default(),
        frozen_stacks: FrozenStacks::new()?,
        control: Control::new()?,
        errands: Errands::default(),
        main_thread: MainThread::new()?,
        config,
    };
    WORKER.store(Box::into_raw(Box::new(worker)), Release);
    Ok(())
}

/// One of the descriptors that the process was started with; no child inherits it.
///
/// # Safety
/// Nobody else closes it.
unsafe fn take(descriptor: c_int) -> io::Result<OwnedFd> {
    // SAFETY: open, or it fails; it is ours, as the caller vouches.
    unsafe {
        fcntl(BorrowedFd::borrow_raw(descriptor), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Whether the script that is being imported was sent a SystemExit, since the process ends.
pub fn has_interrupted() -> bool {
    signals::has_interrupted()
}

/// Whether a request that `wsgi::serve` was given took too long before its call could be found.
pub fn is_late(exchange: *mut c_void) -> bool {
    // SAFETY: a worker serves exchanges alone.
    existing().is_some_and(|worker| !worker.config.greenlets && unsafe { exchange::is_late(exchange) })
}

/// Whether workers are to be forked from this process, which has one thread.
pub fn is_template() -> bool {
    existing().is_some_and(|worker| worker.config.is_template)
}

/// Whether this signal handler, by its address, is one that the application of a worker has set.
pub fn is_the_applications(handler: usize) -> bool {
    existing().is_some() && handler != signals::handler() && handler != frozen_stacks::handler()
}

/// In a child that the application forked, whose parent's connections must end with its parent. Does what a
/// signal handler may.
pub fn abandon() {
    THREAD_ID.set(0);
    if let Some(worker) = existing() {
        worker.connections.abandon();
        worker.control.abandon();
        worker.frozen_stacks.abandon();
        // SAFETY: the child's own copy, which nothing there uses.
        unsafe { libc::close(worker.page.notice_writer()) };
    }
}

/// A thread cannot go on, for instance since the application has closed every descriptor.
fn fail(error: &io::Error) -> ! {
    log::error(&format!("this process ends, since it cannot serve: {error}"));
    exit(1)
}

thread_local!(static THREAD_ID: Cell<i32> = const { Cell::new(0) });

/// This thread, as the system numbers it. One that has forked is another one in the child.
fn thread_id() -> i32 {
    if THREAD_ID.get() == 0 {
        THREAD_ID.set(gettid().as_raw());
    }
    THREAD_ID.get()
}

/// Ends the process at once, without anybody's exit functions.
fn exit(status: c_int) -> ! {
    // SAFETY: no precondition.
    unsafe { libc::_exit(status) }
}
