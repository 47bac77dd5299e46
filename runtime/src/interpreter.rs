//! Interpreters: one for each application group, made at first use, never ended.

use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use pyo3_ffi as ffi;
use pyo3_ffi::{PyInterpreterState, PyThreadState};

use crate::attach::{self, Attached};
use crate::bootstrap::{self, State};
use crate::host::{host, log};
use crate::object::{take_exception, Result};

pub struct Interpreter {
    /// The application group; "" is the main interpreter.
    pub group: Box<[u8]>,
    raw: *mut PyInterpreterState,
    state: OnceLock<State>,
    /// Threads that are serving a request in it.
    active: AtomicU32,
    /// Somebody has subscribed to events, or looks at the active requests.
    observed: AtomicBool,
}

// SAFETY: `raw` is only handed to functions that may be called from any thread; `state` is Sync.
unsafe impl Send for Interpreter {}
// SAFETY: as above.
unsafe impl Sync for Interpreter {}

static MAIN: OnceLock<&'static Interpreter> = OnceLock::new();
static INTERPRETERS: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

struct Slot {
    group: Box<[u8]>,
    /// Held, without the GIL, while the interpreter is being made.
    made: Mutex<Option<&'static Interpreter>>,
}

/// How many interpreters have a request in progress.
static BUSY: AtomicU32 = AtomicU32::new(0);

impl Interpreter {
    /// Wraps the interpreter of a thread state that is attached now.
    fn attached(group: &[u8], state: *mut PyThreadState) -> &'static Interpreter {
        let interpreter = Box::leak(Box::new(Interpreter {
            group: group.into(),
            // SAFETY: the state is live.
            raw: unsafe { ffi::PyThreadState_GetInterpreter(state) },
            state: OnceLock::new(),
            active: AtomicU32::new(0),
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
            group => format!("sub-interpreter '{}' {process}", String::from_utf8_lossy(group)),
        }
    }

    pub fn is_main(&self) -> bool {
        self.group.is_empty()
    }

    /// The Python objects that are this interpreter's own. Touched by attached threads only.
    pub fn state(&self) -> &State {
        self.state.get().expect("set before the interpreter is handed out")
    }

    fn set_up(&'static self) -> Result<()> {
        // SAFETY: the thread is attached: both callers have just made the interpreter.
        let state = unsafe { Attached::callback(self, bootstrap::set_up) }?;
        assert!(self.state.set(state).is_ok(), "set up once");
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
        if self.active.fetch_add(1, Ordering::Relaxed) == 0 {
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
        if self.0.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            BUSY.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Makes the record of the main interpreter, which has just been started on this thread.
pub fn adopt_main() -> Result<&'static Interpreter> {
    // SAFETY: Python was initialised on this thread.
    let main = Interpreter::attached(b"", unsafe { ffi::PyThreadState_Get() });
    main.set_up()?;
    assert!(MAIN.set(main).is_ok(), "Python is started once");
    let slot = Slot { group: Box::default(), made: Mutex::new(Some(main)) };
    INTERPRETERS.lock().unwrap().push(Box::leak(Box::new(slot)));
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

/// The interpreter of an application group, made if there is none yet. Called detached. None when it
/// could not be made; the cause was logged.
pub fn of_group(group: &[u8]) -> Option<&'static Interpreter> {
    let slot = {
        let mut slots = INTERPRETERS.lock().unwrap();
        match slots.iter().find(|slot| *slot.group == *group) {
            Some(slot) => *slot,
            None => {
                let slot: &'static Slot =
                    Box::leak(Box::new(Slot { group: group.into(), made: Mutex::new(None) }));
                slots.push(slot);
                slot
            }
        }
    };
    let mut made = slot.made.lock().unwrap();
    if made.is_none() {
        *made = make(group);
    }
    *made
}

fn make(group: &[u8]) -> Option<&'static Interpreter> {
    let name = String::from_utf8_lossy(group).into_owned();
    let main = main();
    let _busy = main.busy();
    let attached = Attached::to(main);
    let fail = |why: &str| {
        let line = format!("burrow: the interpreter of application group '{name}' cannot be made: {why}");
        log(std::ptr::null_mut(), burrow_abi::BURROW_LOG_ERR, line.as_bytes());
    };
    if main.state().forbid_fork(&attached).is_err() {
        main.state().report(take_exception());
    }
    // SAFETY: attached to the main interpreter, as new_interpreter needs it; on success the new state
    // is attached instead, and in both cases this thread is detached or attached to main afterwards.
    unsafe {
        let own = ffi::PyThreadState_Get();
        let state = match new_interpreter() {
            Ok(state) => state,
            Err(why) => {
                ffi::PyThreadState_Swap(own);
                fail(&why);
                return None;
            }
        };
        let interpreter = Interpreter::attached(group, state);
        let result = interpreter.set_up();
        if result.is_err() {
            ffi::PyErr_Print();
            fail("its set-up raised an exception");
        }
        // Back to the main state, which `attached` detaches from.
        ffi::PyThreadState_Swap(own);
        result.is_ok().then_some(interpreter)
    }
}

/// A new sub-interpreter that shares the GIL. Its state is attached when this returns Ok.
///
/// # Safety
/// The thread is attached to the main interpreter.
#[cfg(Py_3_12)]
unsafe fn new_interpreter() -> std::result::Result<*mut PyThreadState, String> {
    let config = ffi::PyInterpreterConfig {
        use_main_obmalloc: 1,
        allow_fork: 0,
        allow_exec: 0,
        allow_threads: 1,
        allow_daemon_threads: 1,
        check_multi_interp_extensions: 0,
        gil: ffi::PyInterpreterConfig_SHARED_GIL,
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
unsafe fn new_interpreter() -> std::result::Result<*mut PyThreadState, String> {
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
