//! What is said over a link: packets of JSON, some with descriptors.
//!
//! Server module and `burrow` binary may be of different releases (an upgrade replaces the binary while
//! the old module still runs), so messages only ever gain fields, and the configuration has a version.

use nix::{
    errno::Errno,
    sys::{
        memfd::{memfd_create, MFdFlags},
        socket::{
            getsockopt, recvmsg, sendmsg, socketpair, sockopt, AddressFamily, ControlMessage,
            ControlMessageOwned, MsgFlags, SockFlag, SockType,
        },
    },
    unistd::dup2_stdin,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Two descriptors come along: the configuration (a file in memory, since there is no limit to its
    /// size) and the log. `master` is the sender's pid, where that is final.
    Configure { master: Option<i32> },
    /// The pid of the server's master, from a worker: when nginx starts, its master does not have its
    /// final pid yet.
    Master { pid: i32 },
    /// End, within this time. The reason is for the log.
    Stop { reason: String, timeout_ms: u64 },
}

/// Longer than any message.
const PACKET: usize = 512;
/// The most descriptors that come with one.
const DESCRIPTORS: usize = 2;

/// One end of a link. Neither sending nor receiving ever blocks.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// A link of our own and the other end of it.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Link(ours), theirs))
    }

    /// The end that this process was started with.
    pub fn from_stdin() -> io::Result<Link> {
        let stdin = io::stdin();
        if getsockopt(&stdin, sockopt::SockType) != Ok(SockType::SeqPacket) {
            return Err(io::Error::other("this is for a server's module to run, not for people"));
        }
        let link = Link(stdin.as_fd().try_clone_to_owned()?);
        dup2_stdin(File::open("/dev/null")?)?;
        Ok(link)
    }

    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        let descriptors: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&packet)], rights, flags, None)?;
        Ok(())
    }

    /// The next message; None when the other side is gone. `WouldBlock` when there is none yet.
    pub fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut packet = [0; PACKET];
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS]);
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

/// What a manager is told at its start and at every reload.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    pub version: u32,
    /// How often this server has been configured since its start.
    pub generation: u64,
}

impl Configuration {
    pub const VERSION: u32 = 1;

    pub fn new(generation: u64) -> Self {
        Configuration { version: Self::VERSION, generation }
    }

    pub fn to_file(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"burrow configuration", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }

    /// Reads it without moving the file's offset, which others share.
    pub fn from_file(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let mut text = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut text, 0)?;
        let configuration: Configuration = serde_json::from_slice(&text)?;
        if configuration.version != Self::VERSION {
            return Err(io::Error::other(format!(
                "the server runs a module of another release of burrow (configuration version {}, not {}); \
                 stop the server and start it",
                configuration.version,
                Self::VERSION
            )));
        }
        Ok(configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_survives_the_link() {
        let (link, other) = Link::pair().unwrap();
        let other = Link(other);
        let file = Configuration::new(7).to_file().unwrap();
        let message = Message::Configure { master: Some(1) };
        link.send(&message, &[file.as_fd(), file.as_fd()]).unwrap();
        assert!(link.has_unread());

        let (received, descriptors) = other.receive().unwrap().unwrap();
        assert!(!link.has_unread());
        assert_eq!(received, message);
        for descriptor in descriptors {
            assert_eq!(Configuration::from_file(descriptor).unwrap(), Configuration::new(7));
        }
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(link);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn another_version_is_refused() {
        let newer = Configuration { version: Configuration::VERSION + 1, generation: 1 };
        let error = Configuration::from_file(newer.to_file().unwrap()).unwrap_err();
        assert!(error.to_string().contains("stop the server and start it"));
    }
}
