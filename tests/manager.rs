//! The manager's processes without a server: a master made here starts, tells and stops them.

use burrow_host::{
    manager::Master,
    settings::{ServerKind, Settings},
};
use nix::{
    fcntl::{fcntl, FcntlArg, FdFlag},
    sys::signal::{kill, Signal},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A log file of its own for each test.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    fn new(name: &str) -> Log {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_file(&path);
        let file = File::options().create(true).append(true).open(&path).unwrap();
        Log { path, file }
    }

    /// Waits until the log has this text so many times.
    fn wait_for(&self, text: &str, times: usize) {
        wait(|| fs::read_to_string(&self.path).unwrap().matches(text).count() >= times, text);
    }
}

fn wait(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        sleep(Duration::from_millis(10));
    }
}

fn master(server: ServerKind) -> Master {
    Master::new(server, env!("CARGO_BIN_EXE_burrow").into())
}

/// Without process groups.
fn settings() -> Settings {
    Settings::new(ServerKind::Apache)
}

/// The only child of a process.
fn child_of(pid: Pid) -> Option<Pid> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Pid::from_raw)
}

fn alive(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn starts_once_and_stops() {
    let log = Log::new("starts_once.log");
    let mut master = master(ServerKind::Apache);
    let pid = master.configure(&settings(), log.file.as_fd()).unwrap().expect("the first time it starts");
    log.wait_for("started, instance", 1);
    for _ in 0..50 {
        assert_eq!(master.configure(&settings(), log.file.as_fd()).unwrap(), None);
    }
    master.stop(TIMEOUT);
    assert!(!alive(pid));
    log.wait_for("ends at configuration 51: the server stops", 1);
}

#[test]
fn keeps_nothing_of_its_parent() {
    let log = Log::new("keeps_nothing.log");
    let inherited = File::open("/dev/zero").unwrap();
    fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut master = master(ServerKind::Apache);
    let pid = master.configure(&settings(), log.file.as_fd()).unwrap().unwrap();
    log.wait_for("started", 1);
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: Vec<_> = open.map(|entry| fs::read_link(entry.unwrap().path()).unwrap()).collect();
    assert!(!open.contains(&"/dev/zero".into()), "{open:?}");
    master.stop(TIMEOUT);
}

#[test]
fn ends_with_its_master() {
    let log = Log::new("ends_with_its_master.log");
    for server in [ServerKind::Apache, ServerKind::Nginx] {
        let mut master = master(server);
        let pid = master.configure(&settings(), log.file.as_fd()).unwrap().unwrap();
        log.wait_for("started", 1);
        drop(master);
        // A zombie until somebody waits for it.
        wait(|| fs::read_link(format!("/proc/{pid}/exe")).is_err(), "its end");
    }
    log.wait_for("the server is gone", 2);
}

#[test]
fn follows_another_log() {
    let (first, second) = (Log::new("first.log"), Log::new("second.log"));
    let mut master = master(ServerKind::Nginx);
    master.configure(&settings(), first.file.as_fd()).unwrap();
    first.wait_for("started", 1);
    master.configure(&settings(), second.file.as_fd()).unwrap();
    master.stop(TIMEOUT);
    second.wait_for("ends at configuration 2: the server stops", 1);
}

#[test]
fn follows_a_rotated_log() {
    let log = Log::new("rotated.log");
    let mut master = master(ServerKind::Nginx);
    let guardian = master.configure(&settings(), log.file.as_fd()).unwrap().unwrap();
    log.wait_for("started", 1);
    fs::rename(&log.path, log.path.with_extension("log.1")).unwrap();
    let new = Log::new("rotated.log");
    wait(
        || {
            [Some(guardian), child_of(guardian)]
                .into_iter()
                .flatten()
                .all(|pid| fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|path| path == new.path))
        },
        "the new log",
    );
    master.stop(TIMEOUT);
    new.wait_for("ends at", 1);
}

#[test]
fn the_guardian_restarts_the_manager() {
    let log = Log::new("restarts.log");
    let mut master = master(ServerKind::Nginx);
    let guardian = master.configure(&settings(), log.file.as_fd()).unwrap().unwrap();
    log.wait_for("started", 1);
    kill(child_of(guardian).unwrap(), Signal::SIGKILL).unwrap();
    log.wait_for("started", 2);
    log.wait_for("was ended by SIGKILL; another one starts in 0.1 s", 1);
    assert_eq!(master.configure(&settings(), log.file.as_fd()).unwrap(), None);
    let manager = child_of(guardian).unwrap();
    master.stop(TIMEOUT);
    assert!(!alive(guardian) && !alive(manager));
    log.wait_for("ends at configuration 2", 1);
}

#[test]
fn the_manager_ends_with_its_guardian() {
    let log = Log::new("guardian.log");
    let mut master = master(ServerKind::Nginx);
    let guardian = master.configure(&settings(), log.file.as_fd()).unwrap().unwrap();
    log.wait_for("started", 1);
    let manager = child_of(guardian).unwrap();
    kill(guardian, Signal::SIGKILL).unwrap();
    wait(|| !alive(manager), "the end of the manager");
    let next = master.configure(&settings(), log.file.as_fd()).unwrap().expect("another one starts");
    assert_ne!(next, guardian);
    master.stop(TIMEOUT);
}

#[test]
fn one_that_hangs_is_killed() {
    let log = Log::new("hangs.log");
    let mut master = master(ServerKind::Nginx);
    let guardian = master.configure(&settings(), log.file.as_fd()).unwrap().unwrap();
    log.wait_for("started", 1);
    let manager = child_of(guardian).unwrap();
    for pid in [guardian, manager] {
        kill(pid, Signal::SIGSTOP).unwrap();
    }
    master.stop(Duration::from_millis(100));
    assert!(!alive(guardian));
    wait(|| !alive(manager), "the end of the manager");
}

#[test]
fn a_missing_command_is_named() {
    let log = Log::new("missing.log");
    let mut master = Master::new(ServerKind::Apache, "/nowhere/bin/burrow".into());
    let error = master.configure(&settings(), log.file.as_fd()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/bin/burrow"), "{error}");
}
