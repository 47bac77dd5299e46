//! The `burrow` command.

mod control;
mod doctor;
mod migrate;
mod serve;

use std::process::ExitCode;

use burrow_host::manager::{self, Role};
use clap::Parser;

/// Python web applications inside Apache httpd and nginx
#[derive(Parser)]
#[command(name = "burrow", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve one application in the foreground, from inside the installed nginx or httpd
    Serve(serve::Options),
    /// Say, line by line, what becomes of an Apache configuration with mod_wsgi in it
    Migrate(migrate::Options),
    /// Say whether an application can have an interpreter with a lock of its own, and what is in the way
    Doctor(doctor::Options),
    /// Show the process groups of the servers that run here
    Status(control::StatusOptions),
    /// Replace the processes of a group, or of all, without losing a request
    Restart(control::RestartOptions),
    /// Show what every Python thread of a group is doing
    Stacks(control::StacksOptions),
    /// Watches over the application processes of an httpd or nginx, which runs it
    #[command(hide = true)]
    Manager { server: String, instance: String },
    /// Restarts nginx's manager
    #[command(hide = true)]
    Guardian { server: String, instance: String },
}

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) if error.use_stderr() => return refuse(&in_one_line(&error.to_string())),
        Err(help_or_version) => help_or_version.exit(),
    };
    match command {
        Command::Serve(options) => {
            serve::serve(&options).unwrap_or_else(|refusal| refuse(&refusal.to_string()))
        }
        Command::Migrate(options) => {
            migrate::run(&options).unwrap_or_else(|error| refuse(&error.to_string()))
        }
        Command::Doctor(options) => {
            doctor::examine(&options).unwrap_or_else(|refusal| refuse(&refusal.to_string()))
        }
        Command::Status(options) => control::status(&options).unwrap_or_else(|error| refuse(&error)),
        Command::Restart(options) => control::restart(&options).unwrap_or_else(|error| refuse(&error)),
        Command::Stacks(options) => control::stacks(&options).unwrap_or_else(|error| refuse(&error)),
        Command::Manager { server, instance } => manager::run(Role::Manager, &server, &instance),
        Command::Guardian { server, instance } => manager::run(Role::Guardian, &server, &instance),
    }
}

/// Nothing was started: one line that says why and what to do.
fn refuse(reason: &str) -> ExitCode {
    serve::say(reason.trim_start_matches("error: "));
    ExitCode::from(2)
}

/// clap's message without the usage that it repeats below.
fn in_one_line(message: &str) -> String {
    let said = message.split("\n\nUsage:").next().unwrap_or(message);
    let said = said.split("\n\nFor more information").next().unwrap_or(said);
    format!("{} (see burrow --help)", said.split_whitespace().collect::<Vec<_>>().join(" "))
}
