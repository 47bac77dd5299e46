//! `burrow_process_*` and `burrow_serve` of c/shim.h.

use std::ffi::{c_uint, c_void};
use std::time::Duration;

use burrow_abi::{
    burrow_app, burrow_client, burrow_io, burrow_outcome, burrow_request, burrow_server, burrow_settings,
};
use burrow_daemon::memory;

use super::{log, App, Server};
use crate::daemon::client::Client;
use crate::python::load::{Apache, Setup};
use crate::settings::{self, ServerKind};
use crate::{apache, daemon};

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_process_start(settings: *mut burrow_settings, server: *const burrow_server) {
    // SAFETY: c/shim.h.
    let (settings, server) = unsafe { (settings::from_c(settings), &*server) };
    memory::keep_freed();
    if let Some(log) = server.log {
        log::set_server_log(log);
    }
    if settings.server() == ServerKind::Apache {
        log::set_sink(apache::log);
    }
    super::start(Server {
        kind: settings.server(),
        home: settings.python_home().to_owned(),
        apps: settings.apps(),
        starts_python: settings.needs_python(),
        interpreters: settings.embedded().interpreters.clone(),
        runs_exit_functions: settings.embedded().run_exit_functions,
        connections: server.connections,
        setup: Setup {
            multiprocess: server.multiprocess != 0,
            multithread: server.multithread != 0,
            processes: server.processes,
            threads: server.threads,
            // SAFETY: c/shim.h: lives as long as the process.
            apache: unsafe { server.apache.as_ref() }.map(Apache),
            options: settings.embedded().python.clone(),
            free_threading: settings.is_free_threaded(b""),
        },
    });
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_process_retire(settings: *const burrow_settings) {
    // SAFETY: c/shim.h.
    unsafe { settings::from_c(settings) }.close_links();
    super::retire();
    apache::suspended::retire();
}

#[no_mangle]
pub extern "C" fn burrow_process_stop(timeout_ms: c_uint) {
    super::stop(Duration::from_millis(timeout_ms.into()));
    apache::suspended::stop();
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_serve(
    app: *mut burrow_app,
    request: *const burrow_request,
    io: *const burrow_io,
    client: *const burrow_client,
    exchange: *mut c_void,
) -> burrow_outcome {
    // SAFETY: c/shim.h.
    unsafe {
        let (app, request) = (App::from_c(app), &*request);
        let seat = match apache::seats::take(request, &Client::new(&*io, &*client, exchange)) {
            Ok(seat) => seat,
            Err(outcome) => return outcome,
        };
        match app.daemon() {
            Some(group) => daemon::serve(group, app, request, &*io, &*client, exchange, seat),
            None => apache::serve(app, request, &*io, &*client, exchange, seat),
        }
    }
}
