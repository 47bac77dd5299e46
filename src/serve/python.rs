//! Which Python runs the application, and whether the application imports in it.

use std::env;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{absolute, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use burrow_host::python::{runtime_dir, Installation};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde::Deserialize;

use super::account::Account;
use super::target::{Source, Target};
use super::{refuse, Refusal};

/// What a Python says of itself.
#[derive(Deserialize)]
pub struct Python {
    pub executable: PathBuf,
    pub version: String,
    /// Of the virtual environment or the installation.
    pub prefix: PathBuf,
    /// The folders of the standard library.
    library: Vec<PathBuf>,
    /// Burrow's side of it, found by `embeddable`.
    #[serde(skip)]
    pub runtime: PathBuf,
}

const PROBE: &str = r#"
import json, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({
    "executable": sys.executable,
    "version": sys.version.split()[0].rstrip("+"),
    "prefix": sys.prefix,
    "library": sorted({paths["stdlib"], paths["platstdlib"]}),
}))
"#;

const PREFLIGHT: &str = concat!(include_str!("load.py"), "\n", include_str!("preflight.py"));

const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// An import that takes longer than this is taken for one that never ends.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Import {
    Found { name: String },
    Absent,
    NotCallable { name: String, r#type: String },
    Raised { error: String, file: Option<String>, line: Option<u32>, missing: Option<String> },
}

impl Python {
    /// The Python asked for, else the virtual environment around the target, else python3 of PATH as
    /// far as it can be used, else the system's.
    pub fn choose(
        asked: Option<&Path>,
        target: &Target,
        account: Option<&Account>,
    ) -> Result<Python, Refusal> {
        let venv = || env::var_os("VIRTUAL_ENV").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let beside = || {
            let venvs = [".venv", "venv"].map(|name| target.dir.join(name));
            venvs.into_iter().find(|dir| dir.join("pyvenv.cfg").is_file())
        };
        if let Some(path) = asked.map(Path::to_owned).or_else(venv).or_else(beside) {
            return Python::probe(&executable(&path)?, account)?.embeddable();
        }
        Python::probe(Path::new("python3"), account)
            .and_then(Python::embeddable)
            .or_else(|_| Python::probe(Path::new("/usr/bin/python3"), account)?.embeddable())
    }

    fn probe(executable: &Path, account: Option<&Account>) -> Result<Python, Refusal> {
        let mut command = Command::new(executable);
        command.args(["-I", "-c", PROBE]);
        let shown = executable.display();
        match answer(command, account, PROBE_TIMEOUT) {
            Err(error) => refuse!("cannot run {shown}: {error}; give a Python with --python"),
            Ok((line, status)) => match line.and_then(|line| serde_json::from_str(&line).ok()) {
                Some(python) => Ok(python),
                None => refuse!("{shown} is not a working Python 3 ({status}); give another with --python"),
            },
        }
    }

    /// Makes sure that the server modules can load this Python into their workers.
    fn embeddable(mut self) -> Result<Python, Refusal> {
        let installation = Installation::find(&self.prefix).map_err(Refusal::new)?;
        installation.library().map_err(Refusal::new)?;
        self.runtime = installation.runtime(&runtime_dir()).map_err(Refusal::new)?;
        let embedded = installation.version.to_string();
        if !self.version.starts_with(embedded.trim_end_matches('t')) {
            refuse!(
                "{} is Python {} but the Python of {} is {embedded}: make a virtual environment with the former",
                self.executable.display(),
                self.version,
                self.prefix.display()
            )
        }
        Ok(self)
    }

    /// The files that the workers must be able to reach.
    pub fn needs(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = vec![&self.runtime, &self.executable, &self.prefix];
        paths.extend(self.library.iter().map(PathBuf::as_path));
        paths
    }

    /// Imports the target in a process of its own, as the workers' user, and returns the name of its
    /// callable.
    pub fn import(&self, target: &Target, account: Option<&Account>) -> Result<String, Refusal> {
        let (script, module) = match &target.source {
            Source::Script(path) => (Some(path), None),
            Source::Module(name) => (None, Some(name)),
        };
        let job = serde_json::json!({
            "script": script, "module": module, "folder": target.dir, "names": target.callables(),
        });
        let mut command = Command::new(&self.executable);
        command.args(["-c", PREFLIGHT, &job.to_string()]);
        let given = &target.given;
        match answer(command, account, IMPORT_TIMEOUT) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                refuse!("the import of {given} does not end; see what it waits for, or start with --reload")
            }
            Err(error) => refuse!("cannot run {}: {error}", self.executable.display()),
            Ok((line, status)) => match line.and_then(|line| serde_json::from_str::<Import>(&line).ok()) {
                Some(import) => import.callable(target, self, account),
                None => {
                    refuse!("{given} does not import: Python ended with {status}; see what it does at import")
                }
            },
        }
    }
}

impl Import {
    fn callable(
        self,
        target: &Target,
        python: &Python,
        account: Option<&Account>,
    ) -> Result<String, Refusal> {
        let given = &target.given;
        match self {
            Import::Found { name } => Ok(name),
            Import::Absent => {
                let names = target.callables().join(" nor ");
                refuse!("{given} has no {names}; name the callable like {}", target.with_callable("NAME"))
            }
            Import::NotCallable { name, r#type } => {
                refuse!("{name} of {given} is not callable but of type {}; name another", r#type)
            }
            Import::Raised { missing: Some(module), .. } if target.is_in(&module) => refuse!(
                "there is no module {module} for {given} in {}; correct the name, or start burrow where it is",
                target.dir.display()
            ),
            Import::Raised { error, file, line, missing } => {
                let place = match (file, line) {
                    (Some(file), Some(line)) => format!(" ({file}:{line})"),
                    _ => String::new(),
                };
                let cure = match (missing, account) {
                    (Some(_), _) => {
                        let executable = python.executable.display();
                        format!("install it for {executable}, or choose another Python with --python")
                    }
                    (None, Some(account)) if error.starts_with("PermissionError") => {
                        format!("allow it to the user {}, or give another --user", account.name)
                    }
                    _ => "correct it, or start with --reload meanwhile".into(),
                };
                refuse!("{given} does not import: {error}{place}; {cure}")
            }
        }
    }
}

/// What a python prints, which is one line of JSON.
pub fn ask<T: DeserializeOwned>(
    python: &Path,
    arguments: &[&str],
    account: Option<&Account>,
    patience: Duration,
) -> Result<T, Refusal> {
    let mut command = Command::new(python);
    command.args(arguments);
    let shown = python.display();
    match answer(command, account, patience) {
        Err(error) => refuse!("cannot run {shown}: {error}; give a Python with --python"),
        Ok((line, status)) => match line.and_then(|line| serde_json::from_str(&line).ok()) {
            Some(answer) => Ok(answer),
            None => refuse!("{shown} ended with {status}, and did not say what it has found"),
        },
    }
}

/// The executable of a Python or of a virtual environment. The path stays as it is: a virtual
/// environment's python is a link.
pub fn executable(path: &Path) -> Result<PathBuf, Refusal> {
    let path = absolute(path).unwrap_or_else(|_| path.to_owned());
    let candidates = match path.is_dir() {
        true => vec![path.join("bin/python3"), path.join("bin/python")],
        false => vec![path.clone()],
    };
    match candidates.into_iter().find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => refuse!("there is no Python at {}; give one with --python", path.display()),
    }
}

/// Runs a command as the workers' user, and returns the first line that it prints and how it ended.
fn answer(
    mut command: Command,
    account: Option<&Account>,
    patience: Duration,
) -> io::Result<(Option<String>, ExitStatus)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(account) = account {
        account.apply(&mut command);
    }
    // SAFETY: one system call. After the change of user, which would undo it.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let mut child = command.spawn()?;
    let line = first_line(&mut child, patience);
    if line.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok((line?, status))
}

/// None when the child ends without a whole line; an error when it takes too long.
fn first_line(child: &mut Child, patience: Duration) -> io::Result<Option<String>> {
    let mut pipe = child.stdout.take().expect("piped");
    let deadline = Instant::now() + patience;
    let mut said = Vec::new();
    while !said.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut chunk = [0; 4096];
        match pipe.read(&mut chunk)? {
            0 => return Ok(None),
            n => said.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(String::from_utf8(said).ok())
}
