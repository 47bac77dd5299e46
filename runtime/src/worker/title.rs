//! The name of the process, as ps and top show it.

use std::ffi::CString;
use std::fs;

use nix::sys::prctl::set_name;

/// Puts the name where the kernel looks for the command line, which began as python's and is long enough
/// for most.
pub fn set(name: &[u8]) {
    // top's has room for 15 bytes.
    let short: Vec<u8> = name.iter().copied().filter(|byte| *byte != 0).take(15).collect();
    let _ = CString::new(short).map(|short| set_name(&short));
    let Some((start, length)) = arguments() else { return };
    // SAFETY: the kernel says that the arguments are there; Python has copied them, and nobody else looks.
    let space = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, length) };
    // The last byte stays zero, or the kernel takes the environment for a part of it.
    let (text, last) = space.split_at_mut(length - 1);
    text.fill(0);
    text.iter_mut().zip(name).for_each(|(byte, new)| *byte = *new);
    last.fill(0);
}

/// Where the arguments lie: the 48th and 49th field, of which the second alone may hold spaces.
fn arguments() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace().skip(48 - 3);
    let (start, end): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (start != 0 && end > start).then_some((start, end - start))
}
