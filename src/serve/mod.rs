//! `burrow serve`: one application, served in the foreground by the installed nginx or httpd with a
//! configuration made for the occasion.

mod account;
mod config;
mod keeper;
mod options;
mod private_dir;
pub mod python;
mod reload;
mod run;
mod server;
pub mod target;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

pub use account::Account;
pub use options::Options;

use config::Site;
use python::Python;
use server::Server;
use target::Target;

/// Why nothing was started, and the cure; one line.
#[derive(Debug, PartialEq)]
pub struct Refusal(String);

impl Refusal {
    fn new(reason: impl AsRef<str>) -> Self {
        Refusal(reason.as_ref().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Refuses with a formatted reason.
macro_rules! refuse {
    ($($reason:tt)*) => { return Err($crate::serve::Refusal::new(format!($($reason)*))) };
}
use refuse;

/// A line on standard error. Nobody need be reading it.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "burrow: {line}");
}

/// Checks everything that can be checked, then runs the server until it is told to stop.
pub fn serve(options: &Options) -> Result<ExitCode, Refusal> {
    keeper::exit_on_stop_signals();
    let target = Target::resolve(&options.target)?;
    let server = Server::find(options.server, options.server_binary.as_deref())?;
    let port = if options.print_config { None } else { Some(server::reserve(options.bind)?) };
    let account = Account::of_workers(options.user.as_deref(), &target)?;
    let python = Python::choose(options.python.as_deref(), &target, account.as_ref())?;
    if let Some(account) = &account {
        let static_files = options.static_files.iter().map(|files| files.dir.as_path());
        account.check_access(python.needs().into_iter().chain(target.needs()).chain(static_files))?;
    }
    let callable = choose_callable(&target, &python, account.as_ref(), options.reload)?;
    let site = Site { options, target: &target, server: &server, python: &python, account, callable };
    // Written again for the directory and the port that there are in the end.
    let preview = site.configuration("/tmp/burrow-serve".as_ref(), options.bind)?;
    match port {
        None => {
            let _ = io::stdout().write_all(preview.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        Some(port) => keeper::keep(|| run::run(&site, port)),
    }
}

/// The name of the application's callable, from an import of it; with `--reload` a target that does
/// not import today is served all the same.
fn choose_callable(
    target: &Target,
    python: &Python,
    account: Option<&Account>,
    reload: bool,
) -> Result<String, Refusal> {
    match python.import(target, account) {
        Err(refusal) if reload => {
            say(&refusal.to_string());
            Ok(target.likely_callable())
        }
        chosen => chosen,
    }
}
