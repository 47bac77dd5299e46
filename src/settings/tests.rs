use std::ffi::CStr;
use std::fs;

use super::*;

fn key<'a>(target: &'a str, group: &'a str) -> AppKey<'a> {
    AppKey {
        target: target.as_bytes(),
        callable: b"",
        process_group: b"",
        group: group.as_bytes(),
        copies: 0,
    }
}

/// A prefix with a python and nothing else.
fn prefix() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    fs::create_dir_all(dir.path().join("lib/python3.11")).unwrap();
    fs::write(dir.path().join("bin/python3"), "").unwrap();
    fs::write(dir.path().join("lib/python3.11/os.py"), "").unwrap();
    dir
}

#[test]
fn one_application_for_each_key() {
    let settings = Settings::new(ServerKind::Nginx);
    let shop = settings.app(key("shop.wsgi", ""), 2).unwrap();
    let again = settings.app(key("shop.wsgi", ""), 2).unwrap();
    let elsewhere = settings.app(key("shop.wsgi", "tools"), 2).unwrap();
    assert!(Arc::ptr_eq(&shop, &again));
    assert!(!Arc::ptr_eq(&shop, &elsewhere));
    assert_eq!(settings.apps().len(), 2);
}

#[test]
fn a_group_has_the_most_threads_that_are_asked_for() {
    let settings = Settings::new(ServerKind::Nginx);
    let shop = settings.app(key("/srv/shop.py", "g"), 2).unwrap();
    settings.app(key("/srv/tools.py", "g"), 8).unwrap();
    settings.app(key("/srv/tools.py", "other"), 16).unwrap();
    assert_eq!((shop.threads(), shop.group()), (8, b"g".as_slice()));
}

#[test]
fn a_bad_application_is_refused() {
    let settings = Settings::new(ServerKind::Apache);
    assert!(settings.app(key("shop/app.wsgi", ""), 1).is_err());
    let bad = AppKey { callable: b"app()", ..key("/srv/app.wsgi", "") };
    assert!(settings.app(bad, 1).is_err());
    assert!(settings.apps().is_empty());
}

fn place(line: u32) -> Place {
    Place { directive: "WSGIPythonHome".into(), file: "site.conf".into(), line, virtual_host: None }
}

#[test]
fn one_python_home() {
    let (one, other) = (prefix(), prefix());
    let mut settings = Settings::new(ServerKind::Nginx);
    let mut set = |line, home: &str| settings.set_python_home(place(line), Path::new(home));
    assert!(set(1, "venv").unwrap_err().contains("relative"));
    assert!(set(2, "/nonexistent").unwrap_err().contains("does not exist"));
    set(3, one.path().to_str().unwrap()).unwrap();
    set(4, one.path().to_str().unwrap()).unwrap();
    let message = set(5, other.path().to_str().unwrap()).unwrap_err();
    assert!(
        message.contains("already, in site.conf:4") && message.contains("wsgi_daemon_process"),
        "{message}"
    );
    assert_eq!(settings.python_home(), one.path());
}

#[test]
fn python_paths_are_absolute() {
    let mut settings = Settings::new(ServerKind::Apache);
    let mut add = |folders| settings.set_option(&place(1), None, "python-path", folders);
    add("/srv/a::/srv/b").unwrap();
    add("/srv/c").unwrap();
    assert!(add("lib").is_err());
    assert_eq!(settings.embedded().interpreters.of(b"", b"").paths, [b"/srv/a", b"/srv/b", b"/srv/c"]);
}

#[test]
fn python_is_checked_where_it_is_needed() {
    let home = prefix();
    let mut settings = Settings::new(ServerKind::Apache);
    assert_eq!(settings.check(), Ok(()));
    settings.set_python_home(place(7), home.path()).unwrap();
    let message = settings.check().unwrap_err();
    assert!(message.starts_with("site.conf:7: WSGIPythonHome: "), "{message}");
    assert!(message.contains("has no shared library"), "{message}");
}

#[test]
fn messages_are_kept_once() {
    let settings = Settings::new(ServerKind::Apache);
    let first = settings.keep("no\0thing".into());
    settings.keep("other".into());
    assert_eq!(settings.keep("no\0thing".into()), first);
    // SAFETY: kept by the settings.
    assert_eq!(unsafe { CStr::from_ptr(first) }, c"no\\0thing");
}

#[test]
fn applications_join_their_process_groups() {
    let mut settings = Settings::new(ServerKind::Apache);
    let place = |virtual_host| Place { directive: String::new(), file: String::new(), line: 1, virtual_host };
    let name = c"shop.example".as_ptr();
    // SAFETY: a literal.
    let host = unsafe { VirtualHost::new(&name) };
    for (group, virtual_host) in [("tools", None), ("shop", Some(host))] {
        let group = ProcessGroup::new(group, []).unwrap();
        settings.add_process_group(place(virtual_host), group).unwrap();
    }
    let of = |group: &'static str| AppKey { process_group: group.as_bytes(), ..key("/srv/app.wsgi", "") };
    let early = settings.app(of("tools"), 1).unwrap();
    assert_eq!(settings.join(&early, b""), Ok(()), "the configuration is being read");
    assert!(early.daemon().is_none());
    settings.make_daemons();
    assert_eq!(early.daemon().unwrap().name, "tools");

    let join = |group, server_name: &str| {
        let app = settings.app(of(group), 1).unwrap();
        settings.join(&app, server_name.as_bytes()).map(|()| app.daemon().unwrap().name.clone())
    };
    assert_eq!(join("shop", "shop.example").as_deref(), Ok("shop"));
    assert_eq!(join("tools", "shop.example").as_deref(), Ok("tools"));
    assert!(join("shop", "other.example").unwrap_err().contains("another virtual host"));
    let message = join("ghost", "shop.example").unwrap_err();
    assert_eq!(message, "No WSGI daemon process called 'ghost' has been configured");
}
