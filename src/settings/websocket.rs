//! The limits of WebSockets, which directives and process groups set alike.

use burrow_abi::WebSocketLimits;

use super::options::between;

/// One of them, by the name of its option.
#[derive(Debug)]
pub struct Limit {
    pub name: &'static str,
    least: u32,
    most: u32,
    set: fn(&mut WebSocketLimits, u32),
}

pub const WEBSOCKET_LIMITS: &[Limit] = &[
    Limit {
        name: "websocket-max-message",
        least: 125,
        most: 1 << 30,
        set: |limits, bytes| limits.max_message = bytes as usize,
    },
    Limit {
        name: "websocket-ping-interval",
        least: 0,
        most: 86400,
        set: |limits, seconds| limits.ping_interval = seconds,
    },
    Limit {
        name: "websocket-idle-timeout",
        least: 0,
        most: i32::MAX as u32,
        set: |limits, seconds| limits.idle_timeout = seconds,
    },
];

impl Limit {
    pub fn read(&self, value: &str) -> Result<u32, String> {
        between(value, self.least, self.most)
    }

    /// Sets it to what was read.
    pub fn apply(&self, limits: &mut WebSocketLimits, value: u32) {
        (self.set)(limits, value);
    }
}
