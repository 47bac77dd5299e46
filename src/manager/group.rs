//! A process group: which processes it has, which it is to have, and how the one becomes the other.
//!
//! Nothing here is done in steps that could be interrupted: [`Group::balance`] compares what is wanted with what is
//! there, after everything that happens, and does the next thing. A process is current when it was started with the
//! settings and the revision that are in force; the others are replaced, each once a current one is ready.

mod ends;
mod refusal;
mod template;

use super::{
    backoff::Backoff,
    configuration::{self, Configuration},
    folder, launch,
    log::{Level, Log},
    orphans::Orphans,
    priority,
    worker::{self, State, Worker},
};
use burrow_daemon::{
    config::{self, App},
    control::{FromWorker, ToWorker},
    packet::Link,
};
use nix::unistd::Pid;
use refusal::Refused;
use std::{
    collections::HashMap,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread::available_parallelism,
    time::{Duration, Instant, SystemTime},
};

/// Further applications than this that were imported are not imported by a replacement: they come from a process
/// that is not trusted.
const MOST_IMPORTS: usize = 256;

/// That have not ended yet are adopted.
const MOST_GENERATIONS: usize = 8;

/// What all groups have in common.
pub struct Host<'a> {
    pub log: &'a Log,
    /// Of the runtimes.
    pub runtimes: &'a Path,
}

pub struct Group {
    spec: configuration::Group,
    /// Those in force, without the revision.
    settings: String,
    /// Counts what replaces the processes though the settings are the same.
    revision: u64,
    socket: PathBuf,
    listener: Option<OwnedFd>,
    pub workers: Vec<Worker>,
    pub orphans: Orphans,
    refused: Refused,
    /// What processes have imported besides what the configuration names.
    imported: Vec<App>,
    /// What did not import at this revision.
    broken: Vec<App>,
    /// A process with these settings and of this revision has been ready.
    proven: bool,
    /// Processes cannot be forked with these settings and at this revision, though preload=on.
    unfit: bool,
    /// What is new does not start: what was there before goes on, and nothing is tried again.
    held: bool,
    backoff: Backoff,
    /// When the scripts were changed that the processes in force were started for, or failed to.
    tried: HashMap<Vec<u8>, SystemTime>,
    /// Why processes that are not current are replaced: one of mod_wsgi's words.
    reason: &'static str,
    /// Processes are being replaced, and the end of that is to be told.
    rolling: bool,
    /// The group is not in the configuration any more: until then it serves servers that do not know yet.
    leaving: Option<Instant>,
}

impl Group {
    pub fn new(spec: configuration::Group, configuration: &Configuration) -> Group {
        Group {
            settings: spec.settings(),
            socket: configuration.socket(&spec.name),
            spec,
            revision: 0,
            listener: None,
            workers: Vec::new(),
            orphans: Orphans::default(),
            refused: Refused::default(),
            imported: Vec::new(),
            broken: Vec::new(),
            proven: false,
            unfit: false,
            held: false,
            backoff: Backoff::default(),
            tried: HashMap::new(),
            reason: "graceful_signal",
            rolling: true,
            leaving: None,
        }
    }

    pub fn spec(&self) -> &configuration::Group {
        &self.spec
    }

    pub fn is_held(&self) -> bool {
        self.held
    }

    /// What a process that is started now is started with.
    fn label(&self) -> String {
        format!("{}-{}", self.settings, self.revision)
    }

    /// The server has read its configuration again.
    pub fn reconfigure(&mut self, spec: configuration::Group, configuration: &Configuration) {
        let settings = spec.settings();
        let socket = configuration.socket(&spec.name);
        if socket != self.socket || !socket.exists() {
            self.listener = None;
            self.revision += 1;
        }
        if spec.socket != self.spec.socket {
            // It stays the same for those who serve.
            self.listener.take_if(|listener| folder::arrange(listener, &self.socket, &spec.socket).is_err());
        }
        let is_new = settings != self.settings;
        (self.spec, self.settings, self.socket, self.leaving) = (spec, settings, socket, None);
        if is_new || self.held {
            self.replace("graceful_signal");
        }
    }

    /// All processes are to be replaced, whatever became of the last attempt.
    fn replace(&mut self, reason: &'static str) {
        self.reason = reason;
        self.rolling = true;
        (self.held, self.proven, self.unfit) = (false, false, false);
        self.broken.clear();
        self.backoff = Backoff::default();
        let root = self.spec.launch.chroot.as_deref();
        self.imported.retain(|app| worker::script(app, root).is_none_or(|path| path.exists()));
        self.tried = self.known().map(|app| (app.target.clone(), self.modified(app))).collect();
    }

    /// What a process is to import.
    fn known(&self) -> impl Iterator<Item = &App> {
        self.spec.worker.apps.iter().chain(&self.imported)
    }

    fn modified(&self, app: &App) -> SystemTime {
        worker::script(app, self.spec.launch.chroot.as_deref())
            .and_then(|path| fs::metadata(path).ok()?.modified().ok())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub fn restart(&mut self) {
        self.revision += 1;
        self.replace("graceful_signal");
    }

    /// The configuration has it no more.
    pub fn leave(&mut self) {
        let _ = self.leaving.get_or_insert_with(|| Instant::now() + self.spec.graceful_timeout());
    }

    pub fn has_left(&self) -> bool {
        self.leaving.is_some() && self.workers.is_empty() && self.orphans.is_empty()
    }

    /// Does what is to be done now.
    pub fn balance(&mut self, host: &Host) {
        let now = Instant::now();
        self.backoff.pass(now);
        self.enforce(host, now);
        self.workers.iter_mut().for_each(|worker| worker.look_at_import(now));
        self.orphans.expire(now);
        if let Some(until) = self.leaving {
            if until <= now {
                self.listener = None;
                // The path leads nowhere any more: what remains comes from those that are connected.
                let _ = fs::remove_file(&self.socket);
                self.stop_templates(|_| true);
                self.drain(|_| true, usize::MAX);
            }
            return;
        }
        let label = self.label();
        let is_current = |worker: &Worker| worker.settings == label && worker.retiring.is_none();
        for worker in &mut self.workers {
            if matches!(worker.state, State::Starting(_)) && !is_current(worker) {
                worker.stop(self.reason, self.spec.shutdown_timeout());
            }
        }
        self.stop_templates(|worker| !is_current(worker));
        let wanted = self.spec.processes as usize;
        if self.is_service() {
            self.drain(|worker| !is_current(worker), usize::MAX);
            self.start_missing(host, wanted.saturating_sub(self.workers.len()));
            return;
        }
        let up = self.workers.iter().filter(|worker| worker.is_up());
        let is_ready = |worker: &&Worker| worker.state == State::Ready;
        let serving = up.clone().filter(is_ready).count();
        let current = up.filter(|worker| is_current(worker));
        let ready = current.clone().filter(is_ready).count();
        let current = current.count() + self.ordered();
        if self.held && serving == 0 && current == 0 {
            self.held = false;
        }
        if !self.held {
            let at_once = match serving {
                // Where others serve, the first one shows whether what is new starts at all.
                1.. if !self.proven => 1,
                // There is no hurry: those who serve need processors, too.
                _ if serving >= wanted => ready + importers(),
                _ => wanted,
            };
            self.start_missing(host, at_once.min(wanted).saturating_sub(current));
        }
        let surplus = serving.saturating_sub(wanted);
        let drained = self.drain(|worker| !is_current(worker), surplus);
        self.drain(|_| true, surplus - drained);
        if self.rolling && ready == wanted {
            self.rolling = false;
            self.say(host, Level::Notice, &format!("{wanted} new processes serve"));
        }
    }

    /// Drains so many at most of the processes that serve and that `which` is about. How many it were.
    fn drain(&mut self, which: impl Fn(&Worker) -> bool, most: usize) -> usize {
        let serve = self.workers.iter_mut().filter(|worker| worker.is_up() && !worker.is_template);
        let chosen = serve.filter(|worker| which(worker)).take(most);
        let mut drained = 0;
        for worker in chosen {
            let reason = worker.retiring.clone().unwrap_or_else(|| self.reason.into());
            let shutdown = self.spec.shutdown_timeout();
            if self.spec.worker.threads == 0 {
                worker.stop(&reason, shutdown);
            } else {
                worker.drain(&reason, self.spec.drain_timeout(&reason), shutdown);
            }
            drained += 1;
        }
        drained
    }

    fn stop_templates(&mut self, which: impl Fn(&Worker) -> bool) {
        let shutdown = self.spec.shutdown_timeout();
        let templates = self.workers.iter_mut().filter(|worker| worker.is_template && !worker.is_ending());
        templates.filter(|worker| which(worker)).for_each(|worker| worker.stop(self.reason, shutdown));
    }

    /// It takes no requests: a script runs, and of each process there is to be just one.
    fn is_service(&self) -> bool {
        self.spec.worker.threads == 0
    }

    /// Whether its processes may leave processors to others while they import.
    fn may_give_way(&self) -> bool {
        // Nobody can tell when a service is done with that.
        !self.is_service() && self.spec.launch.nice == 0 && priority::can_be_lowered()
    }

    fn start_missing(&mut self, host: &Host, missing: usize) {
        if self.backoff.due().is_some() {
            return;
        }
        for _ in 0..self.startable(missing) {
            if let Err(error) = self.start(host) {
                let delay = self.backoff.failed(false, Duration::ZERO);
                let text = format!("cannot start a process: {error}; again in {:.1} s", delay.as_secs_f32());
                return self.say(host, Level::Error, &text);
            }
        }
    }

    fn start(&mut self, host: &Host) -> io::Result<()> {
        let serving = self.workers.iter().filter(|worker| worker.state == State::Ready).count();
        // Where some are missing nothing is more urgent.
        let gives_way = serving >= self.spec.processes as usize && self.may_give_way();
        let apps = self.apps_to_import();
        let template = self.template();
        let is_template = self.preloads() && template.is_none();
        let listener = match &self.listener {
            Some(listener) => listener,
            None => self.listener.insert(folder::listen_for_requests(&self.socket, &self.spec.socket)?),
        };
        let (link, theirs) = Link::pair()?;
        let settings = format!("{}-{}", self.settings, self.revision);
        let jitter = random_up_to(self.spec.maximum_requests_jitter);
        let maximum_requests = match self.spec.worker.maximum_requests {
            0 => 0,
            most => most + jitter,
        };
        let spec = self.spec.worker.clone();
        let configuration =
            config::Worker { settings: settings.clone(), apps, maximum_requests, is_template, ..spec };
        let configuration = configuration.to_file()?;
        let files = [listener.as_fd(), configuration.as_fd(), theirs.as_fd()];
        if let Some(index) = template {
            return Group::order(&mut self.workers[index], link, files);
        }
        let launch = &self.spec.launch;
        let pid = launch::start(&self.spec.name, launch, files, host.runtimes, gives_way, host.log)?;
        let mut worker = Worker::started(pid, link, settings, self.startup_timeout())?;
        worker.is_template = is_template;
        if gives_way {
            worker.give_way();
        }
        self.workers.push(worker);
        Ok(())
    }

    fn apps_to_import(&self) -> Vec<App> {
        // Where no process serves, some of the applications are better than none.
        let takes_all = self.workers.iter().any(|worker| worker.state == State::Ready);
        self.known().filter(|app| takes_all || !self.is_broken(app)).cloned().collect()
    }

    /// A process has sent this. Returns the file of the stacks, where that was it.
    pub fn message(
        &mut self,
        host: &Host,
        pid: Pid,
        message: FromWorker,
        files: Vec<OwnedFd>,
    ) -> Option<OwnedFd> {
        let label = self.label();
        let worker = self.workers.iter_mut().find(|worker| worker.pid == pid)?;
        let is_current = worker.settings == label;
        match message {
            FromWorker::Register { ready, .. } => self.registered(pid, ready, &files),
            FromWorker::Ready => self.registered(pid, true, &[]),
            FromWorker::Broken { app } if worker.is_up() => {
                // It ends now, and that is no news.
                worker.state = State::Stopping(Instant::now() + self.spec.shutdown_timeout());
                if is_current {
                    self.broken(host, app);
                }
            }
            FromWorker::Broken { .. } => {}
            FromWorker::Template if worker.is_template && worker.is_up() => {
                worker.state = State::Template;
                worker.stop_giving_way();
            }
            FromWorker::Unfit { reason } if worker.is_template => {
                worker.state = State::Stopping(Instant::now() + self.spec.shutdown_timeout());
                self.cannot_fork(host, is_current, &reason);
            }
            FromWorker::Forked { pid: child } if worker.is_template => self.forked(host, pid, child),
            FromWorker::Template | FromWorker::Unfit { .. } | FromWorker::Forked { .. } => {}
            FromWorker::Imported { app } => {
                self.broken.retain(|broken| broken.target != app.target);
                self.imported(pid, app);
            }
            FromWorker::Changed { app } => self.changed(host, &app),
            FromWorker::Retire { reason } if worker.retiring.is_none() => {
                let text = format!("process {pid} is replaced: {}", printable(&reason));
                worker.retiring = Some(reason);
                self.say(host, Level::Notice, &text);
            }
            FromWorker::Retire { .. } => {}
            FromWorker::Stacks => return files.into_iter().next(),
        }
        None
    }

    /// A process says what it is, with the listening socket and the page.
    pub fn registered(&mut self, pid: Pid, ready: bool, files: &[OwnedFd]) {
        let (label, is_service) = (self.label(), self.is_service());
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.pid == pid) else { return };
        if let [_, page, ..] = files {
            worker.show_page(page.as_fd());
        }
        if ready && !worker.is_template {
            worker.ready();
            if !is_service {
                worker.send(&ToWorker::Serve, &[]);
            }
            self.proven |= worker.settings == label;
            self.backoff.succeeded();
            self.refused.clear();
        }
    }

    /// The others need it before it changes: what it was is nowhere else to be had.
    fn imported(&mut self, by: Pid, app: App) {
        if self.known().any(|known| *known == app) || self.imported.len() >= MOST_IMPORTS {
            return;
        }
        for worker in self.workers.iter().filter(|worker| worker.is_up() && worker.pid != by) {
            // One that does not take it is ending.
            worker.send(&ToWorker::Import { app: app.clone() }, &[]);
        }
        self.imported.push(app);
    }

    fn broken(&mut self, host: &Host, app: App) {
        let target = printable(&String::from_utf8_lossy(&app.target));
        if !self.is_broken(&app) {
            self.broken.push(app);
            self.say(host, Level::Error, &format!("'{target}' does not import; see above for the reason"));
        }
        if self.workers.iter().any(|worker| worker.state == State::Ready) {
            self.did_not_start(host);
        }
    }

    /// In whatever application group.
    fn is_broken(&self, app: &App) -> bool {
        self.broken.iter().any(|broken| broken.target == app.target && broken.callable == app.callable)
    }

    /// Every process says so of its own, when it sees the change: what has replaced it may have tried that already.
    fn changed(&mut self, host: &Host, app: &App) {
        let is_known = self.known().any(|known| known == app);
        if is_known && self.tried.get(&app.target) != Some(&self.modified(app)) {
            self.revision += 1;
            self.replace("script_reload");
            let target = printable(&String::from_utf8_lossy(&app.target));
            self.say(host, Level::Notice, &format!("'{target}' has changed: the processes are replaced"));
        }
    }

    /// One that a manager before this one started.
    pub fn adopt(&mut self, mut worker: Worker, listener: OwnedFd, draining: bool) {
        if self.listener.is_none() && folder::is_listener(listener.as_fd(), &self.socket) {
            self.listener = Some(listener);
        }
        if let Some((settings, revision)) = worker.settings.rsplit_once('-') {
            if settings == self.settings {
                // A tenant's word, from which it must be possible to count on.
                self.revision = self.revision.max(revision.parse::<u32>().unwrap_or_default().into());
            }
        }
        let timeout = self.spec.graceful_timeout() + self.spec.shutdown_timeout();
        if self.may_give_way() {
            worker.give_way();
        }
        if draining {
            worker.state = State::Draining(Instant::now() + timeout);
        } else if !worker.was_ready {
            worker.expect_ready(self.startup_timeout());
        } else {
            // Its manager may have died before it could do that.
            worker.stop_giving_way();
            worker.send(&ToWorker::Serve, &[]);
        }
        for app in &self.imported {
            worker.send(&ToWorker::Import { app: app.clone() }, &[]);
        }
        self.workers.push(worker);
        let label = self.label();
        self.proven = self.workers.iter().any(|worker| worker.was_ready && worker.settings == label);
        self.rolling = false;
    }

    /// Whether one more may be adopted: they are a tenant's, who could fork any number.
    pub fn has_room(&self) -> bool {
        self.workers.len() < MOST_GENERATIONS * self.spec.processes as usize
    }

    /// When there is something to do though nothing happens.
    pub fn due(&self) -> Option<Instant> {
        let workers = self.workers.iter().filter_map(Worker::due);
        // The time of one that is past matters while it has processes to drain only.
        let leaving = self.leaving.filter(|_| self.workers.iter().any(Worker::is_up));
        let workers = workers.chain(self.workers.iter().filter_map(Worker::look_due));
        workers.chain(leaving).chain(self.backoff.due()).chain(self.orphans.due()).min()
    }

    fn say(&self, host: &Host, level: Level, text: &str) {
        host.log.write(level, &format!("process group '{}': {text}", self.spec.name));
    }
}

impl configuration::Group {
    fn graceful_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.worker.graceful_timeout)
    }

    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.worker.shutdown_timeout)
    }

    fn drain_timeout(&self, reason: &str) -> Duration {
        match self.worker.eviction_timeout {
            timeout if timeout > 0.0 && reason == "eviction_signal" => Duration::from_secs_f64(timeout),
            _ => self.graceful_timeout(),
        }
    }
}

/// How many import at once while as many as are wanted serve: on half of the processors.
fn importers() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| available_parallelism().map_or(1, |all| all.get().div_ceil(2)))
}

/// The standard library's hashers have keys from the kernel's random numbers.
fn random_up_to(most: u64) -> u64 {
    RandomState::new().build_hasher().finish() % (most + 1)
}

/// What comes from a process of a group may be anything.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}
