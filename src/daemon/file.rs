//! Files that workers pass as descriptors.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::stat::{fstat, SFlag};
use nix::sys::statfs::{fstatfs, FsType};

/// From the kernel's magic.h.
const FUSE: FsType = FsType(0x6573_5546);

/// Takes a descriptor that a worker wants to have sent, if that can do no harm: a regular file that is open for
/// reading, in a file system of the kernel's. In another one, a process of the worker's user decides how long a
/// read takes. It may be shorter than what the worker says: that shows when it is sent.
pub fn accept(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    let mode = OFlag::from_bits_truncate(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    let is_readable = mode & OFlag::O_ACCMODE != OFlag::O_WRONLY && !mode.contains(OFlag::O_PATH);
    let is_fuse = fstatfs(descriptor.as_fd())?.filesystem_type() == FUSE;
    let is_regular = || Ok::<_, io::Error>(kind(&descriptor)? == SFlag::S_IFREG);
    if !is_readable || is_fuse || !is_regular()? {
        return Err(io::Error::other(
            "the worker passed what is no regular file, or one that cannot be read",
        ));
    }
    Ok(descriptor)
}

fn kind(descriptor: &OwnedFd) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(descriptor)?.st_mode) & SFlag::S_IFMT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn regular_files_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        assert!(accept(File::open(path).unwrap().into()).is_ok());
        assert!(accept(OpenOptions::new().read(true).write(true).open(path).unwrap().into()).is_ok());
        assert!(accept(OpenOptions::new().write(true).open(path).unwrap().into()).is_err());
        let path_only = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
        assert!(accept(path_only.into()).is_err());
        for other in ["/dev/null", "/"] {
            assert!(accept(File::open(other).unwrap().into()).is_err(), "{other}");
        }
    }
}
