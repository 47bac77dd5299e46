//! What is said over a link: packets of JSON, some with descriptors.
//!
//! Server module and `burrow` binary may be of different releases (an upgrade replaces the binary while
//! the old module still runs), so messages only ever gain fields, and the configuration has a version.

use burrow_daemon::packet::Link;
use nix::{
    sys::{
        memfd::{memfd_create, MFdFlags},
        socket::{getsockopt, sockopt, SockType},
    },
    unistd::dup2_stdin,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::CStr,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
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

/// The end that this process was started with.
pub fn link_from_stdin() -> io::Result<Link> {
    let stdin = io::stdin();
    if getsockopt(&stdin, sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(io::Error::other("this is for a server's module to run, not for people"));
    }
    let link = Link::from(stdin.as_fd().try_clone_to_owned()?);
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(link)
}

/// A file in memory that has this text.
pub fn memory_file(name: &CStr, text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_link() {
        let (link, other) = Link::pair().unwrap();
        let other = Link::from(other);
        let file = memory_file(c"test", b"text").unwrap();
        let message = Message::Configure { master: Some(1) };
        link.send(&message, &[file.as_fd(), file.as_fd()]).unwrap();
        let (received, descriptors) = other.receive::<Message>().unwrap().unwrap();
        assert_eq!((received, descriptors.len()), (message, 2));
    }
}
