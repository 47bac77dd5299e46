//! The life of the server: started, awaited, told of changes, and stopped with all it has begun.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{kill, killpg, SigSet, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{getpid, getppid, Pid, Uid};

use super::config::Site;
use super::options::ServerKind;
use super::private_dir::PrivateDir;
use super::target::Source;
use super::{keeper, reload, say};

/// How long each step of a stop may take; less than the ten seconds that Docker gives in all.
const GRACEFUL: Duration = Duration::from_secs(5);
const QUICK: Duration = Duration::from_secs(2);
const KILLED: Duration = Duration::from_secs(1);

/// How often it is asked whether the server is up, until it is.
const SHORTLY: Duration = Duration::from_millis(20);
const FOREVER: Duration = Duration::from_secs(1 << 32);

enum Event {
    /// The user wants an end.
    Stop,
    /// A child has ended, the server or something it left behind.
    Child,
    /// A file of the application.
    Changed(PathBuf),
}

/// Serves until told to stop. Returns the exit code; nothing is left behind.
pub fn run(site: &Site, port: TcpListener) -> u8 {
    match Running::start(site, port) {
        Ok(mut running) => {
            let code = running.until_the_end(site);
            running.end_what_is_left();
            code
        }
        Err(error) => {
            say(&format!("cannot start {}: {error}", site.server.title()));
            1
        }
    }
}

struct Running {
    kind: ServerKind,
    pid: Pid,
    /// How the server ended, once it has.
    ended: Option<WaitStatus>,
    address: SocketAddr,
    events: Receiver<Event>,
    /// Disconnected once everything that the server wrote is passed on.
    relayed: Receiver<()>,
    _dir: PrivateDir,
}

impl Running {
    fn start(site: &Site, port: TcpListener) -> io::Result<Running> {
        let address = port.local_addr()?;
        let dir = private_dir(site)?;
        let file = dir.path().join("server.conf");
        let text = site.configuration(dir.path(), address).map_err(|e| io::Error::other(e.to_string()))?;
        fs::write(&file, text)?;
        // The server's own messages, so that what it opens as /dev/stderr is a pipe of ours: the user's
        // may be a socket, or another user's terminal.
        let mut command = command(site, dir.path(), &file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        drop(port);
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(child.id() as i32);
        let (relaying, relayed) = channel();
        relay(child.stdout.take().expect("piped"), io::stdout(), relaying.clone());
        relay(child.stderr.take().expect("piped"), io::stderr(), relaying);
        let (sender, events) = channel();
        listen_for_signals(sender.clone());
        if site.options.reload {
            let script = match &site.target.source {
                Source::Script(path) => Some(path.clone()),
                Source::Module(_) => None,
            };
            let further = env::var_os("PYTHONPATH").unwrap_or_default();
            let mut dirs = vec![site.target.dir.clone()];
            dirs.extend(env::split_paths(&further).filter(|dir| dir.is_absolute()));
            reload::watch(dirs, script, move |file| sender.send(Event::Changed(file.to_owned())).is_ok());
        }
        Ok(Running { kind: site.server.kind, pid, ended: None, address, events, relayed, _dir: dir })
    }

    fn until_the_end(&mut self, site: &Site) -> u8 {
        let mut up = false;
        let mut changed: Option<PathBuf> = None;
        loop {
            if !up && self.is_up() {
                up = true;
                announce(site, self.address);
            }
            if let Some(file) = changed.take_if(|_| up) {
                self.reload(&file);
            }
            match self.events.recv_timeout(if up { FOREVER } else { SHORTLY }) {
                Ok(Event::Changed(file)) => changed = Some(file),
                Ok(Event::Child) => {
                    self.reap();
                    if let Some(status) = self.ended {
                        return report_end(site, status);
                    }
                }
                Ok(Event::Stop) => {
                    self.stop();
                    return 0;
                }
                Err(_) => {}
            }
        }
    }

    /// Whether it takes connections and signals; httpd begins with the former.
    fn is_up(&self) -> bool {
        answers(self.address) && catches(self.pid, self.kind.graceful_stop())
    }

    fn reload(&self, changed: &Path) {
        say(&format!("{} changed, reloading", changed.display()));
        let _ = kill(self.pid, self.kind.graceful_reload());
    }

    /// Politely first; another Ctrl-C brings the next step at once.
    fn stop(&mut self) {
        let graceful = self.kind.graceful_stop();
        if catches(self.pid, graceful) {
            let _ = kill(self.pid, graceful);
            if self.ends_within(GRACEFUL) {
                return;
            }
        }
        let _ = kill(self.pid, Signal::SIGTERM);
        if self.ends_within(QUICK) {
            return;
        }
        // With its workers, which do not end when their master is killed.
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.ends_within(KILLED);
    }

    /// Whether the server ends before the time is over and nobody wants it quicker.
    fn ends_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            self.reap();
            if self.ended.is_some() {
                return true;
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Child | Event::Changed(_)) => {}
                Ok(Event::Stop) | Err(_) => return false,
            }
        }
    }

    /// Waits for every child that has ended.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status.pid() {
                None => return,
                Some(pid) if pid == self.pid => self.ended = Some(status),
                Some(_) => {}
            }
        }
    }

    /// Workers without their master, and processes that the application has begun: they are our children
    /// now, and theirs will be when they end.
    fn end_what_is_left(mut self) {
        for (signal, patience) in [(Signal::SIGTERM, KILLED), (Signal::SIGKILL, KILLED)] {
            let deadline = Instant::now() + patience;
            loop {
                self.reap();
                let left = children();
                if left.is_empty() {
                    break;
                }
                for pid in left {
                    let _ = kill(pid, signal);
                }
                match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        // Nobody need be reading what is left to say.
        let _ = self.relayed.recv_timeout(KILLED);
    }
}

/// Where only the server and its workers come. Root's runtime folder is closed to the workers.
fn private_dir(site: &Site) -> io::Result<PrivateDir> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|_| !Uid::effective().is_root()).map(PathBuf::from);
    let mode = if site.account.is_some() { 0o711 } else { 0o700 };
    runtime
        .and_then(|dir| PrivateDir::create(&dir, mode).ok())
        .map_or_else(|| PrivateDir::create(Path::new("/tmp"), mode), Ok)
}

fn command(site: &Site, dir: &Path, configuration: &Path) -> Command {
    let server = site.server;
    let mut command = Command::new(&server.binary);
    match server.kind {
        ServerKind::Nginx => {
            command.arg("-p").arg(dir).arg("-c").arg(configuration);
            if server.is_since([1, 19, 5]) {
                // Else it tries the log file that it was built with first.
                command.args(["-e", "stderr"]);
            }
            // nginx takes descriptors from a variable of this name.
            command.env_remove("NGINX");
        }
        ServerKind::Apache => {
            command.arg("-d").arg(dir).arg("-f").arg(configuration).arg("-DFOREGROUND");
        }
    }
    if let Some(account) = &site.account {
        command.envs(account.environment());
    }
    let parent = getpid();
    // A group of its own: what a terminal sends reaches the server through us alone.
    command.process_group(0);
    // SAFETY: system calls only.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            match getppid() == parent {
                true => Ok(()),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
    command
}

/// Copies what the server writes. When nobody reads ours any more the pipe is closed, and the server
/// goes on without.
fn relay(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static, relaying: Sender<()>) {
    thread::spawn(move || {
        let _until_the_end = relaying;
        let mut lines = vec![0; 65536];
        while let Ok(n @ 1..) = from.read(&mut lines) {
            if to.write_all(&lines[..n]).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    });
}

fn listen_for_signals(events: Sender<Event>) {
    let signals = keeper::block_signals();
    thread::spawn(move || loop {
        let event = match signals.wait() {
            Ok(Signal::SIGCHLD) => Event::Child,
            Ok(_) => Event::Stop,
            Err(_) => continue,
        };
        if events.send(event).is_err() {
            return;
        }
    });
}

/// Whether a connection can be made; to the wildcard address by way of the local one.
fn answers(address: SocketAddr) -> bool {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    };
    TcpStream::connect_timeout(&(ip, address.port()).into(), Duration::from_millis(100)).is_ok()
}

/// Whether a process has a handler for a signal.
fn catches(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (signal as u32 - 1) != 0
}

fn announce(site: &Site, address: SocketAddr) {
    let (target, mount) = (&site.target.given, &site.options.mount.0);
    let (server, python) = (site.server.title(), &site.python.version);
    let line = format!(
        "Serving {target} on http://{address}{mount}/ with {server}, Python {python} (Ctrl-C stops)\n"
    );
    // Nobody need be reading it.
    let mut out = io::stdout();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// The server has ended, unasked.
fn report_end(site: &Site, status: WaitStatus) -> u8 {
    let (how, code) = match status {
        WaitStatus::Exited(_, code) => (format!("with exit code {code}"), code as u8),
        WaitStatus::Signaled(_, signal, _) => (format!("by signal {signal}"), 128 + signal as u8),
        _ => (String::new(), 1),
    };
    say(&format!("{} ended by itself, {how}", site.server.title()));
    code
}

fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .map(Pid::from_raw)
        .collect()
}
