//! An ASGI application in its event loop: its lifespan, and the requests that wait for that to begin.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Condvar, Mutex};

use burrow_abi::{Submission, BURROW_FAILED, BURROW_LOG_ERR};

use super::call::{self, Call};
use super::protocol::Protocol;
use super::running::Running;
use crate::app::{App, Chosen};
use crate::host;
use crate::instance::{Instance, Loaded};
use crate::object::{take_exception, Object};

/// All but `begun` is touched by the loop's thread alone.
#[derive(Default)]
pub struct Application {
    /// asgi.py's, and its `state`.
    lifespan: RefCell<Option<(Object, Object)>>,
    waiting: RefCell<Vec<(Submission, Chosen)>>,
    /// Whether requests may come; None until that is known.
    serves: Cell<Option<bool>>,
    calls: Cell<usize>,
    replaced: Cell<bool>,
    /// `serves`, for those who wait for it.
    begun: Mutex<Option<bool>>,
    changed: Condvar,
}

// SAFETY: see above.
unsafe impl Send for Application {}
// SAFETY: see above.
unsafe impl Sync for Application {}

impl Application {
    /// Waits until its lifespan has begun. Whether requests may come. Called detached, by other threads.
    pub fn wait(&self) -> bool {
        let begun = self.begun.lock().expect("no panic under this lock");
        let begun = self.changed.wait_while(begun, |begun| begun.is_none());
        *begun.expect("no panic under this lock") == Some(true)
    }

    pub fn lifespan(&self) -> Option<Object> {
        self.lifespan.borrow().as_ref().map(|(lifespan, _)| lifespan.clone())
    }

    /// What the application keeps for its requests.
    pub fn state(&self) -> Object {
        self.lifespan
            .borrow()
            .as_ref()
            .map(|(_, state)| state.clone())
            .expect("requests come behind its begin")
    }

    fn set(&self, serves: bool) {
        self.serves.set(Some(serves));
        *self.begun.lock().expect("no panic under this lock") = Some(serves);
        self.changed.notify_all();
    }
}

/// The application was imported.
pub fn begin(
    running: &'static Running,
    instance: &'static Instance,
    loaded: Arc<Loaded>,
    replaced: Option<Arc<Loaded>>,
) {
    running.applications.borrow_mut().push((instance, loaded.clone()));
    let lifespan = running.begin(instance.app(), &loaded);
    match lifespan.and_then(|lifespan| Ok((lifespan.attr(c"state")?, lifespan))) {
        Ok((state, lifespan)) => *asgi(&loaded).lifespan.borrow_mut() = Some((lifespan, state)),
        Err(_) => {
            running.state().report(take_exception());
            begun(running, Arc::as_ptr(&loaded) as usize, false);
        }
    }
    if let Some(replaced) = replaced.filter(|replaced| replaced.asgi.is_some()) {
        asgi(&replaced).replaced.set(true);
        end_if_unused(running, &replaced);
    }
}

fn asgi(loaded: &Loaded) -> &Application {
    loaded.asgi.as_ref().expect("only ASGI applications come to the loop")
}

/// What its lifespan says, by its address.
pub fn begun(running: &'static Running, address: usize, serves: bool) {
    let applications = running.applications.borrow();
    let found = applications.iter().find(|(_, loaded)| Arc::as_ptr(loaded) as usize == address);
    let Some((instance, loaded)) = found.map(|(instance, loaded)| (*instance, loaded.clone())) else {
        return;
    };
    drop(applications);
    let application = asgi(&loaded);
    if !serves {
        // The next request imports it again.
        instance.forget(&loaded);
        application.replaced.set(true);
    }
    application.set(serves);
    for (submission, chosen) in application.waiting.take() {
        submit_to(running, loaded.clone(), submission, chosen);
    }
    end_if_unused(running, &loaded);
}

/// A request has come.
pub fn submit(running: &'static Running, submission: Submission, chosen: Chosen) {
    match chosen.instance().current_import().filter(|loaded| loaded.asgi.is_some()) {
        Some(loaded) => submit_to(running, loaded, submission, chosen),
        None => refuse(running, &submission, "is not imported any more"),
    }
}

fn submit_to(running: &'static Running, loaded: Arc<Loaded>, submission: Submission, chosen: Chosen) {
    let application = asgi(&loaded);
    match application.serves.get() {
        Some(true) => {
            let Some(protocol) = Protocol::new(running, &submission) else { return };
            application.calls.set(application.calls.get() + 1);
            call::start(running, loaded, protocol, &submission, chosen);
        }
        Some(false) => refuse(running, &submission, "did not start"),
        None => application.waiting.borrow_mut().push((submission, chosen)),
    }
}

/// The process ends: nobody waits any longer for a lifespan that has not begun.
pub fn refuse_waiting(running: &Running) {
    let applications: Vec<_> =
        running.applications.borrow().iter().map(|(_, loaded)| loaded.clone()).collect();
    for loaded in applications {
        for (submission, _) in asgi(&loaded).waiting.take() {
            refuse(running, &submission, "has not started");
        }
    }
}

/// A call's task has ended.
pub fn ended(running: &Running, call: &Call) {
    let calls = &asgi(&call.loaded).calls;
    calls.set(calls.get() - 1);
    end_if_unused(running, &call.loaded);
}

/// Shuts down what was replaced, behind its last request.
fn end_if_unused(running: &Running, loaded: &Arc<Loaded>) {
    let application = asgi(loaded);
    if !application.replaced.get() || application.calls.get() > 0 {
        return;
    }
    let mut applications = running.applications.borrow_mut();
    let found = applications.iter().position(|(_, known)| Arc::ptr_eq(known, loaded));
    let ended = found.map(|index| applications.swap_remove(index));
    drop(applications);
    if let Some(lifespan) = ended.and_then(|_| application.lifespan()) {
        running.end(&lifespan);
    }
}

fn refuse(running: &Running, submission: &Submission, why: &str) {
    // SAFETY: made by `app::open`; the host's functions, whose last call for this exchange this is.
    unsafe {
        let name = (*submission.app.cast::<App>()).name();
        let line = format!("burrow: ASGI application '{name}' {why}.");
        host::log(submission.exchange, BURROW_LOG_ERR, line.as_bytes());
        ((*submission.io).finish)(submission.exchange, BURROW_FAILED);
        running.touch(&*submission.io);
    }
}
