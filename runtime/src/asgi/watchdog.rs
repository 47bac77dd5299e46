//! A thread that notices when an application's synchronous code blocks an event loop, and logs which.

use std::thread::{self, Builder};
use std::time::Duration;

use super::event_loop::EventLoop;
use crate::attach::Attached;

/// A loop that does not come around for so long is blocked.
const LIMIT: Duration = Duration::from_secs(2);

/// Where the thread cannot be started nobody watches.
pub fn start(event_loop: &'static EventLoop) {
    let _ = Builder::new().name("burrow:watchdog".into()).spawn(move || loop {
        watch(event_loop);
    });
}

/// Looks on until the loop has had nothing to do for a while.
fn watch(event_loop: &'static EventLoop) {
    let inbox = &event_loop.inbox;
    let mut seen = inbox.wait_for_use();
    let mut asked = false;
    loop {
        thread::sleep(LIMIT);
        let taken = inbox.taken();
        if asked && taken == seen {
            report(event_loop);
            while inbox.taken() == seen {
                thread::sleep(LIMIT);
            }
        } else if asked && taken == seen + 1 {
            return; // Nobody else has asked for anything.
        }
        seen = inbox.taken();
        asked = true;
        inbox.push(std::iter::empty());
    }
}

fn report(event_loop: &EventLoop) {
    let attached = Attached::to(event_loop.interpreter);
    event_loop.report_blocked(&attached);
}
