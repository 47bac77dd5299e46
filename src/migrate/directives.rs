//! The table of mod_wsgi's directives: what becomes of each on httpd, and what nginx has for it. With that of
//! the options beside it, it is the one source of `burrow migrate` and docs/directives.md.

use Context::*;
use Nginx::*;
use Status::*;

/// What becomes of a mod_wsgi directive or option in Burrow on httpd.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Status {
    Same,
    /// Works, with this difference; there is nothing to do about it.
    Differs(&'static str),
    /// Accepted, for this reason without effect.
    NoEffect(&'static str),
    Refused {
        why: &'static str,
        cure: &'static str,
    },
}

/// What there is on nginx.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nginx {
    /// A directive of Burrow's, and what there is to say about it.
    Has(&'static str, &'static str),
    /// nginx's own means.
    Own(&'static str),
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// Where httpd takes a directive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Context {
    MainServer,
    MainServerOrInterpreterOptions,
    VirtualHost,
    Directory,
    /// .htaccess too, with this class of `AllowOverride`.
    Htaccess(&'static str),
}

pub struct Directive {
    pub name: &'static str,
    pub arguments: &'static str,
    pub context: Context,
    pub default: &'static str,
    pub httpd: Status,
    pub nginx: Nginx,
}

/// An option of `WSGIDaemonProcess` or `WSGIScriptAlias`, written name=value.
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub httpd: Status,
    pub nginx: Nginx,
}

const fn directive(
    name: &'static str,
    arguments: &'static str,
    context: Context,
    default: &'static str,
    httpd: Status,
    nginx: Nginx,
) -> Directive {
    Directive { name, arguments, context, default, httpd, nginx }
}

pub(super) const fn setting(
    name: &'static str,
    default: &'static str,
    httpd: Status,
    nginx: Nginx,
) -> Setting {
    Setting { name, default, httpd, nginx }
}

const FILE_INFO: Context = Htaccess("FileInfo");
const AUTH_CONFIG: Context = Htaccess("AuthConfig");

pub(super) const LATER: Nginx = Nothing("not in Burrow yet");

/// The directives of mod_wsgi 6, and its section.
pub const DIRECTIVES: &[Directive] = &[
    directive(
        "WSGIScriptAlias",
        "*URL-path* *script* [*options*]",
        VirtualHost,
        "",
        Same,
        Has("wsgi_pass", "in a `location`"),
    ),
    directive(
        "WSGIScriptAliasMatch",
        "*regex* *script* [*options*]",
        VirtualHost,
        "",
        Same,
        Has("wsgi_pass", "in a `location ~`; the script is one, without `$1`"),
    ),
    directive(
        "WSGIDaemonProcess",
        "*name* [*options*]",
        VirtualHost,
        "",
        Same,
        Has("wsgi_daemon_process", "the same options; in `http`, for all of its servers"),
    ),
    directive(
        "WSGIProcessGroup",
        "*name*",
        Directory,
        "`%{GLOBAL}`",
        Same,
        Has("wsgi_process_group", "a name or `%{GLOBAL}`"),
    ),
    directive(
        "WSGIApplicationGroup",
        "*name*",
        Directory,
        "`%{RESOURCE}`",
        Same,
        Has("wsgi_application_group", "a name, `%{GLOBAL}`, `%{RESOURCE}` or `%{SERVER}`"),
    ),
    directive(
        "WSGICallableObject",
        "*name*",
        FILE_INFO,
        "`application`",
        Same,
        Has("wsgi_callable_object", "a name; a `location` for each"),
    ),
    directive(
        "WSGIImportScript",
        "*script* process-group=*name* application-group=*name*",
        VirtualHost,
        "",
        Same,
        Has("wsgi_import_script", ""),
    ),
    directive(
        "WSGIHandlerScript",
        "*name* *script* [*options*]",
        Directory,
        "",
        Same,
        Own("a `location` with `wsgi_pass`"),
    ),
    directive(
        "WSGIDispatchScript",
        "*script* [application-group=*name*]",
        Directory,
        "",
        Differs("where it fails, so does the request"),
        Own("a `location` for each group, where need be chosen by a `map` and `rewrite`"),
    ),
    directive(
        "WSGIAccessScript",
        "*script* [application-group=*name*]",
        AUTH_CONFIG,
        "",
        Same,
        Has("wsgi_access_script", "or `off`; for requests of clients, not for subrequests"),
    ),
    directive(
        "WSGIAuthUserScript",
        "*script* [application-group=*name*]",
        AUTH_CONFIG,
        "",
        Same,
        Has("wsgi_auth_user_script", "or `off`; Basic; the realm is an option, realm="),
    ),
    directive(
        "WSGIAuthGroupScript",
        "*script* [application-group=*name*]",
        AUTH_CONFIG,
        "",
        Differs("a script that fails is a 500, and no way around `Require not`"),
        Nothing("nginx knows no groups; `check_password()` can look at them"),
    ),
    directive(
        "WSGIGroupAuthoritative",
        "On\\|Off",
        AUTH_CONFIG,
        "On",
        NoEffect("mod_wsgi does nothing with it either: `Require` says what is needed"),
        Nothing("nothing to set: mod_wsgi does nothing with it either"),
    ),
    directive(
        "WSGIPassAuthorization",
        "On\\|Off",
        FILE_INFO,
        "Off",
        Same,
        Has("wsgi_pass_authorization", "on by default"),
    ),
    directive("WSGIScriptReloading", "On\\|Off", FILE_INFO, "On", Same, Has("wsgi_script_reloading", "")),
    directive(
        "WSGIChunkedRequest",
        "On\\|Off",
        FILE_INFO,
        "Off",
        Differs("chunked request bodies are taken unless it says Off"),
        Has("wsgi_chunked_request", "on by default"),
    ),
    directive(
        "WSGIMapHEADToGET",
        "On\\|Off\\|Auto",
        FILE_INFO,
        "Auto",
        Same,
        Has("wsgi_map_head_to_get", "off by default: nginx needs no body for the headers"),
    ),
    directive(
        "WSGIErrorOverride",
        "On\\|Off",
        FILE_INFO,
        "Off",
        Same,
        Has("wsgi_intercept_errors", ""),
    ),
    directive(
        "WSGIEnableSendfile",
        "On\\|Off",
        FILE_INFO,
        "Off",
        Differs(
            "without it httpd's `EnableSendfile` decides, and counts as On where it is not written either; httpd's \
             own default is Off",
        ),
        Own("`sendfile`"),
    ),
    directive(
        "WSGIIgnoreActivity",
        "On\\|Off",
        FILE_INFO,
        "Off",
        NoEffect("every request counts for `inactivity-timeout`"),
        Nothing("every request counts for `inactivity-timeout`"),
    ),
    directive(
        "WSGITrustedProxyHeaders",
        "*names*",
        FILE_INFO,
        "",
        Same,
        Has("wsgi_trusted_proxy_headers", "who the client is the realip module tells: `real_ip_header`"),
    ),
    directive(
        "WSGITrustedProxies",
        "*addresses*",
        FILE_INFO,
        "",
        Differs("names in the headers are never looked up in DNS"),
        Has("wsgi_trusted_proxies", "beside `set_real_ip_from` of the realip module"),
    ),
    directive(
        "WSGIPassApacheRequest",
        "On\\|Off",
        Directory,
        "Off",
        Same,
        Nothing("`request_rec` is httpd's"),
    ),
    directive(
        "WSGIRestrictProcess",
        "*names*",
        Directory,
        "",
        Same,
        Nothing("the configuration names the process group, no request does"),
    ),
    directive(
        "WSGIRestrictEmbedded",
        "On\\|Off",
        MainServer,
        "Off",
        Same,
        Has("wsgi_restrict_embedded", "what it forbids is refused by `nginx -t`"),
    ),
    directive(
        "WSGIRestrictStdin",
        "On\\|Off",
        MainServerOrInterpreterOptions,
        "Off",
        Same,
        Has("wsgi_restrict_stdin", ""),
    ),
    directive(
        "WSGIRestrictStdout",
        "On\\|Off",
        MainServerOrInterpreterOptions,
        "Off",
        Same,
        Has("wsgi_restrict_stdout", ""),
    ),
    directive(
        "WSGIRestrictSignal",
        "On\\|Off",
        MainServerOrInterpreterOptions,
        "On",
        Same,
        Has("wsgi_restrict_signal", ""),
    ),
    directive(
        "WSGIInterface",
        "auto\\|wsgi\\|asgi",
        MainServerOrInterpreterOptions,
        "auto",
        Differs("Burrow's own: what the applications are; auto: their callables tell"),
        Has("wsgi_interface", ""),
    ),
    directive(
        "WSGILoop",
        "auto\\|asyncio\\|uvloop",
        MainServerOrInterpreterOptions,
        "auto",
        Differs("Burrow's own: the event loop of ASGI applications; auto: uvloop where it can be imported"),
        Has("wsgi_loop", ""),
    ),
    directive(
        "WSGIWebSocketMaxMessage",
        "*bytes*",
        MainServerOrInterpreterOptions,
        "16777216",
        Differs("Burrow's own: the longest message of a WebSocket's client; a longer one closes it with 1009"),
        Has("wsgi_websocket_max_message", ""),
    ),
    directive(
        "WSGIWebSocketPingInterval",
        "*seconds*",
        MainServerOrInterpreterOptions,
        "20",
        Differs("Burrow's own: a silent client's, until it is pinged, and until it is given up; 0: never"),
        Has("wsgi_websocket_ping_interval", ""),
    ),
    directive(
        "WSGIWebSocketIdleTimeout",
        "*seconds*",
        MainServerOrInterpreterOptions,
        "0",
        Differs("Burrow's own: a WebSocket without a message for so long is closed with 1001; 0: never"),
        Has("wsgi_websocket_idle_timeout", ""),
    ),
    directive(
        "WSGIPythonHome",
        "*folder*",
        MainServer,
        "`/usr`",
        Differs(
            "the home decides which Python runs, and it need not be the one that a module was compiled for",
        ),
        Has("wsgi_python_home", ""),
    ),
    directive(
        "WSGIPythonPath",
        "*folders*",
        MainServerOrInterpreterOptions,
        "",
        Same,
        Has("wsgi_python_path", ""),
    ),
    directive(
        "WSGIPythonEggs",
        "*folder*",
        MainServer,
        "",
        NoEffect("set `PYTHON_EGG_CACHE` in the script, where something still uses eggs"),
        Nothing("set `PYTHON_EGG_CACHE` in the script"),
    ),
    directive("WSGIPythonOptimize", "0\\|1\\|2", MainServer, "0", Same, Has("wsgi_python_optimize", "")),
    directive(
        "WSGIPythonHashSeed",
        "random\\|*number*",
        MainServer,
        "random",
        Same,
        Has("wsgi_python_hash_seed", ""),
    ),
    directive("WSGIPythonWarnings", "*filter*", MainServer, "", Same, Has("wsgi_python_warnings", "")),
    directive(
        "WSGIDontWriteBytecode",
        "On\\|Off",
        MainServer,
        "Off",
        Same,
        Has("wsgi_dont_write_bytecode", ""),
    ),
    directive(
        "WSGISwitchInterval",
        "*seconds*",
        MainServerOrInterpreterOptions,
        "0.005",
        Differs(
            "with application-group refused: the interpreters of a process share one lock; unset, it is 0.001 \
             once there is a sub-interpreter",
        ),
        Has("wsgi_switch_interval", "with application-group refused, too"),
    ),
    directive(
        "WSGIDestroyInterpreter",
        "On\\|Off",
        MainServer,
        "On",
        Differs("interpreters are never ended; Off: no exit functions run when the process ends"),
        Has("wsgi_destroy_interpreter", "as on httpd"),
    ),
    directive(
        "WSGIPerInterpreterGIL",
        "On\\|Off",
        MainServerOrInterpreterOptions,
        "Off",
        Differs("Python 3.12 or newer, else On is refused"),
        Has("wsgi_per_interpreter_gil", "as on httpd"),
    ),
    directive(
        "WSGIFreeThreading",
        "On\\|Off",
        MainServerOrInterpreterOptions,
        "Off",
        Differs("a free-threaded build of Python, else On is refused"),
        Has("wsgi_free_threading", "as on httpd"),
    ),
    directive(
        "<WSGIInterpreterOptions",
        "[process-group=*name*] [application-group=*name*]",
        MainServer,
        "",
        Same,
        Has("wsgi_interpreter_options", "a block, `{ … }`"),
    ),
    directive(
        "WSGISocketPrefix",
        "*path*",
        MainServer,
        "`wsgi` in httpd's run folder",
        Same,
        Has("wsgi_socket_prefix", "`wsgi` in the folder of the file with the pid"),
    ),
    directive(
        "WSGISocketRotation",
        "On\\|Off",
        MainServer,
        "On",
        NoEffect("a reload keeps the sockets of process groups"),
        Nothing("a reload keeps the sockets of process groups"),
    ),
    directive(
        "WSGIAcceptMutex",
        "*method*",
        MainServer,
        "Default",
        NoEffect("no lock is taken to accept a connection"),
        Nothing("no lock is taken to accept a connection"),
    ),
    directive(
        "WSGICaseSensitivity",
        "On\\|Off",
        MainServer,
        "On",
        NoEffect("no name is made from the letters of a path"),
        Nothing("paths are taken as they are written"),
    ),
    directive(
        "WSGIServerMetrics",
        "On\\|Off",
        MainServer,
        "Off",
        Differs("in httpd's own processes; elsewhere `server_metrics()` is `None`"),
        Nothing("nginx has no scoreboard; `stub_status` counts its connections"),
    ),
    directive(
        "WSGITelemetryService",
        "unix:*socket* [interval=*seconds*]",
        MainServer,
        "",
        NoEffect("there is no telemetry yet"),
        LATER,
    ),
    directive("WSGISlowRequests", "*seconds*", MainServer, "", NoEffect("there is no telemetry yet"), LATER),
    directive(
        "WSGITelemetryOptions",
        "*options*",
        MainServer,
        "None",
        NoEffect("there is no telemetry yet"),
        LATER,
    ),
    directive(
        "WSGIVerboseDebugging",
        "On\\|Off",
        MainServer,
        "Off",
        NoEffect("mod_wsgi does nothing with it either"),
        Nothing("`error_log … debug`"),
    ),
];

/// Directives that mod_wsgi had before version 6.
pub const REMOVED: &[Setting] = &[
    setting(
        "WSGILazyInitialization",
        "",
        Refused {
            why: "mod_wsgi 6 has no such directive any more",
            cure: "remove it: Python starts in the worker processes, after the fork",
        },
        Nothing("Python starts in the worker processes, after the fork"),
    ),
    setting(
        "WSGINewRelicConfigFile",
        "",
        Refused {
            why: "mod_wsgi 6 has no such directive any more",
            cure: "call `newrelic.agent.initialize` in the script",
        },
        Nothing("call `newrelic.agent.initialize` in the script"),
    ),
    setting(
        "WSGINewRelicEnvironment",
        "",
        Refused {
            why: "mod_wsgi 6 has no such directive any more",
            cure: "call `newrelic.agent.initialize` in the script",
        },
        Nothing("call `newrelic.agent.initialize` in the script"),
    ),
];

/// Directives of the nginx module that mod_wsgi has no word for, and what httpd does instead.
pub const NGINX_ONLY: &[(&str, &str, &str)] = &[
    (
        "wsgi_param",
        "*name* *value* [if_not_empty]: a variable of the environ",
        "`SetEnv`, `SetEnvIf`, `RewriteRule … [E=…]`",
    ),
    (
        "wsgi_threads",
        "*number* (8): threads for an application group in each worker process; 0: the application runs on \
         nginx's event loop itself, for applications that never block ([performance](performance.md))",
        "the MPM's `ThreadsPerChild`",
    ),
    (
        "wsgi_request_buffering",
        "on\\|off (on): whether nginx reads the whole body first; what exceeds its `client_body_buffer_size` (16k) \
         waits in a file",
        "bodies are read as the application asks for them",
    ),
    (
        "wsgi_buffering",
        "on\\|off (on): whether nginx takes the answers of a process group as fast as they come, into memory, where \
         the client is slower; `X-Accel-Buffering: no` in an answer turns it off",
        "`response-buffer-size=` of the process group",
    ),
    (
        "wsgi_buffers",
        "*number* *size* (of 32k, as many as `response-buffer-size=` of the process group wants): that memory, for one \
         answer",
        "`response-buffer-size=` of the process group",
    ),
    (
        "wsgi_buffer_size",
        "*size* (16k): for the head of an answer of a process group, and what comes with it; longer heads get more",
        "nothing to set",
    ),
    (
        "wsgi_read_timeout",
        "*time* (`socket-timeout=` of the process group): for which a process may be silent, then 504",
        "`socket-timeout=` of the process group",
    ),
];

/// The directive of this name, in any case of letters.
pub fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.name.eq_ignore_ascii_case(name))
}
