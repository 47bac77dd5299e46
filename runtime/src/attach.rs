//! Being attached to an interpreter: thread states and the token that proves it.
//!
//! A thread has one thread state for each interpreter it has ever entered, made at the first time and
//! kept for the thread's life, so `threading.local` survives from request to request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::marker::PhantomData;
#[cfg(not(Py_GIL_DISABLED))]
use std::ptr::NonNull;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pyo3_ffi as ffi;
use pyo3_ffi::PyThreadState;

use crate::interpreter::Interpreter;
#[cfg(not(Py_GIL_DISABLED))]
use crate::object::{integer, tuple};
use crate::object::{Object, Result};

thread_local! {
    /// This thread's states; nearly always one or two.
    static STATES: RefCell<Vec<(*const Interpreter, *mut PyThreadState)>> = const { RefCell::new(Vec::new()) };
    /// This thread may stay attached between requests.
    static STAYS: Cell<bool> = const { Cell::new(false) };
    /// The interpreter that it has stayed attached to.
    static STAYED: Cell<Option<&'static Interpreter>> = const { Cell::new(None) };
}

/// See [`burrow_abi::RuntimeApi::stay_attached`].
pub unsafe extern "C" fn stay(stays: c_int) {
    STAYS.set(stays != 0);
    if stays == 0 {
        let_go();
    }
}

/// Detaches this thread if it has stayed attached: before it waits for anything.
pub fn let_go() {
    if STAYED.take().is_some() {
        // SAFETY: the thread is attached; its state is kept in STATES.
        unsafe { ffi::PyEval_SaveThread() };
    }
}

/// Proof that this thread is attached to (holds the GIL of) `interpreter`. Detaches when dropped.
pub struct Attached {
    pub interpreter: &'static Interpreter,
    /// Neither Send nor Sync: it speaks of this thread.
    _thread: PhantomData<*mut ()>,
}

impl Attached {
    /// Attaches this thread, which is attached to nothing now, or has stayed attached; waits for the GIL.
    pub fn to(interpreter: &'static Interpreter) -> Attached {
        if STAYED.get().is_some_and(|stayed| std::ptr::eq(stayed, interpreter)) {
            STAYED.set(None);
            return Attached { interpreter, _thread: PhantomData };
        }
        let_go();
        let state = state_of(interpreter);
        // SAFETY: the state belongs to this thread alone and is not attached.
        unsafe { ffi::PyEval_RestoreThread(state) };
        bind_gilstate(state);
        Attached { interpreter, _thread: PhantomData }
    }

    /// At the end of a request: detaches, unless the thread may stay attached.
    pub fn leave(self) {
        if STAYS.get() {
            STAYED.set(Some(self.interpreter));
            std::mem::forget(self);
        }
    }

    /// Runs `work`, which may block, with the GIL released.
    pub fn detached<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: self says that the thread is attached; it is again when this returns.
        unsafe {
            let state = ffi::PyEval_SaveThread();
            let result = work();
            ffi::PyEval_RestoreThread(state);
            result
        }
    }

    /// The same, with how long the thread then waited for the GIL.
    pub fn detached_timed<T>(&self, work: impl FnOnce() -> T) -> (T, Duration) {
        let mut left = None;
        let result = self.detached(|| {
            let result = work();
            left = Some(Instant::now());
            result
        });
        (result, left.map_or(Duration::ZERO, |left| left.elapsed()))
    }

    /// The proof, on a thread that CPython itself has attached: inside a callback.
    ///
    /// # Safety
    /// The thread is attached to `interpreter`, and the result is not dropped (see [`Self::callback`]).
    unsafe fn assumed(interpreter: &'static Interpreter) -> std::mem::ManuallyDrop<Attached> {
        std::mem::ManuallyDrop::new(Attached { interpreter, _thread: PhantomData })
    }

    /// Runs `work` inside a function that Python called.
    ///
    /// # Safety
    /// The thread is attached to `interpreter`.
    pub unsafe fn callback<T>(interpreter: &'static Interpreter, work: impl FnOnce(&Attached) -> T) -> T {
        // SAFETY: as the caller vouches; never dropped.
        work(&*unsafe { Attached::assumed(interpreter) })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: the thread is attached; its state is kept in STATES.
        unsafe { ffi::PyEval_SaveThread() };
    }
}

/// This thread's state in the interpreter, made if there is none yet.
fn state_of(interpreter: &'static Interpreter) -> *mut PyThreadState {
    STATES.with_borrow_mut(|states| {
        if let Some((_, state)) = states.iter().find(|(known, _)| std::ptr::eq(*known, interpreter)) {
            return *state;
        }
        // SAFETY: an interpreter is never ended; making a state needs no GIL.
        let state = unsafe { ffi::PyThreadState_New(interpreter.raw()) };
        remember(state);
        states.push((interpreter, state));
        state
    })
}

/// Keeps the state that came with a new interpreter for this thread, which made it.
pub fn adopt(interpreter: &'static Interpreter, state: *mut PyThreadState) {
    remember(state);
    STATES.with_borrow_mut(|states| states.push((interpreter, state)));
}

/// Forgets the state of this thread, which ends with its interpreter.
pub fn forget(interpreter: *const Interpreter, state: *mut PyThreadState) {
    THREADS.lock().unwrap().get_or_insert_default().remove(&(state as usize));
    STATES.with_borrow_mut(|states| states.retain(|(known, _)| *known != interpreter));
}

/// The threads that have states of ours, by the addresses of these, as Python numbers them.
static THREADS: Mutex<Option<HashMap<usize, u64>>> = Mutex::new(None);

fn remember(state: *mut PyThreadState) {
    // SAFETY: no precondition.
    let thread = unsafe { libc::pthread_self() };
    THREADS.lock().unwrap().get_or_insert_default().insert(state as usize, thread);
}

/// The innermost frames of this interpreter's threads, pairs of number and frame. The number is 0 for a thread
/// that Python has started.
#[cfg(not(Py_GIL_DISABLED))]
pub fn frames(attached: &Attached) -> Result<Object> {
    let mut frames = Vec::new();
    // SAFETY: attached, and no collection runs what might let another thread run: no thread state of this
    // interpreter goes meanwhile, none executes code. Each frame is a new reference.
    unsafe {
        let collects = ffi::PyGC_Disable();
        let mut state = ffi::PyInterpreterState_ThreadHead(attached.interpreter.raw());
        while !state.is_null() {
            if let Some(frame) = NonNull::new(ffi::PyThreadState_GetFrame(state)) {
                let thread =
                    THREADS.lock().unwrap().as_ref().and_then(|all| all.get(&(state as usize)).copied());
                frames.push((thread.unwrap_or_default(), Object::owned(frame.as_ptr().cast())));
            }
            state = ffi::PyThreadState_Next(state);
        }
        if collects != 0 {
            ffi::PyGC_Enable();
        }
    }
    tuple(
        frames
            .into_iter()
            .map(|(thread, frame)| tuple(vec![integer(thread)?, frame?]))
            .collect::<Result<_>>()?,
    )
}

/// The innermost frames of the threads of all interpreters, which CPython stops for that: pairs of number and
/// frame.
#[cfg(Py_GIL_DISABLED)]
pub fn frames(_attached: &Attached) -> Result<Object> {
    // SAFETY: attached; a new reference.
    unsafe {
        let sys = Object::owned(ffi::PyImport_ImportModule(c"sys".as_ptr()))?;
        sys.attr(c"_current_frames")?.call(&[])?.attr(c"items")?.call(&[])
    }
}

#[cfg(Py_3_12)]
fn bind_gilstate(_state: *mut PyThreadState) {}
#[cfg(not(Py_3_12))]
use gilstate::bind as bind_gilstate;

/// On 3.10 and 3.11 the first state of a thread stays the one that PyGILState finds, so that callbacks
/// of C extensions (ctypes, sqlite3) would run in the wrong interpreter. 3.12 rebinds by itself.
#[cfg(not(Py_3_12))]
pub mod gilstate {
    use std::sync::atomic::{AtomicU32, Ordering};

    use pyo3_ffi as ffi;
    use pyo3_ffi::PyThreadState;

    const UNKNOWN: u32 = u32::MAX;
    static KEY: AtomicU32 = AtomicU32::new(UNKNOWN);

    /// Finds the thread-specific key that PyGILState uses: the one that holds this thread's state, which
    /// PyGILState no longer finds when it is cleared. Called once, on the thread that started Python.
    pub fn find_key() {
        // SAFETY: reading a key that is not in use gives NULL; the only value ever changed is put back.
        unsafe {
            let state = ffi::PyGILState_GetThisThreadState();
            for key in 0..1024 {
                if libc::pthread_getspecific(key).cast() != state {
                    continue;
                }
                libc::pthread_setspecific(key, std::ptr::null());
                let found = ffi::PyGILState_GetThisThreadState().is_null();
                libc::pthread_setspecific(key, state.cast());
                if found {
                    KEY.store(key, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    pub fn bind(state: *mut PyThreadState) {
        let key = KEY.load(Ordering::Relaxed);
        if key != UNKNOWN {
            // SAFETY: the key is PyGILState's and holds thread states of this thread.
            unsafe { libc::pthread_setspecific(key, state.cast()) };
        }
    }
}
