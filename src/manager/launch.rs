//! Starting a process of a group: a fork of the manager that becomes the application's own python.

use super::{
    child::{close_at_exec, reset_signals},
    configuration::{Launch, Python},
    log::{Level, Log},
    priority,
};
use crate::python::Installation;
use nix::{
    sys::{
        resource::{getrlimit, setrlimit, Resource, RLIM_INFINITY},
        stat::{umask, Mode},
    },
    unistd::{
        chdir, chroot, dup2_raw, execve, fork, geteuid, setgid, setgroups, setsid, setuid, ForkResult, Gid,
        Pid, Uid,
    },
};
use std::{
    convert::Infallible,
    env,
    ffi::{CString, OsString},
    fmt::Display,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::OnceLock,
};

/// What a process of a group is not told of the manager's environment.
const NOT_INHERITED: [&str; 7] = [
    "PYTHONHOME",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The first descriptor that a process does not get: 0 to 2, and those of [`burrow_daemon::config`].
const FIRST_CLOSED: RawFd = 6;

/// How many files could be open before this process was let open as many as it may.
static FILES: OnceLock<(u64, u64)> = OnceLock::new();

/// Each process of a group takes a few descriptors here. Where it is not possible, there can be fewer.
pub fn raise_limit_of_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        let _ = FILES.set((soft, hard));
    }
}

/// Starts a process, which says in the log what it cannot do. `files` become the descriptors of
/// [`burrow_daemon::config`], in their order. `gives_way`: until [`priority::restore`].
pub fn start(
    group: &str,
    launch: &Launch,
    files: [BorrowedFd<'_>; 3],
    runtimes: &Path,
    gives_way: bool,
    log: &Log,
) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so that the copy can do whatever this one could.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let Err(why) = become_python(launch, files, runtimes, gives_way);
            log.write(Level::Error, &format!("process group '{group}': cannot start a process: {why}"));
            // SAFETY: ends this copy without what belongs to the end of the manager.
            unsafe { libc::_exit(1) }
        }
    }
}

fn become_python(
    launch: &Launch,
    files: [BorrowedFd<'_>; 3],
    runtimes: &Path,
    gives_way: bool,
) -> Result<Infallible, String> {
    setsid().map_err(|error| failed("make a session", error))?;
    arrange(files).map_err(|error| failed("arrange its files", error))?;
    reset_signals();
    limit(launch)?;
    if gives_way {
        priority::lower();
    }
    drop_privileges(launch)?;
    if let Some(mode) = launch.umask {
        umask(Mode::from_bits_truncate(mode));
    }
    match &launch.home {
        Some(home) => {
            chdir(home).map_err(|error| failed(&format!("enter '{}' (home=)", home.display()), error))?
        }
        None => {
            chdir(&launch.default_home).or_else(|_| chdir("/")).map_err(|error| failed("enter '/'", error))?
        }
    }
    let installation = match &launch.python {
        Python::Home(home) => Installation::find(home)?,
        Python::Executable(python) => Installation::of_executable(python)?,
    };
    let runtime = installation.runtime(runtimes)?;
    let string =
        |bytes: &[u8]| CString::new(bytes).map_err(|_| "there is a zero byte in its arguments".to_owned());
    let python = string(installation.executable.as_os_str().as_bytes())?;
    let mut arguments = vec![python.clone()];
    // Else it is off, until a module is imported that needs it.
    if installation.version.free_threaded && !launch.free_threading {
        arguments.extend([c"-X".into(), c"gil=1".into()]);
    }
    for argument in &launch.flags {
        arguments.push(string(argument)?);
    }
    arguments.push(string(runtimes.join("worker.py").as_os_str().as_bytes())?);
    arguments.push(string(runtime.as_os_str().as_bytes())?);
    let environment: Vec<CString> =
        environment(launch).iter().map(|each| string(each)).collect::<Result<_, _>>()?;
    execve(&python, &arguments, &environment)
        .map_err(|error| failed(&format!("run '{}'", installation.executable.display()), error))
}

fn failed(action: &str, error: impl Display) -> String {
    format!("cannot {action}: {error}")
}

/// Leaves the descriptors that a process is to have, and no others.
fn arrange(files: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    // Out of the way, since they may be where others are to be.
    let files: Vec<OwnedFd> = files
        .iter()
        .map(|file| {
            let copy = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST_CLOSED))?;
            // SAFETY: it has just been made, for nobody else.
            Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
        })
        .collect::<io::Result<_>>()?;
    let place = |file: BorrowedFd<'_>, number: RawFd| {
        // SAFETY: nothing in this copy of the manager uses what had the number before.
        unsafe { dup2_raw(file, number) }.map(std::mem::forget)
    };
    place(io::stderr().as_fd(), libc::STDOUT_FILENO)?;
    for (file, number) in files.iter().zip(burrow_daemon::config::LISTENER..) {
        place(file.as_fd(), number)?;
    }
    close_at_exec(FIRST_CLOSED)
}

fn limit(launch: &Launch) -> Result<(), String> {
    let set = |resource, soft: u64, hard: u64, option: &str| match soft {
        0 => Ok(()),
        _ => setrlimit(resource, soft, hard).map_err(|error| failed(&format!("set {option}={soft}"), error)),
    };
    if let Some((soft, hard)) = FILES.get() {
        setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard).map_err(|error| failed("limit its files", error))?;
    }
    set(Resource::RLIMIT_DATA, launch.data, launch.data, "memory-limit")?;
    set(Resource::RLIMIT_AS, launch.address_space, launch.address_space, "virtual-memory-limit")?;
    set(Resource::RLIMIT_CPU, launch.cpu_seconds, RLIM_INFINITY, "cpu-time-limit")?;
    if launch.nice == 0 {
        return Ok(());
    }
    // SAFETY: a system call on numbers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, launch.nice) } {
        0 => Ok(()),
        _ => Err(failed(&format!("set cpu-priority={}", launch.nice), io::Error::last_os_error())),
    }
}

fn drop_privileges(launch: &Launch) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(()); // There is but one user whom it could run as.
    }
    if let Some(root) = &launch.chroot {
        chroot(root)
            .and_then(|()| chdir("/"))
            .map_err(|error| failed(&format!("make '{}' the root", root.display()), error))?;
    }
    let groups: Vec<Gid> = launch.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)
        .and_then(|()| setgid(Gid::from_raw(launch.gid)))
        .and_then(|()| setuid(Uid::from_raw(launch.uid)))
        .map_err(|error| failed(&format!("become user {} of group {}", launch.uid, launch.gid), error))
}

fn environment(launch: &Launch) -> Vec<Vec<u8>> {
    let own: Vec<(OsString, OsString)> = env::vars_os().collect();
    let is_set = |name: &OsString| launch.environment.iter().any(|(set, _)| name == set.as_str());
    let inherited = own
        .iter()
        .filter(|(name, _)| !is_set(name) && !NOT_INHERITED.iter().any(|not| name == not))
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let mut all: Vec<Vec<u8>> = inherited.collect();
    // Of several of one name the last one counts.
    for (index, (name, value)) in launch.environment.iter().enumerate() {
        if !launch.environment[index + 1..].iter().any(|(later, _)| later == name) {
            all.push(format!("{name}={value}").into_bytes());
        }
    }
    if !all.iter().any(|variable| variable.starts_with(b"PATH=")) {
        all.push(format!("PATH={PATH}").into_bytes());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_one_name_is_set() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let launch = Launch {
            environment: vec![pair("PATH", "/a"), pair("B", "1"), pair("PATH", "/b")],
            ..Launch::default()
        };
        let all = environment(&launch);
        let paths: Vec<_> = all.iter().filter(|variable| variable.starts_with(b"PATH=")).collect();
        assert_eq!(paths, [b"PATH=/b"]);
        assert!(all.contains(&b"B=1".to_vec()));
    }
}
