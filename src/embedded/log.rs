//! Lines for the server's error log.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{OnceLock, RwLock};

use burrow_abi::{burrow_level, burrow_str, HostApi};

/// Takes a line; `exchange` is what the request is served with, or NULL.
pub type Sink = fn(exchange: *mut c_void, level: burrow_level, line: &[u8]);

/// `burrow_server.log`.
pub type ServerLog = unsafe extern "C" fn(*mut c_void, burrow_level, burrow_str);

static SINK: RwLock<Sink> = RwLock::new(to_server);
static SERVER_LOG: OnceLock<ServerLog> = OnceLock::new();

/// What the runtime is given.
pub static HOST: HostApi = HostApi { log: from_runtime, options: super::process::options };

/// Sends the lines elsewhere, where the server's own function cannot be called from any thread.
pub fn set_sink(sink: Sink) {
    *SINK.write().unwrap() = sink;
}

/// The function that `set_sink`'s default calls directly. The first one stays.
pub fn set_server_log(log: ServerLog) {
    SERVER_LOG.get_or_init(|| log);
}

/// Logs a line of our own.
pub fn report(exchange: *mut c_void, level: burrow_level, message: &str) {
    line(exchange, level, format!("burrow: {message}").as_bytes());
}

/// As `report`, for what concerns the whole process.
pub fn report_process(level: burrow_level, message: &str) {
    report(ptr::null_mut(), level, message);
}

fn line(exchange: *mut c_void, level: burrow_level, line: &[u8]) {
    let sink = *SINK.read().unwrap();
    sink(exchange, level, line);
}

/// The default sink: calls the server's own function.
pub fn to_server(exchange: *mut c_void, level: burrow_level, line: &[u8]) {
    match SERVER_LOG.get() {
        // SAFETY: c/shim.h: from any thread; the exchange is the server's own.
        Some(log) => unsafe { log(exchange, level, burrow_str::new(line)) },
        None => eprintln!("{}", String::from_utf8_lossy(line)),
    }
}

unsafe extern "C" fn from_runtime(exchange: *mut c_void, level: c_int, text: burrow_str) {
    // SAFETY: the runtime's line lives for the length of the call.
    line(exchange, level as burrow_level, unsafe { text.bytes() });
}
