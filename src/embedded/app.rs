//! An application and its group, from the configuration to the runtime.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use burrow_abi::{burrow_app, burrow_str, script_modified, RuntimeApi, RuntimeApp};

use super::process;
use crate::daemon;
use crate::settings::AppKey;

/// The applications that share an interpreter.
pub struct Group {
    name: Box<[u8]>,
    threads: AtomicUsize,
}

impl Group {
    pub fn new(name: &[u8]) -> Self {
        Group { name: name.into(), threads: AtomicUsize::new(0) }
    }
}

/// What a `burrow_app` of c/shim.h is.
pub struct App {
    target: Box<[u8]>,
    callable: Box<[u8]>,
    process_group: Box<[u8]>,
    copies: u32,
    group: Arc<Group>,
    daemon: OnceLock<Arc<daemon::Group>>,
    preload: AtomicBool,
    runtime: OnceLock<RuntimeRecord>,
}

/// The runtime's record of an application.
struct RuntimeRecord(NonNull<RuntimeApp>);

// SAFETY: never freed, and the runtime takes it on any thread.
unsafe impl Send for RuntimeRecord {}
// SAFETY: as above.
unsafe impl Sync for RuntimeRecord {}

impl App {
    /// `group` is that of the key.
    pub fn new(key: AppKey, group: Arc<Group>) -> Self {
        App {
            target: key.target.into(),
            callable: key.callable.into(),
            process_group: key.process_group.into(),
            copies: key.copies,
            group,
            daemon: OnceLock::new(),
            preload: AtomicBool::new(false),
            runtime: OnceLock::new(),
        }
    }

    /// # Safety
    /// `app` comes from `burrow_app_find`, and its settings are not destroyed yet.
    pub unsafe fn from_c<'a>(app: *mut burrow_app) -> &'a App {
        // SAFETY: burrow_app_find hands out addresses of this type.
        unsafe { &*app.cast::<App>() }
    }

    pub fn key(&self) -> AppKey<'_> {
        AppKey {
            target: &self.target,
            callable: &self.callable,
            process_group: &self.process_group,
            group: &self.group.name,
            copies: self.copies,
        }
    }

    /// The name of the application group; empty is the main interpreter.
    pub fn group(&self) -> &[u8] {
        &self.group.name
    }

    /// Whether it runs in a process group, not in the server's own processes.
    pub fn is_daemon(&self) -> bool {
        !self.process_group.is_empty()
    }

    /// The process group that it runs in, once the configuration is read.
    pub fn daemon(&self) -> Option<&Arc<daemon::Group>> {
        self.daemon.get()
    }

    /// Puts it into its process group. The first one stays.
    pub fn join(&self, group: &Arc<daemon::Group>) {
        self.daemon.get_or_init(|| group.clone());
    }

    /// Application threads of the group in each nginx worker.
    pub fn threads(&self) -> usize {
        self.group.threads.load(Relaxed)
    }

    pub fn want_threads(&self, threads: usize) {
        self.group.threads.fetch_max(threads, Relaxed);
    }

    /// Import it as soon as the worker process starts.
    pub fn set_preload(&self) {
        self.preload.store(true, Relaxed);
    }

    pub fn preload(&self) -> bool {
        self.preload.load(Relaxed)
    }

    /// The script's modification time in microseconds; 0 for a module or where there is no such file.
    pub fn modified_now(&self) -> i64 {
        match self.target.starts_with(b"/") {
            true => script_modified(&self.target),
            false => 0,
        }
    }

    /// The runtime's record, made at the first use.
    pub fn runtime(&self, api: &'static RuntimeApi) -> *mut RuntimeApp {
        let record = self.runtime.get_or_init(|| {
            let multithread = process::multithread(self);
            // SAFETY: the names live for the length of the call.
            let record = unsafe {
                (api.app)(
                    burrow_str::new(&self.target),
                    burrow_str::new(&self.callable),
                    burrow_str::new(&self.group.name),
                    self.copies,
                    multithread.into(),
                )
            };
            RuntimeRecord(NonNull::new(record).expect("the runtime makes a record of every application"))
        });
        record.0.as_ptr()
    }
}
