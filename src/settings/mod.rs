//! One configuration, as the server has read it.

pub mod accounts;
mod applications;
pub mod environment;
mod ffi;
pub mod gil;
pub mod interpreters;
pub mod options;
pub mod process_group;
mod startable;
mod target;
mod usage;
mod websocket;

pub(crate) use ffi::settings as from_c;

pub use applications::AppKey;
pub use usage::Place;

use std::collections::BTreeSet;
use std::ffi::{c_char, CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use burrow_daemon::config;

use crate::daemon;
use crate::embedded::App;
use crate::python::{self, Installation};
use applications::Apps;
use gil::{Gil, Wish};
use interpreters::Scope;
use options::Embedded;
use process_group::ProcessGroup;
use usage::{ProcessGroups, VirtualHost};

/// Whose words the messages are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    Apache,
    Nginx,
}

impl ServerKind {
    fn python_home_directive(self) -> &'static str {
        match self {
            ServerKind::Apache => "WSGIPythonHome",
            ServerKind::Nginx => "wsgi_python_home",
        }
    }

    fn daemon_directive(self) -> &'static str {
        match self {
            ServerKind::Apache => "WSGIDaemonProcess",
            ServerKind::Nginx => "wsgi_daemon_process",
        }
    }
}

/// What daemon mode has to know of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Whom the server's workers run as.
    pub uid: u32,
    pub gid: u32,
    /// The prefix of the folder that holds the sockets.
    pub prefix: PathBuf,
    /// How long the server waits for one read or write.
    pub timeout: Duration,
    /// The least severe level that it logs, in syslog's numbers.
    pub log_level: u32,
}

/// The model of one configuration: made in the master process, used in the workers as well.
pub struct Settings {
    server: ServerKind,
    /// Tells the settings of one reading of the configuration from those of another.
    serial: u64,
    python_home: Option<(Place, PathBuf)>,
    embedded: Embedded,
    gil: Gil,
    process_groups: ProcessGroups,
    /// The same once they are checked, as applications join them.
    daemons: OnceLock<Vec<Daemon>>,
    instance: Instance,
    /// What process groups are told of httpd.
    apache: Option<config::Apache>,
    /// Why no application may run in the server's own processes.
    embedded_refusal: Option<CString>,
    /// There will be applications whose names requests decide.
    expects_embedded: bool,
    /// What was read and has no effect.
    notes: Vec<CString>,
    apps: RwLock<Apps>,
    /// What was refused, for as long as the server may want to print it.
    messages: Mutex<BTreeSet<CString>>,
}

struct Daemon {
    /// Whose applications may run there; None: everybody's.
    virtual_host: Option<Vec<u8>>,
    group: Arc<daemon::Group>,
}

impl Settings {
    pub fn new(server: ServerKind) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Settings {
            server,
            serial: LAST.fetch_add(1, Relaxed),
            python_home: None,
            embedded: Embedded::default(),
            gil: Gil::default(),
            process_groups: ProcessGroups::default(),
            daemons: OnceLock::new(),
            instance: Instance::default(),
            apache: None,
            embedded_refusal: None,
            expects_embedded: false,
            notes: Vec::new(),
            apps: RwLock::default(),
            messages: Mutex::default(),
        }
    }

    /// The virtual environment or installation of everything embedded.
    pub fn set_python_home(&mut self, place: Place, home: &Path) -> Result<(), String> {
        if let Some((first, other)) = self.python_home.as_ref().filter(|(_, other)| other != home) {
            return Err(format!(
                "the Python of embedded applications is '{}' already, in {first}: one server process runs one \
                 Python; give the other applications processes of their own ({} … python-home={})",
                other.display(),
                self.server.daemon_directive(),
                home.display()
            ));
        }
        if !home.is_absolute() {
            return Err(format!("'{}' is a relative path: write the whole path", home.display()));
        }
        Installation::find(home)?;
        self.python_home = Some((place, home.to_owned()));
        Ok(())
    }

    /// Sets an option of Python or of its interpreters.
    pub fn set_option(
        &mut self,
        place: &Place,
        scope: Option<Scope>,
        name: &str,
        value: &str,
    ) -> Result<(), String> {
        if let Some(group) = scope.as_ref().and_then(|scope| scope.process_group.as_deref()) {
            self.process_groups.name(place.clone(), group);
        }
        let wish = match name {
            "per-interpreter-gil" => Some(Wish::OwnGil),
            "free-threading" => Some(Wish::FreeThreading),
            _ => None,
        };
        if let Some(wish) = wish {
            let scope = scope.clone().unwrap_or_default();
            self.gil.ask(wish, options::flag(value)?, scope, place.clone())?;
        }
        if wish == Some(Wish::FreeThreading) {
            return Ok(());
        }
        if name == "restrict-embedded" {
            let why = || {
                format!("{} in {place}: no application runs in the server's own processes", place.directive)
            };
            self.embedded_refusal = options::flag(value)?.then(|| c_string(why()));
        } else if let Some(reason) = self.embedded.set(name, value, scope)? {
            let note = format!("{} has no effect: {reason} ({place})", place.directive);
            self.notes.push(c_string(note));
        }
        Ok(())
    }

    /// In how many interpreters an application of the server's own processes is to run; "off" is 0.
    pub fn want_copies(&mut self, place: Place, value: &str) -> Result<u32, String> {
        if value.eq_ignore_ascii_case("off") {
            return Ok(0);
        }
        let embedded = Scope { process_group: Some(Box::default()), application_group: None };
        self.gil.ask(Wish::Copies, true, embedded, place)?;
        gil::copies(value)
    }

    /// Whether the Python of a process group runs without its lock; "": of the server's own processes.
    pub fn is_free_threaded(&self, process_group: &[u8]) -> bool {
        self.gil.is_free_threaded(process_group)
    }

    pub fn set_instance(&mut self, instance: Instance) {
        self.instance = instance;
    }

    pub fn set_apache(&mut self, apache: config::Apache) {
        self.apache = Some(apache);
    }

    /// None where the server is not httpd.
    pub fn apache(&self) -> Option<&config::Apache> {
        self.apache.as_ref()
    }

    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Adds a process group of daemon mode.
    pub fn add_process_group(&mut self, place: Place, group: ProcessGroup) -> Result<(), String> {
        self.process_groups.define(place, group)
    }

    pub fn process_groups(&self) -> impl Iterator<Item = &ProcessGroup> {
        self.process_groups.all().map(|(_, group)| group)
    }

    /// The process group of this name.
    pub fn process_group(&self, name: &[u8]) -> Option<&ProcessGroup> {
        self.process_groups.find(name).map(|(_, group)| group)
    }

    /// Something is to run in a process group.
    pub fn use_process_group(&mut self, place: Place, name: &[u8]) {
        self.process_groups.run_in(place, name);
    }

    pub fn expect_embedded(&mut self) {
        self.expects_embedded = true;
    }

    /// Whether applications may run in the server's own processes.
    pub fn allows_embedded(&self) -> bool {
        self.embedded_refusal.is_none()
    }

    /// Why they may not, with the directive's place.
    pub fn embedded_refusal(&self) -> Option<&CStr> {
        self.embedded_refusal.as_deref()
    }

    pub fn embedded(&self) -> &Embedded {
        &self.embedded
    }

    /// Python is needed in the worker processes, and not only for a request that may never come.
    pub fn needs_python(&self) -> bool {
        let is_expected = || self.expects_embedded && !self.process_groups.run_something();
        let is_known = || self.apps().iter().any(|app| !app.is_daemon());
        self.allows_embedded() && (is_expected() || is_known())
    }

    /// What the configuration says that has no effect.
    pub fn notes(&self) -> &[CString] {
        &self.notes
    }

    /// Whether a group that has but one interpreter gets along with it.
    fn check_interpreters(&self, group: &ProcessGroup) -> Result<(), String> {
        let option = if group.is_on("preload") {
            "preload=on"
        } else if group.has_greenlets() {
            "async=gevent"
        } else {
            return Ok(());
        };
        let is_in_another = |app: &Arc<App>| !app.key().group.is_empty();
        if self.hosts_one_app(&group.name) || !self.apps_of(&group.name).iter().any(is_in_another) {
            return Ok(());
        }
        Err(format!(
            "{option} needs one interpreter for all of its applications: give them the application group %{{GLOBAL}}, \
             or a process group each"
        ))
    }

    /// Whether everything is there that the configuration needs: its process groups, and the Python of embedded
    /// applications where there is need of one.
    pub fn check(&self) -> Result<(), String> {
        self.process_groups.check_names(self.server)?;
        self.process_groups
            .check_each(|group| startable::check(group, &self.instance, self.python_home(), &self.gil))?;
        self.process_groups.check_each(|group| self.check_interpreters(group))?;
        self.make_daemons();
        if self.needs_python() {
            startable::check_workers(self.server, &self.instance)?;
        }
        if self.python_home.is_none() && !self.needs_python() {
            return Ok(());
        }
        let usable = || {
            let installation = Installation::find(self.python_home())?;
            installation.library()?;
            installation.runtime(&python::runtime_dir())?;
            Ok(installation.version)
        };
        let version = usable().map_err(|message: String| match &self.python_home {
            Some((place, _)) => format!("{place}: {}: {message}", place.directive),
            None => format!(
                "{message} (the system's Python is used, since there is no {})",
                self.server.python_home_directive()
            ),
        })?;
        self.gil.check(b"", version, false)
    }

    /// Has the applications that are known join their process groups, as others will.
    fn make_daemons(&self) {
        self.daemons.get_or_init(|| {
            let defined = self.process_groups.all().map(|(place, group)| Daemon {
                virtual_host: place.virtual_host.map(VirtualHost::name),
                group: Arc::new(daemon::Group::new(group, &self.instance)),
            });
            defined.collect()
        });
        for app in self.apps() {
            // Whether its group is there was judged where the directives name it.
            if let Some(daemon) = self.daemon(app.key().process_group) {
                app.join(&daemon.group);
            }
        }
    }

    /// Closes the connections to process groups that are idle.
    pub fn close_links(&self) {
        for daemon in self.daemons.get().into_iter().flatten() {
            daemon.group.links.close();
        }
    }

    fn daemon(&self, name: &[u8]) -> Option<&Daemon> {
        self.daemons.get()?.iter().find(|daemon| daemon.group.name.as_bytes() == name)
    }

    /// Lets an application join its process group, which a request to this server has named.
    fn join(&self, app: &App, server_name: &[u8]) -> Result<(), String> {
        if !app.is_daemon() || self.daemons.get().is_none() {
            return Ok(());
        }
        let name = app.key().process_group;
        let shown = || String::from_utf8_lossy(name);
        let daemon = self
            .daemon(name)
            .ok_or_else(|| format!("No WSGI daemon process called '{}' has been configured", shown()))?;
        if daemon.virtual_host.as_ref().is_some_and(|owner| owner != server_name) {
            return Err(format!(
                "Daemon process called '{}' cannot be accessed by this WSGI application: it belongs to another virtual host",
                shown()
            ));
        }
        app.join(&daemon.group);
        Ok(())
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    pub fn server(&self) -> ServerKind {
        self.server
    }

    pub fn python_home(&self) -> &Path {
        self.python_home.as_ref().map_or(Path::new(python::DEFAULT_HOME), |(_, home)| home)
    }

    /// Keeps a message; each text once, since requests can be refused too.
    pub(crate) fn keep(&self, message: String) -> *const c_char {
        let message = c_string(message);
        let mut messages = self.messages.lock().unwrap();
        if let Some(kept) = messages.get(&message) {
            return kept.as_ptr();
        }
        // A CString's bytes stay where they are when it moves into the set.
        let address = message.as_ptr();
        messages.insert(message);
        address
    }
}

fn c_string(text: String) -> CString {
    CString::new(text.replace('\0', "\\0")).expect("has no zero byte")
}

/// Whole paths, separated by ':'.
fn path_list(folders: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let folders = folders.split(|byte| *byte == b':').filter(|folder| !folder.is_empty());
    folders
        .map(|folder| match folder[0] {
            b'/' => Ok(folder.to_owned()),
            _ => {
                Err(format!("'{}' is a relative path: write the whole path", String::from_utf8_lossy(folder)))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
