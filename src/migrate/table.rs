//! The table of directives as docs/directives.md has it.

use super::rows::{Context, Nginx, Setting, Status};
use super::{directives, nginx_only, options};
use burrow_host::settings::process_group;

const HEAD: &str = "\
# Directives

What becomes of each directive and option of mod_wsgi 6, and what nginx has for it. `burrow migrate FILE…` says it
for a configuration of yours, line by line.

<!-- Written by: burrow migrate --table. The source is src/migrate/directives.rs. -->

Where a directive may stand: *server*, outside of `<VirtualHost>`; *virtual host*, there too; *directory*, in
`<Directory>`, `<Location>` and `<Files>` too; *.htaccess (X)*, in such files too where `AllowOverride X` lets it.
A directive of nginx's that is named here goes to `http`, `server` or `location`, except that `wsgi_pass` belongs to a
`location`; and `wsgi_daemon_process`, `wsgi_socket_prefix`, `wsgi_import_script` and all that is about Python and its
interpreters, but for `wsgi_application_group`, to `http`. On and Off are written on and off there.
";

/// The whole page.
pub fn markdown() -> String {
    let directives = directives::DIRECTIVES.iter().map(|row| {
        let arguments = if row.arguments.is_empty() { String::new() } else { format!(" {}", row.arguments) };
        let close = if row.name.starts_with('<') { "`>`" } else { "" };
        let name = format!("`{}`{arguments}{close}", row.name);
        vec![name, context(row.context), row.default.into(), status(row.httpd), nginx(row.nginx)]
    });
    let nginx_only = nginx_only::NGINX_ONLY.iter().map(|(name, meaning, httpd)| {
        let (arguments, meaning) = meaning.split_once(": ").unwrap_or((meaning, ""));
        vec![format!("`{name}` {arguments}"), meaning.into(), (*httpd).into()]
    });
    let named = |title: &str, settings: &[Setting]| {
        let rows = settings.iter().map(|row| {
            vec![format!("`{}=`", row.name), row.default.into(), status(row.httpd), nginx(row.nginx)]
        });
        table(title, &["Option", "Default", "Apache httpd", "nginx"], rows)
    };
    let groups = process_group::OPTIONS
        .iter()
        .map(|option| vec![format!("`{}=`", option.name), option.default.into(), option.meaning.into()]);
    let removed = directives::REMOVED
        .iter()
        .map(|row| vec![format!("`{}`", row.name), status(row.httpd), nginx(row.nginx)]);
    [
        HEAD.to_owned(),
        table(
            "The directives",
            &["mod_wsgi", "May stand in", "Default", "Apache httpd", "nginx"],
            directives,
        ),
        named("Options of `WSGIScriptAlias` and, as far as they make sense there, of the others that name scripts", options::ALIAS),
        table("Options of `WSGIDaemonProcess`", &["Option", "Default", "Meaning"], groups),
        table("Directives that mod_wsgi 6 has no more", &["Directive", "Apache httpd", "nginx"], removed),
        table("Directives of nginx alone", &["nginx", "Meaning", "Apache httpd"], nginx_only),
    ]
    .join("\n")
}

fn table(title: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = columns.iter().map(|&column| column.into()).collect();
    let rule = format!("|{}\n", "---|".repeat(columns.len()));
    format!("## {title}\n\n{}{rule}{}", line(&head), rows.map(|row| line(&row)).collect::<String>())
}

fn context(context: Context) -> String {
    match context {
        Context::MainServer => "server".into(),
        Context::MainServerOrInterpreterOptions => "server, `<WSGIInterpreterOptions>`".into(),
        Context::VirtualHost => "virtual host".into(),
        Context::Directory => "directory".into(),
        Context::Htaccess(class) => format!(".htaccess ({class})"),
    }
}

fn status(status: Status) -> String {
    match status {
        Status::Same => "implemented".into(),
        Status::Differs(how) => format!("implemented; {how}"),
        Status::NoEffect(why) => format!("no effect: {why}"),
        Status::Refused { why, cure } => format!("refused: {why}; {cure}"),
    }
}

fn nginx(nginx: Nginx) -> String {
    match nginx {
        Nginx::Has(name, "") => format!("`{name}`"),
        Nginx::Has(name, how) => format!("`{name}`: {how}"),
        Nginx::Own(how) => format!("nginx's own: {how}"),
        Nginx::Nothing(why) => format!("none: {why}"),
    }
}
