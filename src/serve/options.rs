//! The options of `burrow serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;

/// Serve one application in the foreground, from inside the installed nginx or httpd
#[derive(clap::Args)]
pub struct Options {
    /// A script (app.py, /srv/app.wsgi, app.py:callable), module:callable, or a project's directory
    pub target: String,

    /// The server that runs the application
    #[arg(long, value_enum, default_value_t = ServerKind::Nginx)]
    pub server: ServerKind,

    /// Where to listen; IPv6 addresses in brackets, :PORT for every IPv4 address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8000", value_parser = bind)]
    pub bind: SocketAddr,

    /// A Python or a virtual environment [default: $VIRTUAL_ENV, .venv or venv beside the target,
    /// python3]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,

    /// Worker processes of the server
    #[arg(long, value_name = "N", default_value_t = default_workers(), allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,

    /// Application threads in each worker
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Reload when a Python file of the application changes, and start even if it does not import
    #[arg(long)]
    pub reload: bool,

    /// The path below which the application is found
    #[arg(long, value_name = "/PREFIX", default_value = "/", value_parser = mount)]
    pub mount: Mount,

    /// Files that the server answers with itself; repeatable
    #[arg(long = "static", value_name = "URL=DIR", value_parser = static_files)]
    pub static_files: Vec<StaticFiles>,

    /// Log requests to a file, or to standard output [default: no log]
    #[arg(long, value_name = "FILE|-", num_args = 0..=1, default_missing_value = "-")]
    pub access_log: Option<PathBuf>,

    /// The least severe messages to show on standard error; what the application prints is an error
    #[arg(long, value_enum, default_value_t = LogLevel::Warn)]
    pub log_level: LogLevel,

    /// Print the server's configuration and start nothing
    #[arg(long)]
    pub print_config: bool,

    /// Started as root: the user that the workers run as [default: the target's owner, or www-data]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// The server's executable, when it is not the one on PATH
    #[arg(long, value_name = "PATH", hide = true)]
    pub server_binary: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ServerKind {
    Nginx,
    #[value(alias = "httpd")]
    Apache,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warn,
    Error,
}

/// A path prefix without its last slash: "" is the root.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount(pub String);

#[derive(Clone, Debug, PartialEq)]
pub struct StaticFiles {
    /// With a slash at both ends.
    pub url: String,
    pub dir: PathBuf,
}

impl LogLevel {
    /// Both servers know these words.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Notice => "notice",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

fn default_workers() -> u16 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4) as u16)
}

fn bind(value: &str) -> Result<SocketAddr, String> {
    let cure = "expected ADDR:PORT, e.g. 127.0.0.1:8000, [::1]:8000 or :8000";
    if let Ok(address) = value.parse() {
        return Ok(address);
    }
    let (host, port) = value.rsplit_once(':').ok_or(cure)?;
    let port = port.parse().map_err(|_| cure)?;
    match host {
        "" => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        "localhost" => Ok((Ipv4Addr::LOCALHOST, port).into()),
        _ => Ok((host.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4).ok_or(cure)?, port).into()),
    }
}

fn mount(value: &str) -> Result<Mount, String> {
    Ok(Mount(url_path(value)?.trim_end_matches('/').to_owned()))
}

fn static_files(value: &str) -> Result<StaticFiles, String> {
    let (url, dir) = value.split_once('=').ok_or("expected URL=DIR, e.g. /static=./static")?;
    let url = url_path(url)?.trim_end_matches('/');
    if url.is_empty() {
        return Err("the URL / would hide the application; give a path like /static".into());
    }
    let dir = std::path::absolute(dir).map_err(|error| error.to_string())?;
    match dir.is_dir() {
        true => Ok(StaticFiles { url: format!("{url}/"), dir }),
        false => Err(format!("no directory {}; create it or correct the path", dir.display())),
    }
}

fn url_path(value: &str) -> Result<&str, String> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"\"\\'$#?%{};".contains(c);
    match value.starts_with('/') && !value.contains("//") && value.chars().all(plain) {
        true => Ok(value),
        false => Err(format!("{value:?} is not a path like /prefix, starting with a slash")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_addresses() {
        for (value, address) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("[::1]:81", "[::1]:81"),
            (":8080", "0.0.0.0:8080"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(bind(value).unwrap(), address.parse().unwrap());
        }
        for value in ["8000", "::1:8000x", "127.0.0.1", "127.0.0.1:70000", "nowhere:80", ""] {
            assert!(bind(value).is_err(), "{value}");
        }
    }

    #[test]
    fn mounts() {
        assert_eq!(mount("/"), Ok(Mount(String::new())));
        assert_eq!(mount("/shop/"), Ok(Mount("/shop".into())));
        for value in ["shop", "", "/a b", "/a\"", "//a", "/a;"] {
            assert!(mount(value).is_err(), "{value}");
        }
    }

    #[test]
    fn static_directories() {
        let files = static_files("/static=/usr").unwrap();
        assert_eq!(files, StaticFiles { url: "/static/".into(), dir: "/usr".into() });
        for value in ["/static", "static=/usr", "/=/usr", "/static=/no/such/directory"] {
            assert!(static_files(value).is_err(), "{value}");
        }
    }
}
