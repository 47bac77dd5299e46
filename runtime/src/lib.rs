//! Burrow's Python side: interpreters, WSGI, and the `mod_wsgi` module that applications import.
//!
//! Built once for each CPython as an extension-style library whose libpython symbols stay open. Embedded,
//! the host opens it in a server's worker process and meets it in [`burrow_runtime`]; in daemon mode the
//! application's python imports it and is a worker from then on: [`worker`].
//! A request's path: [`app`] says in which interpreter, [`instance`] finds the callable there, [`wsgi`] or [`asgi`]
//! runs it.

mod app;
mod asgi;
mod attach;
mod bootstrap;
mod fork;
mod head;
mod header_names;
mod hooks;
mod host;
mod httpd;
mod instance;
mod interpreter;
mod log;
mod metrics;
mod module;
mod object;
mod observe;
mod same;
mod start;
#[cfg(not(Py_3_13))]
mod starvation;
mod sync;
mod worker;
mod wsgi;

use burrow_abi::{RuntimeApi, ABI_VERSION};

#[no_mangle]
pub static burrow_runtime: RuntimeApi = RuntimeApi {
    abi_version: ABI_VERSION,
    start: start::start,
    app: app::open,
    load: app::load,
    serve: wsgi::serve,
    stay_attached: attach::stay,
    interface: asgi::interface,
    submit: asgi::submit,
    wake: asgi::wake,
    retire: asgi::retire,
    ask: hooks::ask,
    stop: start::stop,
};
