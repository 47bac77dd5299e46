//! The request that asks for a WebSocket (RFC 6455, section 4.2).

use sha1_smol::Sha1;

use crate::extensions::{self, Deflate};

/// What such a request asks for.
#[derive(Debug)]
pub struct Handshake {
    /// The value of Sec-WebSocket-Accept.
    pub accept: String,
    /// In the client's order of preference.
    pub subprotocols: Vec<String>,
    /// How messages are compressed; None: they are not.
    pub deflate: Option<Deflate>,
}

/// Why it is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400
    Malformed(&'static str),
    /// 426, with the version that we know: Sec-WebSocket-Version.
    Version,
}

/// The version of the protocol that this is.
pub const VERSION: &str = "13";

/// Reads a request's headers. The method, Upgrade and Connection were looked at before.
pub fn read<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Handshake, Refusal> {
    let (mut version, mut key) = (None, None);
    let (mut subprotocols, mut deflate) = (Vec::new(), None);
    for (name, value) in headers {
        let Some(name) =
            name.get(..14).filter(|start| start.eq_ignore_ascii_case(b"Sec-WebSocket-")).map(|_| &name[14..])
        else {
            continue;
        };
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"Version") {
            once(&mut version, value, "two Sec-WebSocket-Version headers")?;
        } else if name.eq_ignore_ascii_case(b"Key") {
            once(&mut key, value, "two Sec-WebSocket-Key headers")?;
        } else if name.eq_ignore_ascii_case(b"Protocol") {
            add_subprotocols(value, &mut subprotocols)?;
        } else if name.eq_ignore_ascii_case(b"Extensions") {
            let offers = extensions::read(value);
            let offers = offers.ok_or(Refusal::Malformed("a malformed Sec-WebSocket-Extensions header"))?;
            deflate = deflate.or_else(|| offers.iter().find_map(Deflate::accept));
        }
    }
    match version {
        Some(version) if version == VERSION.as_bytes() => {}
        Some(_) => return Err(Refusal::Version),
        None => return Err(Refusal::Malformed("no Sec-WebSocket-Version header")),
    }
    let key = key.filter(|key| is_key(key));
    let key = key.ok_or(Refusal::Malformed("no Sec-WebSocket-Key header of 16 bytes in base64"))?;
    Ok(Handshake { accept: accept(key), subprotocols, deflate })
}

fn once<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8], twice: &'static str) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Malformed(twice)),
    }
}

fn add_subprotocols(value: &[u8], to: &mut Vec<String>) -> Result<(), Refusal> {
    for item in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let name = std::str::from_utf8(item).ok().filter(|_| is_token(item));
        to.push(name.ok_or(Refusal::Malformed("a malformed Sec-WebSocket-Protocol header"))?.to_owned());
    }
    Ok(())
}

/// Whether this is a token (RFC 9110, section 5.6.2), as the name of a subprotocol has to be.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Sixteen bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(is_digit) && key.ends_with(b"==")
}

fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::from(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(&hash.digest().bytes())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|index| u32::from(*group.get(index).unwrap_or(&0)));
        let number = a << 16 | b << 8 | c;
        for digit in 0..4 {
            match digit <= group.len() {
                true => text.push(DIGITS[(number >> (18 - 6 * digit) & 63) as usize].into()),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn read(headers: &[(&str, &str)]) -> Result<Handshake, Refusal> {
        super::read(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    fn with(headers: &[(&str, &str)]) -> Result<Handshake, Refusal> {
        read(&[&[("sec-websocket-version", "13"), ("Sec-WebSocket-KEY", KEY)], headers].concat())
    }

    #[test]
    fn the_example_of_the_rfc() {
        let handshake = with(&[("Host", "example"), ("Sec-WebSocket-Protocol", "chat, superchat")]).unwrap();
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(handshake.subprotocols, ["chat", "superchat"]);
        assert!(handshake.deflate.is_none());
    }

    #[test]
    fn lists_go_on_in_the_next_header() {
        let handshake = with(&[
            ("Sec-WebSocket-Protocol", "a"),
            ("Sec-WebSocket-Protocol", "b"),
            ("Sec-WebSocket-Extensions", "x-other"),
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ]);
        let handshake = handshake.unwrap();
        assert_eq!(handshake.subprotocols, ["a", "b"]);
        assert!(handshake.deflate.is_some());
    }

    #[test]
    fn refusals() {
        let versions = |version| read(&[("Sec-WebSocket-Version", version), ("Sec-WebSocket-Key", KEY)]);
        assert_eq!(versions("8").unwrap_err(), Refusal::Version);
        assert_eq!(versions("13, 8").unwrap_err(), Refusal::Version);
        for headers in [
            &[("Sec-WebSocket-Key", KEY)][..],
            &[("Sec-WebSocket-Version", "13")],
            &[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ==")],
            &[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ===")],
            &[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Key", KEY)],
        ] {
            assert!(matches!(read(headers), Err(Refusal::Malformed(_))), "{headers:?}");
        }
        for (name, value) in [
            ("Sec-WebSocket-Protocol", "a,,b"),
            ("Sec-WebSocket-Protocol", "a b"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; ="),
        ] {
            assert!(matches!(with(&[(name, value)]), Err(Refusal::Malformed(_))), "{value}");
        }
    }
}
