//! The applications of a configuration: those that it names, and those that requests do.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use burrow_abi::{same, WHOLE_SCRIPT};

use super::{target, ServerKind, Settings};
use crate::embedded::{App, Group};

/// What makes an application: a callable of a target, in an application group.
#[derive(Clone, Copy, Debug)]
pub struct AppKey<'a> {
    pub target: &'a [u8],
    /// Empty: what the target names, else "application".
    pub callable: &'a [u8],
    /// Empty: the server's own processes.
    pub process_group: &'a [u8],
    /// Empty: the main interpreter.
    pub group: &'a [u8],
    /// In how many interpreters of the group, each with a lock of its own; 0: in its only one. For the
    /// server's own processes: a process group says it itself.
    pub copies: u32,
}

impl PartialEq for AppKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.copies == other.copies
            && same(self.target, other.target)
            && same(self.callable, other.callable)
            && same(self.process_group, other.process_group)
            && same(self.group, other.group)
    }
}

/// Applications are looked up by the request, so that no key is put together for it.
#[derive(Default)]
pub(super) struct Apps {
    by_target: HashMap<Box<[u8]>, Vec<Arc<App>>>,
    in_order: Vec<Arc<App>>,
    groups: HashMap<Box<[u8]>, Arc<Group>>,
}

impl Apps {
    fn get(&self, key: AppKey) -> Option<&Arc<App>> {
        self.by_target.get(key.target)?.iter().find(|app| app.key() == key)
    }

    /// Adds it, unless another thread was quicker.
    fn add(&mut self, key: AppKey) -> Arc<App> {
        if let Some(app) = self.get(key) {
            return app.clone();
        }
        let group = self.groups.entry(key.group.into()).or_insert_with(|| Arc::new(Group::new(key.group)));
        let app = Arc::new(App::new(key, group.clone()));
        self.by_target.entry(key.target.into()).or_default().push(app.clone());
        self.in_order.push(app.clone());
        app
    }
}

impl Settings {
    /// In the order in which the configuration names them.
    pub fn apps(&self) -> Vec<Arc<App>> {
        self.apps.read().unwrap().in_order.clone()
    }

    /// The applications that are known to run in a process group.
    pub fn apps_of(&self, process_group: &str) -> Vec<Arc<App>> {
        let mut apps = self.apps();
        apps.retain(|app| app.key().process_group == process_group.as_bytes());
        apps
    }

    /// Whether there seems to be just one.
    pub fn hosts_one_app(&self, process_group: &str) -> bool {
        let apps = self.apps_of(process_group);
        // httpd gives one of them several application groups, where it has several ports.
        let targets: BTreeSet<_> = apps.iter().map(|app| (app.key().target, app.key().callable)).collect();
        match (self.server, targets.len()) {
            (_, 2..) | (ServerKind::Nginx, 0) => false,
            (ServerKind::Nginx, 1) => true,
            // Requests tell which; a line that names the group may stand for several.
            (ServerKind::Apache, _) => self.process_groups.uses(process_group) == 1,
        }
    }

    /// Finds the application, or adds it. With several counts of threads the group gets the highest.
    pub fn app(&self, key: AppKey, threads: usize) -> Result<Arc<App>, String> {
        self.find(key, threads, || {
            target::check(key.target)?;
            target::check_callable(key.callable)?;
            match (key.copies, key.group) {
                (1.., b"") => Err("there is one main interpreter: leave interpreters= out, or name another \
                                   application group"
                    .into()),
                _ => Ok(()),
            }
        })
    }

    /// The same for a script that is imported for what it does. A module's callable that is named is looked for.
    pub fn import(&self, key: AppKey, threads: usize) -> Result<Arc<App>, String> {
        if key.target.contains(&b'/') {
            self.find(AppKey { callable: WHOLE_SCRIPT, ..key }, threads, || target::check_script(key.target))
        } else {
            self.app(key, threads)
        }
    }

    /// The same for a script of hooks.
    pub fn script(&self, target: &[u8], group: &[u8], threads: usize) -> Result<Arc<App>, String> {
        let key = AppKey { target, callable: WHOLE_SCRIPT, process_group: b"", group, copies: 0 };
        self.find(key, threads, || target::check_script(target))
    }

    fn find(
        &self,
        key: AppKey,
        threads: usize,
        check: impl FnOnce() -> Result<(), String>,
    ) -> Result<Arc<App>, String> {
        let found = self.apps.read().unwrap().get(key).cloned();
        let app = match found {
            Some(app) => app,
            None => {
                check()?;
                self.apps.write().unwrap().add(key)
            }
        };
        app.want_threads(threads);
        Ok(app)
    }
}
