//! What a request has beside what the last one had.

use std::cell::RefCell;

use burrow_abi::same;

use crate::object::Result;

/// What was last made of some strings.
pub struct Last<T, const N: usize>(RefCell<Option<Made<T, N>>>);

type Made<T, const N: usize> = ([Box<[u8]>; N], T);

impl<T, const N: usize> Default for Last<T, N> {
    fn default() -> Self {
        Last(RefCell::default())
    }
}

impl<T: Clone, const N: usize> Last<T, N> {
    /// What was made of these, or is now.
    pub fn get(&self, strings: [&[u8]; N], make: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_same = |known: &[Box<[u8]>; N]| known.iter().zip(strings).all(|(one, other)| same(one, other));
        if let Some((_, made)) = self.0.borrow().as_ref().filter(|(known, _)| is_same(known)) {
            return Ok(made.clone());
        }
        let made = make()?;
        let _last = self.0.replace(Some((strings.map(Into::into), made.clone())));
        Ok(made)
    }
}
