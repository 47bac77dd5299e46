//! Extensions (RFC 6455, section 9.1), of which there is one: permessage-deflate (RFC 7692).

use crate::handshake::is_token;

/// What a client offers: a name and parameters.
pub struct Offer<'a> {
    name: &'a [u8],
    parameters: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// Reads the value of a Sec-WebSocket-Extensions header. None where it is malformed.
pub fn read(value: &[u8]) -> Option<Vec<Offer<'_>>> {
    // No value that an extension knows has a comma or semicolon, though a quoted one could.
    value.split(|byte| *byte == b',').map(offer).collect()
}

fn offer(text: &[u8]) -> Option<Offer<'_>> {
    let mut parts = text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| is_token(name))?;
    Some(Offer { name, parameters: parts.map(parameter).collect::<Option<_>>()? })
}

fn parameter(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut halves = text.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
    let name = halves.next().filter(|name| is_token(name))?;
    let Some(value) = halves.next() else { return Some((name, None)) };
    let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    is_token(unquoted).then_some((name, Some(unquoted)))
}

/// How messages are compressed, once both sides have agreed on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// The size of our window, as a power of two.
    pub(crate) own_bits: u8,
    /// Of the client's.
    pub(crate) client_bits: u8,
    /// The client has said that it lets us choose that.
    client_bits_chosen: bool,
    /// The client begins anew with each message.
    pub(crate) client_begins_anew: bool,
}

const LARGEST: u8 = 15;
/// Of those clients that let us choose: it is memory that a connection keeps.
const CHOSEN: u8 = 12;
/// The smallest that zlib can compress with.
const SMALLEST: u8 = 9;

impl Deflate {
    /// Accepts an offer. None where it is another extension's or we cannot do it.
    pub(crate) fn accept(offer: &Offer) -> Option<Deflate> {
        if offer.name != b"permessage-deflate" {
            return None;
        }
        let mut seen = Vec::new();
        let mut agreed = Deflate {
            own_bits: LARGEST,
            client_bits: LARGEST,
            client_bits_chosen: false,
            client_begins_anew: false,
        };
        for &(name, value) in &offer.parameters {
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                (b"server_no_context_takeover", None) => {}
                (b"client_no_context_takeover", None) => agreed.client_begins_anew = true,
                (b"server_max_window_bits", Some(value)) => {
                    agreed.own_bits = bits(value).filter(|bits| *bits >= SMALLEST)?;
                }
                (b"client_max_window_bits", value) => {
                    agreed.client_bits = value.map_or(Some(LARGEST), bits)?.min(CHOSEN);
                    agreed.client_bits_chosen = true;
                }
                _ => return None,
            }
        }
        Some(agreed)
    }

    /// The value of Sec-WebSocket-Extensions in our answer.
    pub fn header(&self) -> String {
        // We never refer to an earlier message: a connection that only waits needs no memory for that.
        let mut header = "permessage-deflate; server_no_context_takeover".to_owned();
        if self.own_bits < LARGEST {
            header += &format!("; server_max_window_bits={}", self.own_bits);
        }
        if self.client_begins_anew {
            header += "; client_no_context_takeover";
        }
        if self.client_bits_chosen {
            header += &format!("; client_max_window_bits={}", self.client_bits);
        }
        header
    }
}

fn bits(value: &[u8]) -> Option<u8> {
    let number: u8 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == value && (8..=LARGEST).contains(&number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(offers: &str) -> Option<String> {
        let offers = read(offers.as_bytes()).expect("well formed");
        offers.iter().find_map(Deflate::accept).map(|deflate| deflate.header())
    }

    #[test]
    fn answers() {
        let begin = "permessage-deflate; server_no_context_takeover";
        for (offer, rest) in [
            ("permessage-deflate", ""),
            ("x-webkit-deflate-frame, permessage-deflate", ""),
            ("permessage-deflate; client_max_window_bits", "; client_max_window_bits=12"),
            ("permessage-deflate; client_max_window_bits=9", "; client_max_window_bits=9"),
            ("permessage-deflate; client_no_context_takeover", "; client_no_context_takeover"),
            ("permessage-deflate; server_no_context_takeover", ""),
            ("permessage-deflate;server_max_window_bits=\"10\"", "; server_max_window_bits=10"),
            ("permessage-deflate; server_max_window_bits=15", ""),
            ("permessage-deflate; server_max_window_bits=8, permessage-deflate", ""),
            ("permessage-deflate; client_max_window_bits=07, permessage-deflate", ""),
            ("permessage-deflate; unknown, permessage-deflate", ""),
        ] {
            assert_eq!(answer(offer).as_deref(), Some(&*format!("{begin}{rest}")), "{offer}");
        }
    }

    #[test]
    fn what_is_declined() {
        for offer in [
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        ] {
            assert_eq!(answer(offer), None, "{offer}");
        }
    }

    #[test]
    fn what_is_malformed() {
        for value in ["", ",", "a;", "a; b=", "a; b=\"c", "a b", "a; =c", "a; b=c d"] {
            assert!(read(value.as_bytes()).is_none(), "{value}");
        }
    }
}
