//! Finding the managers of running servers, and asking them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burrow_daemon::control::{FromCommand, Hello, ToCommand};
use burrow_daemon::packet::Link;
use burrow_host::manager::Status;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::unistd::geteuid;
use std::os::fd::AsFd;

/// Longer than a manager waits for the processes that it asks.
const PATIENCE: Duration = Duration::from_secs(10);

/// The manager of a running server.
pub struct Instance {
    /// Of its sockets.
    pub folder: PathBuf,
}

pub enum Answer {
    Text(String),
    Done(String),
}

/// The one that is named by its folder or prefix, else all that run as root or as us.
pub fn find(named: &Option<PathBuf>) -> Result<Vec<Instance>, String> {
    // The control socket itself does, too.
    let named = match named {
        Some(path) if path.ends_with("control") => path.parent().map(Path::to_owned),
        named => named.clone(),
    };
    let instances: Vec<_> = match &named {
        Some(path) if path.join("control").exists() => vec![Instance { folder: path.clone() }],
        Some(prefix) => running()?.filter(|folder| folder.with_extension("") == *prefix).map(into).collect(),
        None => running()?.filter(|folder| is_trusted(folder)).map(into).collect(),
    };
    if instances.is_empty() {
        return Err(match named {
            Some(path) => format!("no server with process groups has its sockets in '{}'", path.display()),
            None => {
                "no server with process groups runs here; where it does, name the folder of its sockets with \
                     --socket"
                    .into()
            }
        });
    }
    Ok(instances)
}

fn into(folder: PathBuf) -> Instance {
    Instance { folder }
}

/// The folders whose control sockets somebody listens at, in the kernel's own list.
fn running() -> Result<impl Iterator<Item = PathBuf>, String> {
    let list = fs::read("/proc/net/unix").map_err(|error| format!("/proc/net/unix: {error}"))?;
    let list = String::from_utf8_lossy(&list).into_owned();
    let mut folders: Vec<PathBuf> = list.lines().filter_map(folder_of).collect();
    folders.sort();
    folders.dedup();
    Ok(folders.into_iter())
}

/// Of a line such as "0000000000000000: 00000002 00000000 00010000 0005 01  7391 /run/wsgi.5e…/control".
fn folder_of(line: &str) -> Option<PathBuf> {
    // The inode's number is padded.
    let mut rest = line;
    for _ in 0..7 {
        (_, rest) = rest.trim_start().split_once(' ')?;
    }
    let path = Path::new(rest);
    let folder = path.parent()?;
    let instance = folder.extension()?.to_str()?;
    let is_instance = instance.len() == 16 && instance.bytes().all(|byte| byte.is_ascii_hexdigit());
    (path.file_name()? == "control" && is_instance).then(|| folder.to_owned())
}

/// Others could show us whatever they like.
fn is_trusted(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| [0, geteuid().as_raw()].contains(&metadata.uid()))
}

impl Instance {
    pub fn status(&self) -> Result<Status, String> {
        match self.ask(&FromCommand::Status)? {
            Answer::Text(text) | Answer::Done(text) => serde_json::from_str(&text)
                .map_err(|error| self.failed(format!("is of another release of burrow ({error})"))),
        }
    }

    pub fn ask(&self, command: &FromCommand) -> Result<Answer, String> {
        let link = self.connect().map_err(|error| self.failed(format!("cannot be asked: {error}")))?;
        link.send(&Hello::Command(command.clone()), &[]).map_err(|error| self.failed(error.to_string()))?;
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        while poll(&mut [PollFd::new(link.as_fd(), PollFlags::POLLIN)], timeout) == Err(Errno::EINTR) {}
        match link.receive::<ToCommand>() {
            Ok(Some((ToCommand::Text, files))) => self.read(files).map(Answer::Text),
            Ok(Some((ToCommand::Done { message }, _))) => Ok(Answer::Done(message)),
            Ok(Some((ToCommand::Refused { message }, _))) => Err(message),
            Ok(None) => Err(self.failed("has ended".into())),
            Err(error) => Err(self.failed(format!("does not answer: {error}"))),
        }
    }

    fn connect(&self) -> nix::Result<Link> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&self.folder.join("control"))?)?;
        Ok(Link::from(socket))
    }

    fn read(&self, files: Vec<OwnedFd>) -> Result<String, String> {
        let file = files.into_iter().next().ok_or_else(|| self.failed("has sent nothing".into()))?;
        let mut text = String::new();
        let read = rewound(file).and_then(|mut file| file.read_to_string(&mut text));
        read.map(|_| text).map_err(|error| self.failed(error.to_string()))
    }

    fn failed(&self, what: String) -> String {
        format!("the manager at '{}' {what}", self.folder.display())
    }
}

/// Whoever wrote it left the offset, which is shared, at the end.
fn rewound(file: OwnedFd) -> std::io::Result<File> {
    use std::io::Seek;
    let mut file = File::from(file);
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_from_the_kernels_list() {
        // As unix_seq_show of the kernel writes it.
        let line = |inode: u64, path: &str| {
            format!("0000000000000000: 00000002 00000000 00010000 0005 01 {inode:5} {path}")
        };
        for folder in ["/run/apache2/wsgi.0123456789abcdef", "/srv/my  site/wsgi.0123456789abcdef"] {
            for inode in [7, 7391, 123_456_789] {
                assert_eq!(folder_of(&line(inode, &format!("{folder}/control"))), Some(folder.into()));
            }
        }
        for other in ["/run/wsgi.0123456789abcdef/shop.sock", "/run/wsgi.short/control", "@/control", ""] {
            assert_eq!(folder_of(&line(7391, other)), None, "{other}");
        }
        assert_eq!(folder_of("Num       RefCount Protocol Flags    Type St Inode Path"), None);
    }
}
