//! ASGI 3: applications that an event loop runs.
//!
//! A server's thread submits a request to the [`inbox`] of its application's [`event_loop`]. The loop's thread
//! ([`running`]) starts a task for it, the [`coroutine`] of a [`call`], as soon as the [`application`] has begun:
//! with a [`scope`], and with `receive` and `send`, which belong to the [`protocol`]: [`http`] or [`websocket`].

mod application;
pub mod awaitable;
mod call;
pub mod coroutine;
mod event_loop;
mod http;
mod inbox;
mod keys;
mod observed;
mod protocol;
mod running;
mod scope;
mod tls;
mod watchdog;
mod websocket;

use std::ffi::{c_int, c_void};
use std::iter;

use burrow_abi::{
    burrow_request, slice, RuntimeApp, Submission, BURROW_FAILED, BURROW_LOG_ERR, BURROW_RELOADING, UNKNOWN,
};

use crate::app::App;
use crate::host;
use crate::interpreter::{self, Interpreter};
pub use application::Application;
pub use event_loop::EventLoop;
use event_loop::Message;
pub use running::{functions, Running};

/// See [`burrow_abi::RuntimeApi::interface`].
pub unsafe extern "C" fn interface(app: *const RuntimeApp, request: *const burrow_request) -> c_int {
    // SAFETY: the application was made by `app::open`; the request is there for the call.
    let (app, request) = unsafe { (app_of(app), &*request) };
    if request.flags & BURROW_RELOADING != 0 && app.may_have_changed(request.script_modified) {
        return UNKNOWN;
    }
    app.interface()
}

/// See [`burrow_abi::RuntimeApi::submit`].
pub unsafe extern "C" fn submit(submitted: *const Submission, count: usize) {
    let choose = |each: &Submission| {
        // SAFETY: made by `app::open`, never freed.
        let app = unsafe { app_of(each.app) };
        let chosen = app.choose_of(|instance| instance.event_loop().is_some());
        chosen.and_then(|chosen| Some((chosen.instance().event_loop()?, *each, chosen))).or_else(|| {
            refuse(each);
            None
        })
    };
    // SAFETY: as many as it says.
    let mut chosen = unsafe { slice(submitted, count) }.iter().filter_map(choose).peekable();
    while let Some((event_loop, submission, chosen_instance)) = chosen.next() {
        let first = iter::once(Message::Submit(submission, chosen_instance));
        let more = iter::from_fn(|| {
            let same = chosen.next_if(|(other, ..)| std::ptr::eq(*other, event_loop));
            same.map(|(_, submission, chosen)| Message::Submit(submission, chosen))
        });
        event_loop.inbox.push(first.chain(more));
    }
}

fn refuse(submission: &Submission) {
    let line = b"burrow: a request was submitted to an application without an event loop";
    host::log(submission.exchange, BURROW_LOG_ERR, line);
    // SAFETY: the host's functions; the last calls for this exchange.
    unsafe {
        ((*submission.io).finish)(submission.exchange, BURROW_FAILED);
        ((*submission.io).flush)();
    }
}

/// # Safety
/// `app` was made by `app::open`.
unsafe fn app_of(app: *const RuntimeApp) -> &'static App {
    // SAFETY: never freed.
    unsafe { &*app.cast::<App>() }
}

/// See [`burrow_abi::RuntimeApi::wake`].
pub unsafe extern "C" fn wake(app: *mut RuntimeApp, exchange: *mut c_void, events: u32) {
    // SAFETY: made by `app::open`. Those that do not know the exchange do nothing.
    for event_loop in unsafe { app_of(app) }.interpreters().filter_map(Interpreter::running_loop) {
        event_loop.inbox.push(iter::once(Message::Wake(exchange, events)));
    }
}

/// See [`burrow_abi::RuntimeApi::retire`].
pub unsafe extern "C" fn retire(grace: u32) {
    for event_loop in interpreter::made().into_iter().filter_map(Interpreter::running_loop) {
        event_loop.inbox.push(iter::once(Message::Retire(grace)));
    }
}

/// Lets the requests of all event loops end, and their applications shut down. Called detached.
pub fn stop() {
    interpreter::all().into_iter().filter_map(Interpreter::running_loop).for_each(EventLoop::stop);
}
