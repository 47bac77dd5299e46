//! One heap allocation that holds copied strings, the pairs that point at them, and perhaps a file.

use burrow_abi::{burrow_chunk, burrow_pair, burrow_str};
use std::alloc::{alloc, dealloc, handle_alloc_error, Layout};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// What stands before the bytes.
#[repr(C)]
struct Header {
    size: usize,
    used: usize,
    fd: RawFd,
}

/// A piece of memory of a fixed size that is filled front to back. It does not move, so what is
/// copied into it may be pointed at for as long as it lives. `burrow_chunk` is its name in C.
pub struct Block(NonNull<Header>);

// SAFETY: it owns its memory alone, and changing it needs `&mut`.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// Room for `bytes` bytes of strings; for pairs, what `size_of_pairs` says.
    pub fn new(bytes: usize) -> Self {
        let size = size_of::<Header>() + bytes;
        let layout = Self::layout(size);
        // SAFETY: the size is that of the header at least, so not zero.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let start = start.cast::<Header>();
        // SAFETY: fresh memory, aligned for the header and large enough.
        unsafe { start.write(Header { size, used: size_of::<Header>(), fd: -1 }) };
        Block(start)
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, align_of::<Header>()).expect("a size that fits in memory")
    }

    /// The next `len` bytes.
    fn take(&mut self, len: usize) -> NonNull<u8> {
        // SAFETY: the header was written by `new`; `&mut self` makes this the only reference.
        let header = unsafe { self.0.as_mut() };
        assert!(len <= header.size - header.used, "a block is made large enough");
        let at = header.used;
        header.used += len;
        // SAFETY: `at` is within the allocation, as just checked.
        unsafe { self.0.cast::<u8>().add(at) }
    }

    /// Copies a string; an absent one stays absent.
    ///
    /// # Safety
    /// `string` points at what it says.
    pub unsafe fn copy(&mut self, string: burrow_str) -> burrow_str {
        if string.is_absent() {
            return string;
        }
        let to = self.take(string.len);
        // SAFETY: the caller vouches for the source; the target is fresh memory of that length.
        unsafe { to.as_ptr().copy_from_nonoverlapping(string.data.cast(), string.len) };
        burrow_str { data: to.as_ptr().cast(), len: string.len }
    }

    /// Copies pairs with their strings.
    ///
    /// # Safety
    /// As `copy`, for each of them.
    pub unsafe fn copy_pairs(&mut self, pairs: &[burrow_pair]) -> *const burrow_pair {
        // SAFETY: the header was written by `new`.
        let used = unsafe { self.0.as_ref() }.used;
        self.take(used.wrapping_neg() % align_of::<burrow_pair>());
        let to = self.take(size_of_val(pairs)).cast::<burrow_pair>();
        for (i, pair) in pairs.iter().enumerate() {
            // SAFETY: the caller vouches for the strings.
            let copy = unsafe { burrow_pair { name: self.copy(pair.name), value: self.copy(pair.value) } };
            // SAFETY: element `i` lies in what was taken, and is aligned because the padding made it so.
            unsafe { to.add(i).write(copy) };
        }
        to.as_ptr()
    }

    /// Keeps a file open as long as the block lives.
    pub fn hold(&mut self, file: OwnedFd) -> RawFd {
        let fd = file.into_raw_fd();
        // SAFETY: the header was written by `new`; `&mut self` makes this the only reference.
        unsafe { self.0.as_mut() }.fd = fd;
        fd
    }

    pub fn into_raw(self) -> *mut burrow_chunk {
        let chunk = self.0.as_ptr().cast();
        std::mem::forget(self);
        chunk
    }

    /// # Safety
    /// `chunk` came from `into_raw` and is not used again.
    pub unsafe fn from_raw(chunk: NonNull<burrow_chunk>) -> Self {
        Block(chunk.cast())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the header was written by `new`, with the size that was allocated; the descriptor,
        // if any, was given to `hold` and belongs to this block alone.
        unsafe {
            let Header { size, fd, .. } = self.0.read();
            if fd >= 0 {
                drop(OwnedFd::from_raw_fd(fd));
            }
            dealloc(self.0.as_ptr().cast(), Self::layout(size));
        }
    }
}

/// The most bytes of a block that copies of `pairs` take.
pub fn size_of_pairs(pairs: &[burrow_pair]) -> usize {
    let strings: usize = pairs.iter().map(|pair| pair.name.len + pair.value.len).sum();
    align_of::<burrow_pair>() + size_of_val(pairs) + strings
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;

    #[test]
    fn strings_and_pairs_are_copies() {
        let pairs = [
            burrow_pair { name: burrow_str::new(b"Host"), value: burrow_str::new(b"a") },
            burrow_pair { name: burrow_str::new(b"Cookie"), value: burrow_str::new(b"") },
        ];
        let mut block = Block::new(3 + 2 * size_of_pairs(&pairs));
        // SAFETY: all of them are there; the copies are looked at while the block lives.
        unsafe {
            assert_eq!(block.copy(burrow_str::new(b"odd")).bytes(), b"odd");
            for _ in 0..2 {
                let copies = std::slice::from_raw_parts(block.copy_pairs(&pairs), pairs.len());
                assert_ne!(copies[0].name.data, pairs[0].name.data);
                assert_eq!(copies[0].name.bytes(), b"Host");
                assert_eq!(copies[1].value.bytes(), b"");
                assert!(!copies[1].value.is_absent());
            }
            assert!(block.copy(burrow_str::NONE).is_absent());
        }
    }

    #[test]
    fn a_file_is_closed_with_its_block() {
        let mut block = Block::new(0);
        let fd = block.hold(File::open("/dev/null").unwrap().into());
        let link = format!("/proc/self/fd/{fd}");
        let is_open = || fs::read_link(&link).is_ok_and(|to| to == Path::new("/dev/null"));
        assert!(is_open());
        // SAFETY: used once.
        drop(unsafe { Block::from_raw(NonNull::new(block.into_raw()).unwrap()) });
        assert!(!is_open());
    }
}
