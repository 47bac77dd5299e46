//! `burrow migrate`: what becomes of an Apache configuration with mod_wsgi in it.

mod advice;
mod directives;
mod nginx_only;
mod options;
mod parse;
mod refusals;
mod report;
mod rows;
mod table;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

pub use parse::Error;

#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing needs attention, 1 something does, 2 the files could not be read."
)]
pub struct Options {
    /// Apache configuration files, .htaccess files among them; what they include is followed
    #[arg(value_name = "FILE", required_unless_present = "table")]
    files: Vec<PathBuf>,
    /// What httpd is started with; may be repeated. Without any, every <IfDefine> is taken to apply
    #[arg(short = 'D', long, value_name = "NAME[=VALUE]")]
    define: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print docs/directives.md
    #[arg(long, hide = true)]
    table: bool,
}

/// Prints the report.
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    if options.table {
        say(&table::markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let report = report::Report::of(&parse::read(&options.files, &options.define)?);
    say(&if options.json { report.json() } else { report.to_string() });
    Ok(ExitCode::from(u8::from(report.attention > 0)))
}

/// Prints, and minds no reader that has seen enough, such as `head`.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
