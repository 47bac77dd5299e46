//! What becomes of each line.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::advice;
use super::directives;
use super::options;
use super::parse::Directive;
use super::refusals;
use super::rows::{Context, Setting, Status};
use burrow_host::python::runtime_dir;

/// Of the last three a person has to do something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Same,
    Differs,
    NoEffect,
    Note,
    Change,
    NotSupported,
    Problem,
}

impl Verdict {
    fn needs_attention(self) -> bool {
        matches!(self, Verdict::Change | Verdict::NotSupported | Verdict::Problem)
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Differs => "differs",
            Verdict::NoEffect => "no effect",
            Verdict::Note => "note",
            Verdict::Change => "change",
            Verdict::NotSupported => "not supported",
            Verdict::Problem => "problem",
        }
    }
}

/// What there is to say about one directive, one of its options, or the whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The directive and, where one is meant, its option.
    pub subject: String,
    pub verdict: Verdict,
    /// Why, and what to do; empty where nothing is to be said.
    pub reason: String,
}

impl Finding {
    /// About the line of the directive.
    pub fn at(
        directive: &Directive,
        subject: impl Into<String>,
        verdict: Verdict,
        reason: impl Into<String>,
    ) -> Self {
        Finding {
            file: Some(directive.file.display().to_string()),
            line: Some(directive.line),
            ..Finding::about(subject, verdict, reason)
        }
    }

    /// About the whole configuration.
    pub fn about(subject: impl Into<String>, verdict: Verdict, reason: impl Into<String>) -> Self {
        Finding { file: None, line: None, subject: subject.into(), verdict, reason: reason.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, "{file}:{line}: ")?;
        }
        write!(f, "{}: {}", self.verdict.name(), self.subject)?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}

/// All findings, those about the whole last.
#[derive(Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// How many of them need attention.
    pub attention: usize,
}

impl Report {
    pub fn of(configuration: &[Directive]) -> Self {
        let mut findings: Vec<Finding> = Vec::new();
        let of_lines = configuration.iter().flat_map(judge);
        for finding in of_lines.chain(refusals::of(configuration)).chain(advice::on(configuration)) {
            // A file that is included twice is told of once.
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        let attention = findings.iter().filter(|finding| finding.verdict.needs_attention()).count();
        Report { findings, attention }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("is plain data") + "\n"
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        match self.attention {
            0 => writeln!(f, "Nothing needs attention."),
            1 => writeln!(f, "1 of these needs attention."),
            more => writeln!(f, "{more} of these need attention."),
        }
    }
}

/// What there is to say about one line; nothing where it has nothing to do with mod_wsgi.
fn judge(directive: &Directive) -> Vec<Finding> {
    let words = directive.words();
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    if directive.is("LoadModule") {
        return load_module(directive, word(0), word(1)).into_iter().collect();
    }
    if directive.is("AddHandler") || directive.is("SetHandler") {
        let subject = format!("{} wsgi-script", directive.name);
        return has("wsgi-script")
            .then(|| Finding::at(directive, subject, Verdict::Same, ""))
            .into_iter()
            .collect();
    }
    if directive.is("AuthBasicProvider") || directive.is("AuthDigestProvider") {
        return if has("wsgi") { part_of("WSGIAuthUserScript", directive, "wsgi") } else { Vec::new() };
    }
    if directive.is("Require") {
        return if has("wsgi-group") {
            part_of("WSGIAuthGroupScript", directive, "wsgi-group")
        } else {
            Vec::new()
        };
    }
    let bare = directive.name.trim_start_matches('<');
    if !bare.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("WSGI")) {
        return Vec::new();
    }
    let Some(row) = directives::find(&directive.name) else { return vec![unknown(directive)] };
    let mut findings = vec![match misplaced(directive, row.context) {
        Some(why) => Finding::at(directive, row.name, Verdict::NotSupported, why),
        None => finding(directive, row.name, row.httpd),
    }];
    // How many arguments come before the options, and which is a script's path.
    let (before, script, known) = match row.name {
        "WSGIDaemonProcess" => (1, None, options::DAEMON.as_slice()),
        "WSGIScriptAlias" | "WSGIScriptAliasMatch" => (2, Some(1), options::ALIAS),
        "WSGIHandlerScript" => (2, Some(1), options::HANDLER),
        "WSGIImportScript" => (1, Some(0), options::IMPORT),
        "WSGIDispatchScript" | "WSGIAccessScript" | "WSGIAuthUserScript" | "WSGIAuthGroupScript" => {
            (1, Some(0), options::HOOK)
        }
        _ => return findings,
    };
    // A directive that is not there has no options to speak of.
    if findings[0].verdict != Verdict::NotSupported {
        findings.extend(script.and_then(|index| relative_script(directive, word(index))));
        findings.extend(judge_options(directive, before, known));
    }
    findings
}

fn finding(directive: &Directive, subject: &str, status: Status) -> Finding {
    let (verdict, reason) = match status {
        Status::Same => (Verdict::Same, String::new()),
        Status::Differs(how) => (Verdict::Differs, how.into()),
        Status::NoEffect(why) => (Verdict::NoEffect, why.into()),
        Status::Refused { why, cure } => (Verdict::NotSupported, format!("{why}; {cure}")),
    };
    // The table is written in Markdown.
    Finding::at(directive, subject, verdict, reason.replace('`', ""))
}

/// A directive of httpd's own that names what another directive of mod_wsgi's provides.
fn part_of(name: &str, directive: &Directive, argument: &str) -> Vec<Finding> {
    let status = directives::find(name).map_or(Status::Same, |row| row.httpd);
    vec![finding(directive, &format!("{} {argument}", directive.name), status)]
}

fn judge_options(directive: &Directive, skip: usize, known: &'static [Setting]) -> Vec<Finding> {
    let written = directive.options(skip).into_iter();
    written
        .map(|(name, value)| {
            let subject = format!("{} {name}=", directive.name);
            match (options::find(known, &name), value) {
                (Some(row), Some(_)) => finding(directive, &subject, row.httpd),
                (None, Some(_)) => Finding::at(
                    directive,
                    subject,
                    Verdict::NotSupported,
                    "mod_wsgi 6 has no such option; remove it",
                ),
                (_, None) => {
                    let subject = format!("{} {name}", directive.name);
                    Finding::at(directive, subject, Verdict::NotSupported, "options have the form name=value")
                }
            }
        })
        .collect()
}

fn unknown(directive: &Directive) -> Finding {
    let removed = directives::REMOVED.iter().find(|row| directive.is(row.name));
    match removed {
        Some(row) => finding(directive, row.name, row.httpd),
        None => Finding::at(
            directive,
            directive.name.as_str(),
            Verdict::NotSupported,
            "mod_wsgi 6 has no such directive; remove it",
        ),
    }
}

fn relative_script(directive: &Directive, script: &str) -> Option<Finding> {
    let is_module = script.contains(':') && !script.contains('/');
    (!is_module && !script.starts_with(['/', '$', '%'])).then(|| {
        let reason = "the script's path is relative; write the whole path";
        Finding::at(directive, format!("{} {script}", directive.name), Verdict::NotSupported, reason)
    })
}

/// Why httpd does not take the directive here.
fn misplaced(directive: &Directive, context: Context) -> Option<&'static str> {
    const PER_DIRECTORY: [&str; 9] = [
        "directory",
        "directorymatch",
        "location",
        "locationmatch",
        "files",
        "filesmatch",
        "if",
        "limit",
        "limitexcept",
    ];
    let within = |names: &[&str]| directive.sections.iter().any(|section| names.contains(&section.as_str()));
    if directive.is_in_htaccess() {
        return match context {
            Context::Htaccess(_) => None,
            _ => Some("httpd does not take it in .htaccess files; move it to the server's configuration"),
        };
    }
    match context {
        Context::Directory | Context::Htaccess(_) => None,
        Context::VirtualHost if within(&PER_DIRECTORY) => {
            Some("httpd does not take it in <Directory>, <Location> and their like; move it out")
        }
        Context::MainServer | Context::MainServerOrInterpreterOptions
            if within(&PER_DIRECTORY) || within(&["virtualhost"]) =>
        {
            Some("httpd takes it in the main server only; move it out of the section")
        }
        _ => None,
    }
}

fn load_module(directive: &Directive, symbol: &str, file: &str) -> Option<Finding> {
    match symbol {
        "wsgi_module" if Path::new(file).file_name().is_some_and(|name| name == "mod_burrow.so") => {
            Some(Finding::at(directive, "LoadModule wsgi_module", Verdict::Same, "this is Burrow"))
        }
        "wsgi_module" => {
            let line = format!("make it: {}", load_module_line());
            Some(Finding::at(directive, "LoadModule wsgi_module", Verdict::Change, line))
        }
        "python_module" => {
            let reason = "two modules cannot run Python in the same processes; take mod_python out";
            Some(Finding::at(directive, "LoadModule python_module", Verdict::Problem, reason))
        }
        _ => None,
    }
}

/// The line that loads the module installed with this command.
pub fn load_module_line() -> String {
    let installed = runtime_dir().with_file_name("mod_burrow.so").canonicalize();
    let module = installed.unwrap_or_else(|_| "/usr/local/lib/burrow/mod_burrow.so".into());
    format!("LoadModule wsgi_module {}", module.display())
}
