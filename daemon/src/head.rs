//! The head of an answer as the payload of a HEAD frame.
//!
//! ```text
//!  content length: i64 | status: u32 | n: u32 | lengths of 1 + 2 n texts: u32 each | the texts
//! ```
//! The texts are the reason, then name and value of each header. -1 is an unknown length.

use burrow_abi::{burrow_head, burrow_pair, burrow_str};

use crate::request::{texts, Texts};

/// Appends the payload.
///
/// # Safety
/// The strings of `head` are there.
pub unsafe fn write(head: &burrow_head, to: &mut Vec<u8>) {
    let headers = match head.n_headers {
        0 => &[][..],
        // SAFETY: c/shim.h: so many headers.
        n => unsafe { std::slice::from_raw_parts(head.headers, n) },
    };
    to.extend_from_slice(&head.content_length.to_le_bytes());
    to.extend_from_slice(&head.status.to_le_bytes());
    to.extend_from_slice(&(headers.len() as u32).to_le_bytes());
    let parts =
        || std::iter::once(head.reason).chain(headers.iter().flat_map(|pair| [pair.name, pair.value]));
    for part in parts() {
        to.extend_from_slice(&(part.len as u32).to_le_bytes());
    }
    for part in parts() {
        // SAFETY: the caller's word.
        to.extend_from_slice(unsafe { part.bytes() });
    }
}

/// The status that gives the connection's bytes to the application.
pub const SWITCHING_PROTOCOLS: u32 = 101;

/// The status of an interim answer, which another head follows.
pub const EARLY_HINTS: u32 = 103;

/// So many of those an answer may have: each takes memory of the server's until the answer has left.
pub const MOST_HINTS: u32 = 16;

/// The status of trailers, which are written as a head is.
pub const TRAILERS: u32 = 0;

/// Headers that say where the answer ends: the server's own.
const FRAMING: [&[u8]; 3] = [b"Content-Length", b"Transfer-Encoding", b"Connection"];

/// Reads a payload; `headers` is where those of the head go, and both point into it. None where a worker
/// has sent what is no head, or one that must not go out (RFC 9110, sections 5.1, 5.5 and 15).
pub fn read(payload: &[u8], headers: &mut Vec<burrow_pair>) -> Option<burrow_head> {
    let (fixed, rest) = payload.split_at_checked(16)?;
    let content_length = i64::from_le_bytes(fixed[..8].try_into().ok()?);
    let status = u32::from_le_bytes(fixed[8..12].try_into().ok()?);
    let n = u32::from_le_bytes(fixed[12..].try_into().ok()?) as usize;
    let mut texts: Texts = texts(rest, n.checked_mul(2)?.checked_add(1)?)?;
    let reason = texts.next()?;
    headers.clear();
    for _ in 0..n {
        let (name, value) = (texts.next()?, texts.next()?);
        let is_name = !name.is_empty() && name.iter().all(|byte| is_token(*byte));
        if !is_name || !is_text(value) || FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name)) {
            return None;
        }
        headers.push(burrow_pair { name: burrow_str::new(name), value: burrow_str::new(value) });
    }
    let is_known = match status {
        SWITCHING_PROTOCOLS | EARLY_HINTS | TRAILERS => content_length == -1,
        _ => (200..=999).contains(&status),
    };
    let good = texts.is_done() && is_known && content_length >= -1 && is_text(reason);
    good.then_some(burrow_head {
        status,
        reason: burrow_str::new(reason),
        headers: headers.as_ptr(),
        n_headers: headers.len(),
        content_length,
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &[u8], value: &[u8]) -> burrow_pair {
        burrow_pair { name: burrow_str::new(name), value: burrow_str::new(value) }
    }

    fn written(status: u32, headers: &[burrow_pair]) -> Vec<u8> {
        let head = burrow_head {
            status,
            reason: burrow_str::new(b"OK"),
            headers: headers.as_ptr(),
            n_headers: headers.len(),
            content_length: -1,
        };
        let mut payload = Vec::new();
        // SAFETY: all of them are literals or the caller's.
        unsafe { write(&head, &mut payload) };
        payload
    }

    #[test]
    fn heads_survive() {
        let payload = written(200, &[pair(b"X-One", b"1"), pair(b"X-Empty", b"")]);
        let mut headers = Vec::new();
        let head = read(&payload, &mut headers).unwrap();
        assert_eq!((head.status, head.content_length, head.n_headers), (200, -1, 2));
        // SAFETY: the payload is there.
        let (reason, value) = unsafe { (head.reason.bytes(), headers[0].value.bytes()) };
        assert_eq!((reason, value), (&b"OK"[..], &b"1"[..]));
        for cut in 0..payload.len() {
            assert!(read(&payload[..cut], &mut headers).is_none(), "{cut}");
        }
    }

    #[test]
    fn what_must_not_go_out_is_refused() {
        let mut headers = Vec::new();
        for (name, value) in [
            (&b"X One"[..], &b"1"[..]),
            (b"", b"1"),
            (b"X", b"1\r\nY: 2"),
            (b"X", b"\0"),
            (b"transfer-encoding", b"chunked"),
            (b"Content-Length", b"0"),
        ] {
            assert!(read(&written(200, &[pair(name, value)]), &mut headers).is_none());
        }
        assert!(read(&written(100, &[]), &mut headers).is_none());
        let mut lying = written(200, &[]);
        lying[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&lying, &mut headers).is_none());
    }
}
