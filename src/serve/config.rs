//! The server's configuration for one application.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use minijinja::{Environment, UndefinedBehavior};
use nix::unistd::{access, AccessFlags};
use serde::Serialize;

use super::account::Account;
use super::options::ServerKind;
use super::python::Python;
use super::server::Server;
use super::target::{Source, Target};
use super::{refuse, Options, Refusal};

const NGINX: &str = include_str!("../../conf/serve-nginx.conf.j2");
const APACHE: &str = include_str!("../../conf/serve-apache.conf.j2");

/// Everything that was found out about what to serve, and how.
pub struct Site<'a> {
    pub options: &'a Options,
    pub target: &'a Target,
    pub server: &'a Server,
    pub python: &'a Python,
    /// Who the workers run as, when that is not the caller.
    pub account: Option<Account>,
    pub callable: String,
}

/// What the templates are filled with.
#[derive(Serialize)]
struct Values<'a> {
    dir: String,
    module: String,
    listen: SocketAddr,
    user: Option<&'a str>,
    group: Option<&'a str>,
    workers: u16,
    threads: u16,
    log_level: &'a str,
    access_log: Option<String>,
    python_home: String,
    python_path: String,
    target: String,
    /// For a script; a module's is part of the target.
    callable: Option<&'a str>,
    mount: &'a str,
    static_files: Vec<Static<'a>>,
    mime_types: Option<&'static str>,
    /// nginx: the variables that the workers keep.
    environment: Vec<String>,
    /// nginx: the kinds of upstream that it was built with; each has a folder for temporary files.
    upstreams: Vec<&'static str>,
    /// httpd: the modules to load, as (name, file).
    modules: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct Static<'a> {
    url: &'a str,
    dir: String,
}

impl Site<'_> {
    /// The text for a server that keeps its files in `dir`.
    pub fn configuration(&self, dir: &Path, listen: SocketAddr) -> Result<String, Refusal> {
        let (template, mime_types) = match self.server.kind {
            ServerKind::Nginx => (NGINX, ["/etc/nginx/mime.types", "/usr/local/nginx/conf/mime.types"]),
            ServerKind::Apache => (APACHE, ["/etc/mime.types", "/etc/apache2/mime.types"]),
        };
        let options = self.options;
        let values = Values {
            dir: plain(dir)?,
            module: plain(&self.server.lib.join(self.server.kind.module()))?,
            listen,
            user: self.account.as_ref().map(|account| account.name.as_str()),
            group: self.account.as_ref().map(|account| account.group.as_str()),
            workers: options.workers,
            threads: options.threads,
            log_level: options.log_level.name(),
            access_log: options.access_log.as_deref().map(log_file).transpose()?,
            python_home: plain(&self.python.prefix)?,
            python_path: plain(&self.target.dir)?,
            target: self.application()?,
            callable: matches!(self.target.source, Source::Script(_)).then_some(&self.callable),
            mount: &options.mount.0,
            static_files: options
                .static_files
                .iter()
                .map(|files| Ok(Static { url: &files.url, dir: plain(&files.dir)? }))
                .collect::<Result<_, Refusal>>()?,
            mime_types: mime_types.into_iter().find(|file| Path::new(file).is_file()),
            environment: environment_names(),
            upstreams: self.nginx_upstreams(),
            modules: match self.server.kind {
                ServerKind::Nginx => vec![],
                ServerKind::Apache => self.apache_modules()?,
            },
        };
        if values.python_path.contains(':') {
            refuse!(
                "{} has a colon, which separates folders of the Python path; rename it",
                values.python_path
            )
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_keep_trailing_newline(true);
        environment
            .render_str(template, values)
            .map_err(|error| Refusal::new(format!("the configuration cannot be written: {error:#}")))
    }

    /// What the server module is to load.
    fn application(&self) -> Result<String, Refusal> {
        match &self.target.source {
            Source::Script(path) => plain(path),
            Source::Module(_) => Ok(self.target.with_callable(&self.callable)),
        }
    }

    fn nginx_upstreams(&self) -> Vec<&'static str> {
        let left_out = |name: &&str| {
            let flag = format!("--without-http_{name}_module");
            self.server.features.contains(&flag)
        };
        ["proxy", "fastcgi", "uwsgi", "scgi"].into_iter().filter(|name| !left_out(name)).collect()
    }

    /// What the configuration needs of httpd, without what is compiled in.
    fn apache_modules(&self) -> Result<Vec<(&'static str, String)>, Refusal> {
        let features = &self.server.features;
        let has_mpm = ["event.c", "worker.c", "prefork.c"].iter().any(|mpm| features.contains(*mpm));
        let mut needed = vec!["unixd", "log_config", "authz_core", "alias", "mime"];
        if !has_mpm {
            needed.insert(0, "mpm_event");
        }
        needed.retain(|name| !features.contains(&format!("mod_{name}.c")));
        let module = |name: &'static str| {
            let file = format!("mod_{name}.so");
            let found = self.apache_module_dirs().map(|dir| dir.join(&file)).find(|path| path.is_file());
            match found {
                Some(path) => Ok((name, plain(&path)?)),
                None => refuse!("found no {file} of httpd; install its standard modules"),
            }
        };
        needed.into_iter().map(module).collect()
    }

    /// Of the server's own prefix first.
    fn apache_module_dirs(&self) -> impl Iterator<Item = PathBuf> {
        let own = self.server.binary.parent().and_then(Path::parent).map(Path::to_owned);
        let prefixes = own.into_iter().chain([PathBuf::from("/usr")]);
        let dirs = ["lib/apache2/modules", "lib64/httpd/modules", "lib/httpd/modules", "modules"];
        prefixes.flat_map(move |prefix| dirs.map(|dir| prefix.join(dir)))
    }
}

/// Where the server is to write its access log. `-` is a pipe to our standard output.
fn log_file(file: &Path) -> Result<String, Refusal> {
    if file == Path::new("-") {
        return Ok("/dev/stdout".into());
    }
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let written = if file.exists() { Some(file.as_path()) } else { file.parent() };
    match written.map(|path| access(path, AccessFlags::W_OK)) {
        Some(Err(error)) => refuse!("cannot write {}: {error}; give another --access-log", file.display()),
        _ if file.is_dir() => refuse!("{} is a directory; give a file to --access-log", file.display()),
        _ => plain(&file),
    }
}

/// Both servers give meaning to some characters, even between quotes.
fn plain(path: &Path) -> Result<String, Refusal> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\\', '$']) && !text.contains(char::is_control) => Ok(text.into()),
        _ => refuse!(
            "{path:?} cannot be written in a server's configuration; rename it without special characters"
        ),
    }
}

/// The names in our environment that can be written in nginx's configuration.
fn environment_names() -> Vec<String> {
    let is_plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut names: Vec<_> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(is_plain)
        .chain(["HOME", "USER", "LOGNAME"].map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_a_meaning_are_refused() {
        assert_eq!(plain(Path::new("/srv/my app/app.py")).unwrap(), "/srv/my app/app.py");
        for path in ["/srv/a\"b", "/srv/$a", "/srv/a\nb", "/srv/a\\b"] {
            assert!(plain(Path::new(path)).is_err(), "{path}");
        }
    }
}
