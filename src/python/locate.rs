//! What Python a folder holds, told from its files alone: nothing is run and no library is opened, since
//! this also happens as root, under configtest.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The oldest Python that is supported.
const OLDEST: (u32, u32) = (3, 10);

/// The platform as Debian's library folders and Python's SOABI name it.
fn triplet() -> String {
    format!("{}-linux-{}", std::env::consts::ARCH, if cfg!(target_env = "musl") { "musl" } else { "gnu" })
}

/// X.Y of a CPython, with `t` for a free-threaded build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub free_threaded: bool,
}

impl Version {
    /// Of "3.11", "3.11.7", "3.12.1.final.0", "3.13t".
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?;
        let digits = minor.trim_end_matches('t');
        Some(Version { major, minor: digits.parse().ok()?, free_threaded: digits.len() < minor.len() })
    }

    /// Of a file called "python3.11".
    fn of_executable(path: &Path) -> Option<Self> {
        Self::parse(path.file_name()?.to_str()?.strip_prefix("python")?)
    }

    /// Of the one standard library in `base`/lib.
    fn of_standard_library(base: &Path) -> Option<Self> {
        let mut found = fs::read_dir(base.join("lib"))
            .ok()?
            .flatten()
            .filter(|entry| entry.path().join("os.py").is_file())
            .filter_map(|entry| Self::of_executable(&entry.path()));
        let version = found.next();
        version.filter(|_| found.next().is_none())
    }

    fn is(self, other: Version) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }

    /// The tag of extension modules, by which runtimes are named.
    pub fn soabi(self) -> String {
        let t = if self.free_threaded { "t" } else { "" };
        format!("cpython-{}{}{t}-{}", self.major, self.minor, triplet())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}{}", self.major, self.minor, if self.free_threaded { "t" } else { "" })
    }
}

/// A virtual environment or an installation.
#[derive(Debug)]
pub struct Installation {
    /// Its own python, which Python is told to be.
    pub executable: PathBuf,
    /// The prefix of the installation, or of the one that the virtual environment was made from.
    pub base: PathBuf,
    pub version: Version,
}

impl Installation {
    /// Looks at a virtual environment or a prefix such as `/usr`.
    pub fn find(home: &Path) -> Result<Self, String> {
        Self::of(executable(home)?, home)
    }

    /// Looks at what a python itself belongs to.
    pub fn of_executable(path: &Path) -> Result<Self, String> {
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("'{}' does not exist: correct the path", path.display()),
            _ => unreadable(path, &error),
        })?;
        if metadata.is_dir() {
            return Err(format!("'{}' is a folder: write python-home, or name its python", path.display()));
        }
        Self::of(path.to_owned(), path.ancestors().nth(2).unwrap_or(Path::new("/")))
    }

    fn of(executable: PathBuf, home: &Path) -> Result<Self, String> {
        let real = fs::canonicalize(&executable).map_err(|error| unreadable(&executable, &error))?;
        let venv = VenvConfig::read(home)?;
        let base_python = match &venv {
            // A virtual environment made with --copies has a python of its own.
            Some(venv) if fs::canonicalize(home).is_ok_and(|home| real.starts_with(home)) => {
                venv.base_python()?
            }
            _ => real.clone(),
        };
        let base = base_python.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned();
        let made_with = venv.and_then(|venv| venv.version);
        let mut version = Version::of_executable(&real)
            .or_else(|| Version::of_executable(&base_python))
            .or(made_with)
            .or_else(|| Version::of_standard_library(&base))
            .ok_or_else(|| {
                format!(
                    "cannot tell which Python '{}' is (no lib/python3.* in '{}'): name a virtual environment \
                     or an installation's prefix",
                    executable.display(),
                    base.display()
                )
            })?;
        check_version(home, version, made_with)?;
        // The python of a free-threaded build goes by both names; its standard library by one.
        let has_library = |name: String| base.join("lib").join(name).join("os.py").is_file();
        version.free_threaded |=
            has_library(format!("python{version}t")) && !has_library(format!("python{version}"));
        Ok(Installation { executable, base, version })
    }

    /// The shared library of this very installation: another one of the same X.Y does not do.
    pub fn library(&self) -> Result<PathBuf, String> {
        let name = format!("libpython{}.so.1.0", self.version);
        let lib = self.base.join("lib");
        [lib.clone(), lib.join(triplet()), self.base.join("lib64")]
            .into_iter()
            .map(|dir| dir.join(&name))
            .find(|path| path.is_file())
            .ok_or_else(|| self.no_library(&name))
    }

    fn no_library(&self, name: &str) -> String {
        let base = self.base.display();
        if self.base != Path::new("/usr") {
            format!(
                "Python {} in '{base}' has no shared library ({base}/lib/{name}): use a Python that was built \
                 with --enable-shared, or run the application in daemon mode",
                self.version
            )
        } else if Path::new("/etc/debian_version").exists() {
            format!(
                "the shared library of Python {0} is not installed ({name}): apt install libpython{0}",
                self.version
            )
        } else {
            format!(
                "the shared library of Python {} is not installed: install the package that has {name}",
                self.version
            )
        }
    }

    /// Our runtime for this Python.
    pub fn runtime(&self, dir: &Path) -> Result<PathBuf, String> {
        let path = dir.join(self.version.soabi() + ".so");
        if path.is_file() {
            return Ok(path);
        }
        // A copy of the module has none beside it.
        let or_copied =
            if dir.is_dir() { "" } else { ", and load the module from where make install puts it" };
        Err(format!(
            "there is no Burrow runtime for Python {} ('{}'): build it with make build PYTHONS={}{or_copied}",
            self.version,
            path.display(),
            self.executable.display()
        ))
    }
}

/// Is it new enough, and still the one that the virtual environment was made with?
fn check_version(home: &Path, version: Version, made_with: Option<Version>) -> Result<(), String> {
    if let Some(made_with) = made_with.filter(|made_with| !made_with.is(version)) {
        return Err(format!(
            "the virtual environment '{home}' was made with Python {made_with} but its python is now \
             {version}: make it again (python3 -m venv --clear {home}) and install its packages",
            home = home.display()
        ));
    }
    if (version.major, version.minor) < OLDEST {
        return Err(format!(
            "'{}' is Python {version}, which is too old: Python {}.{} or newer is needed",
            home.display(),
            OLDEST.0,
            OLDEST.1
        ));
    }
    Ok(())
}

/// `home`/bin/python3, or why there is none.
fn executable(home: &Path) -> Result<PathBuf, String> {
    let metadata = fs::metadata(home).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!(
            "'{0}' does not exist: correct the path, or make a virtual environment (python3 -m venv {0})",
            home.display()
        ),
        _ => unreadable(home, &error),
    })?;
    if !metadata.is_dir() {
        return Err(format!(
            "'{}' is not a folder: name a virtual environment or an installation's prefix, not its python",
            home.display()
        ));
    }
    let candidates = ["bin/python3", "bin/python"].map(|name| home.join(name));
    for path in &candidates {
        match fs::metadata(path) {
            Ok(_) => return Ok(path.clone()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(path, &error)),
            Err(_) => {}
        }
    }
    let [python, _] = &candidates;
    let end = end_of_links(python);
    Err(if end == *python {
        format!(
            "'{}' is neither a virtual environment nor a Python installation (it has no bin/python3): make one \
             with python3 -m venv",
            home.display()
        )
    } else {
        format!(
            "'{}' leads to '{}', which does not exist: make the virtual environment again (python3 -m venv \
             --clear {})",
            python.display(),
            end.display(),
            home.display()
        )
    })
}

/// Where a chain of links that leads nowhere breaks off.
fn end_of_links(path: &Path) -> PathBuf {
    match fs::read_link(path) {
        Ok(target) => end_of_links(&path.with_file_name("").join(target)),
        Err(_) => path.to_owned(),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot use '{}' ({error}): let the server's user enter its folders and read it", path.display())
}

/// What matters of a `pyvenv.cfg`.
struct VenvConfig {
    path: PathBuf,
    /// The folder of the base installation's python.
    home: PathBuf,
    version: Option<Version>,
}

impl VenvConfig {
    /// None where `dir` is no virtual environment.
    fn read(dir: &Path) -> Result<Option<Self>, String> {
        let path = dir.join("pyvenv.cfg");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let value = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let home = value("home").ok_or_else(|| {
            format!("'{}' has no line 'home = …': make the virtual environment again", path.display())
        })?;
        // venv writes the first, uv and virtualenv the second.
        let version = value("version").or_else(|| value("version_info")).and_then(Version::parse);
        Ok(Some(VenvConfig { home: home.into(), version, path }))
    }

    fn base_python(&self) -> Result<PathBuf, String> {
        self.version
            .map(|version| format!("python{version}"))
            .into_iter()
            .chain(["python3".into(), "python".into()])
            .find_map(|name| fs::canonicalize(self.home.join(name)).ok())
            .ok_or_else(|| {
                format!(
                    "the Python that '{}' names, in '{}', does not exist: make the virtual environment again",
                    self.path.display(),
                    self.home.display()
                )
            })
    }
}

#[cfg(test)]
mod tests;
