//! The head of an answer as an application gives it, checked, in one piece of memory.

use burrow_abi::{burrow_head, burrow_pair, burrow_str};

use crate::object::{raise_value_error, Result};

#[derive(Default)]
pub struct Head {
    pub status: u16,
    /// Reason, names and values, one after another.
    pub text: Vec<u8>,
    pub reason: (u32, u32),
    /// Start of the name, its end, which is the start of the value, and that one's end.
    headers: Vec<[u32; 3]>,
    pub content_length: Option<u64>,
}

impl Head {
    /// Room for what most answers have.
    pub fn new() -> Head {
        Head { text: Vec::with_capacity(512), ..Head::default() }
    }

    pub fn reserve(&mut self, headers: usize) {
        self.headers.reserve(headers);
    }

    /// Where there is no text yet.
    pub fn set_reason(&mut self, reason: &[u8]) {
        self.text.extend_from_slice(reason);
        self.reason = (0, reason.len() as u32);
    }

    /// Adds a header of our own.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        let middle = self.text.len();
        self.text.extend_from_slice(value);
        self.headers.push([start, middle, self.text.len()].map(|at| at as u32));
    }

    /// How many headers there are.
    pub fn count(&self) -> usize {
        self.headers.len()
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().map(|at| &self.text[at[0] as usize..at[1] as usize])
    }

    /// Whether such an answer has no body (RFC 9110, 15.3.5 and 15.4.5).
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    /// Takes the header whose name was appended to `text` at `start` and its value at `middle`, unless it is
    /// the server's.
    pub fn take_header(&mut self, start: usize, middle: usize) -> Result<()> {
        self.take(start, middle, is_hop_by_hop)
    }

    /// The same, where the one that announces trailers is not the server's.
    pub fn take_header_before_trailers(&mut self, start: usize, middle: usize) -> Result<()> {
        self.take(start, middle, |name| is_hop_by_hop(name) && !name.eq_ignore_ascii_case(b"Trailer"))
    }

    fn take(&mut self, start: usize, middle: usize, is_servers: fn(&[u8]) -> bool) -> Result<()> {
        let (name, value) = self.text[start..].split_at(middle - start);
        if !is_token(name) {
            return raise_value_error(&format!("not a header's name: '{}'", name.escape_ascii()));
        }
        if !is_field_value(value) {
            return raise_value_error(&format!(
                "control character in the value of header {}",
                name.escape_ascii()
            ));
        }
        if name.eq_ignore_ascii_case(b"Content-Length") {
            let length = parse_length(value)?;
            if self.content_length.is_some_and(|before| before != length) {
                return raise_value_error("two different Content-Length headers");
            }
            self.content_length = Some(length);
            self.text.truncate(start);
        } else if is_servers(name) {
            self.text.truncate(start);
        } else {
            let end = self.text.len();
            self.headers.push([start as u32, middle as u32, end as u32]);
        }
        Ok(())
    }

    /// The same of a trailer.
    pub fn take_trailer(&mut self, start: usize, middle: usize) -> Result<()> {
        let name = &self.text[start..middle];
        if is_one_of(&NO_TRAILERS, name) {
            return raise_value_error(&format!("{} must not be a trailer", name.escape_ascii()));
        }
        self.take_header(start, middle)
    }

    /// Adds those of another head.
    pub fn append(&mut self, other: &Head) {
        for at in &other.headers {
            let [start, middle, end] = at.map(|at| at as usize);
            self.add(&other.text[start..middle], &other.text[middle..end]);
        }
    }

    /// Calls `work` with the head as the server takes it.
    pub fn described<T>(&self, work: impl FnOnce(&burrow_head) -> T) -> T {
        let text = |start: u32, end: u32| burrow_str::new(&self.text[start as usize..end as usize]);
        let pairs: Vec<burrow_pair> = self
            .headers
            .iter()
            .map(|at| burrow_pair { name: text(at[0], at[1]), value: text(at[1], at[2]) })
            .collect();
        work(&burrow_head {
            status: self.status.into(),
            reason: text(self.reason.0, self.reason.1),
            headers: pairs.as_ptr(),
            n_headers: pairs.len(),
            content_length: self.content_length.map_or(-1, |length| length as i64),
        })
    }
}

fn parse_length(value: &[u8]) -> Result<u64> {
    let number =
        std::str::from_utf8(value.trim_ascii()).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|text| text.parse::<u64>().ok()).filter(|length| *length <= i64::MAX as u64) {
        Some(length) => Ok(length),
        None => raise_value_error(&format!("not a Content-Length: '{}'", value.escape_ascii())),
    }
}

/// RFC 9110, 5.6.2.
fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)])
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// No control character but the tab (RFC 9110, 5.5): nothing that could begin another line.
pub fn is_field_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

/// Headers of the connection, which is the server's.
fn is_hop_by_hop(name: &[u8]) -> bool {
    static NAMES: [&[u8]; 7] = [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
    ];
    is_one_of(&NAMES, name)
}

/// Headers that say how to take the message, and so have to come before it (RFC 9110, 6.5.1).
static NO_TRAILERS: [&[u8]; 25] = [
    b"Age",
    b"Authorization",
    b"Cache-Control",
    b"Connection",
    b"Content-Encoding",
    b"Content-Length",
    b"Content-Range",
    b"Content-Type",
    b"Date",
    b"Expires",
    b"Host",
    b"Keep-Alive",
    b"Location",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"Proxy-Connection",
    b"Retry-After",
    b"Set-Cookie",
    b"TE",
    b"Trailer",
    b"Transfer-Encoding",
    b"Upgrade",
    b"Vary",
    b"Warning",
    b"WWW-Authenticate",
];

fn is_one_of(names: &[&[u8]], name: &[u8]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens() {
        assert!(is_token(b"X-Thing_1"));
        assert!(!is_token(b""));
        assert!(!is_token(b"X Thing"));
        assert!(!is_token(b"X:"));
        assert!(!is_token(b"X\r\nY"));
    }

    #[test]
    fn values_hold_no_line_ends() {
        assert!(is_field_value(b"a\tb \xe4"));
        for bad in [&b"a\rb"[..], b"a\nb", b"a\0b", b"\x7f"] {
            assert!(!is_field_value(bad));
        }
    }
}
