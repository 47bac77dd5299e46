//! What the C library does with memory that is given back.

use std::hint::black_box;

/// Has glibc keep up to 16 MiB of it for what is asked for next. In the beginning it keeps 128 KiB: whoever sends
/// long answers then returns their memory to the system and gets it back page by page, zeroed, which takes longer
/// than to send them. It keeps twice as much as the largest block that was freed (mallopt(3), M_TRIM_THRESHOLD), so
/// one is; a limit that is set would end this adaptation. Other libraries do nothing here.
pub fn keep_freed() {
    const LARGEST: usize = 8 << 20;
    // SAFETY: a block of its own, which nobody uses; its pages are not touched.
    unsafe { libc::free(black_box(libc::malloc(LARGEST))) };
}
