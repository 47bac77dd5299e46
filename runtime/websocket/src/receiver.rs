//! What a client sends, from bytes that are cut anywhere.

use crate::close::{Close, INVALID_DATA, PROTOCOL_ERROR, TOO_BIG};
use crate::deflate::Decompressor;
use crate::frame::{header_length, Frame, Kind, Opcode, LONGEST_HEADER};

/// What a client has said.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Close),
}

/// Room that is made for what a frame's header announces, without having come.
const TRUSTED: u64 = 64 << 10;

#[derive(Debug)]
pub struct Receiver {
    /// Bytes of the longest message.
    longest: usize,
    /// None: the client must not compress.
    decompressor: Option<Decompressor>,
    header: [u8; LONGEST_HEADER],
    have: usize,
    frame: Option<Frame>,
    /// The payload of a control frame.
    control: Vec<u8>,
    message: Option<Message>,
}

/// A message that is not whole.
#[derive(Debug)]
struct Message {
    kind: Kind,
    compressed: bool,
    data: Vec<u8>,
    /// So many bytes are known to be UTF-8.
    checked: usize,
}

impl Receiver {
    pub fn new(longest: usize, decompressor: Option<Decompressor>) -> Receiver {
        Receiver {
            longest,
            decompressor,
            header: [0; LONGEST_HEADER],
            have: 0,
            frame: None,
            control: Vec::new(),
            message: None,
        }
    }

    /// Takes bytes off the front, which are changed, until something is whole; None when all were taken. How
    /// the connection is closed, where the client has broken the protocol.
    pub fn receive(&mut self, bytes: &mut &mut [u8]) -> Result<Option<Received>, Close> {
        loop {
            if self.frame.is_none() && !self.begin(bytes)? {
                return Ok(None);
            }
            let frame = self.frame.as_mut().expect("one has begun");
            let count = frame.left.min(bytes.len() as u64) as usize;
            let (payload, rest) = std::mem::take(bytes).split_at_mut(count);
            *bytes = rest;
            frame.unmask(payload);
            let Receiver { longest, decompressor, message, control, .. } = self;
            match message {
                _ if frame.opcode.is_control() => control.extend_from_slice(payload),
                Some(message) => message.add(payload, decompressor, *longest)?,
                None => unreachable!("begun with the frame"),
            }
            if frame.left > 0 {
                return Ok(None);
            }
            if let Some(received) = self.end()? {
                return Ok(Some(received));
            }
        }
    }

    /// Takes the header of a frame. Whether it was whole.
    fn begin(&mut self, bytes: &mut &mut [u8]) -> Result<bool, Close> {
        while self.have < 2 || self.have < header_length([self.header[0], self.header[1]]) {
            let Some((byte, rest)) = std::mem::take(bytes).split_first_mut() else { return Ok(false) };
            self.header[self.have] = *byte;
            *bytes = rest;
            self.have += 1;
        }
        let frame = Frame::read(&self.header[..std::mem::take(&mut self.have)])?;
        if !frame.opcode.is_control() {
            self.begin_message(&frame)?;
        }
        self.frame = Some(frame);
        Ok(true)
    }

    fn begin_message(&mut self, frame: &Frame) -> Result<(), Close> {
        let wrong = |why| Err(Close::new(PROTOCOL_ERROR, why));
        let kind = match (frame.opcode, &self.message) {
            (Opcode::Continuation, None) => return wrong("a continuation of nothing"),
            (Opcode::Continuation, Some(_)) => None,
            (_, Some(_)) => return wrong("a message within another one"),
            (Opcode::Text, None) => Some(Kind::Text),
            (_, None) => Some(Kind::Binary),
        };
        if frame.compressed && (kind.is_none() || self.decompressor.is_none()) {
            return wrong("a frame that must not be compressed");
        }
        let message = match kind {
            None => self.message.as_mut().expect("as above"),
            Some(kind) => self.message.insert(Message {
                kind,
                compressed: frame.compressed,
                data: Vec::new(),
                checked: 0,
            }),
        };
        let before = if message.compressed { 0 } else { message.data.len() as u64 };
        if before + frame.left > self.longest as u64 {
            return Err(Close::new(TOO_BIG, "a message that is too long"));
        }
        message.data.reserve(frame.left.min(TRUSTED) as usize);
        Ok(())
    }

    /// A frame is whole, and with it, maybe, what it belongs to.
    fn end(&mut self) -> Result<Option<Received>, Close> {
        let frame = self.frame.take().expect("one has come");
        Ok(match frame.opcode {
            Opcode::Close => Some(Received::Close(Close::read(&std::mem::take(&mut self.control))?)),
            Opcode::Ping => Some(Received::Ping(std::mem::take(&mut self.control))),
            Opcode::Pong => Some(Received::Pong(std::mem::take(&mut self.control))),
            _ if !frame.is_final => None,
            _ => {
                let message = self.message.take().expect("begun with its first frame");
                Some(message.end(&mut self.decompressor, self.longest)?)
            }
        })
    }
}

impl Message {
    fn add(
        &mut self,
        payload: &[u8],
        decompressor: &mut Option<Decompressor>,
        longest: usize,
    ) -> Result<(), Close> {
        match decompressor {
            Some(decompressor) if self.compressed => decompressor.add(payload, &mut self.data, longest)?,
            _ => self.data.extend_from_slice(payload),
        }
        self.check()
    }

    fn end(mut self, decompressor: &mut Option<Decompressor>, longest: usize) -> Result<Received, Close> {
        if let Some(decompressor) = decompressor.as_mut().filter(|_| self.compressed) {
            decompressor.end(&mut self.data, longest)?;
            self.check()?;
        }
        if self.kind == Kind::Text && self.checked < self.data.len() {
            return Err(Close::new(INVALID_DATA, "text that is not UTF-8"));
        }
        Ok(Received::Message(self.kind, self.data))
    }

    /// Text has to be UTF-8, but for a character whose end has not come.
    fn check(&mut self) -> Result<(), Close> {
        if self.kind == Kind::Text {
            match std::str::from_utf8(&self.data[self.checked..]) {
                Ok(text) => self.checked += text.len(),
                Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
                Err(_) => return Err(Close::new(INVALID_DATA, "text that is not UTF-8")),
            }
        }
        Ok(())
    }
}
