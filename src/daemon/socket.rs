//! The system calls on a connection to a worker.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::pollfd;
use nix::errno::Errno;
use nix::sys::socket::{recvmsg, ControlMessageOwned, MsgFlags};

/// The most descriptors that the kernel takes with one message (SCM_MAX_FD): of what does not fit here, those
/// that do would stay open.
const MOST_DESCRIPTORS: usize = 253;

/// Room for the descriptors of one message.
pub struct Space(Vec<u8>);

impl Default for Space {
    fn default() -> Self {
        Space(nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]))
    }
}

impl Space {
    /// As recv(). The descriptors came with the last of the bytes: a read ends behind a message that has some.
    pub fn receive(
        &mut self,
        socket: RawFd,
        into: &mut [u8],
        flags: MsgFlags,
    ) -> nix::Result<(usize, Vec<OwnedFd>)> {
        let mut slices = [IoSliceMut::new(into)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(socket, &mut slices, Some(&mut self.0), flags)?;
        let mut descriptors = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(rights) = message {
                // SAFETY: they have just been made for this process, for nobody else.
                descriptors.extend(rights.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        Ok((received.bytes, descriptors))
    }
}

/// What a descriptor is waited for, as poll() has it. None is waited for nothing.
pub fn waiting(descriptor: Option<BorrowedFd<'_>>, events: i16) -> pollfd {
    pollfd { fd: descriptor.map_or(-1, |descriptor| descriptor.as_raw_fd()), events, revents: 0 }
}

/// As poll(); also with POLLRDHUP, which nix does not know. How many have something.
pub fn poll(descriptors: &mut [pollfd], timeout: Duration) -> nix::Result<usize> {
    let timeout =
        libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos().into() };
    let (first, count) = (descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t);
    // SAFETY: a slice's own length; no signal mask.
    let count = unsafe { libc::ppoll(first, count, &timeout, std::ptr::null()) };
    Errno::result(count).map(|count| count as usize)
}
