//! The table of the options, written name=value, of mod_wsgi's directives.

use super::directives::Nginx::*;
use super::directives::Status::{self, *};
use super::directives::{setting, Setting, LATER, NO_DAEMON, NO_DAEMON_NGINX, REMOVE};

const PROCESS_GROUP: Setting = setting("process-group", "`WSGIProcessGroup`", EmbeddedOnly, NO_DAEMON_NGINX);
const APPLICATION_GROUP: Setting =
    setting("application-group", "`WSGIApplicationGroup`", Same, Has("wsgi_application_group", ""));
const CALLABLE_OBJECT: Setting =
    setting("callable-object", "`WSGICallableObject`", Same, Has("wsgi_callable_object", ""));
const PASS_AUTHORIZATION: Setting =
    setting("pass-authorization", "`WSGIPassAuthorization`", Same, Has("wsgi_pass_authorization", ""));

/// The options of `WSGIScriptAlias` and `WSGIScriptAliasMatch`.
pub const ALIAS: &[Setting] = &[PROCESS_GROUP, APPLICATION_GROUP, CALLABLE_OBJECT, PASS_AUTHORIZATION];
/// Those of `WSGIHandlerScript`.
pub const HANDLER: &[Setting] = &[PROCESS_GROUP, APPLICATION_GROUP, PASS_AUTHORIZATION];
/// Those of `WSGIImportScript`.
pub const IMPORT: &[Setting] = &[PROCESS_GROUP, APPLICATION_GROUP];
/// Those of the scripts that are asked about a request.
pub const HOOK: &[Setting] = &[APPLICATION_GROUP];

const fn no_daemon(cure: &'static str) -> Status {
    Refused { why: NO_DAEMON, cure }
}

const RECYCLING: Status =
    no_daemon("httpd's `MaxConnectionsPerChild` replaces its processes from time to time");
const OWN_TIMEOUT: Status = no_daemon("httpd's `Timeout` bounds reading and writing");

/// The options of `WSGIDaemonProcess`.
pub const DAEMON: &[Setting] = &[
    setting(
        "processes",
        "1",
        no_daemon("httpd's MPM decides: `StartServers`, `ServerLimit`"),
        Own("`worker_processes`"),
    ),
    setting(
        "threads",
        "15",
        no_daemon("httpd's MPM decides: `ThreadsPerChild`"),
        Has("wsgi_threads", "8 by default"),
    ),
    setting(
        "user",
        "httpd's `User`",
        no_daemon("the application runs as httpd's `User`: let it read and write what the application needs"),
        Own("`user`"),
    ),
    setting("group", "httpd's `Group`", no_daemon("the application runs as httpd's `Group`"), Own("`user`")),
    setting("supplementary-groups", "", no_daemon("add httpd's `User` to these groups"), NO_DAEMON_NGINX),
    setting(
        "umask",
        "httpd's",
        no_daemon("call `os.umask` in the script, or set it where httpd is started"),
        NO_DAEMON_NGINX,
    ),
    setting(
        "home",
        "the user's",
        no_daemon("write absolute paths in the application; add the folder to `WSGIPythonPath`"),
        Own("`working_directory`; `wsgi_python_path` for imports"),
    ),
    setting("chroot", "", no_daemon("httpd's `ChrootDir`, for the whole server"), NO_DAEMON_NGINX),
    setting(
        "lang",
        "",
        no_daemon("set LANG where httpd is started (Debian: /etc/apache2/envvars)"),
        Own("`env LANG=…`"),
    ),
    setting(
        "locale",
        "",
        no_daemon("set LC_ALL where httpd is started (Debian: /etc/apache2/envvars)"),
        Own("`env LC_ALL=…`"),
    ),
    setting(
        "python-home",
        "`/usr`",
        no_daemon("write it as `WSGIPythonHome`, once for the server"),
        Has("wsgi_python_home", ""),
    ),
    setting("python-path", "", no_daemon("write it as `WSGIPythonPath`"), Has("wsgi_python_path", "")),
    setting(
        "python-eggs",
        "",
        no_daemon("set `PYTHON_EGG_CACHE` in the script, where something still uses eggs"),
        Nothing("set `PYTHON_EGG_CACHE` in the script"),
    ),
    setting("switch-interval", "0.005", no_daemon("call `sys.setswitchinterval` in the script"), LATER),
    setting("display-name", "", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("script-user", "", no_daemon("check the owner of the scripts otherwise"), NO_DAEMON_NGINX),
    setting("script-group", "", no_daemon("check the group of the scripts otherwise"), NO_DAEMON_NGINX),
    setting("socket-user", "httpd's `User`", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("listen-backlog", "100", no_daemon("httpd's `ListenBacklog`"), Own("`listen … backlog=`")),
    setting("connect-timeout", "15", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("socket-timeout", "httpd's `Timeout`", OWN_TIMEOUT, Own("`client_body_timeout`, `send_timeout`")),
    setting("queue-timeout", "0", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("request-timeout", "0", no_daemon("bound it in the application"), NO_DAEMON_NGINX),
    setting("interrupt-timeout", "0", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting(
        "graceful-timeout",
        "15",
        no_daemon("httpd's `GracefulShutdownTimeout`"),
        Own("`worker_shutdown_timeout`"),
    ),
    setting("eviction-timeout", "0", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("shutdown-timeout", "5", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("deadlock-timeout", "300", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("startup-timeout", "0", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("inactivity-timeout", "0", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("restart-interval", "0", RECYCLING, NO_DAEMON_NGINX),
    setting("maximum-requests", "0", RECYCLING, NO_DAEMON_NGINX),
    setting(
        "cpu-time-limit",
        "0",
        no_daemon("httpd's `RLimitCPU` does not reach its own processes: set it where httpd is started"),
        NO_DAEMON_NGINX,
    ),
    setting("cpu-priority", "0", no_daemon("set it where httpd is started"), Own("`worker_priority`")),
    setting(
        "memory-limit",
        "0",
        no_daemon("set it where httpd is started (systemd: `MemoryMax=`)"),
        NO_DAEMON_NGINX,
    ),
    setting(
        "virtual-memory-limit",
        "0",
        no_daemon("set it where httpd is started (systemd: `LimitAS=`)"),
        NO_DAEMON_NGINX,
    ),
    setting("stack-size", "0", no_daemon("httpd's `ThreadStackSize`"), NO_DAEMON_NGINX),
    setting("send-buffer-size", "0", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("receive-buffer-size", "0", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("header-buffer-size", "32768", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("response-buffer-size", "8388608", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("response-socket-timeout", "`socket-timeout`", OWN_TIMEOUT, Own("`send_timeout`")),
    setting("response-flush-delay", "5 ms", no_daemon(REMOVE), NO_DAEMON_NGINX),
    setting("server-metrics", "off", no_daemon(REMOVE), NO_DAEMON_NGINX),
];

/// The option of exactly this name.
pub fn find(settings: &'static [Setting], name: &str) -> Option<&'static Setting> {
    settings.iter().find(|setting| setting.name == name)
}
