//! What the host gave the runtime at start: its functions and the shape of the server.

use std::ffi::c_void;
use std::sync::OnceLock;

use burrow_abi::{burrow_level, burrow_str, HostApi, PythonConfig};

use crate::fork;

pub struct Host {
    log: unsafe extern "C" fn(*mut c_void, i32, burrow_str),
    /// Folders for every interpreter's `sys.path`, in order.
    pub paths: Vec<Vec<u8>>,
    pub multiprocess: bool,
    pub processes: u32,
    pub threads: u32,
}

static HOST: OnceLock<Host> = OnceLock::new();

/// # Safety
/// Both point to valid tables; the host's functions stay callable for the life of the process.
pub unsafe fn set(api: *const HostApi, config: *const PythonConfig) {
    // SAFETY: as the caller vouches; the paths are copied before this returns.
    let host = unsafe {
        let config = &*config;
        let paths = if config.n_paths == 0 {
            &[][..]
        } else {
            std::slice::from_raw_parts(config.paths, config.n_paths)
        };
        Host {
            log: (*api).log,
            paths: paths.iter().map(|path| path.bytes().to_vec()).collect(),
            multiprocess: config.multiprocess != 0,
            processes: config.processes,
            threads: config.threads,
        }
    };
    assert!(HOST.set(host).is_ok(), "Python is started once in a process");
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
