//! `burrow status`, `burrow restart` and `burrow stacks`: what the managers of running servers are asked.

mod instance;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use burrow_daemon::control::FromCommand;
use burrow_host::manager::Status;
use clap::Args;

use instance::{Answer, Instance};

/// How often --watch looks.
const INTERVAL: Duration = Duration::from_secs(1);
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Which server is meant.
#[derive(Args)]
pub struct Server {
    /// The folder of its sockets, or their prefix (WSGISocketPrefix, wsgi_socket_prefix), where several run
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Args)]
pub struct StatusOptions {
    #[command(flatten)]
    server: Server,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Every second, until it is interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Args)]
pub struct RestartOptions {
    #[command(flatten)]
    server: Server,
    /// The process group; else all
    group: Option<String>,
}

#[derive(Args)]
pub struct StacksOptions {
    #[command(flatten)]
    server: Server,
    /// The process group
    group: String,
}

pub fn status(options: &StatusOptions) -> Result<ExitCode, String> {
    let show = || {
        let all = statuses(&instance::find(&options.server.socket)?)?;
        let text = if options.json {
            serde_json::to_string_pretty(&all).expect("is plain data") + "\n"
        } else {
            all.iter().map(table::of).collect::<Vec<_>>().join("\n")
        };
        let clear = if options.watch && !options.json { CLEAR } else { "" };
        print(&format!("{clear}{text}"))
    };
    loop {
        let shown = show()?;
        if !options.watch {
            return Ok(shown);
        }
        thread::sleep(INTERVAL);
    }
}

pub fn restart(options: &RestartOptions) -> Result<ExitCode, String> {
    let instances = instance::find(&options.server.socket)?;
    let instance = match &options.group {
        Some(group) => the_one_with(group, instances)?,
        None => the_only(instances)?,
    };
    match instance.ask(&FromCommand::Restart { group: options.group.clone() })? {
        Answer::Done(text) | Answer::Text(text) => print(&(text + "\n")),
    }
}

pub fn stacks(options: &StacksOptions) -> Result<ExitCode, String> {
    let instance = the_one_with(&options.group, instance::find(&options.server.socket)?)?;
    match instance.ask(&FromCommand::Stacks { group: options.group.clone() })? {
        Answer::Done(text) | Answer::Text(text) => print(&text),
    }
}

/// Of those that answer; one may be ending.
fn statuses(instances: &[Instance]) -> Result<Vec<Status>, String> {
    let (mut all, mut refusals) = (Vec::new(), Vec::new());
    for answer in instances.iter().map(Instance::status) {
        match answer {
            Ok(status) => all.push(status),
            Err(refusal) => refusals.push(refusal),
        }
    }
    match refusals.pop() {
        Some(refusal) if all.is_empty() => Err(refusal),
        _ => Ok(all),
    }
}

fn the_only(mut instances: Vec<Instance>) -> Result<Instance, String> {
    match instances.pop() {
        Some(last) if instances.is_empty() => Ok(last),
        last => {
            instances.extend(last);
            let folders: Vec<_> = instances.iter().map(|each| each.folder.display().to_string()).collect();
            Err(format!("several servers run: name one with --socket ({})", folders.join(", ")))
        }
    }
}

fn the_one_with(group: &str, instances: Vec<Instance>) -> Result<Instance, String> {
    // With one server the refusal is its own.
    if instances.len() == 1 {
        return the_only(instances);
    }
    let has_it = |instance: &Instance| {
        instance.status().is_ok_and(|status| status.groups.iter().any(|each| each.name == group))
    };
    let having: Vec<_> = instances.into_iter().filter(has_it).collect();
    match having.len() {
        0 => Err(format!("no server here has a process group '{group}' that is yours")),
        _ => the_only(having),
    }
}

/// A closed pipe is no failure.
fn print(text: &str) -> Result<ExitCode, String> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(error.to_string()),
    }
}
