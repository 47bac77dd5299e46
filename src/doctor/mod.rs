//! `burrow doctor`: whether an application can have an interpreter with a lock of its own, and which of its
//! extension modules are in the way.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::serve::python::{ask, executable};
use crate::serve::target::{Source, Target};
use crate::serve::{Account, Refusal};

/// Importing it takes a few times as long as usual.
const TIMEOUT: Duration = Duration::from_secs(120);

const DOCTOR: &str = concat!(
    "LOAD = '''",
    include_str!("../serve/load.py"),
    "'''\nexec(LOAD)\n",
    include_str!("../../runtime/src/refusals.py"),
    "\n",
    include_str!("doctor.py")
);

#[derive(Args)]
pub struct Options {
    /// A virtual environment, an installation or a python
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Started as root: the user that the application is imported as [default: the target's owner, or www-data]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A script, module:callable or a project's directory
    target: String,
}

/// What doctor.py says.
#[derive(Deserialize, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Finding {
    /// Of Python.
    TooOld {
        python: String,
    },
    /// The application does not import anywhere.
    Raised {
        python: String,
        error: String,
        place: String,
    },
    Examined {
        python: String,
        imports: bool,
        error: String,
        refused: Vec<Refused>,
    },
}

/// An extension module that was refused.
#[derive(Deserialize, Serialize)]
struct Refused {
    module: String,
    file: String,
    package: Option<String>,
    version: Option<String>,
    /// The first version that is not refused.
    fixed: Option<String>,
    reason: String,
}

/// Status 0 where the application can have such an interpreter, else 1.
pub fn examine(options: &Options) -> Result<ExitCode, Refusal> {
    let target = Target::resolve(&options.target)?;
    let account = Account::of_workers(options.user.as_deref(), &target)?;
    if let Some(account) = &account {
        account.check_access(target.needs())?;
    }
    let python = match &options.python {
        Some(path) => executable(path)?,
        None => "python3".into(),
    };
    let (script, module) = match &target.source {
        Source::Script(path) => (Some(path), None),
        Source::Module(name) => (None, Some(name)),
    };
    let job = serde_json::json!({
        "script": script, "module": module, "folder": target.dir,
    });
    let arguments = ["-c", DOCTOR, &job.to_string()];
    let finding: Finding = ask(&python, &arguments, account.as_ref(), TIMEOUT)?;
    let text = match options.json {
        true => serde_json::to_string_pretty(&finding).expect("is plain data") + "\n",
        false => finding.text(&target.given),
    };
    // Nobody need be reading it.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(u8::from(!matches!(finding, Finding::Examined { imports: true, .. }))))
}

impl Finding {
    fn text(&self, target: &str) -> String {
        match self {
            Finding::TooOld { python } => format!(
                "the interpreters of Python {python} share one lock: Python 3.12 or newer is needed, and 3.13 \
                 recommended\n"
            ),
            Finding::Raised { python, error, place } => {
                format!("{target} does not import in Python {python} at all: {error} ({place})\n")
            }
            Finding::Examined { python, imports, error, refused } => {
                let verdict = match (imports, refused.len()) {
                    (true, 0) => "imports; none of its extension modules is refused".into(),
                    (true, _) => "imports; it does without the modules below".into(),
                    (false, _) => format!("does not import: {error}"),
                };
                let modules: String = refused.iter().map(Refused::text).collect();
                format!(
                    "{target} in an interpreter with a lock of its own, Python {python}: {verdict}\n{modules}"
                )
            }
        }
    }
}

impl Refused {
    fn text(&self) -> String {
        let of = match (&self.package, &self.version) {
            (Some(package), Some(version)) => format!(" of {package} {version}"),
            _ => String::new(),
        };
        let cure = match &self.fixed {
            Some(fixed) => format!("version {fixed} is not"),
            None => "no version is known that is not".into(),
        };
        format!("  {}{of} is refused; {cure}\n    {}\n", self.module, self.file)
    }
}
