//! permessage-deflate (RFC 7692, section 7.2): messages in raw DEFLATE, without the end of a flush.

use std::cell::RefCell;
use std::collections::HashMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::close::{Close, INVALID_DATA, TOO_BIG};
use crate::extensions::Deflate;

/// What every flush ends with, and no message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// How much room is made at once.
const STEP: usize = 16 << 10;
/// The smallest window that zlib knows in raw DEFLATE.
const SMALLEST: u8 = 9;

thread_local! {
    /// By the size of the window. One serves all connections of a thread, since each message begins anew.
    static COMPRESSORS: RefCell<HashMap<u8, Compress>> = RefCell::default();
}

/// The message, compressed.
pub fn compress(message: &[u8], deflate: &Deflate) -> Vec<u8> {
    COMPRESSORS.with_borrow_mut(|all| {
        // What a better level saves of a message costs more time than sending it.
        let new = || Compress::new_with_window_bits(Compression::fast(), false, deflate.own_bits);
        let compressor = all.entry(deflate.own_bits).or_insert_with(new);
        compressor.reset();
        let mut compressed = Vec::with_capacity(message.len() + STEP.min(message.len() / 8 + 64));
        loop {
            let rest = &message[compressor.total_in() as usize..];
            compressor
                .compress_vec(rest, &mut compressed, FlushCompress::Sync)
                .expect("it can be compressed whatever it is");
            if compressed.len() < compressed.capacity() {
                compressed.truncate(compressed.len() - TAIL.len());
                return compressed;
            }
            compressed.reserve(STEP);
        }
    })
}

/// The client's messages, one after another.
#[derive(Debug)]
pub struct Decompressor {
    bits: u8,
    begins_anew: bool,
    /// None until it is needed.
    inner: Option<Decompress>,
}

impl Decompressor {
    pub fn new(deflate: &Deflate) -> Decompressor {
        let bits = deflate.client_bits.max(SMALLEST);
        Decompressor { bits, begins_anew: deflate.client_begins_anew, inner: None }
    }

    /// Appends what these bytes of a message stand for.
    pub fn add(&mut self, mut bytes: &[u8], to: &mut Vec<u8>, longest: usize) -> Result<(), Close> {
        let new = || Decompress::new_with_window_bits(false, self.bits);
        let inner = self.inner.get_or_insert_with(new);
        loop {
            if to.len() == to.capacity() {
                to.reserve(STEP);
            }
            let before = inner.total_in();
            let status = inner.decompress_vec(bytes, to, FlushDecompress::Sync);
            bytes = &bytes[(inner.total_in() - before) as usize..];
            if to.len() > longest {
                return Err(Close::new(TOO_BIG, "a message that is too long"));
            }
            match status {
                Err(_) => return Err(Close::new(INVALID_DATA, "a message that is not compressed rightly")),
                // A final block, which a message need not have; another may follow.
                Ok(Status::StreamEnd) => inner.reset(false),
                Ok(_) if bytes.is_empty() && to.len() < to.capacity() => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    /// The message ends.
    pub fn end(&mut self, to: &mut Vec<u8>, longest: usize) -> Result<(), Close> {
        self.add(&TAIL, to, longest)?;
        if self.begins_anew {
            self.inner = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extensions;

    fn agreed(offer: &str) -> Deflate {
        extensions::read(offer.as_bytes()).unwrap().iter().find_map(Deflate::accept).unwrap()
    }

    #[test]
    fn messages_survive() {
        let message: Vec<u8> =
            (0..200_000u32).map(|number| (number.wrapping_mul(number) >> 7) as u8 & 31).collect();
        for bits in 9..=15 {
            let own = agreed(&format!("permessage-deflate; server_max_window_bits={bits}"));
            let mut decompressor = Decompressor::new(&agreed("permessage-deflate"));
            for _ in 0..3 {
                let compressed = compress(&message, &own);
                let mut got = Vec::new();
                for piece in compressed.chunks(1000) {
                    decompressor.add(piece, &mut got, message.len()).unwrap();
                }
                decompressor.end(&mut got, message.len()).unwrap();
                assert_eq!(got, message);
            }
        }
    }

    #[test]
    fn what_cannot_be_made_smaller() {
        let deflate = agreed("permessage-deflate");
        let mut seed = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .take(300_000)
        .collect();
        for length in (0..300).chain([1000, 65_535, 65_536, noise.len()]) {
            let (mut got, message) = (Vec::new(), &noise[..length]);
            let mut decompressor = Decompressor::new(&deflate);
            decompressor.add(&compress(message, &deflate), &mut got, length).unwrap();
            decompressor.end(&mut got, length).unwrap();
            assert_eq!(got, message);
        }
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let mut decompressor = Decompressor::new(&agreed("permessage-deflate"));
        let examples: [&[u8]; 5] = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ];
        for example in examples {
            let mut got = Vec::new();
            decompressor.add(example, &mut got, 5).unwrap();
            decompressor.end(&mut got, 5).unwrap();
            assert_eq!(got, b"Hello", "{example:x?}");
        }
    }

    #[test]
    fn bombs_and_rubbish() {
        let deflate = agreed("permessage-deflate");
        let bomb = compress(&vec![0; 10 << 20], &deflate);
        let mut got = Vec::new();
        let end = Decompressor::new(&deflate).add(&bomb, &mut got, 100_000);
        assert_eq!(end.unwrap_err().code, TOO_BIG);
        assert!(got.capacity() < 300_000);
        let rubbish = Decompressor::new(&deflate).add(&[0xff; 20], &mut Vec::new(), 100);
        assert_eq!(rubbish.unwrap_err().code, INVALID_DATA);
    }
}
