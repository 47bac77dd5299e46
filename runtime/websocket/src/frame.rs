//! Frames (RFC 6455, section 5.2): headers, and the mask of what clients send.

use crate::close::{Close, PROTOCOL_ERROR, TOO_BIG};

/// The longest header of a masked frame.
pub const LONGEST_HEADER: usize = 14;
/// The longest payload of a control frame.
pub const LONGEST_CONTROL: usize = 125;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(bits: u8) -> Option<Opcode> {
        use Opcode::*;
        [Continuation, Text, Binary, Close, Ping, Pong].into_iter().find(|opcode| *opcode as u8 == bits)
    }

    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Opcode {
        match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        }
    }
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const OTHER_RSV: u8 = 0x30;
const MASKED: u8 = 0x80;

/// A frame whose header has come.
#[derive(Debug)]
pub struct Frame {
    pub opcode: Opcode,
    pub is_final: bool,
    /// RSV1: the message is compressed.
    pub compressed: bool,
    /// Bytes of the payload that are still to come.
    pub left: u64,
    /// For the next byte first.
    mask: [u8; 4],
}

/// How many bytes the header has that begins so.
pub fn header_length(start: [u8; 2]) -> usize {
    let length = match start[1] & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if start[1] & MASKED == 0 { 0 } else { 4 };
    2 + length + mask
}

impl Frame {
    /// Reads a whole header. How the connection is closed, where it must not be of a client's frame.
    pub fn read(header: &[u8]) -> Result<Frame, Close> {
        let wrong = |why| Err(Close::new(PROTOCOL_ERROR, why));
        let [first, second] = [header[0], header[1]];
        let Some(opcode) = Opcode::of(first & 0x0f) else { return wrong("an unknown kind of frame") };
        if first & OTHER_RSV != 0 {
            return wrong("a reserved bit is set");
        }
        if second & MASKED == 0 {
            return wrong("a frame without a mask");
        }
        let (length, mask) = header[2..].split_at(header.len() - 6);
        let length = match length.len() {
            0 => u64::from(second & !MASKED),
            _ => length.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        };
        let frame = Frame {
            opcode,
            is_final: first & FIN != 0,
            compressed: first & RSV1 != 0,
            left: length,
            mask: mask.try_into().expect("four bytes are left"),
        };
        match opcode.is_control() {
            _ if length > i64::MAX as u64 => Err(Close::new(TOO_BIG, "a frame of more than 2^63 bytes")),
            true if !frame.is_final => wrong("a fragmented control frame"),
            true if frame.compressed => wrong("a compressed control frame"),
            true if length as usize > LONGEST_CONTROL => wrong("a control frame of more than 125 bytes"),
            _ => Ok(frame),
        }
    }

    /// Takes the mask off the next bytes of the payload.
    pub fn unmask(&mut self, bytes: &mut [u8]) {
        let mask = u64::from_ne_bytes([self.mask, self.mask].concat().try_into().expect("eight bytes"));
        let mut words = bytes.chunks_exact_mut(8);
        for word in &mut words {
            let plain = u64::from_ne_bytes((&*word).try_into().expect("eight bytes")) ^ mask;
            word.copy_from_slice(&plain.to_ne_bytes());
        }
        for (byte, mask) in words.into_remainder().iter_mut().zip(self.mask.into_iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(bytes.len() % 4);
        self.left -= bytes.len() as u64;
    }
}

/// Appends a server's frame, which has no mask.
pub fn write(opcode: Opcode, compressed: bool, payload: &[u8], to: &mut Vec<u8>) {
    to.reserve(LONGEST_HEADER + payload.len());
    to.push(FIN | if compressed { RSV1 } else { 0 } | opcode as u8);
    match payload.len() {
        short @ 0..=125 => to.push(short as u8),
        medium @ ..=0xffff => {
            to.push(126);
            to.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            to.push(127);
            to.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    to.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_go_on_over_cuts() {
        let mask = [1, 2, 3, 4];
        let plain: Vec<u8> = (0..100).collect();
        let masked: Vec<u8> = plain.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        for cut in 0..100 {
            let mut bytes = masked.clone();
            let mut frame = Frame::read(&[0x82, 0x80 | 100, 1, 2, 3, 4]).unwrap();
            let (first, second) = bytes.split_at_mut(cut);
            frame.unmask(first);
            frame.unmask(second);
            assert_eq!((&bytes, frame.left), (&plain, 0), "{cut}");
        }
    }

    #[test]
    fn lengths() {
        for (length, bytes) in [(125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let mut sent = Vec::new();
            write(Opcode::Binary, false, &vec![7; length], &mut sent);
            assert_eq!(sent.len(), bytes + length);
            sent[1] |= MASKED;
            assert_eq!(header_length([sent[0], sent[1]]), bytes + 4);
            sent.splice(bytes..bytes, [0; 4]);
            assert_eq!(Frame::read(&sent[..bytes + 4]).unwrap().left, length as u64);
        }
    }

    #[test]
    fn what_a_client_must_not_send() {
        let code = |header: &[u8]| Frame::read(header).unwrap_err().code;
        for header in [
            [0x83, 0x80, 0, 0, 0, 0],
            [0x8b, 0x80, 0, 0, 0, 0],
            [0xa1, 0x80, 0, 0, 0, 0],
            [0x91, 0x80, 0, 0, 0, 0],
            [0x09, 0x80, 0, 0, 0, 0],
            [0xc9, 0x80, 0, 0, 0, 0],
        ] {
            assert_eq!(code(&header), PROTOCOL_ERROR, "{header:x?}");
        }
        assert_eq!(code(&[0x81, 0]), PROTOCOL_ERROR);
        assert_eq!(code(&[0x89, 0xfe, 0, 126, 0, 0, 0, 0]), PROTOCOL_ERROR);
        let huge = [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(code(&huge), TOO_BIG);
    }
}
