//! How a request begins: its REQUEST frame.

use std::time::{SystemTime, UNIX_EPOCH};

use burrow_abi::{
    burrow_request, BURROW_EARLY_HINTS, BURROW_HEADER_ONLY, BURROW_NO_BODY, BURROW_REQUEST_METHOD,
    BURROW_TRAILERS, BURROW_UPGRADE,
};
use burrow_daemon::frame::{Header, Kind, HEADER, HEAD_MAX, LAST};
use burrow_daemon::page;
use burrow_daemon::request::{self, Addressed};

use super::incoming::Wanted;
use super::Group;
use crate::embedded::App;

pub struct Begun {
    pub frame: Vec<u8>,
    /// There is no body.
    pub is_whole: bool,
    /// Until when a thread may take it, in microseconds of CLOCK_MONOTONIC; 0: for ever.
    pub deadline: i64,
    /// Where the answer may be a 101, what follows is no body, but what the client says once it has that.
    pub wanted: Wanted,
}

impl Begun {
    /// Uses the vector's memory. None where the request is longer than a frame.
    ///
    /// # Safety
    /// `request` points at what it says.
    pub unsafe fn new(
        group: &Group,
        app: &App,
        request: &burrow_request,
        mut frame: Vec<u8>,
    ) -> Option<Begun> {
        // SAFETY: the caller vouches for it.
        let method = unsafe { request.vars[BURROW_REQUEST_METHOD as usize].bytes() };
        let deadline = group.queue_timeout.map_or(0, |timeout| page::now() + timeout.as_micros() as i64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = burrow_request { queue_start: now.as_micros() as i64, ..*request };
        let key = app.key();
        let address = Addressed {
            target: key.target,
            callable: key.callable,
            application_group: key.group,
            queue_deadline: deadline,
        };
        frame.clear();
        frame.resize(HEADER, 0);
        // SAFETY: the caller vouches for it.
        unsafe { request::write(&address, &request, &mut frame) };
        let may_upgrade = request.flags & BURROW_UPGRADE != 0;
        let is_whole = request.flags & BURROW_NO_BODY != 0 && !may_upgrade;
        let length = frame.len() - HEADER;
        let flags = if is_whole { LAST } else { 0 };
        frame[..HEADER].copy_from_slice(&Header { kind: Kind::Request, flags, length }.bytes());
        (length <= HEAD_MAX).then_some(Begun {
            frame,
            is_whole,
            deadline,
            wanted: Wanted {
                head_only: method == b"HEAD" || request.flags & BURROW_HEADER_ONLY != 0,
                may_upgrade,
                may_hint: request.flags & BURROW_EARLY_HINTS != 0,
                may_trail: request.flags & BURROW_TRAILERS != 0 && !may_upgrade,
            },
        })
    }
}
