//! The installed server: where it is, what it can do, and how it is told things.

use std::collections::HashSet;
use std::env;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::options::ServerKind;
use super::{refuse, Refusal};

pub struct Server {
    pub kind: ServerKind,
    pub binary: PathBuf,
    /// "1.22.1"
    pub version: String,
    /// Burrow's folder of server modules.
    pub lib: PathBuf,
    /// httpd: source files of the modules that are compiled in.
    /// nginx: the flags that it was configured with.
    pub features: HashSet<String>,
}

impl ServerKind {
    pub fn name(self) -> &'static str {
        match self {
            ServerKind::Nginx => "nginx",
            ServerKind::Apache => "Apache httpd",
        }
    }

    pub fn module(self) -> &'static str {
        match self {
            ServerKind::Nginx => "ngx_http_burrow_module.so",
            ServerKind::Apache => "mod_burrow.so",
        }
    }

    /// Ends when the requests in progress are answered.
    pub fn graceful_stop(self) -> Signal {
        match self {
            ServerKind::Nginx => Signal::SIGQUIT,
            ServerKind::Apache => Signal::SIGWINCH,
        }
    }

    /// New workers take over; the old ones end what they are at.
    pub fn graceful_reload(self) -> Signal {
        match self {
            ServerKind::Nginx => Signal::SIGHUP,
            ServerKind::Apache => Signal::SIGUSR1,
        }
    }

    fn binaries(self) -> &'static [&'static str] {
        match self {
            ServerKind::Nginx => &["nginx"],
            ServerKind::Apache => &["apache2", "httpd"],
        }
    }

    fn package(self) -> &'static str {
        match self {
            ServerKind::Nginx => "nginx",
            ServerKind::Apache => "apache2",
        }
    }
}

impl Server {
    pub fn find(kind: ServerKind, asked: Option<&Path>) -> Result<Server, Refusal> {
        let Some(binary) = asked.map(Path::to_owned).or_else(|| on_path(kind.binaries())) else {
            refuse!("{} is not installed: apt install {}", kind.name(), kind.package())
        };
        // nginx prints its version and flags on standard error, httpd on standard output.
        let (version_flag, features_flag) = match kind {
            ServerKind::Nginx => ("-v", "-V"),
            ServerKind::Apache => ("-v", "-l"),
        };
        let said = output(&binary, version_flag)?;
        let version = said.split_once('/').and_then(|(_, rest)| rest.split_whitespace().next());
        let Some(version) = version else {
            refuse!("{} is not {}: it has no version", binary.display(), kind.name())
        };
        let lib = lib()?;
        if !lib.join(kind.module()).is_file() {
            refuse!("{} is missing: make build", lib.join(kind.module()).display())
        }
        let features = output(&binary, features_flag)?.split_whitespace().map(str::to_owned).collect();
        Ok(Server { kind, version: version.to_owned(), lib, features, binary })
    }

    /// "nginx 1.22.1"
    pub fn title(&self) -> String {
        format!("{} {}", self.kind.name(), self.version)
    }

    /// At least this version.
    pub fn is_since(&self, version: [u32; 3]) -> bool {
        let own: Vec<u32> = self.version.split('.').map_while(|number| number.parse().ok()).collect();
        own.as_slice() >= version.as_slice()
    }
}

/// Takes the port, so that a busy one is noticed now; the server gets it when this is dropped.
pub fn reserve(address: SocketAddr) -> Result<TcpListener, Refusal> {
    match TcpListener::bind(address) {
        Ok(listener) => Ok(listener),
        Err(error) => match error.kind() {
            ErrorKind::AddrInUse => {
                refuse!("{address} is in use: stop what listens there, or give another --bind")
            }
            ErrorKind::AddrNotAvailable => {
                refuse!("{address} is not an address of this machine; give another --bind")
            }
            ErrorKind::PermissionDenied => {
                refuse!("only root may listen on {address}; give --bind a port above 1023")
            }
            _ => refuse!("cannot listen on {address}: {error}; give another --bind"),
        },
    }
}

/// The server modules lie in ../lib/burrow of this command.
fn lib() -> Result<PathBuf, Refusal> {
    let command = env::current_exe().and_then(|path| path.canonicalize());
    match command.ok().as_deref().and_then(Path::parent).and_then(Path::parent) {
        Some(prefix) => Ok(prefix.join("lib/burrow")),
        None => refuse!("cannot tell where burrow is installed; is /proc mounted?"),
    }
}

/// PATH, and where servers are when a user's PATH leaves the system's folders out.
fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]).collect();
    names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|file| file.is_file())
}

fn output(binary: &Path, flag: &str) -> Result<String, Refusal> {
    match Command::new(binary).arg(flag).stdin(Stdio::null()).output() {
        Ok(output) => Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
        Err(error) => refuse!("cannot run {}: {error}", binary.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let version = |text: &str| Server {
            kind: ServerKind::Nginx,
            binary: PathBuf::new(),
            version: text.into(),
            lib: PathBuf::new(),
            features: HashSet::new(),
        };
        assert!(version("1.22.1").is_since([1, 19, 5]));
        assert!(version("1.19.5").is_since([1, 19, 5]));
        assert!(!version("1.18.0").is_since([1, 19, 5]));
    }

    #[test]
    fn a_busy_port_is_refused() {
        let first = reserve(([127, 0, 0, 1], 0).into()).unwrap();
        let refusal = reserve(first.local_addr().unwrap()).unwrap_err();
        assert!(refusal.to_string().contains("is in use"));
    }
}
