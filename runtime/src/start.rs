//! Starting Python in a worker process, and the end of it.

use std::ffi::{c_char, CString};
use std::mem::MaybeUninit;
use std::sync::mpsc;
use std::thread::{self, Builder};

use burrow_abi::{burrow_str, HostApi, PythonConfig};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyConfig, PyStatus};

use crate::attach::Attached;
use crate::bootstrap::State;
use crate::host::Host;
use crate::interpreter::{self, message};
use crate::{asgi, fork, host};

/// Starts Python. See [`burrow_abi::RuntimeApi::start`].
pub unsafe extern "C" fn start(api: *const HostApi, config: *const PythonConfig) -> *const c_char {
    // SAFETY: the host's tables are valid, as the interface says.
    let started = unsafe {
        host::set(Host::new(api, config));
        initialise(&*config)
    };
    match started {
        Ok(()) => std::ptr::null(),
        // Leaked: there is one start in a process.
        Err(why) => CString::new(why).expect("no NUL in CPython's messages").into_raw(),
    }
}

unsafe fn initialise(given: &PythonConfig) -> Result<(), String> {
    let mut config = MaybeUninit::<PyConfig>::uninit();
    // SAFETY: the order of calls is the one that PEP 587 gives; strings are NUL-terminated.
    unsafe {
        // Not the isolated one: applications expect PYTHON* variables, UTF-8 mode and the locale.
        ffi::PyConfig_InitPythonConfig(config.as_mut_ptr());
        let config = config.assume_init_mut();
        config.parse_argv = 0;
        config.install_signal_handlers = 0;
        #[cfg(Py_GIL_DISABLED)]
        {
            // -1: off, until a module is imported that needs it.
            config.enable_gil = if given.free_threading != 0 { -1 } else { 1 };
        }
        if given.optimize > 0 {
            config.optimization_level = given.optimize;
        }
        if given.dont_write_bytecode != 0 {
            config.write_bytecode = 0;
        }
        if let Ok(seed) = u32::try_from(given.hash_seed) {
            config.use_hash_seed = 1;
            config.hash_seed = seed.into();
        }
        let mut argv = [c"mod_wsgi".as_ptr()];
        let executable = &raw mut config.executable;
        let mut status = ffi::PyConfig_SetBytesString(config, executable, given.executable);
        if !failed(&status) {
            status = ffi::PyConfig_SetBytesArgv(config, 1, argv.as_mut_ptr());
        }
        for warning in host::strings(given.warnings, given.n_warnings) {
            if !failed(&status) {
                status = add_warning(config, warning);
            }
        }
        if !failed(&status) {
            status = ffi::Py_InitializeFromConfig(config);
        }
        ffi::PyConfig_Clear(config);
        if failed(&status) {
            return Err(message(status.err_msg));
        }
        adopt()
    }
}

/// Makes Python, which has just been started on this thread, ours. The thread is then detached.
///
/// # Safety
/// The thread is attached to the main interpreter. Called once.
pub unsafe fn adopt() -> Result<(), String> {
    fork::watch();
    #[cfg(not(Py_3_12))]
    crate::attach::gilstate::find_key();
    let main = interpreter::adopt_main();
    // SAFETY: attached, as the caller vouches.
    unsafe {
        if main.is_err() {
            ffi::PyErr_Print();
        }
        ffi::PyEval_SaveThread();
    }
    main.map(drop).map_err(|_| "an exception was raised while Python was set up".into())
}

/// As -W does.
unsafe fn add_warning(config: &mut PyConfig, warning: Vec<u8>) -> PyStatus {
    let warning = CString::new(warning).unwrap_or_default();
    let mut wide = std::ptr::null_mut();
    // SAFETY: a configuration that is being filled; each string is freed as it was made.
    unsafe {
        let mut status = ffi::PyConfig_SetBytesString(config, &mut wide, warning.as_ptr());
        if !failed(&status) {
            status = ffi::PyWideStringList_Append(&mut config.warnoptions, wide);
        }
        ffi::PyMem_RawFree(wide.cast());
        status
    }
}

fn failed(status: &PyStatus) -> bool {
    // SAFETY: a status that CPython returned.
    unsafe { ffi::PyStatus_Exception(*status) != 0 }
}

/// Runs every interpreter's exit functions. See [`burrow_abi::RuntimeApi::stop`].
pub unsafe extern "C" fn stop(reason: burrow_str) {
    // SAFETY: the caller's for the length of the call.
    let reason = unsafe { reason.bytes() };
    let each = |work: fn(&State, &Attached, &[u8])| {
        for interpreter in interpreter::all().into_iter().rev() {
            let _busy = interpreter.busy();
            let attached = Attached::to(interpreter);
            work(interpreter.state(), &attached, reason);
        }
    };
    // Everybody is told before the first one ends.
    each(State::stopping);
    asgi::stop();
    each(|state, attached, _| state.shut_down(attached));
    // The locks stay taken: no Python thread runs on while the process exits around it.
    for interpreter in interpreter::all().into_iter().filter(|interpreter| interpreter.own_gil) {
        let (sender, taken) = mpsc::channel();
        let hold = move || {
            std::mem::forget(Attached::to(interpreter));
            // There is somebody to tell as long as `stop` waits.
            let _ = sender.send(());
            loop {
                thread::park();
            }
        };
        if Builder::new().name("burrow:end".into()).spawn(hold).is_ok() {
            let _ = taken.recv();
        }
    }
    std::mem::forget(interpreter::main().busy());
    std::mem::forget(Attached::to(interpreter::main()));
}
