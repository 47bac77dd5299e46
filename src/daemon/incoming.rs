//! What a worker sends, frame by frame, from bytes that are cut anywhere. Nothing of it is trusted.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use burrow_abi::{
    burrow_head, burrow_outcome, burrow_pair, BURROW_ABORTED, BURROW_DIED, BURROW_FAILED, BURROW_TIMEOUT,
    BURROW_UNAVAILABLE,
};
use burrow_daemon::frame::{self, Header, Kind};
use burrow_daemon::head::{self, EARLY_HINTS, MOST_HINTS, SWITCHING_PROTOCOLS, TRAILERS};

use super::file;

/// The longest payload of a frame that is neither HEAD nor BODY.
const SMALL: usize = 16;
/// Pieces of one answer that lie in files: each keeps a descriptor open.
const MOST_FILES: u32 = 16;
/// Descriptors that have come before their frames were read: HELLO has two.
const MOST_DESCRIPTORS: usize = 2 + MOST_FILES as usize;

/// Why an answer may end that is not whole: that all is well, or that the client has left, is not for a worker to
/// say.
const ABORTS: [burrow_outcome; 5] =
    [BURROW_FAILED, BURROW_UNAVAILABLE, BURROW_ABORTED, BURROW_DIED, BURROW_TIMEOUT];

/// What comes next.
#[derive(Debug)]
pub enum Part<'a> {
    /// Nothing before there are so many bytes more, or so many in one piece where a head begins.
    More(usize),
    /// The payload of a HELLO, and its descriptors.
    Hello([u8; 8], Vec<OwnedFd>),
    /// Points into the bytes and into [`Incoming`]. Behind one of [`EARLY_HINTS`] another one comes.
    Head(burrow_head),
    /// Bytes of the body, and whether the client should get them now.
    Body(&'a [u8], bool),
    File(OwnedFd, frame::File),
    /// Points into [`Incoming`]; the end comes next.
    Trailers(burrow_head),
    /// The answer is whole.
    End,
    /// It ends here and is not whole.
    Abort(burrow_outcome),
}

/// Why an answer is not read any further: for the log.
pub type Malformed = &'static str;

/// The manager's word, in the place of a worker's: an ABORT of this outcome.
pub const NO_WORKER: &str = "none of its processes can be started; the manager's lines above say why";

pub const OTHER_RELEASE: Malformed = "a HELLO of another release: stop the server and start it";

#[derive(Debug, Default, PartialEq)]
enum Progress {
    #[default]
    Waiting,
    /// The head has come; of the body so many bytes are to follow, where that is known.
    Begun {
        left: Option<u64>,
    },
    Over,
}

/// What the answer to a request can be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// A head alone.
    pub head_only: bool,
    /// A 101, for another protocol.
    pub may_upgrade: bool,
    /// A 103 before it.
    pub may_hint: bool,
    /// Trailers behind it.
    pub may_trail: bool,
}

/// The answer to one request, as it arrives.
#[derive(Debug, Default)]
pub struct Incoming {
    /// A frame's header, and its payload where that is small.
    start: [u8; frame::HEADER + SMALL],
    have: usize,
    /// Bytes of a BODY that are still to come.
    body: usize,
    flags: u8,
    progress: Progress,
    hints: u32,
    files: u32,
    descriptors: VecDeque<OwnedFd>,
    headers: Vec<burrow_pair>,
    /// The payload of trailers, as far as it has come.
    trailers: Vec<u8>,
    wanted: Wanted,
    /// Bytes of the longest header.
    longest_header: usize,
    /// The worker does not want this connection to be used again.
    pub goes_away: bool,
}

// SAFETY: only the pairs of its headers are tied to a thread, as pointers, and nothing here follows them.
unsafe impl Send for Incoming {}

impl Incoming {
    pub fn new(wanted: Wanted, longest_header: usize) -> Self {
        Incoming { wanted, longest_header, ..Incoming::default() }
    }

    /// Descriptors that came with the bytes that follow.
    pub fn add(&mut self, descriptors: impl IntoIterator<Item = OwnedFd>) {
        self.descriptors.extend(descriptors);
    }

    /// Whether something of the answer has come.
    pub fn has_begun(&self) -> bool {
        self.progress != Progress::Waiting
    }

    /// Whether the answer has ended, at the end of a frame.
    pub fn is_over(&self) -> bool {
        self.progress == Progress::Over && self.have == 0 && self.body == 0 && self.descriptors.is_empty()
    }

    /// Whether the part that was read last is the end of the answer; then it has been read.
    pub fn takes_end(&mut self) -> Result<bool, Malformed> {
        let ends = self.body == 0 && self.flags & frame::LAST != 0;
        if ends {
            self.flags = 0;
            self.end()?;
        }
        Ok(ends)
    }

    /// Takes the next part from the beginning of `bytes`. What it does not take has to be there the next time.
    pub fn read<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Part<'a>, Malformed> {
        if self.descriptors.len() > MOST_DESCRIPTORS {
            return Err("descriptors without frames");
        }
        loop {
            if self.body > 0 {
                return self.body(bytes);
            }
            if self.takes_end()? {
                return Ok(Part::End);
            }
            if !self.gather(bytes, frame::HEADER) {
                return Ok(Part::More(frame::HEADER - self.have));
            }
            let (header, _) = self.start.split_first_chunk().expect("it is longer than a header");
            let header = Header::read(header).ok_or("what is no frame")?;
            match header.kind {
                Kind::Body => {
                    self.begin(header)?;
                    self.body = header.length;
                }
                Kind::Head if self.progress != Progress::Waiting => return self.trailers(header, bytes),
                Kind::Head if bytes.len() < header.length => return Ok(Part::More(header.length)),
                Kind::Head => {
                    let (payload, rest) = bytes.split_at(header.length);
                    *bytes = rest;
                    return self.head(header, payload);
                }
                _ if header.length > SMALL => return Err("a frame that is too long"),
                _ if !self.gather(bytes, frame::HEADER + header.length) => {
                    return Ok(Part::More(frame::HEADER + header.length - self.have))
                }
                _ => {
                    if let Some(part) = self.small(header)? {
                        return Ok(part);
                    }
                }
            }
        }
    }

    /// Whether the frame's first `length` bytes are there; takes what is missing, if there is some.
    fn gather(&mut self, bytes: &mut &[u8], length: usize) -> bool {
        let taken = length.saturating_sub(self.have).min(bytes.len());
        let (head, rest) = bytes.split_at(taken);
        self.start[self.have..self.have + taken].copy_from_slice(head);
        self.have += taken;
        *bytes = rest;
        self.have >= length
    }

    /// A frame of the body is there.
    fn begin(&mut self, header: Header) -> Result<(), Malformed> {
        if !matches!(self.progress, Progress::Begun { .. }) {
            return Err("a body where there is no answer");
        }
        (self.have, self.flags) = (0, header.flags);
        Ok(())
    }

    /// So many bytes of the body are there.
    fn count(&mut self, length: u64) -> Result<(), Malformed> {
        if let Progress::Begun { left: Some(left) } = &mut self.progress {
            *left = left.checked_sub(length).ok_or("more than the Content-Length of the answer")?;
        }
        Ok(())
    }

    fn body<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Part<'a>, Malformed> {
        if bytes.is_empty() {
            return Ok(Part::More(self.body));
        }
        let (data, rest) = bytes.split_at(self.body.min(bytes.len()));
        *bytes = rest;
        self.body -= data.len();
        self.count(data.len() as u64)?;
        Ok(Part::Body(data, self.body == 0 && self.flags & frame::FLUSH != 0))
    }

    fn end(&mut self) -> Result<(), Malformed> {
        if !matches!(self.progress, Progress::Begun { left: None | Some(0) }) {
            return Err("less than the Content-Length of the answer");
        }
        self.progress = Progress::Over;
        Ok(())
    }

    fn head(&mut self, header: Header, payload: &[u8]) -> Result<Part<'static>, Malformed> {
        let head = head::read(payload, &mut self.headers).ok_or("a head that must not go out")?;
        if head.status == SWITCHING_PROTOCOLS && !self.wanted.may_upgrade {
            return Err("a 101 that the request does not ask for");
        }
        if head.status == TRAILERS {
            return Err("trailers where there is no answer");
        }
        if head.status == EARLY_HINTS && (!self.wanted.may_hint || header.flags & frame::LAST != 0) {
            return Err("a 103 that the client does not take");
        }
        self.check_headers()?;
        if head.status == EARLY_HINTS {
            self.hints += 1;
            if self.hints > MOST_HINTS {
                return Err("too many 103s");
            }
            self.have = 0;
            return Ok(Part::Head(head));
        }
        let bodiless = self.wanted.head_only || matches!(head.status, 204 | 304);
        let left = u64::try_from(head.content_length).ok().filter(|_| !bodiless);
        self.progress = Progress::Begun { left };
        (self.have, self.flags) = (0, header.flags);
        Ok(Part::Head(head))
    }

    /// What comes behind the body: gathered here, since a server keeps no part of an answer for that.
    fn trailers(&mut self, header: Header, bytes: &mut &[u8]) -> Result<Part<'static>, Malformed> {
        match self.progress {
            Progress::Begun { left: None } if self.wanted.may_trail => {}
            Progress::Begun { left: Some(_) } if self.wanted.may_trail => {
                return Err("trailers where there is a Content-Length")
            }
            _ => return Err("a second head"),
        }
        let missing = header.length - self.trailers.len();
        let (part, rest) = bytes.split_at(missing.min(bytes.len()));
        *bytes = rest;
        self.trailers.extend_from_slice(part);
        if part.len() < missing {
            return Ok(Part::More(missing - part.len()));
        }
        let head = head::read(&self.trailers, &mut self.headers).ok_or("trailers that must not go out")?;
        if head.status != TRAILERS || header.flags & frame::LAST == 0 {
            return Err("a second head");
        }
        self.check_headers()?;
        (self.have, self.flags) = (0, header.flags);
        Ok(Part::Trailers(head))
    }

    fn check_headers(&self) -> Result<(), Malformed> {
        let length = |pair: &burrow_pair| pair.name.len + ": ".len() + pair.value.len;
        match self.headers.iter().any(|pair| length(pair) > self.longest_header) {
            true => Err("a header that is longer than header-buffer-size"),
            false => Ok(()),
        }
    }

    fn small(&mut self, header: Header) -> Result<Option<Part<'static>>, Malformed> {
        let start = self.start;
        let payload = &start[frame::HEADER..][..header.length];
        match header.kind {
            Kind::Hello => {
                let payload = payload.try_into().map_err(|_| OTHER_RELEASE)?;
                self.have = 0;
                return Ok(Some(Part::Hello(payload, self.descriptors.drain(..).collect())));
            }
            Kind::File => {
                self.begin(header)?;
                self.files += 1;
                let range = frame::File::read(payload).ok_or("what is no part of a file")?;
                let descriptor = self.descriptors.pop_front().ok_or("a file without its descriptor")?;
                if self.files > MOST_FILES {
                    return Err("too many files");
                }
                let descriptor = file::accept(descriptor).map_err(|_| "what is no file that can be sent")?;
                self.count(range.length)?;
                if range.length > 0 {
                    return Ok(Some(Part::File(descriptor, range)));
                }
            }
            Kind::Abort => {
                let [outcome] = *payload else { return Err("an ABORT without its reason") };
                let outcome = burrow_outcome::from(outcome);
                if !ABORTS.contains(&outcome) {
                    return Err("an ABORT for no reason that there is");
                }
                if self.progress == Progress::Over {
                    return Err("an ABORT behind the end");
                }
                (self.have, self.progress) = (0, Progress::Over);
                return Ok(Some(Part::Abort(outcome)));
            }
            Kind::GoAway => (self.have, self.goes_away) = (0, true),
            Kind::Request | Kind::Body | Kind::Head => return Err("a frame that is the server's"),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burrow_abi::{burrow_str, BURROW_DONE, BURROW_GONE};
    use burrow_daemon::frame::{FLUSH, LAST};

    fn frame(kind: Kind, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&Header { kind, flags, length: payload.len() }.bytes(), payload].concat()
    }

    fn head(flags: u8, status: u32, content_length: i64) -> Vec<u8> {
        let mut payload = Vec::new();
        let head = burrow_head { status, content_length, ..burrow_head::default() };
        // SAFETY: it has no strings.
        unsafe { head::write(&head, &mut payload) };
        frame(Kind::Head, flags, &payload)
    }

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    /// All parts in words, with the bytes of a body joined; ends at what is malformed.
    fn parts(incoming: &mut Incoming, pieces: &[&[u8]]) -> Vec<String> {
        let mut said: Vec<String> = Vec::new();
        let mut kept = Vec::new();
        for piece in pieces {
            kept.extend_from_slice(piece);
            let mut bytes = &kept[..];
            loop {
                let word = match incoming.read(&mut bytes) {
                    Ok(Part::More(_)) => break,
                    Ok(Part::Hello(..)) => "hello".into(),
                    Ok(Part::Head(head)) => format!("head {}", head.status),
                    Ok(Part::Body(data, _)) => String::from_utf8(data.into()).unwrap(),
                    Ok(Part::File(_, range)) => format!("file {}+{}", range.offset, range.length),
                    Ok(Part::Trailers(trailers)) => format!("{} trailers", trailers.n_headers),
                    Ok(Part::End) => "end".into(),
                    Ok(Part::Abort(outcome)) => format!("abort {outcome}"),
                    Err(why) => {
                        said.push(why.into());
                        return said;
                    }
                };
                said.push(word);
            }
            kept = bytes.to_vec();
        }
        said
    }

    fn all(bytes: &[Vec<u8>]) -> Vec<String> {
        parts(&mut Incoming::new(Wanted::default(), 32), &[&bytes.concat()])
    }

    #[test]
    fn another_protocol() {
        let bytes = [head(0, 101, -1), frame(Kind::Body, 0, b"raw"), frame(Kind::Body, LAST, b"")].concat();
        let said =
            parts(&mut Incoming::new(Wanted { may_upgrade: true, ..Wanted::default() }, 32), &[&bytes]);
        assert_eq!(said, ["head 101", "raw", "end"]);
        assert_eq!(all(&[bytes]), ["a 101 that the request does not ask for"]);
        let said = parts(
            &mut Incoming::new(Wanted { may_upgrade: true, ..Wanted::default() }, 32),
            &[&head(0, 101, 5)],
        );
        assert_eq!(said, ["a head that must not go out"]);
    }

    #[test]
    fn early_hints() {
        let hint = || head(0, 103, -1);
        let bytes = [hint(), hint(), head(LAST, 200, 0)].concat();
        let hinting = || Incoming::new(Wanted { may_hint: true, ..Wanted::default() }, 32);
        assert_eq!(parts(&mut hinting(), &[&bytes]), ["head 103", "head 103", "head 200", "end"]);
        assert_eq!(all(&[bytes]), ["a 103 that the client does not take"]);
        let said = parts(&mut hinting(), &[&head(LAST, 103, -1)]);
        assert_eq!(said, ["a 103 that the client does not take"]);
        let said = parts(&mut hinting(), &[&[head(0, 200, -1), hint()].concat()]);
        assert_eq!(said, ["head 200", "a second head"]);
        let said = parts(&mut hinting(), &[&hint().repeat(MOST_HINTS as usize + 1)]);
        assert_eq!((said.len(), &said[MOST_HINTS as usize][..]), (MOST_HINTS as usize + 1, "too many 103s"));
    }

    #[test]
    fn trailers() {
        let pair = burrow_pair { name: burrow_str::new(b"X"), value: burrow_str::new(&[b'x'; 30]) };
        let trailers = |flags, n_headers| {
            let head =
                burrow_head { headers: &pair, n_headers, content_length: -1, ..burrow_head::default() };
            let mut payload = Vec::new();
            // SAFETY: all of it is there.
            unsafe { head::write(&head, &mut payload) };
            frame(Kind::Head, flags, &payload)
        };
        let begin = || [head(0, 200, -1), frame(Kind::Body, 0, b"ab")].concat();
        let trailing = |longest| Incoming::new(Wanted { may_trail: true, ..Wanted::default() }, longest);
        let whole = [begin(), trailers(LAST, 1)].concat();
        for cut in begin().len()..=whole.len() {
            let mut incoming = trailing(33);
            let (one, other) = whole.split_at(cut);
            assert_eq!(parts(&mut incoming, &[one, other]), ["head 200", "ab", "1 trailers", "end"], "{cut}");
            assert!(incoming.is_over());
        }
        let said =
            |longest, bytes: &[Vec<u8>]| parts(&mut trailing(longest), &[&bytes.concat()]).pop().unwrap();
        assert_eq!(
            said(32, &[begin(), trailers(LAST, 1)]),
            "a header that is longer than header-buffer-size"
        );
        assert_eq!(said(33, &[begin(), trailers(0, 1)]), "a second head");
        assert_eq!(said(33, &[begin(), head(LAST, 200, -1)]), "a second head");
        assert_eq!(said(33, &[begin(), frame(Kind::Head, LAST, b"")]), "trailers that must not go out");
        assert_eq!(said(33, &[trailers(LAST, 0)]), "trailers where there is no answer");
        assert_eq!(said(33, &[begin(), trailers(LAST, 0), trailers(LAST, 0)]), "a second head");
        for length in 0..2 {
            let answer = [head(0, 200, length), trailers(LAST, 0)];
            assert_eq!(said(33, &answer), "trailers where there is a Content-Length");
        }
        assert_eq!(all(&[whole]), ["head 200", "ab", "a second head"]);
    }

    #[test]
    fn an_answer_cut_anywhere() {
        let answer = [
            frame(Kind::Hello, 0, &[0; 8]),
            frame(Kind::GoAway, 0, b""),
            head(0, 200, 5),
            frame(Kind::Body, FLUSH, b"abc"),
            frame(Kind::Body, 0, b""),
            frame(Kind::Body, LAST, b"de"),
        ]
        .concat();
        for cut in 0..=answer.len() {
            let mut incoming = Incoming::new(Wanted::default(), 32);
            let (one, other) = answer.split_at(cut);
            let said = parts(&mut incoming, &[one, other]);
            assert_eq!(said[..2], ["hello", "head 200"], "{cut}");
            assert_eq!(said[2..said.len() - 1].concat(), "abcde", "{cut}");
            assert_eq!(said.last().unwrap(), "end", "{cut}");
            assert!(incoming.is_over() && incoming.goes_away, "{cut}");
        }
    }

    #[test]
    fn flushes_are_of_whole_frames() {
        let mut incoming = Incoming::new(Wanted::default(), 32);
        let bytes = [head(0, 200, -1), frame(Kind::Body, FLUSH, b"abc")].concat();
        let mut bytes = &bytes[..];
        assert!(matches!(incoming.read(&mut bytes), Ok(Part::Head(_))));
        let mut cut = &bytes[..frame::HEADER + 1];
        assert!(matches!(incoming.read(&mut cut), Ok(Part::Body(b"a", false))));
        let mut rest = &bytes[frame::HEADER + 1..];
        assert!(matches!(incoming.read(&mut rest), Ok(Part::Body(b"bc", true))));
    }

    #[test]
    fn a_head_is_wanted_in_one_piece() {
        let bytes = head(LAST, 200, -1);
        let mut incoming = Incoming::new(Wanted::default(), 32);
        let mut cut = &bytes[..bytes.len() - 1];
        let Ok(Part::More(length)) = incoming.read(&mut cut) else { panic!("there is no whole head") };
        assert_eq!((length, cut.len()), (bytes.len() - frame::HEADER, length - 1));
    }

    #[test]
    fn headers_have_a_limit() {
        let head = |length: usize| {
            let value = vec![b'x'; length];
            let pair = burrow_pair { name: burrow_str::new(b"X"), value: burrow_str::new(&value) };
            let head = burrow_head { status: 200, headers: &pair, n_headers: 1, ..burrow_head::default() };
            let mut payload = Vec::new();
            // SAFETY: all of it is there.
            unsafe { head::write(&head, &mut payload) };
            frame(Kind::Head, LAST, &payload)
        };
        assert_eq!(all(&[head(29)]), ["head 200", "end"]);
        assert_eq!(all(&[head(30)]), ["a header that is longer than header-buffer-size"]);
    }

    #[test]
    fn lengths_are_counted() {
        let more = [head(0, 200, 1), frame(Kind::Body, LAST, b"ab")];
        assert_eq!(all(&more), ["head 200", "more than the Content-Length of the answer"]);
        let less = [head(0, 200, 3), frame(Kind::Body, LAST, b"ab")];
        assert_eq!(all(&less), ["head 200", "ab", "less than the Content-Length of the answer"]);
        assert_eq!(all(&[head(LAST, 304, 3)]), ["head 304", "end"]);
        assert_eq!(
            parts(
                &mut Incoming::new(Wanted { head_only: true, ..Wanted::default() }, 32),
                &[&head(LAST, 200, 3)]
            ),
            ["head 200", "end"]
        );
    }

    #[test]
    fn order() {
        let body = || frame(Kind::Body, 0, b"a");
        assert_eq!(all(&[body()]), ["a body where there is no answer"]);
        assert_eq!(all(&[head(0, 200, -1), head(0, 200, -1)]), ["head 200", "a second head"]);
        let behind = [head(LAST, 200, -1), body()];
        assert_eq!(all(&behind), ["head 200", "end", "a body where there is no answer"]);
        assert_eq!(all(&[frame(Kind::Request, LAST, b"")]), ["a frame that is the server's"]);
        assert_eq!(all(&[vec![b'G'; 8]]), ["what is no frame"]);
        assert_eq!(all(&[frame(Kind::GoAway, 0, &[0; 17])]), ["a frame that is too long"]);
    }

    #[test]
    fn aborts() {
        let abort = || frame(Kind::Abort, 0, &[BURROW_DIED as u8]);
        assert_eq!(all(&[abort()]), [format!("abort {BURROW_DIED}")]);
        assert_eq!(all(&[head(0, 200, 3), abort()])[1], format!("abort {BURROW_DIED}"));
        assert_eq!(all(&[abort(), abort()])[1], "an ABORT behind the end");
        assert_eq!(all(&[frame(Kind::Abort, 0, b"")]), ["an ABORT without its reason"]);
        for outcome in [BURROW_DONE, BURROW_GONE, 255] {
            let said = all(&[frame(Kind::Abort, 0, &[outcome as u8])]);
            assert_eq!(said, ["an ABORT for no reason that there is"], "{outcome}");
        }
    }

    #[test]
    fn files() {
        let range = frame::File { offset: 1, length: 2 }.bytes();
        let piece = |flags| frame(Kind::File, flags, &range);
        let mut incoming = Incoming::new(Wanted::default(), 32);
        incoming.add([file()]);
        let said = parts(&mut incoming, &[&[head(0, 200, 2), piece(LAST)].concat()]);
        assert_eq!(said, ["head 200", "file 1+2", "end"]);
        assert_eq!(all(&[head(0, 200, 2), piece(LAST)])[1], "a file without its descriptor");

        let mut incoming = Incoming::new(Wanted::default(), 32);
        parts(&mut incoming, &[&head(0, 200, -1)]);
        for _ in 0..MOST_FILES {
            incoming.add([file()]);
            assert_eq!(parts(&mut incoming, &[&piece(0)]), ["file 1+2"]);
        }
        incoming.add([file()]);
        assert_eq!(parts(&mut incoming, &[&piece(0)]), ["too many files"]);
    }

    #[test]
    fn descriptors_belong_to_frames() {
        let mut incoming = Incoming::new(Wanted::default(), 32);
        incoming.add((0..=MOST_DESCRIPTORS).map(|_| file()));
        assert!(incoming.read(&mut &b""[..]).is_err());
        let mut incoming = Incoming::new(Wanted::default(), 32);
        incoming.add([std::fs::File::open("/dev/null").unwrap().into()]);
        let range = frame::File { offset: 0, length: 1 }.bytes();
        let said = parts(&mut incoming, &[&[head(0, 200, -1), frame(Kind::File, 0, &range)].concat()]);
        assert_eq!(said[1], "what is no file that can be sent");
    }

    #[test]
    fn strings_of_a_head_point_into_the_bytes() {
        let mut payload = Vec::new();
        let pair = burrow_pair { name: burrow_str::new(b"X-One"), value: burrow_str::new(b"1") };
        let head = burrow_head { status: 200, headers: &pair, n_headers: 1, ..burrow_head::default() };
        // SAFETY: literals.
        unsafe { head::write(&head, &mut payload) };
        let bytes = frame(Kind::Head, LAST, &payload);
        let mut incoming = Incoming::new(Wanted::default(), 32);
        let Ok(Part::Head(head)) = incoming.read(&mut &bytes[..]) else { panic!("there is a head") };
        // SAFETY: bytes and `incoming` are there.
        assert_eq!(unsafe { (*head.headers).value.bytes() }, b"1");
    }
}
