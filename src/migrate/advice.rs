//! What only the whole configuration shows.

use std::path::Path;

use super::parse::Directive;
use super::report::{load_module_line, Finding, Verdict};
use burrow_host::python::{runtime_dir, Installation, DEFAULT_HOME};

/// Findings about the whole, and those on a line that need the whole.
pub fn on(configuration: &[Directive]) -> Vec<Finding> {
    let of_mod_wsgi = |directive: &Directive| {
        let name = directive.name.trim_start_matches('<').to_ascii_lowercase();
        name.starts_with("wsgi") || directive.arguments.contains("wsgi-script")
    };
    let loads = load_module(configuration);
    if loads.is_none() && !configuration.iter().any(of_mod_wsgi) {
        let reason = "no directive of mod_wsgi's is in these files; name those that have them";
        return vec![Finding::about("configuration", Verdict::Problem, reason)];
    }
    let mut findings = Vec::new();
    if loads.is_none() && !configuration.iter().all(Directive::is_in_htaccess) {
        let reason = format!(
            "not in these files (Debian: /etc/apache2/mods-available/wsgi.load): {}",
            load_module_line()
        );
        findings.push(Finding::about("LoadModule wsgi_module", Verdict::Note, reason));
    }
    let homes = homes(configuration);
    findings.extend(pythons(configuration, &homes));
    findings
}

fn load_module(configuration: &[Directive]) -> Option<&Directive> {
    let is_ours = |directive: &&Directive| {
        directive.is("LoadModule") && directive.words().first().is_some_and(|name| name == "wsgi_module")
    };
    configuration.iter().find(is_ours)
}

fn named<'a>(configuration: &'a [Directive], name: &'a str) -> impl Iterator<Item = &'a Directive> {
    configuration.iter().filter(move |directive| directive.is(name))
}

/// The values of an option, with the directives that have it.
fn values<'a>(
    configuration: &'a [Directive],
    name: &'a str,
    option: &'a str,
) -> impl Iterator<Item = (&'a Directive, String)> {
    named(configuration, name).flat_map(move |directive| {
        let options = directive.options(1).into_iter();
        options.filter_map(move |(name, value)| {
            let wanted = |value: &String| name == option && !value.is_empty();
            Some((directive, value.filter(wanted)?))
        })
    })
}

/// A Python that a line asks for.
struct Home<'a> {
    directive: &'a Directive,
    subject: &'static str,
    path: String,
}

/// Each home once, at the first line that names it.
fn homes(configuration: &[Directive]) -> Vec<Home<'_>> {
    let embedded = named(configuration, "WSGIPythonHome")
        .filter_map(|directive| Some((directive, "WSGIPythonHome", directive.words().into_iter().next()?)));
    let daemons = values(configuration, "WSGIDaemonProcess", "python-home")
        .map(|(directive, path)| (directive, "WSGIDaemonProcess python-home=", path));
    let mut homes: Vec<Home> = Vec::new();
    for (directive, subject, path) in embedded.chain(daemons) {
        let path = path.trim_end_matches('/').to_owned();
        if !homes.iter().any(|home| home.path == path) {
            homes.push(Home { directive, subject, path });
        }
    }
    homes
}

/// Whether each Python can be used here, and whether it is another than mod_wsgi was compiled for.
fn pythons(configuration: &[Directive], homes: &[Home]) -> Vec<Finding> {
    let compiled_for = load_module(configuration).and_then(|directive| compiled_for(&directive.arguments));
    let mut findings = Vec::new();
    // One with a variable in it, of the environment or of a macro, is known to httpd alone.
    for home in homes.iter().filter(|home| !home.path.contains('$')) {
        match usable(&home.path, home.subject == "WSGIPythonHome") {
            Err(message) => {
                findings.push(Finding::at(home.directive, home.subject, Verdict::Problem, message))
            }
            Ok(version) => {
                findings.extend(compiled_for.as_ref().filter(|other| **other != version).map(|other| {
                    let reason = format!(
                    "'{}' has Python {version}, and mod_wsgi was compiled for {other}: Burrow runs {version}",
                    home.path
                );
                    Finding::at(home.directive, home.subject, Verdict::Note, reason)
                }))
            }
        }
    }
    if homes.is_empty() && !configuration.iter().all(Directive::is_in_htaccess) {
        let (verdict, reason) =
            match usable(DEFAULT_HOME, named(configuration, "WSGIDaemonProcess").next().is_none()) {
                Ok(version) => {
                    (Verdict::Note, format!("no home is named: the system's Python {version} is used"))
                }
                Err(message) => (Verdict::Problem, format!("no home is named, and {message}")),
            };
        findings.push(Finding::about("WSGIPythonHome", verdict, reason));
    }
    findings
}

/// The version, or what is missing. The processes of a group need no shared library.
fn usable(home: &str, is_embedded: bool) -> Result<String, String> {
    let installation = Installation::find(Path::new(home))?;
    if is_embedded {
        installation.library()?;
    }
    installation.runtime(&runtime_dir())?;
    Ok(installation.version.to_string())
}

/// "3.11" of "…/mod_wsgi-py311.cpython-311-x86_64-linux-gnu.so".
fn compiled_for(module: &str) -> Option<String> {
    let (_, tag) = module.split_once("cpython-3")?;
    let minor: String = tag.chars().take_while(char::is_ascii_digit).collect();
    (!minor.is_empty()).then(|| format!("3.{minor}"))
}
