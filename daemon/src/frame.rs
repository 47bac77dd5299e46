//! The frames of a connection between a server and a worker: a header of eight bytes and a payload.
//!
//! ```text
//!  length of the payload: u32 | kind: u8 | flags: u8 | zero: u16      little-endian
//! ```

/// Of the frames and of what they hold; in every HELLO.
pub const VERSION: u16 = 2;
/// Bytes of a frame's header.
pub const HEADER: usize = 8;
/// The longest payload of BODY: what a sender cuts a body into.
pub const BODY_MAX: usize = 64 << 10;
/// The longest payload of any other frame.
pub const HEAD_MAX: usize = 1 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Worker: the first on a connection. [`Hello`], with the descriptors of the page and of its notice.
    Hello = 1,
    /// Server: a request begins. See [`crate::request`].
    Request = 2,
    /// Either: bytes of the request's body, or of the answer's.
    Body = 3,
    /// Worker: the answer begins. See [`crate::head`].
    Head = 4,
    /// Worker: a piece of the answer that lies in a file. [`File`], with its descriptor.
    File = 5,
    /// Worker: the answer ends here and is not whole. One byte, a [`burrow_abi::burrow_outcome`], which
    /// says what the client gets where nothing was sent yet.
    Abort = 6,
    /// Worker: this connection should not be used again. It is still served until the server closes it.
    GoAway = 7,
}

impl Kind {
    pub fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Hello, Request, Body, Head, File, Abort, GoAway].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The longest payload that a receiver takes.
    pub fn longest(self) -> usize {
        match self {
            Kind::Body => BODY_MAX,
            _ => HEAD_MAX,
        }
    }
}

/// On REQUEST, HEAD, BODY and FILE: nothing follows, the request or answer is whole.
pub const LAST: u8 = 1;
/// On HEAD, BODY and FILE: the client should get what there is now.
pub const FLUSH: u8 = 2;
/// On a server's BODY without bytes, behind a 101: the process that has the client is about to end.
pub const RETIRED: u8 = 4;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub flags: u8,
    /// Bytes of the payload.
    pub length: usize,
}

impl Header {
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&(self.length as u32).to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes
    }

    /// None for what is no frame of this version.
    pub fn read(bytes: &[u8; HEADER]) -> Option<Header> {
        let [a, b, c, d, kind, flags, 0, 0] = *bytes else { return None };
        let kind = Kind::of(kind)?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        (length <= kind.longest()).then_some(Header { kind, flags, length })
    }
}

/// What a worker says first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The connection's slot of the page.
    pub slot: u32,
}

impl Hello {
    pub fn bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&VERSION.to_le_bytes());
        bytes[4..].copy_from_slice(&self.slot.to_le_bytes());
        bytes
    }

    /// None for another version or what is no slot.
    pub fn read(payload: &[u8]) -> Option<Hello> {
        let [v0, v1, 0, 0, slot @ ..] = payload else { return None };
        let slot = u32::from_le_bytes(slot.try_into().ok()?);
        (u16::from_le_bytes([*v0, *v1]) == VERSION && (slot as usize) < crate::page::SLOTS)
            .then_some(Hello { slot })
    }
}

/// A piece of an answer that lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl File {
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// None where it cannot be a range of a file.
    pub fn read(payload: &[u8]) -> Option<File> {
        let (offset, length) = payload.split_at_checked(8)?;
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let file = File { offset: number(offset)?, length: number(length)? };
        let end = file.offset.checked_add(file.length)?;
        i64::try_from(end).is_ok().then_some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive() {
        let header = Header { kind: Kind::Body, flags: LAST | FLUSH, length: BODY_MAX };
        assert_eq!(Header::read(&header.bytes()), Some(header));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [*b"GET / HT", [0; 8], [1, 0, 1, 0, 3, 0, 0, 0], [0, 0, 0, 0, 3, 0, 0, 1]] {
            assert_eq!(Header::read(&bytes), None);
        }
    }

    #[test]
    fn hellos_and_files() {
        let hello = Hello { slot: 7 };
        assert_eq!(Hello::read(&hello.bytes()), Some(hello));
        assert_eq!(Hello::read(&Hello { slot: u32::MAX }.bytes()), None);
        assert_eq!(Hello::read(&hello.bytes()[..7]), None);
        let file = File { offset: 10, length: 20 };
        assert_eq!(File::read(&file.bytes()), Some(file));
        assert_eq!(File::read(&File { offset: u64::MAX, length: 1 }.bytes()), None);
        assert_eq!(File::read(&File { offset: 0, length: 1 << 63 }.bytes()), None);
        assert_eq!(File::read(b""), None);
    }
}
