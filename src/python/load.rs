//! Starting Python in the worker process.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::ptr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use burrow_abi::{burrow_apache, burrow_str, HostApi, PythonConfig, RuntimeApi, ABI_VERSION};

use super::{runtime_dir, Installation};

/// A python that only prints its version and takes longer than this is not going to.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What Python is told about the process that it runs in.
pub struct Setup {
    pub multiprocess: bool,
    pub multithread: bool,
    pub processes: u32,
    pub threads: u32,
    pub apache: Option<Apache>,
    pub options: Options,
    /// Without its lock.
    pub free_threading: bool,
}

/// What the server's shim says about httpd.
pub struct Apache(pub &'static burrow_apache);

// SAFETY: its strings live as long as the process and never change.
unsafe impl Send for Apache {}
// SAFETY: as above.
unsafe impl Sync for Apache {}

/// What can be said to every python on its command line.
#[derive(Clone, Default)]
pub struct Options {
    /// 0 to 2.
    pub optimize: u8,
    /// None: random.
    pub hash_seed: Option<u32>,
    pub warnings: Vec<Vec<u8>>,
    pub dont_write_bytecode: bool,
    /// In seconds; 0 leaves CPython's own.
    pub switch_interval: f64,
}

/// Starts the Python of `home` on the calling thread, which becomes Python's main thread and must live as
/// long as the process. Runs files of the application's user: only for a process that has dropped its
/// privileges. The environment is the process's own: nginx leaves its workers nearly none, without PATH.
pub fn start(home: &Path, setup: &Setup, host: &'static HostApi) -> Result<&'static RuntimeApi, String> {
    let installation = Installation::find(home)?;
    let library = installation.library()?;
    let runtime = installation.runtime(&runtime_dir())?;
    let expected = version_of(&installation.executable)?;
    check_library(&library, &installation, &expected)?;
    let api = open_runtime(&runtime)?;
    let executable = c_path(&installation.executable)?;
    let warnings: Vec<_> = setup.options.warnings.iter().map(|each| burrow_str::new(each)).collect();
    let config = PythonConfig {
        executable: executable.as_ptr(),
        // Interpreters have folders of their own.
        paths: ptr::null(),
        n_paths: 0,
        multiprocess: setup.multiprocess.into(),
        multithread: setup.multithread.into(),
        run_once: 0,
        processes: setup.processes,
        threads: setup.threads,
        process_group: burrow_str::new(b""),
        apache: setup.apache.as_ref().map_or(ptr::null(), |apache| ptr::from_ref(apache.0)),
        optimize: setup.options.optimize.into(),
        hash_seed: setup.options.hash_seed.map_or(-1, i64::from),
        warnings: warnings.as_ptr(),
        n_warnings: warnings.len(),
        dont_write_bytecode: setup.options.dont_write_bytecode.into(),
        switch_interval: setup.options.switch_interval,
        free_threading: setup.free_threading.into(),
    };
    // SAFETY: the table is of our version, `host` is static and `config` outlives the call.
    let refusal = unsafe { (api.start)(host, &config) };
    if refusal.is_null() {
        return Ok(api);
    }
    // SAFETY: the table's contract: a string that is never freed.
    Err(unsafe { CStr::from_ptr(refusal) }.to_string_lossy().into_owned())
}

/// `sys.version` of a python.
fn version_of(python: &Path) -> Result<String, String> {
    let failed = |why: String| format!("'{}' does not run: {why}", python.display());
    let output = run(python, &["-I", "-S", "-c", "import sys; sys.stdout.write(sys.version)"])
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = errors.split_whitespace().collect();
    Err(failed(format!("{} ({})", output.status, errors.join(" "))))
}

/// Runs a program to its end, or kills it after VERSION_TIMEOUT.
fn run(program: &Path, arguments: &[&str]) -> io::Result<Output> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id() as libc::pid_t;
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("burrow:version".into()).spawn(move || {
        // The receiver is gone after a time-out.
        let _ = sender.send(child.wait_with_output());
    })?;
    receiver.recv_timeout(VERSION_TIMEOUT).unwrap_or_else(|_| {
        // SAFETY: a child that has not been waited for keeps its pid.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let waited = VERSION_TIMEOUT.as_secs();
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {waited} s")))
    })
}

/// Opens libpython for everybody (extension modules leave its symbols open) and makes sure that it is the
/// library of `installation`: a near relative fails much later, in the import of some standard module.
fn check_library(path: &Path, installation: &Installation, expected: &str) -> Result<(), String> {
    let library = Library::open(path, libc::RTLD_GLOBAL)?;
    let get_version = library.symbol(c"Py_GetVersion")?;
    // SAFETY: dlsym with a literal.
    if unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"Py_GetVersion".as_ptr()) } != get_version {
        return Err(
            "another module of this server has loaded another libpython: take that module out, or run \
                    the applications in daemon mode"
                .into(),
        );
    }
    // SAFETY: the C API's signatures of these two; both may be called before Python is initialised.
    let (version, running) = unsafe {
        let get_version: extern "C" fn() -> *const c_char = std::mem::transmute(get_version);
        let is_initialized: extern "C" fn() -> c_int =
            std::mem::transmute(library.symbol(c"Py_IsInitialized")?);
        (CStr::from_ptr(get_version()).to_string_lossy().into_owned(), is_initialized() != 0)
    };
    if running {
        return Err(
            "another module of this server runs Python in this process already: take that module out, \
                    or run the applications in daemon mode"
                .into(),
        );
    }
    if version != expected {
        return Err(format!(
            "'{}' is not the library of '{}' ({version:?} instead of {expected:?}): install both from one \
             source in one version, and make the virtual environment again",
            path.display(),
            installation.executable.display()
        ));
    }
    Ok(())
}

fn open_runtime(path: &Path) -> Result<&'static RuntimeApi, String> {
    let api = Library::open(path, libc::RTLD_LOCAL)?.symbol(c"burrow_runtime")?.cast::<RuntimeApi>();
    // SAFETY: every version of the table starts with this field, and libraries are never closed.
    let version = unsafe { (*api).abi_version };
    if version != ABI_VERSION {
        return Err(format!(
            "'{}' is of another Burrow than this server module (interface {version}, not {ABI_VERSION}): after \
             an upgrade stop the server and start it, a reload is not enough",
            path.display()
        ));
    }
    // SAFETY: of our version, hence the table that we know; see above for its life.
    Ok(unsafe { &*api })
}

/// A library that stays open for the life of the process.
struct Library {
    handle: *mut c_void,
}

impl Library {
    fn open(path: &Path, visibility: c_int) -> Result<Self, String> {
        let name = c_path(path)?;
        // SAFETY: libpython's and the runtime's constructors do nothing but set up their own memory.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | visibility) };
        if handle.is_null() {
            return Err(format!("cannot load '{}': {}", path.display(), last_error()));
        }
        Ok(Library { handle })
    }

    fn symbol(&self, name: &CStr) -> Result<*mut c_void, String> {
        // SAFETY: the handle is never closed.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        if address.is_null() {
            return Err(last_error());
        }
        Ok(address)
    }
}

fn last_error() -> String {
    // SAFETY: the message belongs to the calling thread until its next dl call.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "unknown error".into();
    }
    // SAFETY: not NULL, hence a string; see above.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

fn c_path(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("'{}' holds a zero byte", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        let path = dir.join("python3");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_version_is_what_python_prints() {
        let dir = tempfile::tempdir().unwrap();
        let python = script(dir.path(), "printf '3.11.7 (main)\\n[GCC]'");
        assert_eq!(version_of(&python).unwrap(), "3.11.7 (main)\n[GCC]");
    }

    #[test]
    fn a_python_that_does_not_run_says_why_on_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let python = script(dir.path(), "printf 'Fatal error:\\n no codec\\n' >&2; exit 1");
        let message = version_of(&python).unwrap_err();
        assert!(message.ends_with("does not run: exit status: 1 (Fatal error: no codec)"), "{message}");
        let message = version_of(&dir.path().join("none")).unwrap_err();
        assert!(message.contains("No such file"), "{message}");
    }

    #[test]
    fn a_file_that_is_no_library_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "");
        assert!(open_runtime(&path).err().unwrap().starts_with("cannot load"));
    }
}
