//! What a manager is told at its start and at every reload: the process groups, resolved in the server's master.

use super::protocol::memory_file;
use crate::{
    daemon,
    settings::{accounts, process_group::ProcessGroup, Instance, ServerKind, Settings},
};
use burrow_daemon::config::{App, Interpreter, Worker};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    pub version: u32,
    /// How often this server has been configured since its start.
    pub generation: u64,
    pub instance: String,
    /// Of the folder that holds the sockets.
    pub prefix: PathBuf,
    /// Whom the server's workers run as.
    pub server_uid: u32,
    /// The least severe level that it logs, in syslog's numbers; 0: all are.
    #[serde(default)]
    pub log_level: u32,
    pub groups: Vec<Group>,
}

/// A process group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub processes: u32,
    pub maximum_requests_jitter: u64,
    /// Changes when its processes are to be replaced though all else is the same.
    pub roll: u64,
    pub socket: Socket,
    pub launch: Launch,
    /// Without what differs from process to process.
    pub worker: Worker,
}

/// What the socket of a group is made with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Socket {
    /// Who may connect.
    pub uid: u32,
    pub backlog: u32,
}

/// What a process of a group is started with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub chroot: Option<PathBuf>,
    pub home: Option<PathBuf>,
    /// The user's home, where there is such a folder.
    pub default_home: PathBuf,
    pub nice: i32,
    /// Limits; 0: none.
    pub data: u64,
    pub address_space: u64,
    pub cpu_seconds: u64,
    pub environment: Vec<(String, String)>,
    pub python: Python,
    /// Where it is a build that can do without its lock: whether it does.
    pub free_threading: bool,
    /// For python, in front of everything else.
    pub flags: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Python {
    Home(PathBuf),
    Executable(PathBuf),
}

impl Default for Python {
    fn default() -> Self {
        Python::Home(crate::python::DEFAULT_HOME.into())
    }
}

impl Configuration {
    pub const VERSION: u32 = 3;

    pub fn new(settings: &Settings, generation: u64, instance: &str, rolls: Rolls) -> Self {
        let server = settings.instance();
        let group = |group| Group::new(settings, group, instance, rolls);
        Configuration {
            version: Self::VERSION,
            generation,
            instance: instance.into(),
            prefix: server.prefix.clone(),
            server_uid: server.uid,
            log_level: server.log_level,
            groups: settings.process_groups().map(group).collect(),
        }
    }

    pub fn to_file(&self) -> io::Result<OwnedFd> {
        memory_file(c"burrow configuration", &serde_json::to_vec(self)?)
    }

    /// Reads it without moving the file's offset, which others share.
    pub fn from_file(file: OwnedFd) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let file = File::from(file);
        let mut text = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut text, 0)?;
        let Version { version } = serde_json::from_slice(&text)?;
        if version != Self::VERSION {
            return Err(io::Error::other(format!(
                "the server runs a module of another release of burrow (configuration version {version}, not \
                 {}); stop the server and start it",
                Self::VERSION
            )));
        }
        Ok(serde_json::from_slice(&text)?)
    }

    pub fn folder(&self) -> PathBuf {
        daemon::folder(&self.prefix, &self.instance)
    }

    pub fn control(&self) -> PathBuf {
        daemon::control_path(&self.prefix, &self.instance)
    }

    pub fn socket(&self, group: &str) -> PathBuf {
        daemon::socket_path(&self.prefix, &self.instance, group)
    }
}

/// How often a server has read its configuration anew, and how often of these it was to start afresh.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rolls {
    pub reloads: u64,
    pub restarts: u64,
}

impl Group {
    fn new(settings: &Settings, group: &ProcessGroup, instance: &str, rolls: Rolls) -> Self {
        let server = settings.instance();
        let rolls_on_reload = match group.written("restart-on-reload") {
            Some(value) => value.eq_ignore_ascii_case("on"),
            None => settings.server() == ServerKind::Apache,
        };
        Group {
            name: group.name.clone(),
            processes: group.number("processes") as u32,
            maximum_requests_jitter: group.number("maximum-requests-jitter"),
            roll: if rolls_on_reload { rolls.reloads } else { rolls.restarts },
            socket: Socket { uid: group.socket_uid(server), backlog: group.number("listen-backlog") as u32 },
            launch: Launch::new(settings, group, server),
            worker: worker(settings, group, server, instance),
        }
    }

    /// What tells these settings from others, the same in every manager.
    pub fn settings(&self) -> String {
        let mut hasher = DefaultHasher::new();
        let all = serde_json::to_string(&(&self.socket, &self.launch, &self.worker));
        all.expect("is plain data").hash(&mut hasher);
        format!("{:016x}-{}", hasher.finish(), self.roll)
    }
}

impl Launch {
    fn new(settings: &Settings, group: &ProcessGroup, server: &Instance) -> Self {
        let (uid, gid) = (group.uid(server), group.gid(server));
        let user = accounts::of(uid);
        let groups = match group.written("supplementary-groups") {
            Some(names) => accounts::groups(names).unwrap_or_default(),
            None => user.as_ref().map_or(vec![gid], |user| accounts::groups_of(user, gid)),
        };
        let python = match group.written("python") {
            Some(python) => Python::Executable(python.into()),
            None => {
                Python::Home(group.written("python-home").map_or(settings.python_home(), Path::new).into())
            }
        };
        let cpu = group.number("cpu-time-limit");
        Launch {
            uid,
            gid,
            groups,
            umask: group.written("umask").and_then(|mode| u32::from_str_radix(mode, 8).ok()),
            chroot: group.written("chroot").map(PathBuf::from),
            home: group.written("home").map(PathBuf::from),
            default_home: user.as_ref().map(|user| user.dir.clone()).unwrap_or_default(),
            nice: group.value("cpu-priority").parse().unwrap_or_default(),
            data: group.number("memory-limit"),
            address_space: group.number("virtual-memory-limit"),
            cpu_seconds: cpu,
            environment: environment(settings, group, user.as_ref()),
            python,
            free_threading: settings.is_free_threaded(group.name.as_bytes()),
            flags: flags(settings),
        }
    }
}

fn environment(
    settings: &Settings,
    group: &ProcessGroup,
    user: Option<&nix::unistd::User>,
) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));
    if let Some(user) = user {
        set("HOME", user.dir.to_string_lossy().into_owned());
        set("USER", user.name.clone());
        set("LOGNAME", user.name.clone());
    }
    for (option, name) in [("lang", "LANG"), ("locale", "LC_ALL"), ("python-eggs", "PYTHON_EGG_CACHE")] {
        if let Some(value) = group.written(option) {
            set(name, value.to_owned());
        }
    }
    if let Some(seed) = settings.embedded().python.hash_seed {
        set("PYTHONHASHSEED", seed.to_string());
    }
    variables.extend_from_slice(group.environment());
    variables
}

/// What python is told on its command line.
fn flags(settings: &Settings) -> Vec<Vec<u8>> {
    let options = &settings.embedded().python;
    let optimize = match options.optimize {
        0 => None,
        1 => Some(b"-O".to_vec()),
        _ => Some(b"-OO".to_vec()),
    };
    let bytecode = options.dont_write_bytecode.then(|| b"-B".to_vec());
    let warnings = options.warnings.iter().map(|filter| [b"-W", filter.as_slice()].concat());
    optimize.into_iter().chain(bytecode).chain(warnings).collect()
}

fn worker(settings: &Settings, group: &ProcessGroup, server: &Instance, instance: &str) -> Worker {
    let seconds = |option| group.number(option) as f64;
    let apps: Vec<App> = settings
        .apps_of(&group.name)
        .iter()
        .map(|app| app.key())
        .map(|key| App {
            target: key.target.into(),
            callable: key.callable.into(),
            application_group: key.group.into(),
        })
        .collect();
    let threads = group.number("threads") as u32;
    let home = group.written("home").map(|home| home.as_bytes().to_vec());
    let folders = group.written("python-path").unwrap_or_default().split(':').filter(|path| !path.is_empty());
    let display_name = group.written("display-name");
    let script_owner = |option, look_up: fn(&str) -> Result<u32, String>| {
        group.written(option).and_then(|name| look_up(name).ok())
    };
    // Below another root the manager cannot be found.
    let control = match group.written("chroot") {
        Some(_) => String::new(),
        None => daemon::control_path(&server.prefix, instance).to_string_lossy().into_owned(),
    };
    let mut peers = vec![server.uid, group.socket_uid(server), nix::unistd::geteuid().as_raw(), 0];
    peers.sort_unstable();
    peers.dedup();
    Worker {
        version: Worker::VERSION,
        server: super::name(settings.server()).into(),
        log_level: settings.instance().log_level,
        group: group.name.clone(),
        settings: String::new(),
        control,
        peers,
        threads,
        greenlets: group.has_greenlets(),
        processes: group.number("processes") as u32,
        multiprocess: group.written("processes").is_some(),
        run_once: threads == 1 && group.number("maximum-requests") == 1,
        stack_size: group.number("stack-size"),
        main_interpreter: group.copies() == 0 && settings.hosts_one_app(&group.name),
        copies: group.copies(),
        apps,
        paths: home.into_iter().chain(folders.map(|path| path.as_bytes().to_vec())).collect(),
        interpreters: interpreters(settings, group),
        apache: settings.apache().cloned(),
        display_name: display_name.map(|name| match name {
            "%{GROUP}" => format!("(wsgi:{})", group.name),
            name => name.to_owned(),
        }),
        locale: group.written("locale").map(str::to_owned),
        switch_interval: match group.written("switch-interval") {
            Some(interval) => interval.parse().unwrap_or_default(),
            None => settings.embedded().switch_interval_of(group.name.as_bytes()),
        },
        script_user: script_owner("script-user", accounts::user),
        script_group: script_owner("script-group", accounts::group),
        socket_timeout: match group.written("socket-timeout") {
            Some(_) => seconds("socket-timeout"),
            None => server.timeout.as_secs_f64(),
        },
        send_buffer_size: group.number("send-buffer-size") as usize,
        receive_buffer_size: group.number("receive-buffer-size") as usize,
        startup_timeout: seconds("startup-timeout"),
        request_timeout: seconds("request-timeout"),
        interrupt_timeout: seconds("interrupt-timeout"),
        graceful_timeout: seconds("graceful-timeout"),
        eviction_timeout: seconds("eviction-timeout"),
        shutdown_timeout: seconds("shutdown-timeout"),
        deadlock_timeout: seconds("deadlock-timeout"),
        inactivity_timeout: seconds("inactivity-timeout"),
        restart_interval: seconds("restart-interval"),
        cpu_time_limit: seconds("cpu-time-limit"),
        maximum_requests: group.number("maximum-requests"),
        max_memory: group.number("max-memory"),
        server_metrics: group.is_on("server-metrics"),
        is_template: group.is_on("preload"),
    }
}

fn interpreters(settings: &Settings, group: &ProcessGroup) -> Vec<Interpreter> {
    let all = &settings.embedded().interpreters;
    all.in_group(group.name.as_bytes())
        .into_iter()
        .map(|(application_group, options)| Interpreter {
            application_group,
            paths: options.paths,
            restrict_stdin: options.restrict_stdin,
            restrict_stdout: options.restrict_stdout,
            restrict_signal: options.restrict_signal,
            interface: group.interface().unwrap_or(options.interface),
            event_loop: group.event_loop().unwrap_or(options.event_loop),
            websocket: group.websocket(options.websocket).into(),
            own_gil: options.own_gil && !settings.is_free_threaded(group.name.as_bytes()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burrow_daemon::packet::Link;
    use std::os::fd::AsFd;

    #[test]
    fn a_configuration_survives_its_file() {
        let (_link, file) = Link::pair().unwrap();
        drop(file);
        let configuration =
            Configuration { version: Configuration::VERSION, generation: 7, ..Default::default() };
        let file = configuration.to_file().unwrap();
        let copy = file.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(Configuration::from_file(file).unwrap(), configuration);
        assert_eq!(Configuration::from_file(copy).unwrap(), configuration);
    }

    #[test]
    fn another_version_is_refused() {
        let newer = Configuration { version: Configuration::VERSION + 1, ..Default::default() };
        let error = Configuration::from_file(newer.to_file().unwrap()).unwrap_err();
        assert!(error.to_string().contains("stop the server and start it"));
    }

    #[test]
    fn groups_of_other_settings_are_told_apart() {
        let group = Group { name: "shop".into(), processes: 1, ..Default::default() };
        let more = Group { processes: 2, ..group.clone() };
        let rolled = Group { roll: 1, ..group.clone() };
        let other = Group { launch: Launch { nice: 1, ..Default::default() }, ..group.clone() };
        assert_eq!(group.settings(), more.settings());
        assert_ne!(group.settings(), rolled.settings());
        assert_ne!(group.settings(), other.settings());
    }
}
