//! What the commands `burrow status`, `burrow restart` and `burrow stacks` ask.

use super::{
    configuration::Configuration,
    group::{Group, Host},
    log::Level,
    protocol::memory_file,
    worker::{self, State, Worker},
};
use crate::settings::accounts;
use burrow_daemon::{
    control::{FromCommand, ToCommand, ToWorker},
    packet::Link,
    page,
};
use nix::{
    fcntl::{fcntl, FcntlArg},
    unistd::{geteuid, Pid},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

/// For so long a process is waited for that is asked for its stacks.
const STACKS_TIMEOUT: Duration = Duration::from_secs(5);
/// So many may wait for them at once.
const MOST_PENDING: usize = 64;
/// The stacks of many threads are shorter.
const LONGEST_STACKS: u64 = 4 << 20;

/// What `burrow status` shows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Status {
    pub instance: String,
    pub server: String,
    pub manager: i32,
    pub generation: u64,
    pub groups: Vec<GroupStatus>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    /// Whom its processes run as.
    pub user: String,
    pub processes: u32,
    pub threads: u32,
    /// These are greenlets.
    #[serde(default)]
    pub greenlets: bool,
    /// New code does not start, so that the old goes on.
    pub held: bool,
    pub workers: Vec<WorkerStatus>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub pid: i32,
    /// starting, ready, template, draining or stopping
    pub state: String,
    /// In seconds.
    pub age: f64,
    pub busy: u32,
    pub requests: u64,
    /// Resident bytes.
    pub memory: u64,
    pub serving: Vec<RequestStatus>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RequestStatus {
    pub request: String,
    pub seconds: f64,
}

/// Those whose answers are being collected.
#[derive(Default)]
pub struct Commands {
    pending: Vec<Pending>,
}

struct Pending {
    link: Link,
    waits_for: Vec<Pid>,
    text: String,
    due: Instant,
}

impl Commands {
    /// Does what somebody asks, as far as it is his.
    pub fn take(
        &mut self,
        host: &Host,
        link: Link,
        uid: u32,
        command: FromCommand,
        configuration: &Configuration,
        groups: &mut [Group],
    ) {
        let may_all = [0, geteuid().as_raw(), configuration.server_uid].contains(&uid);
        let is_theirs = |group: &Group| may_all || group.spec().launch.uid == uid;
        let named = |name: &Option<String>| {
            groups.iter().position(|group| name.as_ref() == Some(&group.spec().name) && is_theirs(group))
        };
        let nobodys = |name: &str| format!("there is no process group '{name}' here, or it is not yours");
        match command {
            FromCommand::Status => {
                let groups: Vec<_> = groups.iter().filter(|group| is_theirs(group)).map(describe).collect();
                if groups.is_empty() && !may_all {
                    return refuse(&link, "no process group here is yours".into());
                }
                let status = Status {
                    instance: configuration.instance.clone(),
                    server: host.log.server().into(),
                    manager: std::process::id() as i32,
                    generation: configuration.generation,
                    groups,
                };
                answer(&link, &serde_json::to_vec(&status).expect("is plain data"));
            }
            FromCommand::Restart { group: None } => {
                let mut theirs: Vec<_> = groups.iter_mut().filter(|group| is_theirs(group)).collect();
                if theirs.is_empty() {
                    return refuse(&link, "no process group here is yours".into());
                }
                theirs.iter_mut().for_each(|group| restart(host, group, uid));
                let names: Vec<_> = theirs.iter().map(|group| group.spec().name.as_str()).collect();
                done(&link, format!("replacing the processes of {}", names.join(", ")));
            }
            FromCommand::Restart { group: Some(name) } => match named(&Some(name.clone())) {
                Some(index) => {
                    restart(host, &mut groups[index], uid);
                    done(&link, format!("replacing the processes of {name}"));
                }
                None => refuse(&link, nobodys(&name)),
            },
            FromCommand::Stacks { group: name } => match named(&Some(name.clone())) {
                Some(index) => self.ask_for_stacks(link, &groups[index]),
                None => refuse(&link, nobodys(&name)),
            },
        }
    }

    fn ask_for_stacks(&mut self, link: Link, group: &Group) {
        let serve = group.workers.iter().filter(|worker| !worker.is_template);
        let asked = serve.filter(|worker| worker.send(&ToWorker::Stacks, &[]));
        let waits_for: Vec<Pid> = asked.map(|worker| worker.pid).collect();
        if self.pending.len() >= MOST_PENDING {
            return refuse(&link, "too many ask for stacks at once".into());
        }
        if waits_for.is_empty() {
            return refuse(&link, format!("process group '{}' has no process now", group.spec().name));
        }
        let due = Instant::now() + STACKS_TIMEOUT;
        self.pending.push(Pending { link, waits_for, text: String::new(), due });
    }

    /// A process has answered.
    pub fn stacks(&mut self, pid: Pid, file: OwnedFd) {
        let text = read(file).unwrap_or_else(|error| format!("(not to be read: {error})"));
        self.told(pid, &text);
    }

    pub fn ended(&mut self, pid: Pid) {
        self.told(pid, "(ended meanwhile)");
    }

    fn told(&mut self, pid: Pid, text: &str) {
        for command in &mut self.pending {
            if command.waits_for.contains(&pid) {
                command.waits_for.retain(|other| *other != pid);
                command.text += &format!("process {pid}\n{}\n\n", text.trim_end());
            }
        }
        self.expire(Instant::now());
    }

    pub fn due(&self) -> Option<Instant> {
        self.pending.iter().map(|command| command.due).min()
    }

    /// Answers those that have got all, or have waited long enough.
    pub fn expire(&mut self, now: Instant) {
        self.pending.retain_mut(|command| {
            if command.waits_for.is_empty() || command.due <= now {
                for pid in &command.waits_for {
                    let seconds = STACKS_TIMEOUT.as_secs();
                    command.text += &format!("process {pid}\n(no answer within {seconds} s)\n\n");
                }
                answer(&command.link, command.text.as_bytes());
                return false;
            }
            true
        });
    }
}

fn restart(host: &Host, group: &mut Group, uid: u32) {
    let text = format!("process group '{}': user {uid} has its processes replaced", group.spec().name);
    host.log.write(Level::Notice, &text);
    group.restart();
}

/// Of a process that is not trusted: a file in memory, so that reading it cannot hang.
fn read(file: OwnedFd) -> io::Result<String> {
    fcntl(&file, FcntlArg::F_GET_SEALS)?;
    let file = File::from(file);
    let mut text = vec![0; file.metadata()?.len().min(LONGEST_STACKS) as usize];
    let length = file.read_at(&mut text, 0)?;
    text.truncate(length);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn answer(link: &Link, text: &[u8]) {
    match memory_file(c"burrow answer", text) {
        Ok(file) => send(link, &ToCommand::Text, Some(file)),
        Err(error) => refuse(link, error.to_string()),
    }
}

fn done(link: &Link, message: String) {
    send(link, &ToCommand::Done { message }, None);
}

fn refuse(link: &Link, message: String) {
    send(link, &ToCommand::Refused { message }, None);
}

fn send(link: &Link, message: &ToCommand, file: Option<OwnedFd>) {
    let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
    // A failure means that whoever asked is gone.
    let _ = link.send(message, &files);
}

fn describe(group: &Group) -> GroupStatus {
    let spec = group.spec();
    GroupStatus {
        name: spec.name.clone(),
        user: accounts::of(spec.launch.uid).map_or(format!("#{}", spec.launch.uid), |user| user.name),
        processes: spec.processes,
        threads: spec.worker.threads,
        greenlets: spec.worker.greenlets,
        held: group.is_held(),
        workers: group.workers.iter().map(describe_worker).collect(),
    }
}

fn describe_worker(worker: &Worker) -> WorkerStatus {
    let summary = worker.page().map(page::Reader::summary);
    let requests = worker.page().map(page::Reader::serving).unwrap_or_default();
    let now = page::now();
    let state = match worker.state {
        State::Starting(_) => "starting",
        State::Ready => "ready",
        State::Template => "template",
        State::Draining(_) => "draining",
        State::Stopping(_) | State::Killed => "stopping",
    };
    WorkerStatus {
        pid: worker.pid.as_raw(),
        state: state.into(),
        age: worker.started.elapsed().unwrap_or_default().as_secs_f64(),
        busy: summary.map_or(0, |summary| summary.busy.load(Relaxed)),
        requests: summary.map_or(0, |summary| summary.served.load(Relaxed)),
        memory: worker::resident_bytes(worker.pid),
        serving: requests
            .into_iter()
            .map(|request| RequestStatus {
                request: request.what,
                seconds: now.saturating_sub(request.since) as f64 / 1e6,
            })
            .collect(),
    }
}
