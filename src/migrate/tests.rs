use std::fs;
use std::path::Path;

use regex::Regex;

use super::rows::{Nginx, Status};
use super::{directives, nginx_only, options, parse, report::Report, table};

/// The report on one file, its path left out.
fn report(text: &str) -> Vec<String> {
    report_on("site.conf", text)
}

fn report_on(name: &str, text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let report = Report::of(&parse::read(&[path], &[]).unwrap());
    let prefix = format!("{}/", folder.path().display());
    report.findings.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect()
}

/// The first finding on a line that is the whole file.
fn verdict(line: &str) -> String {
    report(line).swap_remove(0).replacen("site.conf:1: ", "", 1)
}

#[test]
fn aliases_are_the_same() {
    let found = report(
        "<VirtualHost *>\nWSGIScriptAlias / /srv/shop/app.wsgi application-group=%{GLOBAL}\n</VirtualHost>",
    );
    assert_eq!(found[0], "site.conf:2: same: WSGIScriptAlias");
    assert_eq!(found[1], "site.conf:2: same: WSGIScriptAlias application-group=");
    assert!(verdict("AddHandler wsgi-script .wsgi").starts_with("same: AddHandler wsgi-script"));
}

#[test]
fn what_is_unknown_is_said() {
    let unknown = "not supported: WSGIFoo: mod_wsgi 6 has no such directive; remove it";
    assert_eq!(verdict("WSGIFoo On"), unknown);
    assert!(verdict("WSGILazyInitialization On").contains("any more"));
    let found = report("WSGIScriptAlias / app.wsgi colour=blue bare");
    assert!(found[1].contains("the script's path is relative"));
    assert!(found[2].contains("WSGIScriptAlias colour=: mod_wsgi 6 has no such option"));
    assert!(found[3].contains("WSGIScriptAlias bare: options have the form name=value"));
}

#[test]
fn values_that_httpd_would_refuse_are_said() {
    for (line, why) in [
        ("WSGIPythonOptimize 7", "'7' is not a number from 0 to 2"),
        ("WSGIPythonPath lib", "'lib' is a relative path"),
        ("WSGISlowRequests soon", "'soon' is not a number"),
        ("WSGITrustedProxyHeaders X-Real-IP Forwarded", "Forwarded is no header"),
        ("WSGIDaemonProcess a/b", "cannot name a process group"),
        ("WSGIDaemonProcess shop threads=many", "threads=many: 'many' is not a number"),
        ("WSGIDaemonProcess shop user=root", "do not run as root"),
        (
            "<WSGIInterpreterOptions application-group=a>\nWSGISwitchInterval 1\n</WSGIInterpreterOptions>",
            "leave application-group out",
        ),
        ("LoadModule wsgi_module mod_wsgi.so\nWSGIProcessGroup other", "there is no WSGIDaemonProcess other"),
        ("LoadModule wsgi_module mod_wsgi.so\nWSGIScriptAlias / /a process-group=other", "is not defined"),
    ] {
        let said =
            report(line).into_iter().any(|said| said.contains(": not supported: ") && said.contains(why));
        assert!(said, "{line}: {:?}", report(line));
    }
}

#[test]
fn what_only_httpd_knows_is_not_judged() {
    for lines in [
        "WSGIDaemonProcess shop threads=${THREADS}\nWSGIScriptAlias / shop.wsgi:application",
        "<IfDefine a>\nWSGIDaemonProcess shop\n</IfDefine>\n<IfDefine b>\nWSGIDaemonProcess shop\n</IfDefine>",
        "WSGIProcessGroup of-another-file",
        "LoadModule wsgi_module mod_burrow.so\nWSGIProcessGroup %{ENV:GROUP}\nWSGIProcessGroup %{GLOBAL}",
    ] {
        assert!(!report(lines).iter().any(|said| said.contains("not supported")), "{:?}", report(lines));
    }
}

#[test]
fn misplaced_directives_are_said() {
    let found = report_on(".htaccess", "WSGIScriptAlias / /a.wsgi\nWSGICallableObject app");
    assert!(found[0].contains("does not take it in .htaccess files"));
    assert_eq!(found[2..], [] as [&str; 0]);
    let found = report("<Location />\nWSGIScriptAlias / /a.wsgi\n</Location>");
    assert!(found[0].contains("move it out"));
    let found = report("<VirtualHost *>\nWSGIPythonHome /usr\n</VirtualHost>");
    assert!(found[0].contains("main server only"));
}

#[test]
fn the_module_has_to_be_changed_once() {
    assert!(
        verdict("LoadModule wsgi_module modules/mod_wsgi.so").starts_with("change: LoadModule wsgi_module")
    );
    assert!(verdict("LoadModule wsgi_module /x/mod_burrow.so").starts_with("same: LoadModule wsgi_module"));
    assert_eq!(report("LoadModule alias_module a.so").len(), 1, "nothing about mod_wsgi");
}

#[test]
fn every_directive_is_in_the_table_once() {
    let mut names: Vec<&str> = directives::DIRECTIVES.iter().map(|row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), directives::DIRECTIVES.len());
    let our_own = [
        "WSGIInterface",
        "WSGILoop",
        "WSGIWebSocketMaxMessage",
        "WSGIWebSocketPingInterval",
        "WSGIWebSocketIdleTimeout",
    ];
    names.retain(|name| !our_own.contains(name));
    assert_eq!(names.len(), 49, "as many as mod_wsgi 6 registers");
}

/// The names that follow `before` in the C code of a module.
fn registered(folder: &str, before: &str) -> Vec<String> {
    let entry = Regex::new(&format!(r#"{before}\("([^"]+)""#)).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut names = Vec::new();
    for file in fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "c") {
            let text = fs::read_to_string(file).unwrap();
            names.extend(entry.captures_iter(&text).map(|found| found[1].to_owned()));
        }
    }
    names.retain(|name| name.trim_start_matches('<').to_ascii_lowercase().starts_with("wsgi"));
    names.sort();
    names
}

#[test]
fn httpd_takes_what_the_table_says() {
    let registered = registered("c/apache", r"[A-Z0-9_]+");
    let refused = |status| matches!(status, Status::Refused { .. });
    for row in directives::DIRECTIVES {
        assert_eq!(
            registered.iter().any(|name| name == row.name),
            !refused(row.httpd),
            "{}: the module and src/migrate/directives.rs disagree",
            row.name
        );
    }
    for name in registered {
        assert!(directives::find(&name).is_some(), "{name} is not in src/migrate/directives.rs");
    }
}

#[test]
fn nginx_has_what_the_table_says() {
    let registered = registered("c/nginx", "(?:ngx_string|_OPTION)");
    let settings = options::ALIAS.iter().chain(options::DAEMON.iter());
    let counterparts =
        directives::DIRECTIVES.iter().map(|row| row.nginx).chain(settings.map(|row| row.nginx));
    let mut said: Vec<String> = counterparts
        .filter_map(|nginx| match nginx {
            Nginx::Has(name, _) => Some(name.to_owned()),
            _ => None,
        })
        .chain(nginx_only::NGINX_ONLY.iter().map(|(name, ..)| (*name).to_owned()))
        .collect();
    said.sort();
    said.dedup();
    assert_eq!(said, registered, "c/nginx and src/migrate/directives.rs disagree");
}

#[test]
fn the_page_is_the_table() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/directives.md"));
    assert!(page.unwrap_or_default() == table::markdown(), "burrow migrate --table > docs/directives.md");
}
