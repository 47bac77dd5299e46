//! A process without a server whose interpreters have locks of their own, or none, and are hot on threads of their
//! own: what ThreadSanitizer looks at. scripts/test-races.sh builds it, and the runtime, with that.
//!
//! The threads share nothing here, and wait for nothing but Python: whatever else orders what they do would hide
//! a race.

mod exchange;

use std::ffi::{c_int, c_void, CStr, CString};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{env, process, ptr, thread};

use burrow_abi::*;
use exchange::{Exchange, IO, LOOP_IO};

/// Application groups with a lock of their own each, but for a free-threaded Python.
const GROUPS: [&[u8]; 2] = [b"one", b"two"];
/// In each group, besides its event loop.
const THREADS: usize = 2;
const ROUNDS: usize = 100;

/// A request for one of tests/apps.
struct Case {
    script: &'static str,
    path: &'static [u8],
    query: &'static [u8],
    body: &'static [u8],
    /// The client leaves once it was submitted.
    leaves: bool,
    outcome: burrow_outcome,
}

const fn get(script: &'static str, path: &'static [u8], outcome: burrow_outcome) -> Case {
    Case { script, path, query: b"", body: b"", leaves: false, outcome }
}

const CALLS: [Case; 17] = [
    get("hello.py", b"/", BURROW_DONE),
    get("state.py", b"/", BURROW_DONE),
    get("environ.py", b"/some/path", BURROW_DONE),
    get("isolation.py", b"/spoil", BURROW_DONE),
    get("responses.py", b"/generator", BURROW_DONE),
    get("responses.py", b"/write", BURROW_DONE),
    get("responses.py", b"/headers", BURROW_DONE),
    get("responses.py", b"/file", BURROW_DONE),
    get("responses.py", b"/bytes-io", BURROW_DONE),
    get("logs.py", b"/print", BURROW_DONE),
    get("logs.py", b"/thread", BURROW_DONE),
    get("api.py", b"/active", BURROW_DONE),
    get("api.py", b"/metrics", BURROW_DONE),
    get("faults.py", b"/raise", BURROW_FAILED),
    get("faults.py", b"/late-raise", BURROW_ABORTED),
    Case { query: b"do=readline;read", body: b"ab\ncd", ..get("body.py", b"/", BURROW_DONE) },
    Case { body: b"body", ..get("body.py", b"/both", BURROW_DONE) },
];
const TASKS: [Case; 8] = [
    get("asgi_app.py", b"/hello", BURROW_DONE),
    get("asgi_app.py", b"/scope", BURROW_DONE),
    get("asgi_app.py", b"/state", BURROW_DONE),
    get("asgi_app.py", b"/tasks", BURROW_DONE),
    get("asgi_app.py", b"/raises", BURROW_FAILED),
    get("asgi_app.py", b"/raises_late", BURROW_ABORTED),
    Case { body: b"to and fro", ..get("asgi_app.py", b"/echo", BURROW_DONE) },
    Case { leaves: true, ..get("asgi_app.py", b"/waits", BURROW_GONE) },
];
/// What the first group is asked for first, so that it has more to do for each request than the other.
const FIRST: [Case; 2] = [get("api.py", b"/subscribe", BURROW_DONE), get("api.py", b"/record", BURROW_DONE)];

impl Case {
    fn request(&self, exchange: &Exchange, headers: &[burrow_pair]) -> burrow_request {
        let has_body = !self.body.is_empty();
        let mut request = burrow_request {
            headers: headers.as_ptr(),
            n_headers: headers.len(),
            content_length: if has_body { self.body.len() as i64 } else { -1 },
            request_start: 1,
            flags: if has_body { 0 } else { BURROW_NO_BODY },
            ..Default::default()
        };
        let method: &[u8] = if has_body { b"POST" } else { b"GET" };
        for (var, value) in [
            (BURROW_REQUEST_METHOD, method),
            (BURROW_REQUEST_URI, self.path),
            (BURROW_SCRIPT_NAME, b""),
            (BURROW_PATH_INFO, self.path),
            (BURROW_QUERY_STRING, self.query),
            (BURROW_SERVER_PROTOCOL, b"HTTP/1.1"),
            (BURROW_REQUEST_SCHEME, b"http"),
            (BURROW_SERVER_NAME, b"localhost"),
            (BURROW_SERVER_PORT, b"80"),
            (BURROW_REMOTE_ADDR, b"192.0.2.1"),
            (BURROW_REMOTE_PORT, b"4711"),
            (BURROW_REQUEST_ID, exchange.id.as_bytes()),
        ] {
            request.vars[var as usize] = burrow_str::new(value);
        }
        request
    }

    fn check(&self, outcome: burrow_outcome) {
        if outcome != self.outcome {
            // The threads of Python go on in any case.
            let path = String::from_utf8_lossy(self.path);
            eprintln!("{}{path}: outcome {outcome}, not {}", self.script, self.outcome);
            process::abort();
        }
    }
}

/// The runtime, and where its applications are.
#[derive(Clone, Copy)]
struct Python<'a> {
    runtime: &'static RuntimeApi,
    apps: &'a Path,
    /// Of the applications that have several.
    copies: u32,
}

impl Python<'_> {
    fn app(&self, script: &str, group: &[u8], copies: u32) -> *mut RuntimeApp {
        let path = self.apps.join(script);
        let target = burrow_str::new(path.as_os_str().as_encoded_bytes());
        // SAFETY: Python runs; the strings are there for the call.
        let app = unsafe { (self.runtime.app)(target, burrow_str::NONE, burrow_str::new(group), copies, 1) };
        // SAFETY: it was just made.
        assert_eq!(unsafe { (self.runtime.load)(app) }, 0, "{script} does not import");
        app
    }

    /// One request on this thread.
    fn call(&self, app: *mut RuntimeApp, case: &Case) {
        let (exchange, headers) = (Exchange::new(case.body), headers());
        let request = case.request(&exchange, &headers);
        // SAFETY: `app` is of `Self::app`; the rest is there for the call.
        let outcome = unsafe { (self.runtime.serve)(app, &request, &IO, exchange.pointer()) };
        case.check(outcome);
    }

    /// These requests on the event loop of an application, all at once.
    fn submit(&self, app: *mut RuntimeApp, cases: &[Case]) {
        let headers = headers();
        let exchanges: Vec<_> = cases.iter().map(|case| Exchange::new(case.body)).collect();
        let requests = cases.iter().zip(&exchanges).map(|(case, exchange)| case.request(exchange, &headers));
        let requests: Vec<_> = requests.collect();
        for (request, exchange) in requests.iter().zip(&exchanges) {
            let submission = Submission { app, request, io: &LOOP_IO, exchange: exchange.pointer() };
            // SAFETY: `app` is of `Self::app`; the rest stays until it is finished, which is waited for.
            unsafe { (self.runtime.submit)(&submission, 1) };
        }
        for (case, exchange) in cases.iter().zip(&exchanges).filter(|(case, _)| case.leaves) {
            assert!(
                exchange.unless_finished(|| {
                    // SAFETY: it is not finished.
                    unsafe { (self.runtime.wake)(app, exchange.pointer(), GONE) }
                }),
                "{:?} is finished",
                case.path
            );
        }
        for (case, exchange) in cases.iter().zip(&exchanges) {
            case.check(exchange.wait());
        }
    }

    /// A thread that calls this group's applications.
    fn calls(&self, group: &[u8]) {
        let apps: Vec<_> = CALLS.iter().map(|case| self.app(case.script, group, 0)).collect();
        let copies = self.app("hello.py", b"copies", self.copies);
        for _ in 0..ROUNDS {
            for (case, app) in CALLS.iter().zip(&apps) {
                self.call(*app, case);
            }
            self.call(copies, &CALLS[0]);
        }
    }

    /// A thread that submits requests to this group's event loop, and to those of an application's copies.
    fn submissions(&self, group: &[u8]) {
        let app = self.app("asgi_app.py", group, 0);
        let copies = self.app("asgi_app.py", b"copies", self.copies);
        for _ in 0..ROUNDS {
            self.submit(app, &TASKS);
            self.submit(copies, &TASKS);
        }
    }
}

fn headers() -> [burrow_pair; 3] {
    [(&b"Host"[..], &b"localhost"[..]), (b"Accept", b"*/*"), (b"X-Twice", b"1")]
        .map(|(name, value)| burrow_pair { name: burrow_str::new(name), value: burrow_str::new(value) })
}

/// Nobody reads it, and a lock on the way to a file would put the threads in an order.
unsafe extern "C" fn log(_exchange: *mut c_void, _level: c_int, _line: burrow_str) {}

static IS_FREE_THREADED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn options(_group: burrow_str) -> InterpreterOptions {
    InterpreterOptions {
        paths: ptr::null(),
        n_paths: 0,
        restrict_stdin: 0,
        restrict_stdout: 0,
        restrict_signal: 0,
        interface: UNKNOWN,
        event_loop: ASYNCIO,
        websocket: WebSocketLimits::default(),
        own_gil: (!IS_FREE_THREADED.load(Relaxed)).into(),
    }
}

static HOST: HostApi = HostApi { log, options };

/// Opens a library, for those that follow as well.
fn open(path: &str) -> *mut c_void {
    let name = CString::new(path).expect("no NUL in an argument");
    // SAFETY: a string; what the library runs then is its own.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if library.is_null() {
        // SAFETY: the call above has failed.
        panic!("{}", unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy());
    }
    library
}

/// Starts Python, whose main thread this one becomes.
fn start(library: &str, runtime: &str, python: &str, apps: &str) -> &'static RuntimeApi {
    open(library);
    // SAFETY: every runtime has this table; the first number in it tells whether it is of this build.
    let runtime = unsafe { &*libc::dlsym(open(runtime), c"burrow_runtime".as_ptr()).cast::<RuntimeApi>() };
    assert_eq!(runtime.abi_version, ABI_VERSION);
    let python = CString::new(python).expect("no NUL in an argument");
    let config = PythonConfig {
        executable: python.as_ptr(),
        paths: &burrow_str::new(apps.as_bytes()),
        n_paths: 1,
        multiprocess: 0,
        multithread: 1,
        run_once: 0,
        processes: 1,
        threads: THREADS as u32,
        process_group: burrow_str::new(b""),
        apache: ptr::null(),
        optimize: 0,
        hash_seed: -1,
        warnings: ptr::null(),
        n_warnings: 0,
        dont_write_bytecode: 1,
        switch_interval: 0.0,
        free_threading: IS_FREE_THREADED.load(Relaxed).into(),
    };
    // SAFETY: both tables are there as long as they have to be.
    let refusal = unsafe { (runtime.start)(&HOST, &config) };
    // SAFETY: a message that is never freed.
    assert!(refusal.is_null(), "{}", unsafe { CStr::from_ptr(refusal) }.to_string_lossy());
    runtime
}

fn main() {
    let arguments: Vec<_> = env::args().collect();
    let [_, version, library, runtime, python, apps] = &arguments[..] else {
        eprintln!("usage: burrow-races VERSION LIBPYTHON RUNTIME PYTHON APPS");
        process::exit(2);
    };
    let is_free_threaded = version.ends_with('t');
    IS_FREE_THREADED.store(is_free_threaded, Relaxed);
    let python = Python {
        runtime: start(library, runtime, python, apps),
        apps: Path::new(apps),
        copies: if is_free_threaded { 0 } else { 2 },
    };
    for case in &FIRST {
        python.call(python.app(case.script, GROUPS[0], 0), case);
    }
    thread::scope(|scope| {
        for group in GROUPS {
            for _ in 0..THREADS {
                scope.spawn(move || python.calls(group));
            }
            scope.spawn(move || python.submissions(group));
        }
    });
    // SAFETY: nobody is in Python any more.
    unsafe { (python.runtime.stop)(burrow_str::new(b"")) };
}
