//! What httpd would refuse with the module in it: values are judged by the module's own code.

use super::directives;
use super::options;
use super::parse::Directive;
use super::report::{Finding, Verdict};
use super::rows::Context;
use burrow_host::proxies;
use burrow_host::settings::interpreters::Scope;
use burrow_host::settings::process_group::ProcessGroup;
use burrow_host::settings::{Place, ServerKind, Settings};

/// Where `advice` looks closer, and what cannot be looked at but by the server's user.
const JUDGED_ELSEWHERE: [&str; 3] = ["python-home", "python", "env-file"];

/// One finding for each directive with a value that is not taken.
pub fn of(configuration: &[Directive]) -> Vec<Finding> {
    let mut settings = Settings::new(ServerKind::Apache);
    let mut scope = Scope::default();
    let mut findings = Vec::new();
    for directive in configuration {
        if directive.is("<WSGIInterpreterOptions") {
            scope = scope_of(directive);
        }
        let within = directive.sections.iter().any(|section| section == "wsgiinterpreteroptions");
        if let Err(message) = take(&mut settings, directive, within.then(|| scope.clone())) {
            findings.push(Finding::at(directive, directive.name.as_str(), Verdict::NotSupported, message));
        }
    }
    // Files that are not all of a configuration may lack the line that defines a group.
    if configuration.iter().any(|directive| directive.is("LoadModule")) {
        findings.extend(undefined_groups(configuration, &settings));
    }
    findings
}

/// One with a variable in it, of the environment or of a macro, is known to httpd alone.
fn is_known(value: &str) -> bool {
    !value.contains('$')
}

fn take(settings: &mut Settings, directive: &Directive, scope: Option<Scope>) -> Result<(), String> {
    if !is_known(&directive.arguments) {
        return Ok(());
    }
    let place = place(directive);
    let words = directive.words();
    match directives::find(&directive.name) {
        Some(row) if row.name == "WSGIDaemonProcess" => {
            let name = words.first().map_or("", String::as_str);
            let given = directive.options(1);
            let judged = given.iter().filter_map(|(option, value)| {
                let is_judged = options::find(options::DAEMON.as_slice(), option).is_some()
                    && !JUDGED_ELSEWHERE.contains(&option.as_str());
                Some((option.as_str(), value.as_deref().filter(|_| is_judged)?))
            });
            let group = ProcessGroup::new(name, judged)?;
            // Of a group that is there in several <IfDefine>, one applies.
            let _ = settings.add_process_group(place, group);
            Ok(())
        }
        Some(row) if row.name == "WSGITrustedProxyHeaders" => words
            .iter()
            .try_for_each(|name| proxies::header_code(ServerKind::Apache, name.as_bytes()).map(drop)),
        Some(row) if is_option(row.name, row.context) => {
            settings.set_option(&place, scope, &option_name(row.name), &words.join(" "))
        }
        _ => Ok(()),
    }
}

/// Whether it is one of those that `Settings::set_option` takes, by the name that `option_name` makes.
fn is_option(name: &str, context: Context) -> bool {
    let is_global = matches!(context, Context::MainServer | Context::MainServerOrInterpreterOptions);
    let others = ["WSGIPythonHome", "WSGISocketPrefix", "WSGIServerMetrics"];
    is_global && !name.starts_with('<') && !others.contains(&name)
}

/// "python-hash-seed" of "WSGIPythonHashSeed".
fn option_name(directive: &str) -> String {
    let mut name = String::new();
    for letter in directive.trim_start_matches("WSGI").chars() {
        if letter.is_ascii_uppercase() && name.ends_with(|last: char| last.is_ascii_lowercase()) {
            name.push('-');
        }
        name.push(letter);
    }
    name.to_ascii_lowercase()
}

fn scope_of(section: &Directive) -> Scope {
    let options = section.options(0);
    let group = |wanted: &str| {
        let found = options.iter().find(|(name, _)| name == wanted)?.1.as_deref()?;
        Some(if found == "%{GLOBAL}" { Box::default() } else { found.as_bytes().into() })
    };
    Scope { process_group: group("process-group"), application_group: group("application-group") }
}

fn place(directive: &Directive) -> Place {
    Place {
        directive: directive.name.clone(),
        file: directive.file.display().to_string(),
        line: directive.line as u32,
        virtual_host: None,
    }
}

/// The names of process groups that no line defines.
fn undefined_groups<'a>(
    configuration: &'a [Directive],
    settings: &'a Settings,
) -> impl Iterator<Item = Finding> + 'a {
    configuration.iter().flat_map(move |directive| {
        let of_option = |skip| {
            let options = directive.options(skip).into_iter();
            options.filter(|(name, _)| name == "process-group").filter_map(|(_, value)| value).collect()
        };
        let names: Vec<String> = match directives::find(&directive.name).map(|row| row.name) {
            Some("WSGIProcessGroup") => directive.words(),
            Some("WSGIScriptAlias" | "WSGIScriptAliasMatch" | "WSGIHandlerScript") => of_option(2),
            Some("WSGIImportScript") => of_option(1),
            Some("<WSGIInterpreterOptions") => of_option(0),
            _ => Vec::new(),
        };
        let is_missing = |name: &String| {
            !name.is_empty()
                && !name.starts_with('%')
                && is_known(name)
                && settings.process_group(name.as_bytes()).is_none()
        };
        names.into_iter().filter(is_missing).map(|name| {
            let reason =
                format!("process group '{name}' is not defined: there is no WSGIDaemonProcess {name}");
            Finding::at(directive, directive.name.as_str(), Verdict::NotSupported, reason)
        })
    })
}
