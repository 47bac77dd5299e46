//! Interpreters: one for each application group, or several, made at first use, never ended.

use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use burrow_abi::{InterpreterOptions, BURROW_LOG_ERR, BURROW_LOG_WARN};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyInterpreterState, PyThreadState};

use crate::asgi::EventLoop;
use crate::attach::{self, Attached};
use crate::bootstrap::{self, State};
use crate::host::{host, log};
use crate::object::{take_exception, Result};
use crate::worker;

pub struct Interpreter {
    /// The application group; "" is the main interpreter.
    pub group: Box<[u8]>,
    /// Where its group has several.
    copy: Option<Copy>,
    /// It has a lock of its own, and shares none with the main interpreter.
    pub own_gil: bool,
    raw: *mut PyInterpreterState,
    state: OnceLock<State>,
    /// Threads that are serving a request in it.
    active: AtomicU32,
    /// Made for its first ASGI application; None where that failed.
    event_loop: OnceLock<Option<&'static EventLoop>>,
    /// Somebody has subscribed to events, or looks at the active requests.
    observed: AtomicBool,
}

// SAFETY: `raw` is only handed to functions that may be called from any thread; `state` is Sync.
unsafe impl Send for Interpreter {}
// SAFETY: as above.
unsafe impl Sync for Interpreter {}

static MAIN: OnceLock<&'static Interpreter> = OnceLock::new();
static INTERPRETERS: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

/// One of several interpreters that an application runs in.
#[derive(Clone, Copy, PartialEq)]
pub struct Copy {
    /// From 1.
    number: u32,
    of: u32,
}

/// Where an interpreter is, or is to be made.
pub struct Slot {
    group: Box<[u8]>,
    copy: Option<Copy>,
    /// Requests in progress.
    requests: AtomicU32,
    /// Held, without the GIL, while the interpreter is being made.
    made: Mutex<Option<&'static Interpreter>>,
}

/// How many interpreters that share the main one's lock have a request in progress.
static BUSY: AtomicU32 = AtomicU32::new(0);

impl Interpreter {
    /// Wraps the interpreter of a thread state that is attached now.
    fn attached(
        group: &[u8],
        copy: Option<Copy>,
        own_gil: bool,
        state: *mut PyThreadState,
    ) -> &'static Interpreter {
        let interpreter = Box::leak(Box::new(Interpreter {
            group: group.into(),
            copy,
            own_gil,
            // SAFETY: the state is live.
            raw: unsafe { ffi::PyThreadState_GetInterpreter(state) },
            state: OnceLock::new(),
            active: AtomicU32::new(0),
            event_loop: OnceLock::new(),
            observed: AtomicBool::new(false),
        }));
        attach::adopt(interpreter, state);
        interpreter
    }

    pub fn raw(&self) -> *mut PyInterpreterState {
        self.raw
    }

    /// As log lines call it.
    pub fn description(&self) -> String {
        let process = match &host().process_group[..] {
            b"" => "in embedded mode".into(),
            group => format!("of daemon process '{}'", String::from_utf8_lossy(group)),
        };
        match &*self.group {
            b"" => format!("main interpreter {process}"),
            group => format!("sub-interpreter {} {process}", named(group, self.copy)),
        }
    }

    pub fn is_main(&self) -> bool {
        self.group.is_empty()
    }

    /// The Python objects that are this interpreter's own. Touched by attached threads only.
    pub fn state(&self) -> &State {
        self.state.get().expect("set before the interpreter is handed out")
    }

    /// Its event loop, started if it is not yet. Called detached. None when it does not start; that was logged.
    pub fn event_loop(&'static self) -> Option<&'static EventLoop> {
        *self.event_loop.get_or_init(|| EventLoop::start(self))
    }

    /// Its event loop, once there is one.
    pub fn running_loop(&self) -> Option<&'static EventLoop> {
        *self.event_loop.get()?
    }

    fn set_up(&'static self, options: &InterpreterOptions) -> Result<()> {
        // SAFETY: the thread is attached: both callers have just made the interpreter.
        let state = unsafe { Attached::callback(self, |attached| bootstrap::set_up(attached, options)) }?;
        assert!(self.state.set(state).is_ok(), "set up once");
        if self.own_gil {
            worker::watch(self);
            return Ok(());
        }
        #[cfg(not(Py_3_13))]
        crate::starvation::watch(self);
        Ok(())
    }

    /// From here on requests are looked at closely.
    pub fn observe(&self) {
        self.observed.store(true, Ordering::Relaxed);
    }

    pub fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed)
    }

    /// Whether it has a request in progress.
    #[cfg(not(Py_3_13))]
    pub fn is_busy(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    /// Whether any other interpreter has.
    #[cfg(not(Py_3_13))]
    pub fn others_busy(&self) -> bool {
        BUSY.load(Ordering::SeqCst) > u32::from(self.is_busy())
    }

    /// Marks a request in progress until the result is dropped.
    pub fn busy(&'static self) -> Busy {
        if self.active.fetch_add(1, Ordering::Relaxed) == 0 && !self.own_gil {
            let _others = BUSY.fetch_add(1, Ordering::SeqCst);
            #[cfg(not(Py_3_13))]
            if _others == 0 {
                crate::starvation::wake();
            }
        }
        Busy(self)
    }
}

/// Whether any request is in progress.
#[cfg(not(Py_3_13))]
pub fn any_busy() -> bool {
    BUSY.load(Ordering::SeqCst) > 0
}

/// A request in progress.
pub struct Busy(&'static Interpreter);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::Relaxed) == 1 && !self.0.own_gil {
            BUSY.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Makes the record of the main interpreter, which has just been started on this thread.
pub fn adopt_main() -> Result<&'static Interpreter> {
    // SAFETY: Python was initialised on this thread.
    let main = Interpreter::attached(b"", None, false, unsafe { ffi::PyThreadState_Get() });
    main.set_up(&host().options(b""))?;
    assert!(MAIN.set(main).is_ok(), "Python is started once");
    *slot(b"", None).made.lock().unwrap() = Some(main);
    Ok(main)
}

pub fn main() -> &'static Interpreter {
    MAIN.get().expect("Python was started")
}

/// All that exist, the main one first; waits for one that is being made. Called detached.
pub fn all() -> Vec<&'static Interpreter> {
    let slots = INTERPRETERS.lock().unwrap().clone();
    slots.iter().filter_map(|slot| *slot.made.lock().unwrap()).collect()
}

/// All that exist; none that is being made.
pub fn made() -> Vec<&'static Interpreter> {
    let slots = INTERPRETERS.lock().unwrap().clone();
    slots.iter().filter_map(|slot| *slot.made.try_lock().ok()?).collect()
}

/// Where the interpreters of an application group are: as many as `copies` says, each with a lock of its own, or,
/// where that is 0, the one that the group has.
pub fn slots(group: &[u8], copies: u32) -> Vec<&'static Slot> {
    match copies {
        0 => vec![slot(group, None)],
        of => (1..=of).map(|number| slot(group, Some(Copy { number, of }))).collect(),
    }
}

fn slot(group: &[u8], copy: Option<Copy>) -> &'static Slot {
    let mut slots = INTERPRETERS.lock().unwrap();
    if let Some(slot) = slots.iter().find(|slot| *slot.group == *group && slot.copy == copy) {
        return slot;
    }
    let (requests, made) = (AtomicU32::new(0), Mutex::new(None));
    let slot: &'static Slot = Box::leak(Box::new(Slot { group: group.into(), copy, requests, made }));
    slots.push(slot);
    slot
}

impl Slot {
    /// Its interpreter, made if there is none yet. Called detached. None when it could not be made; the cause
    /// was logged.
    pub fn interpreter(&self) -> Option<&'static Interpreter> {
        let mut made = self.made.lock().unwrap();
        if made.is_none() {
            *made = make(&self.group, self.copy);
        }
        *made
    }

    /// Requests in progress.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// One more, if there are still as many as that.
    pub fn begin(&self, requests: u32) -> bool {
        let more = requests + 1;
        self.requests.compare_exchange(requests, more, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub fn end(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As log lines call it.
fn named(group: &[u8], copy: Option<Copy>) -> String {
    let group = String::from_utf8_lossy(group);
    copy.map_or(format!("'{group}'"), |Copy { number, of }| format!("'{group}' ({number} of {of})"))
}

fn make(group: &[u8], copy: Option<Copy>) -> Option<&'static Interpreter> {
    let options = host().options(group);
    let own_gil = copy.is_some() || options.own_gil != 0;
    let main = main();
    let _busy = main.busy();
    let attached = Attached::to(main);
    let say = |level, what: &str| {
        let line = format!("burrow: the interpreter of application group {} {what}", named(group, copy));
        log(std::ptr::null_mut(), level, line.as_bytes());
    };
    let fail = |why: &str| say(BURROW_LOG_ERR, &format!("cannot be made: {why}"));
    if main.state().forbid_fork(&attached).is_err() {
        main.state().report(take_exception());
    }
    if own_gil && cfg!(not(Py_3_13)) {
        say(
            BURROW_LOG_WARN,
            "has a lock of its own, with which Python 3.12 cannot import parts of its own library (zoneinfo, \
             ctypes, decimal's C module); Python 3.13 can",
        );
    }
    // SAFETY: attached to the main interpreter, as new_interpreter needs it; on success the new state
    // is attached instead, and in both cases this thread is detached or attached to main afterwards.
    unsafe {
        let own = ffi::PyThreadState_Get();
        let state = match new_interpreter(own_gil) {
            Ok(state) => state,
            Err(why) => {
                ffi::PyThreadState_Swap(own);
                fail(&why);
                return None;
            }
        };
        let interpreter = Interpreter::attached(group, copy, own_gil, state);
        let result = interpreter.set_up(&options);
        if result.is_err() {
            // Not printed: Python would end the process for a SystemExit.
            ffi::PyErr_WriteUnraisable(std::ptr::null_mut());
            fail("its set-up raised an exception");
            end(interpreter, state);
        }
        // Back to the main state, which `attached` detaches from.
        ffi::PyThreadState_Swap(own);
        result.is_ok().then_some(interpreter)
    }
}

/// Ends an interpreter that could not be set up, unless it has started threads, which CPython does not survive.
///
/// # Safety
/// Its state is attached, and nobody else has the interpreter.
unsafe fn end(interpreter: *const Interpreter, state: *mut PyThreadState) {
    // SAFETY: as the caller vouches; it was leaked by `Interpreter::attached`, and nothing runs in it any more.
    unsafe {
        let is_alone = ffi::PyInterpreterState_ThreadHead((*interpreter).raw) == state
            && ffi::PyThreadState_Next(state).is_null();
        if is_alone {
            attach::forget(interpreter, state);
            ffi::Py_EndInterpreter(state);
            drop(Box::from_raw(interpreter.cast_mut()));
        }
    }
}

/// A new sub-interpreter, with a GIL of its own or the main one's. Its state is attached when this returns Ok.
///
/// # Safety
/// The thread is attached to the main interpreter.
#[cfg(Py_3_12)]
unsafe fn new_interpreter(own_gil: bool) -> std::result::Result<*mut PyThreadState, String> {
    let config = ffi::PyInterpreterConfig {
        use_main_obmalloc: (!own_gil).into(),
        allow_fork: 0,
        allow_exec: 0,
        allow_threads: 1,
        allow_daemon_threads: 1,
        // A free-threaded build takes no other.
        check_multi_interp_extensions: (own_gil || cfg!(Py_GIL_DISABLED)).into(),
        gil: if own_gil { ffi::PyInterpreterConfig_OWN_GIL } else { ffi::PyInterpreterConfig_SHARED_GIL },
    };
    let mut state = std::ptr::null_mut();
    // SAFETY: attached, as the caller vouches.
    let status = unsafe { ffi::Py_NewInterpreterFromConfig(&mut state, &config) };
    if state.is_null() {
        return Err(message(status.err_msg));
    }
    Ok(state)
}

/// A new sub-interpreter. Its state is attached when this returns Ok.
///
/// # Safety
/// The thread is attached to the main interpreter.
#[cfg(not(Py_3_12))]
unsafe fn new_interpreter(own_gil: bool) -> std::result::Result<*mut PyThreadState, String> {
    if own_gil {
        return Err("a lock of its own takes Python 3.12 or newer".into());
    }
    // SAFETY: attached, as the caller vouches.
    let state = unsafe { ffi::Py_NewInterpreter() };
    if state.is_null() {
        return Err(message(std::ptr::null()));
    }
    Ok(state)
}

/// CPython's message, which may be absent.
pub fn message(text: *const c_char) -> String {
    if text.is_null() {
        return "CPython gives no reason".into();
    }
    // SAFETY: CPython's messages are NUL-terminated literals.
    unsafe { std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned() }
}
