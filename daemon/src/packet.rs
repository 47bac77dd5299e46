//! Packets of JSON over a socket pair or a UNIX socket, some with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    recvmsg, sendmsg, socketpair, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag,
    SockType,
};
use serde::de::DeserializeOwned;
use serde::Serialize;

/// Longer than any message.
const PACKET: usize = 64 << 10;
/// The most descriptors that come with one.
const DESCRIPTORS: usize = 4;
/// The most that the kernel passes at once. With less room for them, those that did fit would be nobody's.
const MOST_DESCRIPTORS: usize = 253;

/// One end of a connection that keeps packets whole (SOCK_SEQPACKET). Neither sending nor receiving blocks.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl From<OwnedFd> for Link {
    fn from(socket: OwnedFd) -> Link {
        Link(socket)
    }
}

impl Link {
    /// A link of our own and the other end of it.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Link(ours), theirs))
    }

    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > PACKET || descriptors.len() > DESCRIPTORS {
            return Err(io::Error::other("the message is too long"));
        }
        let descriptors: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&packet)], rights, flags, None)?;
        Ok(())
    }

    /// The next message; None when the other side is gone. `WouldBlock` when there is none yet.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut packet = vec![0; PACKET];
        let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut slices = [IoSliceMut::new(&mut packet)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            // It ended with messages of ours unread.
            Err(Errno::ECONNRESET) => return Ok(None),
            received => received?,
        };
        let mut descriptors = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(rights) = message {
                // SAFETY: they have just been made for this process, for nobody else.
                descriptors.extend(rights.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        match received.bytes {
            0 => Ok(None),
            _ if descriptors.len() > DESCRIPTORS => Err(io::Error::other("too many descriptors came along")),
            length => Ok(Some((serde_json::from_slice(&packet[..length])?, descriptors))),
        }
    }

    /// Whether the other side has yet to read something that was sent.
    pub fn has_unread(&self) -> bool {
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (TIOCOUTQ by another name) writes one int.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
        result == 0 && bytes > 0
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_descriptors_than_any_message_has_are_closed() {
        let (link, other) = Link::pair().unwrap();
        let other = Link::from(other);
        let (read, write) = nix::unistd::pipe().unwrap();
        let many = [write.as_raw_fd(); 9];
        let rights = [ControlMessage::ScmRights(&many)];
        sendmsg::<()>(link.0.as_raw_fd(), &[IoSlice::new(b"1")], &rights, MsgFlags::empty(), None).unwrap();
        drop(write);
        assert!(other.receive::<u32>().is_err());
        assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(0), "nobody has the other end");
    }

    #[test]
    fn messages_and_descriptors_arrive() {
        let (link, other) = Link::pair().unwrap();
        let other = Link::from(other);
        link.send(&"hello", &[link.as_fd(), link.as_fd()]).unwrap();
        assert!(link.has_unread());
        let (message, descriptors) = other.receive::<String>().unwrap().unwrap();
        assert_eq!((message.as_str(), descriptors.len()), ("hello", 2));
        drop(descriptors);
        assert_eq!(other.receive::<String>().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(link);
        assert!(other.receive::<String>().unwrap().is_none());
    }
}
