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
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
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
        let other = Link::from(other);
        let file = Configuration::new(7).to_file().unwrap();
        let message = Message::Configure { master: Some(1) };
        link.send(&message, &[file.as_fd(), file.as_fd()]).unwrap();

        let (received, descriptors) = other.receive::<Message>().unwrap().unwrap();
        assert_eq!(received, message);
        for descriptor in descriptors {
            assert_eq!(Configuration::from_file(descriptor).unwrap(), Configuration::new(7));
        }
    }

    #[test]
    fn another_version_is_refused() {
        let newer = Configuration { version: Configuration::VERSION + 1, generation: 1 };
        let error = Configuration::from_file(newer.to_file().unwrap()).unwrap_err();
        assert!(error.to_string().contains("stop the server and start it"));
    }
}
