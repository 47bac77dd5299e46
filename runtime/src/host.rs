//! What the host gave the runtime at start: its functions and the shape of the server.

use std::ffi::c_void;
use std::sync::OnceLock;

use burrow_abi::{burrow_apache, burrow_level, burrow_str, slice, HostApi, InterpreterOptions, PythonConfig};

use crate::fork;

pub struct Host {
    pub log: unsafe extern "C" fn(*mut c_void, i32, burrow_str),
    /// Folders for every interpreter's `sys.path`, in order.
    pub paths: Vec<Vec<u8>>,
    pub multiprocess: bool,
    pub run_once: bool,
    pub processes: u32,
    pub threads: u32,
    /// The daemon process group; empty in a server's own worker.
    pub process_group: Vec<u8>,
    pub switch_interval: f64,
    pub options: unsafe extern "C" fn(burrow_str) -> InterpreterOptions,
    /// NULL, or what lives as long as the process.
    pub apache: *const burrow_apache,
}

// SAFETY: what `apache` points to lives as long as the process and never changes.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    /// What the tables say.
    ///
    /// # Safety
    /// Both point to valid tables; the host's functions stay callable for the life of the process.
    pub unsafe fn new(api: *const HostApi, config: *const PythonConfig) -> Host {
        // SAFETY: as the caller vouches; the paths are copied before this returns.
        unsafe {
            let config = &*config;
            Host {
                log: (*api).log,
                options: (*api).options,
                paths: strings(config.paths, config.n_paths),
                multiprocess: config.multiprocess != 0,
                run_once: config.run_once != 0,
                processes: config.processes,
                threads: config.threads,
                process_group: config.process_group.bytes().to_vec(),
                switch_interval: config.switch_interval,
                apache: config.apache,
            }
        }
    }

    /// What the module `apache` says; None where the server is not httpd.
    pub fn apache(&self) -> Option<&'static burrow_apache> {
        // SAFETY: NULL, or as said above.
        unsafe { self.apache.as_ref() }
    }

    /// The options of an application group's interpreter.
    pub fn options(&self, group: &[u8]) -> InterpreterOptions {
        // SAFETY: the function is good for the life of the process, the name for the call.
        unsafe { (self.options)(burrow_str::new(group)) }
    }
}

static HOST: OnceLock<Host> = OnceLock::new();

pub fn set(host: Host) {
    assert!(HOST.set(host).is_ok(), "Python is started once in a process");
}

/// Copies of the strings.
///
/// # Safety
/// `start` points at `count` strings, or `count` is 0.
pub unsafe fn strings(start: *const burrow_str, count: usize) -> Vec<Vec<u8>> {
    // SAFETY: as the caller vouches.
    unsafe { slice(start, count).iter().map(|each| each.bytes().to_vec()).collect() }
}

pub fn host() -> &'static Host {
    HOST.get().expect("set before anything else runs")
}

/// One line, without its newline, for the server's error log.
pub fn log(exchange: *mut c_void, level: burrow_level, line: &[u8]) {
    if fork::is_child() {
        return fork::log(line);
    }
    // SAFETY: the function is good for the life of the process, the line for the call; `exchange` is
    // that of the request this thread is serving, or null.
    unsafe { (host().log)(exchange, level as i32, burrow_str::new(line)) }
}
