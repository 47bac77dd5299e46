//! Clients that are silent: are they still there? And what takes too long.

use std::time::{Duration, Instant};

use burrow_websocket::close::{GOING_AWAY, INTERNAL_ERROR};
use burrow_websocket::Close;

use super::{Phase, Socket};
use crate::asgi::call::Call;
use crate::asgi::coroutine::call_of;
use crate::asgi::running::Running;
use crate::object::Result;

/// How often all sockets are looked at, in seconds.
pub const PERIOD: f64 = 1.0;
/// For the application to accept a WebSocket.
const ACCEPTANCE: Duration = Duration::from_secs(60);
/// For the client to answer a Close frame.
const GOODBYE: Duration = Duration::from_secs(10);

/// Looks at all sockets from now on, until there are none.
pub fn watch(running: &Running) -> Result<()> {
    if !running.looks.replace(true) {
        running.call_later(PERIOD, &running.look)?;
    }
    Ok(())
}

/// Looks at all sockets.
pub fn look(running: &Running) -> Result<()> {
    running.looks.set(false);
    let now = Instant::now();
    let mut left = false;
    for run in &running.calls() {
        let call = call_of(run);
        if let Some(socket) = call.protocol.socket() {
            left = true;
            socket.look(call, now)?;
        }
    }
    if left {
        watch(running)?;
    }
    Ok(())
}

impl Socket {
    /// The client has given a sign of life.
    pub(super) fn hear(&self) {
        self.heard.set(Instant::now());
        self.pinged.set(None);
    }

    fn look(&self, call: &Call, now: Instant) -> Result<()> {
        let lasts = now.saturating_duration_since(self.since.get());
        match self.phase.get() {
            Phase::Connecting { .. } if lasts >= ACCEPTANCE => call.expire(),
            Phase::Open if self.is_idle(call, now) => {
                self.give_up(call, GOING_AWAY, "no message for too long")?;
                return call.hang_up();
            }
            Phase::Open => return self.look_for_life(call, now),
            Phase::Closing { .. } if lasts >= GOODBYE => call.lose(),
            _ => {}
        }
        Ok(())
    }

    fn is_idle(&self, call: &Call, now: Instant) -> bool {
        let timeout = call.running.state().websocket.idle_timeout;
        timeout > 0 && now.saturating_duration_since(self.active.get()) >= seconds(timeout)
    }

    fn look_for_life(&self, call: &Call, now: Instant) -> Result<()> {
        let patience = match call.running.state().websocket.ping_interval {
            0 => return Ok(()),
            interval => seconds(interval),
        };
        match self.pinged.get() {
            None if now.saturating_duration_since(self.heard.get()) >= patience => {
                self.pinged.set(Some(now));
                if let Some(connection) = &mut *self.connection.borrow_mut() {
                    connection.ping();
                }
                self.flush(call);
            }
            Some(pinged) if now.saturating_duration_since(pinged) >= patience => {
                self.give_up(call, INTERNAL_ERROR, "no answer to a ping")?;
                call.lose();
            }
            _ => {}
        }
        Ok(())
    }

    fn give_up(&self, call: &Call, code: u16, why: &str) -> Result<()> {
        let close = Close::new(code, why);
        self.closed.borrow_mut().get_or_insert(close.clone());
        self.close(call, &close, false)?;
        self.tell_closed(call, close)
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}
