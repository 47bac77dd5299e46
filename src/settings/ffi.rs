//! `burrow_settings_*` and `burrow_app_*` of c/shim.h.

use std::ffi::{c_char, c_int, c_uint, CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use burrow_abi::{
    burrow_apache, burrow_app, burrow_app_key, burrow_pair, burrow_place, burrow_scope, burrow_server_kind,
    burrow_settings, burrow_str, slice, BURROW_APACHE,
};

use burrow_daemon::config;

use super::interpreters::Scope;
use super::process_group::ProcessGroup;
use super::usage::VirtualHost;
use super::{AppKey, Instance, Place, ServerKind, Settings};
use crate::embedded::App;

/// # Safety
/// `settings` comes from `burrow_settings_create` and is not destroyed yet.
pub(crate) unsafe fn settings<'a>(settings: *const burrow_settings) -> &'a Settings {
    // SAFETY: made by burrow_settings_create from a Box<Settings>.
    unsafe { &*settings.cast::<Settings>() }
}

/// As `settings`, while the server reads its configuration, which it does on one thread.
unsafe fn settings_mut<'a>(settings: *mut burrow_settings) -> &'a mut Settings {
    // SAFETY: as above; nobody else looks at them yet.
    unsafe { &mut *settings.cast::<Settings>() }
}

/// NULL where all is well, else the message.
fn refusal(settings: &Settings, result: Result<(), String>) -> *const c_char {
    result.map_or_else(|message| settings.keep(message), |()| ptr::null())
}

#[no_mangle]
pub extern "C" fn burrow_settings_create(server: burrow_server_kind) -> *mut burrow_settings {
    let server = if server == BURROW_APACHE { ServerKind::Apache } else { ServerKind::Nginx };
    Box::into_raw(Box::new(Settings::new(server))).cast()
}

/// # Safety
/// c/shim.h; not in use any more.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_destroy(settings: *mut burrow_settings) {
    // SAFETY: made by burrow_settings_create from a Box.
    drop(unsafe { Box::from_raw(settings.cast::<Settings>()) });
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_python_home(
    settings: *mut burrow_settings,
    at: *const burrow_place,
    dir: burrow_str,
) -> *const c_char {
    // SAFETY: c/shim.h.
    let (settings, place, dir) = unsafe { (settings_mut(settings), place(at), dir.bytes()) };
    let result = settings.set_python_home(place, Path::new(OsStr::from_bytes(dir)));
    refusal(settings, result)
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_check(settings: *mut burrow_settings) -> *const c_char {
    // SAFETY: c/shim.h.
    let settings = unsafe { self::settings(settings) };
    refusal(settings, settings.check())
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_app_find(
    settings: *mut burrow_settings,
    key: *const burrow_app_key,
    error: *mut *const c_char,
) -> *mut burrow_app {
    // SAFETY: c/shim.h.
    let (settings, key) = unsafe { (self::settings(settings), &*key) };
    let is_whole = key.is_whole != 0;
    // SAFETY: c/shim.h.
    let names = unsafe {
        AppKey {
            target: key.target.bytes(),
            callable: key.callable.bytes(),
            process_group: key.process_group.bytes(),
            group: key.application_group.bytes(),
            // Of a process group its own options tell.
            copies: if key.process_group.bytes().is_empty() { key.interpreters } else { 0 },
        }
    };
    // SAFETY: c/shim.h.
    let server_name = unsafe { key.server_name.bytes() };
    let find = if is_whole { Settings::import } else { Settings::app };
    let found = find(settings, names, key.threads as usize);
    match found.and_then(|app| settings.join(&app, server_name).map(|()| app)) {
        // The settings keep the application.
        Ok(app) => Arc::as_ptr(&app).cast_mut().cast(),
        Err(message) => {
            // SAFETY: c/shim.h.
            unsafe { *error = settings.keep(message) };
            ptr::null_mut()
        }
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_app_preload(app: *mut burrow_app) {
    // SAFETY: c/shim.h.
    unsafe { App::from_c(app) }.set_preload();
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_app_write_timeout(app: *const burrow_app) -> f64 {
    // SAFETY: c/shim.h.
    let group = unsafe { App::from_c(app.cast_mut()) }.daemon();
    group.and_then(|group| group.response_socket_timeout).map_or(0.0, |timeout| timeout.as_secs_f64())
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_app_is_daemon(app: *const burrow_app) -> c_int {
    // SAFETY: c/shim.h.
    unsafe { App::from_c(app.cast_mut()) }.is_daemon().into()
}

/// # Safety
/// `place` is as c/shim.h says.
unsafe fn place(place: *const burrow_place) -> Place {
    // SAFETY: the caller vouches.
    unsafe {
        let place = &*place;
        Place {
            directive: text(place.directive),
            file: text(place.file),
            line: place.line,
            virtual_host: (!place.server_name.is_null()).then(|| VirtualHost::new(place.server_name)),
        }
    }
}

/// # Safety
/// `str` is as c/shim.h says.
unsafe fn text(str: burrow_str) -> String {
    // SAFETY: the caller vouches.
    String::from_utf8_lossy(unsafe { str.bytes() }).into_owned()
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_option(
    settings: *mut burrow_settings,
    at: *const burrow_place,
    scope: *const burrow_scope,
    name: burrow_str,
    value: burrow_str,
) -> *const c_char {
    // SAFETY: c/shim.h.
    unsafe {
        let group = |name: burrow_str| (!name.is_absent()).then(|| name.bytes().into());
        let scope = scope.as_ref().map(|scope| Scope {
            process_group: group(scope.process_group),
            application_group: group(scope.application_group),
        });
        let settings = settings_mut(settings);
        let result = settings.set_option(&place(at), scope, &text(name), &text(value));
        refusal(settings, result)
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_interpreters(
    settings: *mut burrow_settings,
    at: *const burrow_place,
    value: burrow_str,
    interpreters: *mut c_uint,
) -> *const c_char {
    // SAFETY: c/shim.h.
    unsafe {
        let settings = settings_mut(settings);
        let result = settings.want_copies(place(at), &text(value)).map(|copies| *interpreters = copies);
        refusal(settings, result)
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_daemon_process(
    settings: *mut burrow_settings,
    at: *const burrow_place,
    name: burrow_str,
    options: *const burrow_pair,
    n_options: usize,
) -> *const c_char {
    // SAFETY: c/shim.h.
    unsafe {
        let options = slice(options, n_options).iter();
        let options: Vec<_> = options.map(|pair| (text(pair.name), text(pair.value))).collect();
        let options = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings = settings_mut(settings);
        let result = ProcessGroup::new(&text(name), options)
            .and_then(|group| settings.add_process_group(place(at), group));
        refusal(settings, result)
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_instance(
    settings: *mut burrow_settings,
    uid: libc::uid_t,
    gid: libc::gid_t,
    prefix: burrow_str,
    timeout: f64,
    log_level: c_uint,
) {
    // SAFETY: c/shim.h.
    let (settings, prefix) = unsafe { (settings_mut(settings), prefix.bytes()) };
    let timeout = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX);
    settings.set_instance(Instance {
        uid,
        gid,
        prefix: Path::new(OsStr::from_bytes(prefix)).into(),
        timeout,
        log_level,
    });
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_apache(
    settings: *mut burrow_settings,
    apache: *const burrow_apache,
) {
    // SAFETY: c/shim.h.
    unsafe {
        let apache = &*apache;
        settings_mut(settings).set_apache(config::Apache {
            version: apache.version,
            description: text(apache.description),
            mpm_name: text(apache.mpm_name),
            build_date: text(apache.build_date),
        });
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_use_process_group(
    settings: *mut burrow_settings,
    at: *const burrow_place,
    name: burrow_str,
) {
    // SAFETY: c/shim.h.
    unsafe { settings_mut(settings).use_process_group(place(at), name.bytes()) }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_expect_embedded(settings: *mut burrow_settings) {
    // SAFETY: c/shim.h.
    unsafe { settings_mut(settings) }.expect_embedded();
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_refuse_embedded(settings: *const burrow_settings) -> *const c_char {
    // SAFETY: c/shim.h.
    let settings = unsafe { self::settings(settings) };
    settings.embedded_refusal().map_or(ptr::null(), CStr::as_ptr)
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_settings_note(
    settings: *const burrow_settings,
    index: usize,
) -> *const c_char {
    // SAFETY: c/shim.h.
    let notes = unsafe { self::settings(settings) }.notes();
    notes.get(index).map_or(ptr::null(), |note| note.as_ptr())
}
