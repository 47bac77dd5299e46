//! The manager: one process per server instance that outlives the server's reloads.
//!
//! ```text
//!  httpd's master ── link ──► manager
//!  nginx's master ── link ──► guardian ── link ──► manager
//! ```
//!
//! A link is a socket pair: whoever is started by one end has the other as its standard input. It
//! carries the configuration and the log's descriptor downwards, and its end says that the other
//! side is gone. nginx runs no module code between reloads, so there the guardian restarts a manager
//! that dies; httpd does it itself.

use crate::settings::ServerKind;
use nix::sys::prctl::set_name;
use std::process::ExitCode;

mod backoff;
mod child;
mod commands;
mod configuration;
mod ffi;
mod folder;
mod group;
mod guardian;
mod inbox;
mod launch;
mod log;
mod master;
mod orphans;
mod pidfd;
mod priority;
mod process;
mod protocol;
mod visitors;
mod worker;

pub use commands::{GroupStatus, RequestStatus, Status, WorkerStatus};
pub use ffi::{instance, is_orphan};
pub use master::Master;

/// What is started below a server's master; the name is the subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Guardian,
    Manager,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Guardian => "guardian",
            Role::Manager => "manager",
        }
    }
}

/// `burrow manager SERVER INSTANCE` and `burrow guardian SERVER INSTANCE`: hidden subcommands that
/// the server modules run, with a link as standard input.
pub fn run(role: Role, server: &str, instance: &str) -> ExitCode {
    let Some(server) = [ServerKind::Apache, ServerKind::Nginx].into_iter().find(|kind| server == name(*kind))
    else {
        eprintln!("burrow {}: unknown server \"{server}\"", role.name());
        return ExitCode::from(2);
    };
    // The guardian runs itself by /proc/self/exe, and ps would say "exe". A failure is no harm.
    let _ = set_name(c"burrow");
    let ended = match role {
        Role::Guardian => guardian::run(server, instance),
        Role::Manager => process::run(server),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::Log::new(server, role.name()).write(log::Level::Error, &error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// As the subcommands call it.
pub(crate) fn name(server: ServerKind) -> &'static str {
    match server {
        ServerKind::Apache => "apache",
        ServerKind::Nginx => "nginx",
    }
}
