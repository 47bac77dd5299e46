//! Why a connection is closed (RFC 6455, section 7.4).

pub const NORMAL: u16 = 1000;
pub const GOING_AWAY: u16 = 1001;
/// The frame said nothing: never sent.
pub const NO_STATUS: u16 = 1005;
/// There was no frame: never sent.
pub const ABNORMAL: u16 = 1006;
pub const PROTOCOL_ERROR: u16 = 1002;
pub const INVALID_DATA: u16 = 1007;
pub const TOO_BIG: u16 = 1009;
pub const INTERNAL_ERROR: u16 = 1011;
pub const SERVICE_RESTART: u16 = 1012;

/// The longest reason, in bytes: a control frame has no more room.
pub const LONGEST_REASON: usize = 123;

/// What a Close frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: String,
}

impl Close {
    pub fn new(code: u16, reason: &str) -> Close {
        Close { code, reason: reason.to_owned() }
    }

    /// The payload of a Close frame; the code with which to answer what is none.
    pub(crate) fn read(payload: &[u8]) -> Result<Close, Close> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return match payload {
                [] => Ok(Close::new(NO_STATUS, "")),
                _ => Err(Close::new(PROTOCOL_ERROR, "a Close frame of one byte")),
            };
        };
        let code = u16::from_be_bytes(*code);
        if !is_sendable(code) {
            return Err(Close::new(PROTOCOL_ERROR, "a Close frame with an invalid code"));
        }
        match std::str::from_utf8(reason) {
            Ok(reason) => Ok(Close::new(code, reason)),
            Err(_) => Err(Close::new(INVALID_DATA, "a reason that is not UTF-8")),
        }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        match self.code {
            NO_STATUS => Vec::new(),
            code => [&code.to_be_bytes(), self.reason.as_bytes()].concat(),
        }
    }
}

/// Whether a Close frame may have this code.
pub fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads() {
        assert_eq!(Close::read(b""), Ok(Close::new(NO_STATUS, "")));
        assert_eq!(Close::read(b"\x03\xe8ok"), Ok(Close::new(NORMAL, "ok")));
        let code = |payload: &[u8]| Close::read(payload).unwrap_err().code;
        assert_eq!(code(b"\x03"), PROTOCOL_ERROR);
        assert_eq!(code(b"\x03\xe8\xff"), INVALID_DATA);
        for invalid in [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, u16::MAX] {
            assert_eq!(code(&invalid.to_be_bytes()), PROTOCOL_ERROR, "{invalid}");
        }
        for close in [Close::new(4321, "why"), Close::new(NO_STATUS, "")] {
            assert_eq!(Close::read(&close.payload()), Ok(close));
        }
    }
}
