//! The table of the options, written name=value, of mod_wsgi's directives.

use std::sync::LazyLock;

use super::rows::Nginx::*;
use super::rows::Status::*;
use super::rows::{setting, Setting};
use burrow_host::settings::process_group;

const PROCESS_GROUP: Setting =
    setting("process-group", "`WSGIProcessGroup`", Same, Has("wsgi_process_group", ""));
const APPLICATION_GROUP: Setting =
    setting("application-group", "`WSGIApplicationGroup`", Same, Has("wsgi_application_group", ""));
const CALLABLE_OBJECT: Setting =
    setting("callable-object", "`WSGICallableObject`", Same, Has("wsgi_callable_object", ""));
const PASS_AUTHORIZATION: Setting =
    setting("pass-authorization", "`WSGIPassAuthorization`", Same, Has("wsgi_pass_authorization", ""));

const INTERPRETERS: Setting = setting(
    "interpreters",
    "",
    Differs("Burrow's own: a number of copies, each in an interpreter with a lock of its own, or auto: one for each processor; for `WSGIScriptAlias` alone"),
    Has("wsgi_interpreters", "or off"),
);

/// The options of `WSGIScriptAlias` and `WSGIScriptAliasMatch`.
pub const ALIAS: &[Setting] =
    &[PROCESS_GROUP, APPLICATION_GROUP, CALLABLE_OBJECT, PASS_AUTHORIZATION, INTERPRETERS];
/// Those of `WSGIHandlerScript`.
pub const HANDLER: &[Setting] = &[PROCESS_GROUP, APPLICATION_GROUP, PASS_AUTHORIZATION];
/// Those of `WSGIImportScript`.
pub const IMPORT: &[Setting] = &[PROCESS_GROUP, APPLICATION_GROUP];
/// Those of the scripts that are asked about a request.
pub const HOOK: &[Setting] = &[APPLICATION_GROUP];

/// Those of `WSGIDaemonProcess`.
pub static DAEMON: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let on_nginx = |name| match name {
        "response-socket-timeout" => Own("`send_timeout`"),
        "response-flush-delay" => Nothing("what an application has yielded leaves at once"),
        _ => Has("wsgi_daemon_process", ""),
    };
    let options = process_group::OPTIONS.iter();
    options.map(|option| setting(option.name, option.default, Same, on_nginx(option.name))).collect()
});

/// The option of exactly this name.
pub fn find(settings: &'static [Setting], name: &str) -> Option<&'static Setting> {
    settings.iter().find(|setting| setting.name == name)
}
