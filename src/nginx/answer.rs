//! A piece of an answer on its way to the event loop.

use super::block::{size_of_pairs, Block};
use burrow_abi::{burrow_body, burrow_head, burrow_str, slice};
use std::os::fd::OwnedFd;

/// An application that is this far ahead of its client waits.
pub const ANSWER_HIGH: usize = 256 << 10;
/// What a piece takes beside its bytes, in the server and here: many small ones count, too.
pub const PIECE_COST: usize = 512;

pub struct Answer {
    pub block: Block,
    pub head: Option<burrow_head>,
    pub body: burrow_body,
    pub flags: u32,
}

// SAFETY: its pointers lead into its own block, which nobody changes.
unsafe impl Send for Answer {}

impl Answer {
    /// # Safety
    /// `head` and `data` point at what they say.
    pub unsafe fn new(
        head: Option<&burrow_head>,
        mut body: burrow_body,
        file: Option<OwnedFd>,
        flags: u32,
    ) -> Self {
        let data = if file.is_some() { 0 } else { body.len };
        // SAFETY: the caller vouches for the head.
        let headers = head.map(|head| unsafe { slice(head.headers, head.n_headers) });
        let size = head.map_or(0, |head| size_of_pairs(headers.unwrap_or(&[])) + head.reason.len);
        let mut block = Block::new(size + data);
        // SAFETY: the caller vouches for all of them.
        unsafe {
            let head = head.map(|head| burrow_head {
                headers: block.copy_pairs(headers.unwrap_or(&[])),
                reason: block.copy(head.reason),
                ..*head
            });
            match file {
                Some(file) => body.fd = block.hold(file),
                None => body.data = block.copy(burrow_str { data: body.data, len: data }).data,
            }
            Answer { block, head, body, flags }
        }
    }
}
