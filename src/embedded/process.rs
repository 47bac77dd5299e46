//! Python's life in a worker process: started on a thread of its own, used by many, stopped in order.

use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use burrow_abi::{burrow_str, InterpreterOptions, RuntimeApi, BURROW_LOG_ERR, BURROW_LOG_WARN};

use super::{log, App};
use crate::python::load::{self, Setup};
use crate::settings::interpreters::Interpreters;
use crate::settings::ServerKind;

/// Enough for deep recursion while an application is imported.
const STACK_SIZE: usize = 16 << 20;

/// How long what waits for a client on an event loop may go on once the process takes no further connections.
const GRACE: Duration = Duration::from_secs(15);

/// What the worker process takes over from the settings, which may go before it does.
pub struct Server {
    pub kind: ServerKind,
    pub home: PathBuf,
    pub apps: Vec<Arc<App>>,
    /// Now, not at the first request.
    pub starts_python: bool,
    pub interpreters: Interpreters,
    pub runs_exit_functions: bool,
    /// `burrow_server.connections`.
    pub connections: u32,
    pub setup: Setup,
}

#[derive(PartialEq)]
enum Phase {
    /// At the first request Python is started.
    Idle,
    /// With what is being done, for whoever waits too long.
    Starting(String),
    Running,
    Failed,
    Stopping,
    Stopped,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static PHASE: Mutex<Phase> = Mutex::new(Phase::Idle);
static CHANGED: Condvar = Condvar::new();
/// Set once Python runs: what a request looks at.
static RUNTIME: AtomicPtr<RuntimeApi> = AtomicPtr::new(ptr::null_mut());
/// How many requests are in progress, and whether further ones are turned away.
static REQUESTS: AtomicUsize = AtomicUsize::new(0);
const CLOSED: usize = 1 << (usize::BITS - 1);
/// The process takes no further connections, also where Python comes up only then.
static RETIRED: AtomicBool = AtomicBool::new(false);
/// Python is about to be left behind: nobody goes back into it.
static LEFT: AtomicBool = AtomicBool::new(false);

/// Starts Python on a thread of its own and returns at once; at the first request where the configuration
/// names nothing that needs it. Refuses where the process is root.
pub fn start(server: Server) {
    if SERVER.get().is_some() {
        return; // A server of one process that has read its configuration again.
    }
    let server = SERVER.get_or_init(|| server);
    // SAFETY: always succeeds.
    if unsafe { libc::geteuid() } == 0 {
        let cure = match server.kind {
            ServerKind::Apache => "set User and Group",
            ServerKind::Nginx => "set user",
        };
        log::report_process(
            BURROW_LOG_ERR,
            &format!("no Python is started, since this worker process is root: {cure} in the configuration"),
        );
        change(&mut phase(), Phase::Failed);
    } else if server.starts_python {
        spawn(&mut phase(), server);
    }
}

/// A request in progress.
pub struct Entry(());

/// None once the process is stopping.
pub fn enter() -> Option<Entry> {
    let before = REQUESTS.fetch_add(1, Acquire);
    let entry = Entry(());
    (before & CLOSED == 0).then_some(entry)
}

impl Drop for Entry {
    fn drop(&mut self) {
        if REQUESTS.fetch_sub(1, Release) == CLOSED + 1 {
            let _phase = phase(); // `stop` is either before its look at the count or waiting.
            CHANGED.notify_all();
        }
    }
}

/// The runtime, once it is up; None where it is not going to be.
pub fn runtime() -> Option<&'static RuntimeApi> {
    running().or_else(wait_for_runtime)
}

/// The runtime, where it is up already.
pub fn running() -> Option<&'static RuntimeApi> {
    // SAFETY: set to a static of the runtime only, which is never unloaded.
    unsafe { RUNTIME.load(SeqCst).as_ref() }
}

/// The options of an application group's interpreter.
///
/// # Safety
/// As `HostApi::options`.
pub unsafe extern "C" fn options(group: burrow_str) -> InterpreterOptions {
    // SAFETY: the name lives for the length of the call.
    let group = unsafe { group.bytes() };
    let server = SERVER.get();
    let interpreters = server.map(|server| server.interpreters.of(b"", group)).unwrap_or_default();
    let has_no_gil = server.is_some_and(|server| server.setup.free_threading);
    // Asked for once for each interpreter, and interpreters live as long as the process.
    let paths: &[Vec<u8>] = interpreters.paths.leak();
    let paths: &[burrow_str] = paths.iter().map(|path| burrow_str::new(path)).collect::<Vec<_>>().leak();
    InterpreterOptions {
        paths: paths.as_ptr(),
        n_paths: paths.len(),
        restrict_stdin: interpreters.restrict_stdin.into(),
        restrict_stdout: interpreters.restrict_stdout.into(),
        restrict_signal: interpreters.restrict_signal.into(),
        interface: interpreters.interface,
        event_loop: interpreters.event_loop,
        websocket: interpreters.websocket,
        own_gil: (interpreters.own_gil && !has_no_gil).into(),
    }
}

#[cold]
fn wait_for_runtime() -> Option<&'static RuntimeApi> {
    let mut now = phase();
    if *now == Phase::Idle {
        match SERVER.get() {
            Some(server) => spawn(&mut now, server),
            None => return None,
        }
    }
    while matches!(*now, Phase::Starting(_)) && RUNTIME.load(Acquire).is_null() {
        now = CHANGED.wait(now).unwrap();
    }
    running()
}

/// Never returns once the process has left Python behind. For threads that were inside while it did.
pub fn park_after_stop() {
    if LEFT.load(Acquire) {
        park();
    }
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

/// `wsgi.multithread` of an application.
pub fn multithread(app: &App) -> bool {
    SERVER.get().is_some_and(|server| match server.kind {
        ServerKind::Apache => server.setup.multithread,
        ServerKind::Nginx => app.threads() > 1,
    })
}

/// Threads of this process that serve requests, at least one.
pub fn threads() -> usize {
    SERVER.get().map_or(1, |server| server.setup.threads.max(1) as usize)
}

/// Connections that this process takes while its threads are idle; 0 where none can do without a thread.
pub fn connections() -> usize {
    SERVER.get().map_or(0, |server| server.connections as usize)
}

/// The process takes no further connections: WebSockets are closed, in order.
pub fn retire() {
    if let (false, Some(runtime)) = (RETIRED.swap(true, SeqCst), running()) {
        tell_loops(runtime, GRACE);
    }
}

fn tell_loops(runtime: &RuntimeApi, grace: Duration) {
    // SAFETY: the runtime is up.
    unsafe { (runtime.retire)(grace.as_millis() as u32) };
}

/// Turns further requests away, waits for those in progress for up to half of the time, and runs the exit
/// functions of every interpreter in what is left of it. Whoever carries out what requests ask for must still
/// do so, or have told them that their clients are gone.
pub fn stop(timeout: Duration) {
    let deadline = Instant::now() + timeout;
    REQUESTS.fetch_or(CLOSED, AcqRel);
    let mut now = wait(phase(), deadline, |phase| !matches!(phase, Phase::Starting(_)));
    match &*now {
        Phase::Starting(step) => give_up(step, timeout),
        Phase::Running => {
            let half = deadline.saturating_duration_since(Instant::now()) / 2;
            running().into_iter().for_each(|runtime| tell_loops(runtime, half / 2));
            now = wait(now, deadline - half, |_| REQUESTS.load(Acquire) == CLOSED);
            let left = REQUESTS.load(Acquire) & !CLOSED;
            if left > 0 {
                give_up(&format!("{left} requests in progress"), half);
            }
            LEFT.store(true, Release);
            change(&mut now, Phase::Stopping);
            now = wait(now, deadline, |phase| *phase == Phase::Stopped);
            if *now != Phase::Stopped {
                give_up("the exit functions (threading, atexit)", timeout);
            }
        }
        _ => {}
    }
    LEFT.store(true, Release);
}

fn give_up(step: &str, timeout: Duration) {
    log::report_process(
        BURROW_LOG_WARN,
        &format!(
            "this process ends without waiting any longer than {:.1} s for {step}",
            timeout.as_secs_f32()
        ),
    );
}

/// Waits until `done` or the deadline.
fn wait(
    mut now: MutexGuard<'static, Phase>,
    deadline: Instant,
    done: impl Fn(&Phase) -> bool,
) -> MutexGuard<'static, Phase> {
    while !done(&now) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        now = CHANGED.wait_timeout(now, left).unwrap().0;
    }
    now
}

fn phase() -> MutexGuard<'static, Phase> {
    PHASE.lock().unwrap()
}

fn change(now: &mut Phase, next: Phase) {
    *now = next;
    CHANGED.notify_all();
}

/// Starts the thread that Python takes for its main one.
fn spawn(now: &mut Phase, server: &'static Server) {
    change(now, Phase::Starting("the start of Python".into()));
    let thread = thread::Builder::new().name("burrow:python".into()).stack_size(STACK_SIZE);
    if let Err(error) = with_signals_blocked(|| thread.spawn(move || main(server))) {
        log::report_process(BURROW_LOG_ERR, &format!("cannot start Python's main thread: {error}"));
        change(now, Phase::Failed);
    }
}

/// A new thread inherits the mask: signals are the server's business, but for those that mean a crash.
pub fn with_signals_blocked<T>(make: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets are writable; the first is filled before it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        for crash in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT] {
            libc::sigdelset(all.as_mut_ptr(), crash);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let made = make();
    // SAFETY: the set was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    made
}

/// Python's main thread.
fn main(server: &'static Server) {
    let runtime = match load::start(&server.home, &server.setup, &log::HOST) {
        Ok(runtime) => runtime,
        Err(message) => {
            log::report_process(BURROW_LOG_ERR, &format!("cannot start Python: {message}"));
            return change(&mut phase(), Phase::Failed);
        }
    };
    RUNTIME.store(ptr::from_ref(runtime).cast_mut(), SeqCst);
    if RETIRED.load(SeqCst) {
        tell_loops(runtime, GRACE);
    }
    for app in server.apps.iter().filter(|app| app.preload() && !app.is_daemon()) {
        if REQUESTS.load(Acquire) & CLOSED != 0 {
            break;
        }
        let target = String::from_utf8_lossy(app.key().target);
        change(&mut phase(), Phase::Starting(format!("the import of '{target}'")));
        // SAFETY: the record is this runtime's. It logs what does not import.
        unsafe { (runtime.load)(app.runtime(runtime)) };
    }
    let mut now = phase();
    change(&mut now, Phase::Running);
    while *now != Phase::Stopping {
        now = CHANGED.wait(now).unwrap();
    }
    drop(now);
    if server.runs_exit_functions {
        // SAFETY: on Python's main thread, once.
        unsafe { (runtime.stop)(burrow_str::new(b"")) };
    }
    change(&mut phase(), Phase::Stopped);
    park();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since a process has one life.
    #[test]
    fn a_stop_waits_for_requests_and_refuses_further_ones() {
        assert!(runtime().is_none(), "nothing was started");
        change(&mut phase(), Phase::Running);
        let request = enter().expect("the process is open");
        let ended = Arc::new(AtomicBool::new(false));
        let stopping = thread::spawn({
            let ended = ended.clone();
            move || {
                stop(Duration::from_secs(60));
                assert!(ended.load(SeqCst));
            }
        });
        while REQUESTS.load(SeqCst) & CLOSED == 0 {
            thread::yield_now();
        }
        assert!(enter().is_none());
        ended.store(true, SeqCst);
        drop(request);
        let mut now = wait(phase(), Instant::now() + Duration::from_secs(60), |now| *now == Phase::Stopping);
        assert!(LEFT.load(SeqCst));
        change(&mut now, Phase::Stopped);
        drop(now);
        stopping.join().unwrap();
    }
}
