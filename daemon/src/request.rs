//! A request as the payload of a REQUEST frame: what `burrow_request` of c/shim.h says, and of whom.
//!
//! ```text
//!  content length, request start, script's mtime, queue start, queue deadline: i64 each
//!  flags, number of headers, of params, of what is known of TLS, of texts: u32 each
//!  lengths of the texts: u32 each, all ones for what is absent | the texts
//! ```
//! The texts: target, callable, application group; the variables in the order of `burrow_var`; name and
//! value of each header, of each param, of what is known of TLS.

use burrow_abi::{burrow_pair, burrow_request, burrow_str, slice, BURROW_VAR_COUNT};

const ABSENT: u32 = u32::MAX;
const VARS: usize = BURROW_VAR_COUNT as usize;
const FIXED: usize = 5 * 8 + 5 * 4;

/// Whom a request is for, and how long it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressed<'a> {
    pub target: &'a [u8],
    /// Empty: what the target names, else "application".
    pub callable: &'a [u8],
    /// Empty: the main interpreter.
    pub application_group: &'a [u8],
    /// Microseconds of CLOCK_MONOTONIC, until which a thread may take it; 0: for ever.
    pub queue_deadline: i64,
}

/// Appends the payload. The body is not in it.
///
/// # Safety
/// The strings of `request` are there.
pub unsafe fn write(address: &Addressed, request: &burrow_request, to: &mut Vec<u8>) {
    // SAFETY: c/shim.h: so many of each.
    let (headers, params, tls) = unsafe {
        (
            slice(request.headers, request.n_headers),
            slice(request.params, request.n_params),
            slice(request.tls, request.n_tls),
        )
    };
    let pairs = || headers.iter().chain(params).chain(tls);
    let numbers = [
        request.content_length,
        request.request_start,
        request.script_modified,
        request.queue_start,
        address.queue_deadline,
    ];
    let texts = 3 + VARS + 2 * (headers.len() + params.len() + tls.len());
    let parts = || {
        [address.target, address.callable, address.application_group]
            .into_iter()
            .map(burrow_str::new)
            .chain(request.vars)
            .chain(pairs().flat_map(|pair| [pair.name, pair.value]))
    };
    to.reserve(FIXED + 4 * texts + parts().map(|part| part.len).sum::<usize>());
    for number in numbers {
        to.extend_from_slice(&number.to_le_bytes());
    }
    for number in [request.flags, headers.len() as u32, params.len() as u32, tls.len() as u32, texts as u32] {
        to.extend_from_slice(&number.to_le_bytes());
    }
    let lengths = to.len();
    to.resize(lengths + 4 * texts, 0);
    for (index, part) in parts().enumerate() {
        let length = if part.is_absent() { ABSENT } else { part.len as u32 };
        to[lengths + 4 * index..][..4].copy_from_slice(&length.to_le_bytes());
        // SAFETY: the caller's word.
        to.extend_from_slice(unsafe { part.bytes() });
    }
}

/// Reads a payload: the result points into it and into `pairs`. None where it is no request.
pub fn read<'a>(payload: &'a [u8], pairs: &mut Vec<burrow_pair>) -> Option<(Addressed<'a>, burrow_request)> {
    let (fixed, rest) = payload.split_at_checked(FIXED)?;
    let (numbers, counts) = fixed.split_at(5 * 8);
    let number = |index: usize| i64::from_le_bytes(numbers[8 * index..][..8].try_into().unwrap());
    let count = |index: usize| u32::from_le_bytes(counts[4 * index..][..4].try_into().unwrap());
    let [n_headers, n_params, n_tls, n_texts] = [1, 2, 3, 4].map(|index| count(index) as usize);
    let mut texts = texts(rest, n_texts)?;
    let address = Addressed {
        target: texts.next()?,
        callable: texts.next()?,
        application_group: texts.next()?,
        queue_deadline: number(4),
    };
    let mut vars = [burrow_str::NONE; VARS];
    for var in &mut vars {
        *var = texts.next_or_absent()?;
    }
    pairs.clear();
    for _ in 0..n_headers.checked_add(n_params)?.checked_add(n_tls)? {
        let (name, value) = (texts.next_or_absent()?, texts.next_or_absent()?);
        pairs.push(burrow_pair { name, value });
    }
    texts.is_done().then(|| {
        let (headers, others) = pairs.split_at(n_headers);
        let (params, tls) = others.split_at(n_params);
        let request = burrow_request {
            vars,
            headers: headers.as_ptr(),
            n_headers,
            params: params.as_ptr(),
            n_params,
            tls: tls.as_ptr(),
            n_tls,
            body: burrow_str::NONE,
            content_length: number(0),
            request_start: number(1),
            script_modified: number(2),
            queue_start: number(3),
            daemon_start: 0,
            flags: count(0),
        };
        (address, request)
    })
}

/// A request that [`read`] has given, and its pairs, pointing into a copy of the payload.
///
/// # Safety
/// `payload` and the pairs are there as they were read; `copy` is of the same length.
pub unsafe fn moved(
    request: &burrow_request,
    payload: &[u8],
    copy: &[u8],
) -> (burrow_request, Box<[burrow_pair]>) {
    let text = |text: burrow_str| match text.is_absent() {
        true => text,
        false => {
            let offset = (text.data as usize).wrapping_sub(payload.as_ptr() as usize);
            burrow_str { data: copy.as_ptr().wrapping_add(offset).cast(), ..text }
        }
    };
    let (n_headers, n_params) = (request.n_headers, request.n_params);
    // SAFETY: all of them are in one vector, in this order.
    let pairs = unsafe { slice(request.headers, n_headers + n_params + request.n_tls) };
    let pairs: Box<[_]> =
        pairs.iter().map(|pair| burrow_pair { name: text(pair.name), value: text(pair.value) }).collect();
    let (headers, others) = pairs.split_at(n_headers);
    let (params, tls) = others.split_at(n_params);
    let vars = request.vars.map(text);
    let (headers, params, tls) = (headers.as_ptr(), params.as_ptr(), tls.as_ptr());
    (burrow_request { vars, headers, params, tls, ..*request }, pairs)
}

/// Texts behind their lengths.
pub(crate) struct Texts<'a> {
    lengths: &'a [u8],
    rest: &'a [u8],
}

/// None where there are not so many lengths.
pub(crate) fn texts(bytes: &[u8], n: usize) -> Option<Texts<'_>> {
    let (lengths, rest) = bytes.split_at_checked(n.checked_mul(4)?)?;
    Some(Texts { lengths, rest })
}

impl<'a> Texts<'a> {
    pub fn next(&mut self) -> Option<&'a [u8]> {
        match self.length()? {
            ABSENT => Some(b""),
            length => self.take(length),
        }
    }

    fn next_or_absent(&mut self) -> Option<burrow_str> {
        match self.length()? {
            ABSENT => Some(burrow_str::NONE),
            length => self.take(length).map(burrow_str::new),
        }
    }

    fn length(&mut self) -> Option<u32> {
        let (length, others) = self.lengths.split_first_chunk::<4>()?;
        self.lengths = others;
        Some(u32::from_le_bytes(*length))
    }

    fn take(&mut self, length: u32) -> Option<&'a [u8]> {
        let (text, rest) = self.rest.split_at_checked(length as usize)?;
        self.rest = rest;
        Some(text)
    }

    /// Everything was taken, and there is nothing else.
    pub fn is_done(&self) -> bool {
        self.lengths.is_empty() && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(address: &Addressed) -> Vec<u8> {
        let pair = burrow_pair { name: burrow_str::new(b"Host"), value: burrow_str::new(b"shop") };
        let mut vars = [burrow_str::NONE; VARS];
        vars[0] = burrow_str::new(b"GET");
        vars[3] = burrow_str::new(b"");
        let request = burrow_request {
            vars,
            headers: &pair,
            n_headers: 1,
            params: &pair,
            n_params: 1,
            tls: &pair,
            n_tls: 1,
            body: burrow_str::NONE,
            content_length: -1,
            request_start: 1,
            script_modified: 2,
            queue_start: 3,
            daemon_start: 0,
            flags: 5,
        };
        let mut payload = Vec::new();
        // SAFETY: literals.
        unsafe { write(address, &request, &mut payload) };
        payload
    }

    #[test]
    fn requests_survive() {
        let address = Addressed {
            target: b"/srv/app.wsgi",
            callable: b"",
            application_group: b"shop",
            queue_deadline: 9,
        };
        let payload = payload(&address);
        let mut pairs = Vec::new();
        let (read_address, request) = read(&payload, &mut pairs).unwrap();
        assert_eq!(read_address, address);
        assert_eq!((request.content_length, request.request_start, request.flags), (-1, 1, 5));
        assert_eq!((request.script_modified, request.queue_start), (2, 3));
        // SAFETY: the payload is there.
        let (method, host) = unsafe { (request.vars[0].bytes(), (*request.headers).value.bytes()) };
        assert_eq!((method, host), (&b"GET"[..], &b"shop"[..]));
        assert_eq!((request.n_headers, request.n_params, request.n_tls), (1, 1, 1));
        let copy = payload.clone();
        // SAFETY: both are there.
        let (moved, moved_pairs) = unsafe { moved(&request, &payload, &copy) };
        let is_copied = |text: burrow_str| copy.as_ptr_range().contains(&text.data.cast());
        assert_eq!((moved.headers, moved_pairs.len()), (moved_pairs.as_ptr(), 3));
        assert!(moved_pairs.iter().all(|pair| is_copied(pair.name) && is_copied(pair.value)));
        // SAFETY: the copy is there.
        let (method, shop) = unsafe { (moved.vars[0].bytes(), (*moved.tls).value.bytes()) };
        assert_eq!((method, shop), (&b"GET"[..], &b"shop"[..]));
        assert!(is_copied(moved.vars[0]) && moved.vars[1].is_absent());
        assert!(request.vars[1].is_absent() && !request.vars[3].is_absent());
        for cut in 0..payload.len() {
            assert!(read(&payload[..cut], &mut pairs).is_none(), "{cut}");
        }
    }
}
