//! What a worker is told at its start: a file in memory, which it reads once.

use burrow_abi::WebSocketLimits;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{memfd_create, MFdFlags};

/// Descriptors that a worker is started with, besides 0 (nothing) and 1 and 2 (the log).
pub const LISTENER: i32 = 3;
/// The file with [`Worker`].
pub const CONFIGURATION: i32 = 4;
/// The control connection, see [`crate::control`].
pub const CONTROL: i32 = 5;

/// Everything that a worker has to know. Times are in seconds, and 0 is never.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    pub version: u32,
    /// "apache" or "nginx": the style of log lines.
    pub server: String,
    /// SERVER_SOFTWARE need not be here: every request says it.
    pub group: String,
    /// What tells this set of settings of the group from others: the manager's, who gets it back when it
    /// adopts a worker.
    pub settings: String,
    /// Where a worker finds the next manager when its own has died; empty: it drains.
    pub control: String,
    /// Who may send requests.
    pub peers: Vec<u32>,
    /// Threads that take requests; 0: the scripts of `apps` alone run.
    pub threads: u32,
    /// Requests are greenlets, so many at once.
    pub greenlets: bool,
    pub processes: u32,
    pub multiprocess: bool,
    pub run_once: bool,
    pub stack_size: u64,
    /// What is asked for first has the main interpreter, in any application group: there seems to be but one
    /// application.
    pub main_interpreter: bool,
    /// How many each application group has, each with a lock of its own; 0: one.
    pub copies: u32,
    /// Imported before the worker is ready.
    pub apps: Vec<App>,
    /// It takes no requests: once it has imported, workers are forked from it.
    pub is_template: bool,
    /// Folders for sys.path.
    pub paths: Vec<Vec<u8>>,
    pub interpreters: Vec<Interpreter>,
    pub apache: Option<Apache>,
    /// As ps shows it.
    pub display_name: Option<String>,
    /// For setlocale.
    pub locale: Option<String>,
    /// In seconds; 0 leaves CPython's own.
    pub switch_interval: f64,
    /// Who has to own a script and its folder.
    pub script_user: Option<u32>,
    pub script_group: Option<u32>,
    /// 0: no limit.
    pub socket_timeout: f64,
    /// In bytes, of connections from servers; 0: the system's.
    pub send_buffer_size: usize,
    pub receive_buffer_size: usize,
    /// For an import, wherever it is.
    pub startup_timeout: f64,
    /// For the rest of a request.
    pub request_timeout: f64,
    pub interrupt_timeout: f64,
    pub graceful_timeout: f64,
    pub eviction_timeout: f64,
    pub shutdown_timeout: f64,
    pub deadlock_timeout: f64,
    pub inactivity_timeout: f64,
    pub restart_interval: f64,
    pub cpu_time_limit: f64,
    pub maximum_requests: u64,
    /// Resident bytes.
    pub max_memory: u64,
    pub server_metrics: bool,
    /// The least severe level that is logged, in syslog's numbers; 0: all are.
    pub log_level: u32,
}

/// An application, as the server names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct App {
    pub target: Vec<u8>,
    pub callable: Vec<u8>,
    pub application_group: Vec<u8>,
}

/// What differs from interpreter to interpreter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interpreter {
    /// None: of any application group that has no entry of its own.
    pub application_group: Option<Vec<u8>>,
    pub paths: Vec<Vec<u8>>,
    pub restrict_stdin: bool,
    pub restrict_stdout: bool,
    pub restrict_signal: bool,
    /// It has a lock of its own.
    pub own_gil: bool,
    /// What its applications are, and their event loop, as burrow_abi has it.
    pub interface: i32,
    pub event_loop: i32,
    pub websocket: WebSocket,
}

/// The limits of WebSockets, as burrow_abi has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebSocket {
    pub max_message: usize,
    pub ping_interval: u32,
    pub idle_timeout: u32,
}

impl Default for WebSocket {
    fn default() -> Self {
        WebSocketLimits::default().into()
    }
}

impl From<WebSocketLimits> for WebSocket {
    fn from(limits: WebSocketLimits) -> Self {
        let WebSocketLimits { max_message, ping_interval, idle_timeout } = limits;
        WebSocket { max_message, ping_interval, idle_timeout }
    }
}

impl From<&WebSocket> for WebSocketLimits {
    fn from(limits: &WebSocket) -> Self {
        let WebSocket { max_message, ping_interval, idle_timeout } = *limits;
        WebSocketLimits { max_message, ping_interval, idle_timeout }
    }
}

/// What the module `apache` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Apache {
    pub version: [u32; 3],
    pub description: String,
    pub mpm_name: String,
    pub build_date: String,
}

impl Worker {
    /// Of this, and of what manager and worker say to each other ([`crate::control`]).
    pub const VERSION: u32 = 2;

    pub fn to_file(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"burrow worker", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }

    pub fn from_file(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let mut text = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut text, 0)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Whether all of it is understood here.
    pub fn check_version(&self) -> io::Result<()> {
        match self.version {
            Self::VERSION => Ok(()),
            other => Err(io::Error::other(format!(
                "the manager is of another release of burrow (version {other}, not {}): stop the server and \
                 start it",
                Self::VERSION
            ))),
        }
    }
}
