//! A connection behind its handshake: what the client sends becomes events, what is said to it becomes bytes.

use crate::close::{Close, NO_STATUS};
use crate::deflate::{compress, Decompressor};
use crate::extensions::Deflate;
use crate::frame::{self, Kind, Opcode};
use crate::receiver::{Received, Receiver};

/// What the client has said, or has to be told.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Text is UTF-8.
    Message(Kind, Vec<u8>),
    /// The answer to a ping, or an unasked-for one.
    Pong(Vec<u8>),
    /// The last one. What the client's Close frame says, or ours where it has broken the protocol.
    Closed(Close),
}

/// Pongs are not added to so much output that the client does not take, but for the last one.
const BACKLOG: usize = 4 << 10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    /// We have sent a Close frame; the client has not.
    Closing,
    Closed,
}

#[derive(Debug)]
pub struct Connection {
    receiver: Receiver,
    deflate: Option<Deflate>,
    state: State,
    output: Vec<u8>,
    /// The last ping that is not answered.
    ping: Option<Vec<u8>>,
}

impl Connection {
    /// `longest`: bytes of a message of the client's.
    pub fn new(deflate: Option<Deflate>, longest: usize) -> Connection {
        let receiver = Receiver::new(longest, deflate.as_ref().map(Decompressor::new));
        Connection { receiver, deflate, state: State::Open, output: Vec::new(), ping: None }
    }

    /// Takes bytes off the front, which are changed, to the end of an event; None when all were taken.
    pub fn receive(&mut self, bytes: &mut &mut [u8]) -> Option<Event> {
        while self.state != State::Closed {
            let event = match self.receiver.receive(bytes) {
                Ok(None) => return None,
                Ok(Some(Received::Message(kind, data))) => Event::Message(kind, data),
                Ok(Some(Received::Pong(data))) => Event::Pong(data),
                Ok(Some(Received::Ping(data))) => {
                    self.answer(data);
                    continue;
                }
                Ok(Some(Received::Close(close))) => {
                    // With the client's code and without its reason.
                    self.close(&Close::new(close.code, ""));
                    self.state = State::Closed;
                    return Some(Event::Closed(close));
                }
                Err(close) => {
                    self.close(&close);
                    self.state = State::Closed;
                    return Some(Event::Closed(close));
                }
            };
            // Who has said goodbye does not listen any more.
            if self.state == State::Open {
                return Some(event);
            }
        }
        *bytes = &mut [];
        None
    }

    /// Sends a message.
    pub fn send(&mut self, kind: Kind, data: &[u8]) {
        match &self.deflate {
            Some(deflate) => self.write(kind.into(), true, &compress(data, deflate)),
            None => self.write(kind.into(), false, data),
        }
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self) {
        self.write(Opcode::Ping, false, &[]);
    }

    /// Sends a Close frame, after which nothing is sent. [`NO_STATUS`]: one that says nothing.
    pub fn close(&mut self, close: &Close) {
        debug_assert!(close.code == NO_STATUS || crate::close::is_sendable(close.code));
        self.write(Opcode::Close, false, &close.payload());
        if self.state == State::Open {
            self.state = State::Closing;
        }
    }

    /// Whether both sides have said goodbye, or the client is not worth it.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// What is to be sent to the client.
    pub fn take_output(&mut self) -> Vec<u8> {
        if let Some(ping) = self.ping.take() {
            self.write(Opcode::Pong, false, &ping);
        }
        std::mem::take(&mut self.output)
    }

    fn answer(&mut self, ping: Vec<u8>) {
        if self.output.len() < BACKLOG {
            self.write(Opcode::Pong, false, &ping);
        } else {
            self.ping = Some(ping);
        }
    }

    fn write(&mut self, opcode: Opcode, compressed: bool, payload: &[u8]) {
        if self.state == State::Open {
            frame::write(opcode, compressed, payload, &mut self.output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::{INVALID_DATA, NORMAL, PROTOCOL_ERROR, TOO_BIG};
    use crate::handshake;

    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

    /// A client's frame of fewer than 65536 bytes; `first` is the header's first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ ..126 => bytes.push(0x80 | short as u8),
            longer => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(longer as u16).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn agreed(offer: &str) -> Option<Deflate> {
        let headers = [
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Extensions", offer),
        ];
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        handshake::read(headers).unwrap().deflate
    }

    fn events(connection: &mut Connection, mut bytes: Vec<u8>) -> Vec<Event> {
        let mut rest = &mut bytes[..];
        let events = std::iter::from_fn(|| connection.receive(&mut rest)).collect();
        assert!(rest.is_empty());
        events
    }

    fn text(text: &str) -> Event {
        Event::Message(Kind::Text, text.into())
    }

    #[test]
    fn control_frames_come_between_the_pieces_of_a_message() {
        let stream = [
            frame(0x01, b"Hel"),
            frame(0x89, b"ping"),
            frame(0x00, b""),
            frame(0x8a, b"pong"),
            frame(0x80, "lö".as_bytes()),
            frame(0x82, &[0xff; 300]),
            frame(0x88, b"\x0f\xa0bye"),
            frame(0x81, b"too late"),
        ];
        let stream = stream.concat();
        let expected = [
            Event::Pong(b"pong".into()),
            text("Hellö"),
            Event::Message(Kind::Binary, vec![0xff; 300]),
            Event::Closed(Close::new(4000, "bye")),
        ];
        for cut in 0..stream.len() {
            let mut connection = Connection::new(None, 300);
            let mut got = events(&mut connection, stream[..cut].to_vec());
            got.extend(events(&mut connection, stream[cut..].to_vec()));
            assert_eq!(got, expected, "{cut}");
            assert_eq!(connection.take_output(), b"\x8a\x04ping\x88\x02\x0f\xa0");
            assert!(connection.is_closed());
        }
    }

    #[test]
    fn what_breaks_the_protocol() {
        for (code, stream) in [
            (PROTOCOL_ERROR, frame(0x80, b"a continuation of nothing")),
            (PROTOCOL_ERROR, [frame(0x01, b"a"), frame(0x81, b"b")].concat()),
            (PROTOCOL_ERROR, frame(0xc1, b"compressed, though that was not agreed on")),
            (PROTOCOL_ERROR, frame(0x88, b"\x03\xed")),
            (PROTOCOL_ERROR, frame(0x88, b"\x03")),
            (INVALID_DATA, frame(0x81, b"\xff")),
            (INVALID_DATA, frame(0x81, b"incomplete \xc3")),
            (INVALID_DATA, frame(0x01, b"a surrogate \xed\xa0")),
            (INVALID_DATA, frame(0x88, b"\x03\xe8\xff")),
            (TOO_BIG, frame(0x82, &[0; 101])),
            (TOO_BIG, [frame(0x02, &[0; 60]), frame(0x80, &[0; 41])].concat()),
        ] {
            let mut connection = Connection::new(None, 100);
            let got = events(&mut connection, stream);
            let [Event::Closed(close)] = &got[..] else { panic!("{got:?}") };
            assert_eq!(close.code, code, "{close:?}");
            let output = connection.take_output();
            assert_eq!((output[0], &output[2..4]), (0x88, &code.to_be_bytes()[..]));
        }
    }

    #[test]
    fn text_that_is_wrong_fails_before_its_frame_is_whole() {
        let mut connection = Connection::new(None, 1000);
        let stream = frame(0x81, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited");
        let (first, second) = stream.split_at(6 + 12);
        assert_eq!(events(&mut connection, first.to_vec()), []);
        assert!(matches!(&events(&mut connection, second[..1].to_vec())[..], [Event::Closed(_)]));
    }

    #[test]
    fn goodbye() {
        let mut connection = Connection::new(None, 100);
        connection.close(&Close::new(NORMAL, "done"));
        connection.close(&Close::new(4000, "twice"));
        connection.send(Kind::Text, b"too late");
        assert_eq!(connection.take_output(), b"\x88\x06\x03\xe8done");
        let stream = [frame(0x81, b"meanwhile"), frame(0x89, b"ping")].concat();
        assert_eq!(events(&mut connection, stream), []);
        assert!(!connection.is_closed());
        let closed = Event::Closed(Close::new(NORMAL, "done"));
        assert_eq!(events(&mut connection, frame(0x88, b"\x03\xe8done")), [closed]);
        assert!(connection.is_closed() && connection.take_output().is_empty());
    }

    #[test]
    fn a_client_that_only_pings_gets_the_last_answer() {
        let mut connection = Connection::new(None, 100);
        for number in 0..1000u32 {
            events(&mut connection, frame(0x89, &number.to_be_bytes()));
        }
        let output = connection.take_output();
        assert!(output.len() < 2 * BACKLOG);
        assert!(output.ends_with(&999u32.to_be_bytes()));
    }

    #[test]
    fn compressed_messages() {
        let deflate = agreed("permessage-deflate");
        let mut connection = Connection::new(deflate, 100);
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(events(&mut connection, frame(0xc1, &hello)), [text("Hello")]);
        let pieces =
            [frame(0x41, &hello[..3]), frame(0x89, b""), frame(0x00, &hello[3..6]), frame(0x80, &hello[6..])];
        assert_eq!(events(&mut connection, pieces.concat()), [text("Hello")]);
        assert_eq!(events(&mut connection, frame(0x81, b"plain")), [text("plain")]);
        connection.take_output();
        connection.send(Kind::Binary, &[0; 2000]);
        let mut output = connection.take_output();
        assert_eq!((output[0], output[1] as usize), (0xc2, output.len() - 2));
        output.drain(..2);
        assert_eq!(
            events(&mut connection, frame(0xc2, &output)),
            [Event::Closed(Close::new(TOO_BIG, "a message that is too long"))]
        );
    }

    /// Numbers that are the same in each run.
    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn rubbish_ends_the_connection_and_nothing_else() {
        let seed = &mut 42;
        for round in 0..3000 {
            let mut connection =
                Connection::new(agreed("permessage-deflate").filter(|_| round % 2 == 0), 1000);
            let mut stream = Vec::new();
            while stream.len() < 500 {
                let length = random(seed) % 40;
                let payload: Vec<u8> = (0..length).map(|_| random(seed) as u8 & 0x7f).collect();
                let first = [0x01, 0x80, 0x00, 0x81, 0x82, 0xc1, 0x41, 0x89][random(seed) as usize % 8];
                stream.extend(frame(first, &payload));
            }
            for _ in 0..random(seed) % 4 {
                let place = random(seed) as usize % stream.len();
                stream[place] = random(seed) as u8;
            }
            let mut whole = Connection::new(connection.deflate.clone(), 1000);
            let mut expected = events(&mut whole, stream.clone());
            let mut got = Vec::new();
            while !stream.is_empty() {
                let count = (1 + random(seed) as usize % 50).min(stream.len());
                got.extend(events(&mut connection, stream.drain(..count).collect()));
            }
            // Of two things that are wrong another one may be noticed first.
            for event in got.iter_mut().chain(&mut expected) {
                if let Event::Closed(close) = event {
                    close.reason.clear();
                }
            }
            assert_eq!(got, expected);
        }
    }
}
