//! What an interpreter has made of header names.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::object::Result;

/// By the names as they were received. Bounded: clients choose them.
pub struct HeaderNames<T>(HashMap<Box<[u8]>, T, BuildHasherDefault<Fnv>>);

const MOST_NAMES: usize = 512;

/// FNV-1a: the names are short, and so few are kept that names made to collide cost nobody much.
#[derive(Default)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.0 ^= number as u64;
    }

    fn finish(&self) -> u64 {
        // The table takes its upper bits, which short names hardly reach.
        self.0 ^ self.0.rotate_left(32)
    }
}

impl<T> Default for HeaderNames<T> {
    fn default() -> Self {
        HeaderNames(HashMap::default())
    }
}

impl<T: Clone> HeaderNames<T> {
    /// What was made of a name, or is now.
    pub fn get(&mut self, name: &[u8], make: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        if let Some(known) = self.0.get(name) {
            return Ok(known.clone());
        }
        let made = make(name)?;
        if self.0.len() < MOST_NAMES {
            self.0.insert(name.into(), made.clone());
        }
        Ok(made)
    }
}
