//! A reader of Apache configurations: lines, quotes, sections, `Include`, `Define`. What a server was
//! started with need not be known, so the content of `<IfModule>`, `<IfDefine>` and their like is read as
//! if they applied; only `<IfDefine !X>` is passed over, once X is defined. With definitions given, as for
//! httpd, `<IfDefine>` is taken at its word.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// As deep as httpd follows files that include each other.
const MAX_INCLUDES: usize = 20;

/// One directive, or the opening line of a section, where it stands.
#[derive(Clone, Debug)]
pub struct Directive {
    pub file: Rc<Path>,
    pub line: usize,
    /// As it is written; that of a section begins with '<'.
    pub name: String,
    /// What follows the name, with variables replaced.
    pub arguments: String,
    /// The names of the sections around it, in lower case, outermost first; those of the including file too.
    pub sections: Rc<[String]>,
}

impl Directive {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    pub fn is_in_htaccess(&self) -> bool {
        self.file.file_name().is_some_and(|name| name == ".htaccess")
    }

    /// The arguments, quotes removed.
    pub fn words(&self) -> Vec<String> {
        let mut rest = self.arguments.as_str();
        let mut words = Vec::new();
        while !rest.is_empty() {
            words.push(next_word(&mut rest));
        }
        words
    }

    /// The arguments after the first `skip` as name=value pairs; one without '=' has no value.
    pub fn options(&self, skip: usize) -> Vec<(String, Option<String>)> {
        let mut rest = self.arguments.as_str();
        for _ in 0..skip {
            next_word(&mut rest);
        }
        let mut options = Vec::new();
        while !rest.is_empty() {
            let name = rest.find(|c: char| c == '=' || c.is_ascii_whitespace());
            match name.filter(|end| rest[*end..].starts_with('=')) {
                Some(end) => {
                    let name = rest[..end].to_owned();
                    rest = &rest[end + 1..];
                    options.push((name, Some(next_word(&mut rest))));
                }
                None => options.push((next_word(&mut rest), None)),
            }
        }
        options
    }
}

/// Takes a word off the front, as `ap_getword_conf` does.
fn next_word(rest: &mut &str) -> String {
    let text = rest.trim_start();
    let mut word = String::new();
    let end = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let mut escaped = false;
            let end = text[1..].find(|c| {
                if escaped {
                    if c != quote && c != '\\' {
                        word.push('\\');
                    }
                    word.push(c);
                    escaped = false;
                } else if c == quote {
                    return true;
                } else if c == '\\' {
                    escaped = true;
                } else {
                    word.push(c);
                }
                false
            });
            end.map_or(text.len(), |end| end + 2)
        }
        _ => {
            let end = text.find(|c: char| c.is_ascii_whitespace()).unwrap_or(text.len());
            word.push_str(&text[..end]);
            end
        }
    };
    *rest = text[end..].trim_start();
    word
}

/// Why the configuration could not be read: one line, with the place.
#[derive(Debug, PartialEq)]
pub struct Error(String);

impl Error {
    fn new(file: &Path, line: usize, message: impl fmt::Display) -> Self {
        Error(format!("{}:{line}: {message}", file.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the files and all that they include, in order. Each definition is a NAME or NAME=VALUE.
pub fn read(files: &[PathBuf], definitions: &[String]) -> Result<Vec<Directive>, Error> {
    let variables = definitions.iter().map(|definition| {
        let (name, value) = definition.split_once('=').unwrap_or((definition, ""));
        (name.to_owned(), value.to_owned())
    });
    let mut reader = Reader {
        variables: variables.collect(),
        knows_definitions: !definitions.is_empty(),
        server_root: None,
        base: PathBuf::new(),
        found: Vec::new(),
    };
    for file in files {
        reader.base = file.parent().unwrap_or(Path::new("")).to_owned();
        let text = contents(file).map_err(|error| Error(format!("{}: {error}", file.display())))?;
        reader.file(file, &text, &[], 0)?;
    }
    Ok(reader.found)
}

fn contents(file: &Path) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(file)?).into_owned())
}

struct Reader {
    variables: HashMap<String, String>,
    knows_definitions: bool,
    server_root: Option<PathBuf>,
    /// What relative paths are relative to while no ServerRoot was seen: the folder of the named file.
    base: PathBuf,
    found: Vec<Directive>,
}

/// A section that is open.
struct Section {
    name: String,
    line: usize,
    skipped: bool,
}

impl Reader {
    fn file(&mut self, file: &Path, text: &str, around: &[String], depth: usize) -> Result<(), Error> {
        let file: Rc<Path> = file.into();
        let mut open: Vec<Section> = Vec::new();
        let mut sections: Rc<[String]> = around.into();
        let mut lines = text.lines().enumerate();
        while let Some((index, first)) = lines.next() {
            let line = index + 1;
            let mut joined = first.to_owned();
            while joined.ends_with('\\') {
                joined.pop();
                joined.push_str(lines.next().map_or("", |(_, next)| next));
            }
            let written = joined.trim();
            if written.is_empty() || written.starts_with('#') {
                continue;
            }
            let written = self.expand(written);
            let error = |message: String| Error::new(&file, line, message);
            let skipped = open.last().is_some_and(|section| section.skipped);
            if let Some(name) = written.strip_prefix("</") {
                let name = name.trim_end_matches('>').trim().to_ascii_lowercase();
                match open.pop() {
                    Some(section) if section.name == name => {}
                    Some(section) => {
                        return Err(error(format!(
                            "</{name}> where </{}> is expected, for the section of line {}",
                            section.name, section.line
                        )))
                    }
                    None => return Err(error(format!("</{name}> without <{name}>"))),
                }
                sections = names(around, &open);
                continue;
            }
            let end = written.find(|c: char| c.is_ascii_whitespace()).unwrap_or(written.len());
            let (name, arguments) = written.split_at(end);
            let mut directive = Directive {
                file: file.clone(),
                line,
                name: name.to_owned(),
                arguments: arguments.trim().to_owned(),
                sections: sections.clone(),
            };
            if let Some(name) = name.strip_prefix('<') {
                if !written.ends_with('>') {
                    return Err(error(format!("<{name} has no closing '>'")));
                }
                let name = name.trim_end_matches('>').to_ascii_lowercase();
                directive.name = format!("<{}", directive.name[1..].trim_end_matches('>'));
                directive.arguments = directive.arguments.trim_end_matches('>').trim_end().to_owned();
                let skipped = skipped || self.is_ruled_out(&name, &directive.arguments);
                open.push(Section { name, line, skipped });
                sections = names(around, &open);
            }
            if !skipped {
                self.directive(directive, depth)?;
            }
        }
        match open.pop() {
            Some(section) => {
                let message = format!("<{0}> has no </{0}>", section.name);
                Err(Error::new(&file, section.line, message))
            }
            None => Ok(()),
        }
    }

    fn directive(&mut self, directive: Directive, depth: usize) -> Result<(), Error> {
        if directive.is("Include") || directive.is("IncludeOptional") {
            return self.include(&directive, depth);
        }
        let mut words = directive.words().into_iter();
        if directive.is("Define") {
            if let Some(name) = words.next() {
                self.variables.insert(name, words.next().unwrap_or_default());
            }
        } else if directive.is("UnDefine") {
            words.next().map(|name| self.variables.remove(&name));
        } else if directive.is("ServerRoot") {
            self.server_root = words.next().map(PathBuf::from);
        }
        self.found.push(directive);
        Ok(())
    }

    fn include(&mut self, directive: &Directive, depth: usize) -> Result<(), Error> {
        let error = |message: String| Error::new(&directive.file, directive.line, message);
        let Some(pattern) = directive.words().into_iter().next() else {
            return Err(error(format!("{} names no file", directive.name)));
        };
        if depth == MAX_INCLUDES {
            return Err(error(format!("{MAX_INCLUDES} files include each other; is there a circle?")));
        }
        let pattern = self.server_root.as_ref().unwrap_or(&self.base).join(pattern);
        let mut files = matching(&pattern).map_err(|why| error(format!("{}: {why}", pattern.display())))?;
        // A folder stands for everything in it.
        while let Some(at) = files.iter().position(|path| path.is_dir()) {
            let folder = files.remove(at).join("*");
            let within = matching(&folder).map_err(|why| error(format!("{}: {why}", folder.display())))?;
            files.splice(at..at, within);
        }
        if files.is_empty() && directive.is("Include") && !pattern.is_dir() {
            let hint = if pattern.to_string_lossy().contains("${") {
                "; define the variable in the environment or with -D NAME=VALUE"
            } else if self.server_root.is_none() && pattern.starts_with(&self.base) {
                "; name the server's main file, which says what such a path is relative to"
            } else {
                ""
            };
            return Err(error(format!("{} does not exist{hint}", pattern.display())));
        }
        for file in files {
            let text = contents(&file).map_err(|why| error(format!("{}: {why}", file.display())))?;
            self.file(&file, &text, &directive.sections, depth + 1)?;
        }
        Ok(())
    }

    /// Whether it is certain that the section does not apply.
    fn is_ruled_out(&self, section: &str, condition: &str) -> bool {
        section == "ifdefine"
            && match condition.strip_prefix('!') {
                Some(name) => self.variables.contains_key(name),
                None => self.knows_definitions && !self.variables.contains_key(condition),
            }
    }

    /// Replaces each ${NAME} that is defined, by the configuration or by the environment.
    fn expand(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else { break };
            let (before, after) = (&rest[..start], &rest[start + length + 1..]);
            let name = &rest[start + 2..start + length];
            expanded.push_str(before);
            match self.variables.get(name).cloned().or_else(|| env::var(name).ok()) {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(&rest[start..=start + length]),
            }
            rest = after;
        }
        expanded + rest
    }
}

fn names(around: &[String], open: &[Section]) -> Rc<[String]> {
    around.iter().cloned().chain(open.iter().map(|section| section.name.clone())).collect()
}

/// The files that a pattern stands for, in the order in which httpd reads them.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let found = glob::glob_with(&pattern.to_string_lossy(), options).map_err(|error| error.to_string())?;
    found.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `main.conf` of a folder with these files.
    fn read_tree(files: &[(&str, &str)]) -> Result<Vec<Directive>, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let prefix = format!("{}/", folder.path().display());
        read(&[folder.path().join("main.conf")], &[]).map_err(|error| error.to_string().replace(&prefix, ""))
    }

    fn read_text(text: &str) -> Result<Vec<Directive>, String> {
        read_tree(&[("main.conf", text)])
    }

    fn names_of(directives: &[Directive]) -> Vec<&str> {
        directives.iter().map(|directive| directive.name.as_str()).collect()
    }

    #[test]
    fn lines_continue_and_comments_do_not_count() {
        let text = "# a comment \\\n continued\n\n  WSGIDaemonProcess shop \\\r\n  threads=5\nA b\n";
        let found = read_text(text).unwrap();
        assert_eq!(names_of(&found), ["WSGIDaemonProcess", "A"]);
        assert_eq!((found[0].line, found[1].line), (4, 6));
        assert_eq!(found[0].words(), ["shop", "threads=5"]);
    }

    #[test]
    fn words_are_quoted_as_httpd_quotes() {
        let found = read_text(r#"A "two words" 'it''s' "say \"hi\" \n" plain "unclosed word"#).unwrap();
        assert_eq!(found[0].words(), ["two words", "it", "s", r#"say "hi" \n"#, "plain", "unclosed word"]);
        assert_eq!(read_text("A \"\" ü").unwrap()[0].words(), ["", "ü"]);
    }

    #[test]
    fn options_have_quoted_values() {
        let found = read_text("A shop display-name=\"my shop\" user=shop bare").unwrap();
        let expected = [("display-name", Some("my shop")), ("user", Some("shop")), ("bare", None)];
        let options = found[0].options(1);
        assert_eq!(options.len(), expected.len());
        for ((name, value), expected) in options.iter().zip(expected) {
            assert_eq!((name.as_str(), value.as_deref()), expected);
        }
    }

    #[test]
    fn sections_nest() {
        let text = "<VirtualHost *:80>\n<Directory \"/srv\">\nA 1\n</Directory>\nB\n</virtualhost>\nC";
        let found = read_text(text).unwrap();
        assert_eq!(names_of(&found), ["<VirtualHost", "<Directory", "A", "B", "C"]);
        assert_eq!(found[1].words(), ["/srv"]);
        assert_eq!(*found[2].sections, ["virtualhost", "directory"]);
        assert_eq!(*found[3].sections, ["virtualhost"]);
        assert!(found[4].sections.is_empty());
    }

    #[test]
    fn mistakes_have_a_place() {
        let wrong = [
            ("A\n<Location />\n", "main.conf:2: <location> has no </location>"),
            ("</Files>", "main.conf:1: </files> without <files>"),
            (
                "<Files x>\n</Location>",
                "main.conf:2: </location> where </files> is expected, for the section of line 1",
            ),
            ("<Files x", "main.conf:1: <Files has no closing '>'"),
            ("Include", "main.conf:1: Include names no file"),
            ("\nInclude main.conf", "main.conf:2: 20 files include each other; is there a circle?"),
        ];
        for (text, message) in wrong {
            assert_eq!(read_text(text).unwrap_err(), message);
        }
        assert!(read_text("Include no/*.conf")
            .unwrap_err()
            .starts_with("main.conf:1: no/*.conf does not exist"));
    }

    #[test]
    fn variables_are_replaced_where_they_are_known() {
        let text = "Define ROOT /srv/a\n<IfDefine !ROOT>\nDefine ROOT /srv/b\n</IfDefine>\n\
                    A ${ROOT}/app ${ELSEWHERE_UNSET} ${open\nUnDefine ROOT\nA ${ROOT}";
        let found = read_text(text).unwrap();
        let words: Vec<_> = found.iter().filter(|found| found.is("a")).map(Directive::words).collect();
        assert_eq!(words, [vec!["/srv/a/app", "${ELSEWHERE_UNSET}", "${open"], vec!["${ROOT}"]]);
    }

    #[test]
    fn definitions_decide_once_there_are_any() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("main.conf");
        fs::write(&file, "<IfDefine A>\nA\n</IfDefine>\n<IfDefine B>\nB\n</IfDefine>").unwrap();
        let read = |definitions: &[String]| read(std::slice::from_ref(&file), definitions).unwrap();
        assert_eq!(names_of(&read(&[])), ["<IfDefine", "A", "<IfDefine", "B"]);
        assert_eq!(names_of(&read(&["A".into()])), ["<IfDefine", "A", "<IfDefine"]);
    }

    #[test]
    fn includes_are_followed() {
        let found = read_tree(&[
            ("main.conf", "<VirtualHost *>\nInclude sites/*.conf\n</VirtualHost>\nIncludeOptional no/*.conf\nInclude more"),
            ("sites/b.conf", "B"),
            ("sites/a.conf", "A"),
            ("sites/.hidden.conf", "Hidden"),
            ("more/x/c", "C"),
        ])
        .unwrap();
        assert_eq!(names_of(&found), ["<VirtualHost", "A", "B", "C"]);
        assert_eq!(*found[1].sections, ["virtualhost"]);
        assert!(found[1].file.ends_with("sites/a.conf"));
    }

    #[test]
    fn server_root_comes_before_the_folder_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.conf"), "X").unwrap();
        let text = format!("ServerRoot {}\nInclude x.conf", folder.path().display());
        assert_eq!(names_of(&read_text(&text).unwrap()), ["ServerRoot", "X"]);
    }
}
