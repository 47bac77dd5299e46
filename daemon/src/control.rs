//! What manager and worker tell each other, and what the command asks the manager: packets of JSON.
//!
//! The manager listens at `control` in the folder of the group's sockets. A worker is born with a
//! connection to it; when that ends it looks for the next manager there and registers again.

use serde::{Deserialize, Serialize};

use crate::config::App;

/// From a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// First of all, with two descriptors: the listening socket and the page.
    Register {
        pid: i32,
        group: String,
        /// See [`crate::config::Worker::settings`].
        settings: String,
        /// Seconds since the epoch.
        started: f64,
        ready: bool,
        draining: bool,
    },
    /// All that had to be imported is.
    Ready,
    /// This application does not import; the log says why. The worker takes no requests and ends.
    Broken { app: App },
    /// An application that was not in its configuration has been imported: a replacement needs it too. Said
    /// again to the next manager.
    Imported { app: App },
    /// The script of this application has changed. Said again to the next manager, which may not have heard it.
    Changed { app: App },
    /// It wants to be replaced: one of mod_wsgi's words for a shutdown's reason, such as
    /// "maximum_requests". It goes on until it is told to drain.
    Retire { reason: String },
    /// From a template: it forks a worker for each `Fork`.
    Template,
    /// From a template, which ends: nothing may be forked from it.
    Unfit { reason: String },
    /// From a template, for each `Fork`: the worker's pid; 0: it could not be forked.
    Forked { pid: i32 },
    /// The answer to `Stacks`: a descriptor of a file with the text comes along.
    Stacks,
}

/// To a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// The answer to `Ready`: take requests. Until then the worker may have a priority that is too low for that.
    Serve,
    /// Take no further connections, tell the servers to close theirs, end when all have and at the latest
    /// after so many seconds.
    Drain { reason: String, timeout: f64 },
    /// End: exit functions, for as long as shutdown-timeout allows.
    Stop { reason: String },
    /// Import this: another process of the group has done so.
    Import { app: App },
    /// To a template: fork a worker. The descriptors that one is started with come along, in their order.
    Fork,
    /// The log's new descriptor comes along.
    Log,
    /// The Python stacks of all threads are wanted.
    Stacks,
}

/// From `burrow status`, `burrow restart` and `burrow stacks`, on a connection of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromCommand {
    Status,
    /// None: every group.
    Restart {
        group: Option<String>,
    },
    Stacks {
        group: String,
    },
}

/// Whoever connects says which it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hello {
    Worker(FromWorker),
    Command(FromCommand),
}

/// To a command. The text (JSON for `Status`, plain for `Stacks`) is in a file that comes along.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToCommand {
    /// With the file.
    Text,
    /// It has been done, or begun: for the user.
    Done { message: String },
    /// Why not.
    Refused { message: String },
}
