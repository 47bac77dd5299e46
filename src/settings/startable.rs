//! Whether the processes of a group can be started: judged once all of the configuration is read.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::gil::Gil;
use super::process_group::ProcessGroup;
use super::{accounts, Instance, ServerKind};
use crate::daemon::{socket_path, LONGEST_SOCKET_PATH};
use crate::python::{runtime_dir, Installation};

/// As long as every instance's.
const SOME_INSTANCE: &str = "0123456789abcdef";

pub fn check(group: &ProcessGroup, instance: &Instance, home: &Path, gil: &Gil) -> Result<(), String> {
    check_accounts(group, instance)?;
    check_socket(group, &instance.prefix)?;
    match group.written("chroot") {
        Some(root) => check_root(Path::new(root)),
        None => {
            check_home(group)?;
            let installation = installation(group, home)?;
            gil.check(group.name.as_bytes(), installation.version, group.written("interpreters").is_some())?;
            installation.runtime(&runtime_dir()).map(drop)
        }
    }
}

/// Whether its working directory is there. What lies behind folders that are closed to this process its own user
/// may see.
fn check_home(group: &ProcessGroup) -> Result<(), String> {
    let Some(home) = group.written("home") else { return Ok(()) };
    match fs::metadata(home) {
        Ok(found) if !found.is_dir() => Err(format!("home={home} is not a folder")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("home={home} does not exist: make it, or correct the path"))
        }
        _ => Ok(()),
    }
}

/// The Python of a group's processes; `home` is that of a group that names none. Not for one below another root.
pub fn installation(group: &ProcessGroup, home: &Path) -> Result<Installation, String> {
    match group.written("python") {
        Some(python) => Installation::of_executable(Path::new(python)),
        None => Installation::find(group.written("python-home").map_or(home, Path::new)),
    }
}

/// Whether the server's own processes may run applications. Those of httpd 2.4 stay root where they cannot take on
/// the group, or where the user has no account, as those that are not written.
pub fn check_workers(server: ServerKind, instance: &Instance) -> Result<(), String> {
    let no_account = || instance.gid == u32::MAX || accounts::of(instance.uid).is_none();
    let (are_root, cure) = match server {
        ServerKind::Apache => {
            (geteuid().is_root() && no_account(), "User, of an account that there is, and Group")
        }
        ServerKind::Nginx => (instance.uid == 0, "another user"),
    };
    match are_root {
        true => Err(format!("the server's workers would be root, which runs no applications: write {cure}")),
        false => Ok(()),
    }
}

fn check_accounts(group: &ProcessGroup, instance: &Instance) -> Result<(), String> {
    let uid = group.uid(instance);
    if uid == 0 || uid == u32::MAX {
        return Err(
            "its processes would run as root: write user=, or give the server's workers a user".into()
        );
    }
    if group.gid(instance) == u32::MAX {
        return Err(
            "its processes would have no group: write group=, or give the server's workers one".into()
        );
    }
    let me = geteuid();
    if me.is_root() {
        return Ok(());
    }
    let foreign = [("user", uid), ("socket-user", group.socket_uid(instance))];
    let foreign = foreign.into_iter().find(|(_, uid)| *uid != me.as_raw()).map(|(option, _)| option);
    let mut privileged = ["group", "supplementary-groups", "chroot"].into_iter();
    match foreign.or_else(|| privileged.find(|option| group.written(option).is_some())) {
        Some(option) => Err(format!("{option}= is for a server that root starts: remove it")),
        None => Ok(()),
    }
}

fn check_socket(group: &ProcessGroup, prefix: &Path) -> Result<(), String> {
    let path = socket_path(prefix, SOME_INSTANCE, &group.name);
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        return Err(format!(
            "the path of its socket ('{}') would have {length} bytes, and {LONGEST_SOCKET_PATH} is the most: choose a \
             shorter name, or a shorter prefix of sockets",
            path.display()
        ));
    }
    let folder = prefix.parent().map_or(PathBuf::from("/"), Path::to_owned);
    let cure = "choose another prefix of sockets";
    let metadata = fs::metadata(&folder).map_err(|error| {
        format!("the folder for sockets, '{}': {error}: make it, or {cure}", folder.display())
    })?;
    if !metadata.is_dir() {
        return Err(format!("'{}', for sockets, is no folder: {cure}", folder.display()));
    }
    // Whoever can rename what is in there could take the place of the application.
    let sticky = metadata.mode() & libc::S_ISVTX != 0;
    let owned = [0, geteuid().as_raw()].contains(&metadata.uid());
    if !owned || (!sticky && metadata.mode() & libc::S_IWOTH != 0) {
        return Err(format!(
            "users can replace sockets in '{}', which others own or may write to: {cure}",
            folder.display()
        ));
    }
    Ok(())
}

/// What a process has to find below another root.
fn check_root(root: &Path) -> Result<(), String> {
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let runtimes = runtime_dir();
    if inside(&runtimes).is_dir() {
        return Ok(());
    }
    Err(format!(
        "chroot={0}: '{1}' is needed there, as well as Python: mount or copy it ('{1}') below '{0}'",
        root.display(),
        runtimes.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, options: &[(&'static str, &'static str)]) -> ProcessGroup {
        ProcessGroup::new(name, options.iter().copied()).unwrap()
    }

    fn instance(prefix: &str) -> Instance {
        Instance { uid: 65534, gid: 65534, prefix: prefix.into(), ..Instance::default() }
    }

    #[test]
    fn nobody_runs_as_root() {
        let root = Instance { uid: 0, ..instance("/run/wsgi") };
        assert!(check_accounts(&group("shop", &[]), &root).unwrap_err().contains("root"));
    }

    #[test]
    fn a_path_has_its_length() {
        let long = "x".repeat(80);
        assert_eq!(check_socket(&group("shop", &[]), Path::new("/tmp/wsgi")), Ok(()));
        let message = check_socket(&group(&long, &[]), Path::new("/tmp/wsgi")).unwrap_err();
        assert!(message.contains("112 bytes"), "{message}");
    }

    #[test]
    fn sockets_are_where_nobody_replaces_them() {
        let refused = |prefix: &Path| check_socket(&group("shop", &[]), prefix).unwrap_err();
        assert!(refused(Path::new("/nonexistent/wsgi")).contains("make it"));
        assert!(refused(Path::new("/etc/hostname/wsgi")).contains("is no folder"));
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(refused(&folder.path().join("wsgi")).contains("replace"));
    }

    #[test]
    fn another_root_has_the_runtimes() {
        let root = tempfile::tempdir().unwrap();
        assert!(check_root(root.path()).unwrap_err().contains("is needed there"));
    }
}
