//! Who the workers run as when `burrow` was started by root: application code never is root.

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::AtFlags;
use nix::unistd::{self, AccessFlags, Gid, Group, Uid, User};

use super::target::Target;
use super::{refuse, Refusal};

pub struct Account {
    pub name: String,
    pub group: String,
    pub home: PathBuf,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Account {
    /// None: the workers run as the caller, who is not root.
    pub fn of_workers(user: Option<&str>, target: &Target) -> Result<Option<Account>, Refusal> {
        if !Uid::effective().is_root() {
            return match user {
                Some(_) => refuse!("--user needs root; leave it out, or start burrow as root"),
                None => Ok(None),
            };
        }
        let named = |name| User::from_name(name).ok().flatten();
        let user = match user {
            Some(name) => match named(name) {
                Some(user) if user.uid.is_root() => {
                    refuse!("application code does not run as root; give another --user")
                }
                Some(user) => user,
                None => refuse!("there is no user {name}; give an existing one with --user"),
            },
            None => target
                .owner()
                .filter(|&uid| uid != 0)
                .and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten())
                .or_else(|| named("www-data"))
                .or_else(|| named("nobody"))
                .ok_or_else(|| Refusal::new("found no user for the workers; give one with --user"))?,
        };
        Account::from_user(user).map(Some)
    }

    fn from_user(user: User) -> Result<Account, Refusal> {
        let group = match Group::from_gid(user.gid) {
            Ok(Some(group)) => group.name,
            _ => refuse!("the user {} has no group; give another --user", user.name),
        };
        let groups = CString::new(user.name.as_bytes())
            .ok()
            .and_then(|name| unistd::getgrouplist(&name, user.gid).ok())
            .unwrap_or_else(|| vec![user.gid]);
        Ok(Account { group, home: user.dir, uid: user.uid, gid: user.gid, groups, name: user.name })
    }

    /// Makes a command run as this user, for good.
    pub fn apply(&self, command: &mut Command) {
        let (uid, gid, groups) = (self.uid, self.gid, self.groups.clone());
        command.envs(self.environment());
        // SAFETY: three system calls, on memory made before the fork.
        unsafe {
            command.pre_exec(move || {
                unistd::setgroups(&groups)?;
                unistd::setgid(gid)?;
                Ok(unistd::setuid(uid)?)
            });
        }
    }

    pub fn environment(&self) -> [(&'static str, &str); 3] {
        [("HOME", self.home.to_str().unwrap_or("/")), ("USER", &self.name), ("LOGNAME", &self.name)]
    }

    /// Refuses with the first path that this user cannot reach.
    pub fn check_access<'a>(&self, needed: impl IntoIterator<Item = &'a Path>) -> Result<(), Refusal> {
        let obstacle = self.acting(|| {
            needed.into_iter().find_map(|path| obstacle(path).map(|(at, mode)| (path.to_owned(), at, mode)))
        });
        match obstacle {
            Err(error) => refuse!("cannot act as {}: {error}; start burrow as that user", self.name),
            Ok(None) => Ok(()),
            Ok(Some((path, at, mode))) => refuse!(
                "the user {} cannot use {}: chmod o+{mode} {}, or give another --user",
                self.name,
                path.display(),
                at.display()
            ),
        }
    }

    /// Runs `check` with this user's rights. The process has one thread at this time.
    fn acting<T>(&self, check: impl FnOnce() -> T) -> nix::Result<T> {
        let own_groups = unistd::getgroups()?;
        unistd::setgroups(&self.groups)?;
        unistd::setegid(self.gid)?;
        unistd::seteuid(self.uid)?;
        let result = check();
        unistd::seteuid(Uid::from_raw(0))?;
        unistd::setegid(Gid::from_raw(0))?;
        unistd::setgroups(&own_groups)?;
        Ok(result)
    }
}

/// The first directory on the way that cannot be entered, or the path itself when it cannot be read;
/// with the permission that is wanting.
fn obstacle(path: &Path) -> Option<(PathBuf, &'static str)> {
    let allowed =
        |path: &Path, how| unistd::faccessat(nix::fcntl::AT_FDCWD, path, how, AtFlags::AT_EACCESS).is_ok();
    let above: Vec<_> = path.ancestors().skip(1).collect();
    if let Some(closed) = above.into_iter().rev().find(|dir| !allowed(dir, AccessFlags::X_OK)) {
        return Some((closed.to_owned(), "x"));
    }
    let (how, mode) = match path.is_dir() {
        true => (AccessFlags::R_OK | AccessFlags::X_OK, "rx"),
        false => (AccessFlags::R_OK, "r"),
    };
    if !allowed(path, how) {
        return Some((path.to_owned(), mode));
    }
    let real = path.canonicalize().ok()?;
    if real == path {
        None
    } else {
        obstacle(&real)
    }
}
