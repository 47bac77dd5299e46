//! What the server shims, the host and the Python runtime say to each other.
//!
//! The first part is `c/shim.h`, read by bindgen; the second is the one table of functions through
//! which the host (no Python in it) and the runtime (built once per CPython) meet.

#![allow(non_camel_case_types, non_upper_case_globals)]

use std::ffi::{c_char, c_int, c_void, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

#[allow(clippy::all, clippy::undocumented_unsafe_blocks, dead_code)]
mod shim {
    include!(concat!(env!("OUT_DIR"), "/shim.rs"));
}
pub use shim::*;

impl burrow_str {
    /// Absent: no value at all, as opposed to an empty one.
    pub const NONE: burrow_str = burrow_str { data: std::ptr::null(), len: 0 };

    pub const fn new(bytes: &[u8]) -> Self {
        burrow_str { data: bytes.as_ptr().cast(), len: bytes.len() }
    }

    pub fn is_absent(&self) -> bool {
        self.data.is_null()
    }

    /// The bytes; empty when absent.
    ///
    /// # Safety
    /// What the sender pointed to must still be there; it is for the length of the call that
    /// handed the value over.
    pub unsafe fn bytes<'a>(&self) -> &'a [u8] {
        if self.data.is_null() {
            return &[];
        }
        // SAFETY: the caller vouches for the memory; shim.h says the length belongs to it.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }
}

/// The values at `start`.
///
/// # Safety
/// `start` points at `count` values that stay there, or `count` is 0.
pub unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller vouches.
    unsafe { std::slice::from_raw_parts(start, count) }
}

/// Whether these are the same bytes. Empty ones are not left to memcmp: Rust's may lie at an address that is not mapped,
/// and glibc's version for AVX-512, which reads nothing of them, takes hundreds of cycles for that.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}

/// When a script was modified, as `burrow_request.script_modified` has it; 0 where there is no such file.
pub fn script_modified(path: &[u8]) -> i64 {
    let about = fs::metadata(OsStr::from_bytes(path));
    about.map_or(0, |about| about.mtime() * 1_000_000 + about.mtime_nsec() / 1000)
}

/// Raised whenever a type or the order of functions below, or in `shim.h`, changes: host and runtime
/// of different builds refuse each other instead of crashing.
pub const ABI_VERSION: u32 = 13;

/// The callable of what is no application but a script of hooks.
pub const WHOLE_SCRIPT: &[u8] = b"*";

/// What `serve` answers, having done nothing, where the application runs on an event loop: it is for `submit`.
pub const ON_LOOP: burrow_outcome = burrow_outcome::MAX;

// What an application's callable is, and what a setting states of it.
pub const UNKNOWN: c_int = 0;
pub const WSGI: c_int = 1;
pub const ASGI: c_int = 2;

// The event loop of an interpreter: uvloop where it can be imported, or the one that is asked for.
pub const ANY_LOOP: c_int = 0;
pub const ASYNCIO: c_int = 1;
pub const UVLOOP: c_int = 2;

// What `wake` tells.
/// `read` has said -2 and would not now.
pub const READABLE: u32 = 1;
/// `send` has said 1, and there is room again.
pub const WRITABLE: u32 = 2;
/// The client has left.
pub const GONE: u32 = 4;
/// The request's time is up: its task is cancelled at once. BURROW_TIMEOUT where nothing was sent.
pub const EXPIRED: u32 = 8;
/// The server's process that has the client takes no further requests: a WebSocket is closed with 1012.
pub const RETIRED: u32 = 16;

/// An application in the runtime's eyes.
#[repr(C)]
pub struct RuntimeApp {
    _opaque: [u8; 0],
}

/// How Python is to be started.
#[repr(C)]
pub struct PythonConfig {
    /// `…/bin/python3` of the virtual environment or installation; exists.
    pub executable: *const c_char,
    /// Folders for `sys.path`, in order.
    pub paths: *const burrow_str,
    pub n_paths: usize,
    pub multiprocess: c_int,
    pub multithread: c_int,
    /// `wsgi.run_once`: a process that serves one request and ends.
    pub run_once: c_int,
    pub processes: u32,
    pub threads: u32,
    /// The daemon process group; "" in a server's own worker.
    pub process_group: burrow_str,
    /// NULL where the server is not httpd.
    pub apache: *const burrow_apache,
    /// 0 to 2, as python's -O and -OO; what the environment says wins where it asks for more.
    pub optimize: c_int,
    /// -1: random.
    pub hash_seed: i64,
    /// As python's -W, in order.
    pub warnings: *const burrow_str,
    pub n_warnings: usize,
    pub dont_write_bytecode: c_int,
    /// In seconds; 0 leaves CPython's own.
    pub switch_interval: f64,
    /// Without a lock: for a free-threaded build.
    pub free_threading: c_int,
}

/// For each WebSocket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// Bytes of the longest message that a client may send.
    pub max_message: usize,
    /// Seconds of a client's silence until it is pinged, and again until it is given up; 0: never.
    pub ping_interval: u32,
    /// Seconds without a message until it is closed; 0: never.
    pub idle_timeout: u32,
}

impl Default for WebSocketLimits {
    fn default() -> Self {
        WebSocketLimits { max_message: 16 << 20, ping_interval: 20, idle_timeout: 0 }
    }
}

/// What can differ from interpreter to interpreter.
#[repr(C)]
pub struct InterpreterOptions {
    /// Folders for its `sys.path` besides those of all; they live as long as the process.
    pub paths: *const burrow_str,
    pub n_paths: usize,
    pub restrict_stdin: c_int,
    pub restrict_stdout: c_int,
    pub restrict_signal: c_int,
    /// What its applications are said to be: UNKNOWN, WSGI or ASGI.
    pub interface: c_int,
    /// ANY_LOOP, ASYNCIO or UVLOOP.
    pub event_loop: c_int,
    pub websocket: WebSocketLimits,
    /// It has a lock of its own. The main one has in any case.
    pub own_gil: c_int,
}

/// How an event loop talks to its requests: called on the loop's thread; nothing here waits.
#[repr(C)]
pub struct LoopIo {
    /// Up to `len` bytes of the request's body; after a 101, of what the client sends. 0 at its end; -1: the
    /// client is gone; -2: there is nothing yet, and one `wake` with READABLE follows.
    pub read: unsafe extern "C" fn(exchange: *mut c_void, buf: *mut c_char, len: usize) -> isize,
    /// As `burrow_io.send`, whose 1 it does not know: 1 is for "taken, but the next piece has to wait until
    /// `wake` says WRITABLE", once. A head from 100 to 199, other than 101, is interim, and there is no body
    /// with it: the server passes it on if it can.
    pub send: unsafe extern "C" fn(
        exchange: *mut c_void,
        head: *const burrow_head,
        body: *const burrow_body,
        flags: u32,
    ) -> c_int,
    /// The last call, exactly one for each request that was submitted: neither exchange nor request are used
    /// any more. The outcome is as of `serve`; BURROW_DONE where the last piece of the answer was sent.
    pub finish: unsafe extern "C" fn(exchange: *mut c_void, outcome: burrow_outcome),
    /// Behind any number of the calls above, when the loop has nothing more to do at once: whoever carries
    /// them out may be woken for all of them together.
    pub flush: unsafe extern "C" fn(),
}

/// A request for an event loop. `request`, `io` and `exchange` stay good until `finish`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Submission {
    pub app: *mut RuntimeApp,
    pub request: *const burrow_request,
    pub io: *const LoopIo,
    /// What `io` is called with and log lines are bound to.
    pub exchange: *mut c_void,
}

/// What the host offers the runtime. Lives as long as the process.
#[repr(C)]
pub struct HostApi {
    /// One line for the server's error log; from any thread. `exchange` as given to `serve`, or NULL.
    pub log: unsafe extern "C" fn(exchange: *mut c_void, level: c_int, line: burrow_str),
    /// The options of an application group's interpreter ("" is the main one); asked for once for each.
    pub options: unsafe extern "C" fn(group: burrow_str) -> InterpreterOptions,
}

/// What the runtime offers the host, as the exported static `burrow_runtime`.
#[repr(C)]
pub struct RuntimeApi {
    pub abi_version: u32,
    /// Starts Python on the calling thread, which becomes Python's main thread and must live as long
    /// as the process. Returns with the GIL released. NULL, or a message that is never freed.
    pub start: unsafe extern "C" fn(*const HostApi, *const PythonConfig) -> *const c_char,
    /// Makes the record of an application; runs no Python. Never freed. It runs in as many interpreters of
    /// its group as `copies` says, each with a lock of its own; 0: in the one that the group has.
    pub app: unsafe extern "C" fn(
        target: burrow_str,
        callable: burrow_str,
        group: burrow_str,
        copies: u32,
        multithread: c_int,
    ) -> *mut RuntimeApp,
    /// Imports it now, and waits until an ASGI application's lifespan has begun. 0, or -1 when that fails
    /// (logged).
    pub load: unsafe extern "C" fn(*mut RuntimeApp) -> c_int,
    /// Runs one request on the calling thread, or answers [`ON_LOOP`].
    pub serve: unsafe extern "C" fn(
        *mut RuntimeApp,
        *const burrow_request,
        *const burrow_io,
        exchange: *mut c_void,
    ) -> burrow_outcome,
    /// Whether the calling thread, behind a request, may stay attached to its interpreter for the next one, until this
    /// is called with 0. It waits for nothing meanwhile.
    pub stay_attached: unsafe extern "C" fn(c_int),
    /// What would become of this request now: WSGI is for `serve`, ASGI for `submit`. UNKNOWN is for `serve`,
    /// which imports first: it is not imported yet, or the request asks for a script that may have changed.
    /// Never waits, takes no GIL.
    pub interface: unsafe extern "C" fn(*const RuntimeApp, *const burrow_request) -> c_int,
    /// Gives requests to the event loops of their applications, together: a loop is woken once. Any thread;
    /// never waits, takes no GIL.
    pub submit: unsafe extern "C" fn(*const Submission, count: usize),
    /// Something has happened to an exchange that was submitted and is not finished: the host looks at that
    /// under the exchange's own lock, under which its `finish` marks it. Any thread; never waits. What nobody
    /// waits for does no harm.
    pub wake: unsafe extern "C" fn(*mut RuntimeApp, exchange: *mut c_void, events: u32),
    /// The process takes no further requests (reload, stop): WebSockets are closed with 1012, and once the
    /// grace is over (milliseconds) every `receive()` that waits gets its disconnect. Any thread; never waits.
    pub retire: unsafe extern "C" fn(grace: u32),
    /// Asks a script, made by `app` with the callable [`WHOLE_SCRIPT`], on the calling thread.
    pub ask: unsafe extern "C" fn(
        *mut RuntimeApp,
        *const burrow_question,
        *const burrow_request,
        exchange: *mut c_void,
    ) -> burrow_verdict,
    /// Every interpreter's subscribers of `process_stopping`, who are told the reason ("" in a server's own
    /// worker), then its `threading._shutdown`, `atexit` functions and flush. On the main thread; blocks as
    /// long as those do.
    pub stop: unsafe extern "C" fn(reason: burrow_str),
}
