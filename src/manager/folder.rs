//! The folder of a server instance's sockets.

use super::configuration::Socket;
use nix::{
    sys::{
        socket::{
            bind, connect, getsockname, getsockopt, listen, socket, sockopt, AddressFamily, Backlog,
            SockFlag, SockType, UnixAddr,
        },
        stat::{umask, Mode},
    },
    unistd::{chown, geteuid, Uid},
};
use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// A folder that has not changed for so long belongs to no manager that is just starting.
const SETTLED: Duration = Duration::from_secs(10);

/// Makes the folder; whether it was there already, from a manager before this one.
pub fn make(path: &Path) -> io::Result<bool> {
    let mut builder = DirBuilder::new();
    let existed = match builder.mode(0o711).create(path) {
        Ok(()) => false,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_ours(path) => true,
        Err(error) => return Err(error),
    };
    // Whatever the umask is.
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    Ok(existed)
}

/// Removes the sockets that are ours, and the folder.
pub fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if is_socket_name(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The socket for workers and commands: everybody may connect, and is judged then.
pub fn listen_for_control(path: &Path) -> io::Result<OwnedFd> {
    let listener = bound(path, SockType::SeqPacket)?;
    listen(&listener, Backlog::new(64)?)?;
    Ok(listener)
}

/// The socket of a process group.
pub fn listen_for_requests(path: &Path, options: &Socket) -> io::Result<OwnedFd> {
    let listener = bound(path, SockType::Stream)?;
    arrange(&listener, path, options)?;
    Ok(listener)
}

/// Has the socket be as these options say, which may have changed.
pub fn arrange(listener: &OwnedFd, path: &Path, options: &Socket) -> io::Result<()> {
    if options.uid != fs::metadata(path)?.uid() {
        chown(path, Some(Uid::from_raw(options.uid)), None)?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    // nix refuses a backlog above the kernel's default bound, which may have been raised.
    // SAFETY: a system call on numbers.
    match unsafe { libc::listen(listener.as_raw_fd(), options.backlog.try_into().unwrap_or(i32::MAX)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket in the place of any other of its name. Until it listens everybody who connects is refused, which means that
/// it is about to be there: nobody may meet a lack of permission meanwhile, which would be final.
fn bound(path: &Path, kind: SockType) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, kind, flags, None)?;
    let address = UnixAddr::new(path)?;
    let before = umask(Mode::from_bits_truncate(0o111));
    let result = bind(listener.as_raw_fd(), &address);
    umask(before);
    result?;
    Ok(listener)
}

/// Whether this, from a worker, is the socket of its group.
pub fn is_listener(socket: BorrowedFd<'_>, path: &Path) -> bool {
    let address = getsockname::<UnixAddr>(socket.as_raw_fd());
    path.exists()
        && address.is_ok_and(|address| address.path() == Some(path))
        && getsockopt(&socket, sockopt::AcceptConn) == Ok(true)
        && getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream)
}

/// Removes the folders of instances that are gone: killed with their managers.
pub fn sweep(ours: &Path) {
    let Some(prefix) = ours.with_extension("").file_name().map(OsStr::to_owned) else { return };
    let Some(Ok(siblings)) = ours.parent().map(fs::read_dir) else { return };
    let is_sibling = |path: &PathBuf| {
        let instance = path.extension().map(OsStr::as_bytes).unwrap_or_default();
        path != ours
            && path.with_extension("").file_name() == Some(&prefix)
            && instance.len() == 16
            && instance.iter().all(u8::is_ascii_hexdigit)
    };
    for folder in siblings.flatten().map(|entry| entry.path()).filter(is_sibling) {
        if is_ours(&folder) && is_settled(&folder) && !is_alive(&folder) {
            // Another manager may be doing the same.
            let _ = remove(&folder);
        }
    }
}

fn is_ours(folder: &Path) -> bool {
    let metadata = fs::symlink_metadata(folder);
    metadata.is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw())
}

fn is_settled(folder: &Path) -> bool {
    let changed = fs::metadata(folder).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > SETTLED))
}

/// Whether somebody listens at any of the sockets: a manager, or workers that wait for the next one.
fn is_alive(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return true };
    entries.flatten().filter(|entry| is_socket_name(&entry.file_name())).any(|entry| {
        let kind = if entry.file_name() == "control" { SockType::SeqPacket } else { SockType::Stream };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let Ok(socket) = socket(AddressFamily::Unix, kind, flags, None) else { return true };
        let Ok(address) = UnixAddr::new(&entry.path()) else { return true };
        connect(socket.as_raw_fd(), &address) != Err(nix::Error::ECONNREFUSED)
    })
}

fn is_socket_name(name: &OsStr) -> bool {
    name == "control" || name.as_bytes().ends_with(b".sock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::fd::AsFd, time::SystemTime};

    const INSTANCE: &str = "wsgi.0123456789abcdef";

    fn age(folder: &Path) {
        let time = SystemTime::now() - 2 * SETTLED;
        File::open(folder).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_folder_is_made_and_removed_with_its_sockets() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join(INSTANCE);
        assert!(!make(&folder).unwrap());
        assert!(make(&folder).unwrap());
        let control = listen_for_control(&folder.join("control")).unwrap();
        let options = Socket { uid: geteuid().as_raw(), backlog: 5 };
        let path = folder.join("shop.sock");
        let shop = listen_for_requests(&path, &options).unwrap();
        let mode = |path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path), mode(&folder.join("control"))), (0o711, 0o600, 0o666));
        assert!(is_listener(shop.as_fd(), &path));
        assert!(!is_listener(control.as_fd(), &path) && !is_listener(shop.as_fd(), &folder.join("x.sock")));
        remove(&folder).unwrap();
        assert!(!folder.exists() && !is_listener(shop.as_fd(), &path));
    }

    #[test]
    fn what_is_left_of_the_dead_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let names = ["wsgi.00000000000000aa", "wsgi.00000000000000bb", "wsgi.00000000000000cc", "wsgi.other"];
        let [dead, alive, new, other] = names.map(path);
        for folder in [&dead, &alive, &new, &other] {
            make(folder).unwrap();
            drop(listen_for_control(&folder.join("control")).unwrap());
        }
        let _worker =
            listen_for_requests(&alive.join("shop.sock"), &Socket { uid: geteuid().as_raw(), backlog: 1 });
        for folder in [&dead, &alive, &other] {
            age(folder);
        }
        sweep(&path(INSTANCE));
        assert_eq!([dead, alive, new, other].map(|folder| folder.exists()), [false, true, true, true]);
    }
}
