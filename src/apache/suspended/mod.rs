//! WebSockets on mpm_event: behind its 101 a connection leaves the thread that its request came on, and one
//! loop per process drives it.

mod connection;
mod event_loop;
mod hosted;
mod memory;
mod websocket;

use std::ffi::c_void;

pub use connection::Connection;
pub use event_loop::{forget, retire, stop, Wake};
pub use hosted::Hosted;
pub use websocket::{Next, Peer, Timer};

use super::seats::Seat;
use crate::daemon::client::Client;
use connection::Functions;
use memory::Memory;
use websocket::WebSocket;

/// The most that is read or sent at once.
pub const PIECE: usize = burrow_abi::BURROW_SUSPENDED_MAX as usize;
/// What everything is carried in.
pub type Buffer = [u8; PIECE];

/// A connection whose thread is about to return.
pub struct Suspension {
    connection: Connection,
    /// What httpd gives back once the thread has let go.
    websocket: *mut Option<WebSocket>,
}

/// Whether the connection of a request that was answered with a 101 can do without its thread: that calls
/// [`Suspension::complete`] then, and returns.
pub fn begin(client: &Client) -> Option<Suspension> {
    if !client.can_suspend() || !event_loop::is_running() {
        return None;
    }
    let descriptor = client.descriptor().ok()??;
    let websocket = Box::into_raw(Box::new(None));
    // SAFETY: it comes back as what it is.
    let Some(functions) = (unsafe { client.suspend(websocket.cast()) }) else {
        // SAFETY: nobody else has it.
        drop(unsafe { Box::from_raw(websocket) });
        return None;
    };
    let connection = Connection::new(Functions(functions), client.exchange(), descriptor);
    Some(Suspension { connection, websocket })
}

impl Suspension {
    /// Of what the client sends and is sent, `peer` is the other end.
    pub fn complete(self, peer: impl Peer + 'static, seat: Option<Seat>) {
        let websocket = WebSocket::new(self.connection, Box::new(peer), seat);
        // SAFETY: of `begin`; httpd gives it back once this thread has returned.
        unsafe { *self.websocket = Some(websocket) };
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
unsafe extern "C" fn burrow_suspended(websocket: *mut c_void) {
    // SAFETY: of `begin`, and given back once.
    let websocket = unsafe { Box::from_raw(websocket.cast::<Option<WebSocket>>()) };
    let websocket = websocket.expect("whoever begins a suspension completes it");
    Memory::hold(websocket.memory());
    event_loop::add(Box::new(websocket));
}
