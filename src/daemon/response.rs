//! What the client has got of an answer.

use burrow_abi::{burrow_head, BURROW_FLUSH, BURROW_LAST};
use burrow_daemon::head::SWITCHING_PROTOCOLS;

use super::client::{Body, Client, Gone};
use super::Group;

pub struct Response {
    has_begun: bool,
    /// The client does not get the rest.
    is_unwanted: bool,
    /// What follows a 101 is for the client at once.
    is_upgraded: bool,
    /// The client should get what the server has of it, when nothing follows for a while.
    needs_flush: bool,
    /// Bytes since the last flush, and how many there may be.
    unflushed: u64,
    most_unflushed: u64,
}

impl Response {
    pub fn new(group: &Group) -> Self {
        let most_unflushed = group.response_buffer_size;
        Response {
            has_begun: false,
            is_unwanted: false,
            is_upgraded: false,
            needs_flush: false,
            unflushed: 0,
            most_unflushed,
        }
    }

    /// The server has got a head.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The rest need not even be read.
    pub fn is_unwanted(&self) -> bool {
        self.is_unwanted
    }

    pub fn needs_flush(&self) -> bool {
        self.needs_flush
    }

    /// Passes the next part on; `flush`: the worker wants it to reach the client, whatever it does next.
    pub fn send(
        &mut self,
        client: &Client,
        head: Option<&burrow_head>,
        body: Body,
        flush: bool,
        is_last: bool,
    ) -> Result<(), Gone> {
        if self.is_unwanted {
            return Ok(());
        }
        self.has_begun |= head.is_some();
        self.is_upgraded |= head.is_some_and(|head| head.status == SWITCHING_PROTOCOLS);
        self.unflushed += match &body {
            Body::Bytes(data) => data.len() as u64,
            Body::File(_, _, length) => *length,
        };
        let flags = match is_last {
            true => BURROW_LAST,
            false if self.is_upgraded || self.unflushed > self.most_unflushed => BURROW_FLUSH,
            false => 0,
        };
        self.needs_flush |= flush;
        if flags != 0 {
            (self.needs_flush, self.unflushed) = (false, 0);
        }
        self.is_unwanted = !client.send(head, body, flags)?;
        Ok(())
    }

    /// Has the server send what it has.
    pub fn flush(&mut self, client: &Client) -> Result<(), Gone> {
        (self.needs_flush, self.unflushed) = (false, 0);
        client.send(None, Body::Bytes(b""), BURROW_FLUSH).map(drop)
    }
}
