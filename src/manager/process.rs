//! The manager's own process.

use super::{
    commands::Commands,
    configuration::Configuration,
    folder,
    group::{Group, Host},
    inbox::{blocked, Event, Inbox},
    launch,
    log::Level,
    orphans::Orphans,
    visitors::{Visitor, Visitors},
    worker::{self, State, Worker},
    Role,
};
use crate::{python::runtime_dir, settings::ServerKind};
use burrow_daemon::control::{FromWorker, Hello, ToWorker};
use nix::{
    sys::{prctl, signal::Signal, signalfd::SignalFd},
    unistd::Pid,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

/// For so long a manager that follows another one waits for the processes of that: they look for it often.
const ADOPTION: Duration = Duration::from_millis(400);
/// What is left of the time to end in when processes are killed that have not.
const RESERVE: Duration = Duration::from_millis(500);

/// A process that has ended may have said so much; whoever has its link may say more.
const MOST_LAST_WORDS: usize = 1000;

pub fn run(server: ServerKind) -> io::Result<()> {
    let inbox = Inbox::open(Role::Manager, server)?;
    // Of a process that is forked from another, by way of one that ends: it becomes ours.
    prctl::set_child_subreaper(true)?;
    launch::raise_limit_of_files();
    let mut manager = Manager {
        inbox,
        children: blocked(&[Signal::SIGCHLD])?,
        runtimes: runtime_dir().canonicalize().unwrap_or_else(|_| runtime_dir()),
        configuration: Configuration::default(),
        folders: Vec::new(),
        visitors: None,
        groups: Vec::new(),
        adopts_until: None,
        commands: Commands::default(),
    };
    loop {
        if let Some((reason, timeout)) = manager.turn()? {
            manager.stop(timeout);
            let generation = manager.configuration.generation;
            manager.inbox.log.write(Level::Notice, &format!("ends at configuration {generation}: {reason}"));
            return Ok(());
        }
    }
}

struct Manager {
    inbox: Inbox,
    /// Says that one has ended, be it a stranger.
    children: SignalFd,
    runtimes: PathBuf,
    configuration: Configuration,
    /// That were made, the one in use last.
    folders: Vec<PathBuf>,
    visitors: Option<Visitors>,
    groups: Vec<Group>,
    /// Until then processes of a manager before this one are waited for.
    adopts_until: Option<Instant>,
    commands: Commands,
}

/// What a descriptor that is watched belongs to.
#[derive(Clone, Copy)]
enum Source {
    Children,
    Visitor(usize),
    /// Of the group with this index.
    Queue(usize),
    Link(Pid),
    End(Pid),
}

fn sources<'a>(
    children: &'a SignalFd,
    visitors: &'a Option<Visitors>,
    groups: &'a [Group],
) -> Vec<(Source, BorrowedFd<'a>)> {
    let visitors = visitors.iter().flat_map(Visitors::descriptors).enumerate();
    let visitors = visitors.map(|(index, fd)| (Source::Visitor(index), fd));
    let queues = groups.iter().enumerate();
    let queues = queues.filter_map(|(index, group)| Some((Source::Queue(index), group.forsaken()?)));
    let workers = groups.iter().flat_map(|group| &group.workers).flat_map(|worker| {
        let link = worker.link().map(|link| (Source::Link(worker.pid), link));
        link.into_iter().chain([(Source::End(worker.pid), worker.pidfd())])
    });
    [(Source::Children, children.as_fd())].into_iter().chain(visitors).chain(queues).chain(workers).collect()
}

impl Manager {
    /// Waits for one thing and does what follows from it. Returns why and how soon to end, when that is it.
    fn turn(&mut self) -> io::Result<Option<(String, Duration)>> {
        let due = self.due();
        let sources = sources(&self.children, &self.visitors, &self.groups);
        let (sources, watched): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
        match self.inbox.next(&watched, due)? {
            Event::Configure(file) => self.configure(file),
            Event::Stop { reason, timeout } => return Ok(Some((reason, timeout))),
            Event::LogMoved => self.pass_log(),
            Event::Ready(index) => match sources[index] {
                // All are looked for below.
                Source::Children => drop(self.children.read_signal()?),
                Source::Visitor(index) => self.visited(index),
                Source::Queue(index) => self.groups[index].refuse(),
                Source::Link(pid) => drop(self.receive(pid)),
                Source::End(pid) => self.ended(pid),
            },
            Event::Due => {}
        }
        self.balance();
        let workers = || self.groups.iter().flat_map(|group| &group.workers);
        worker::reap_strangers(|pid| workers().any(|worker| worker.pid == pid));
        Ok(None)
    }

    fn due(&self) -> Option<Instant> {
        let groups = self.groups.iter().filter_map(Group::due);
        // Nothing is started before.
        let groups = groups.filter(|_| self.adopts_until.is_none());
        groups.chain(self.adopts_until).chain(self.commands.due()).min()
    }

    fn balance(&mut self) {
        let now = Instant::now();
        self.commands.expire(now);
        if self.adopts_until.is_some_and(|until| until > now) {
            return;
        }
        self.adopts_until = None;
        let host = Host { log: &self.inbox.log, runtimes: &self.runtimes };
        for group in &mut self.groups {
            group.balance(&host);
        }
        self.groups.retain(|group| !group.has_left());
    }

    fn configure(&mut self, file: OwnedFd) {
        let generation = self.configuration.generation;
        let taken = Configuration::from_file(file).and_then(|configuration| self.take(configuration));
        if let Err(error) = taken {
            self.inbox.log.write(Level::Error, &format!("keeps configuration {generation}: {error}"));
        }
        self.pass_log();
    }

    fn take(&mut self, configuration: Configuration) -> io::Result<()> {
        self.inbox.log.set_level(configuration.log_level);
        if self.configuration.generation == 0 {
            let text = format!("started, instance {}", configuration.instance);
            self.inbox.log.write(Level::Notice, &text);
        }
        if !configuration.groups.is_empty() {
            self.open_folder(&configuration)?;
        }
        for group in &mut self.groups {
            if !configuration.groups.iter().any(|spec| spec.name == group.spec().name) {
                group.leave();
            }
        }
        for spec in &configuration.groups {
            match self.groups.iter_mut().find(|group| group.spec().name == spec.name) {
                Some(group) => group.reconfigure(spec.clone(), &configuration),
                None => self.groups.push(Group::new(spec.clone(), &configuration)),
            }
        }
        if !configuration.groups.is_empty() || !self.groups.is_empty() {
            let text = format!("configuration {}", configuration.generation);
            self.inbox.log.write(Level::Notice, &text);
        }
        self.configuration = configuration;
        Ok(())
    }

    /// Makes the folder and takes its control socket, unless this manager has done so.
    fn open_folder(&mut self, configuration: &Configuration) -> io::Result<()> {
        let folder = configuration.folder();
        if self.folders.last() == Some(&folder) && configuration.control().exists() {
            return Ok(());
        }
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
        let existed = folder::make(&folder).map_err(failed)?;
        self.visitors =
            Some(Visitors::new(folder::listen_for_control(&configuration.control()).map_err(failed)?));
        if self.folders.is_empty() {
            self.adopts_until = existed.then(|| Instant::now() + ADOPTION);
            folder::sweep(&folder);
        }
        self.folders.retain(|other| *other != folder);
        self.folders.push(folder);
        Ok(())
    }

    /// Has all processes log where this one does.
    fn pass_log(&self) {
        let log = io::stderr();
        for worker in self.groups.iter().flat_map(|group| &group.workers) {
            // One that does not take it is ending, or never reads.
            worker.send(&ToWorker::Log, &[log.as_fd()]);
        }
    }

    fn visited(&mut self, index: usize) {
        let Some(visitor) = self.visitors.as_mut().and_then(|visitors| visitors.ready(index)) else { return };
        let Visitor { link, pid, uid, hello, files } = visitor;
        match hello {
            Hello::Worker(FromWorker::Register { group, settings, started, ready, draining, .. }) => {
                let Some(group) = self.groups.iter_mut().find(|known| known.spec().name == group) else {
                    return;
                };
                if uid != group.spec().launch.uid {
                    return;
                }
                if let Some(worker) = group.workers.iter_mut().find(|worker| worker.pid == pid) {
                    worker.relink(link);
                    // What it has said over the last link may be lost.
                    return group.registered(pid, ready, &files);
                }
                if !group.has_room() {
                    return;
                }
                let Ok([listener, page]) = <[OwnedFd; 2]>::try_from(files) else { return };
                let Ok(mut worker) = Worker::adopted(pid, link, settings, started, ready) else { return };
                worker.show_page(page.as_fd());
                group.adopt(worker, listener, draining);
            }
            // That is no first message.
            Hello::Worker(_) => {}
            Hello::Command(command) => {
                let host = Host { log: &self.inbox.log, runtimes: &self.runtimes };
                self.commands.take(&host, link, uid, command, &self.configuration, &mut self.groups);
            }
        }
    }

    /// Whether there was a message.
    fn receive(&mut self, pid: Pid) -> bool {
        let host = Host { log: &self.inbox.log, runtimes: &self.runtimes };
        for group in &mut self.groups {
            let Some(worker) = group.workers.iter_mut().find(|worker| worker.pid == pid) else { continue };
            let Some((message, files)) = worker.receive() else { return false };
            if let Some(stacks) = group.message(&host, pid, message, files) {
                self.commands.stacks(pid, stacks);
            }
            return true;
        }
        false
    }

    fn ended(&mut self, pid: Pid) {
        // What it has said before, which may be why.
        (0..MOST_LAST_WORDS).take_while(|_| self.receive(pid)).for_each(drop);
        let host = Host { log: &self.inbox.log, runtimes: &self.runtimes };
        for group in &mut self.groups {
            group.ended(&host, pid);
        }
        self.commands.ended(pid);
    }

    /// Ends all processes, and those that they have left behind; then the folder goes.
    fn stop(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout.saturating_sub(RESERVE);
        let mut groups = std::mem::take(&mut self.groups);
        for group in &mut groups {
            let shutdown = group.spec().shutdown_timeout();
            for worker in &mut group.workers {
                worker.stop("shutdown_signal", shutdown);
            }
        }
        let mut orphans = Orphans::default();
        let mut workers = Vec::new();
        for group in groups {
            orphans.append(group.orphans);
            workers.extend(group.workers);
        }
        while !workers.is_empty() && Instant::now() < deadline + RESERVE {
            let now = Instant::now();
            for worker in &mut workers {
                if worker.state != State::Killed && (now >= deadline || worker.is_overdue(now)) {
                    worker.destroy();
                }
            }
            let next = if now < deadline { deadline } else { deadline + RESERVE };
            let due = workers.iter().filter_map(Worker::due).chain([next]).min().unwrap_or(next);
            if let Some(index) = worker::first_to_end(&workers, due) {
                let worker = workers.swap_remove(index);
                worker.reap();
                orphans.add(worker, Duration::ZERO);
            }
        }
        orphans.end(deadline + RESERVE);
        for folder in &self.folders {
            if let Err(error) = folder::remove(folder) {
                self.inbox.log.write(Level::Error, &format!("{}: {error}", folder.display()));
            }
        }
    }
}
