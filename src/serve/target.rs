//! What is to be served: a script, a module's callable, or a project's directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{absolute, Path, PathBuf};

use super::{refuse, Refusal};

#[derive(Debug, PartialEq)]
pub enum Source {
    Script(PathBuf),
    Module(String),
}

#[derive(Debug, PartialEq)]
pub struct Target {
    /// As the user wrote it.
    pub given: String,
    pub source: Source,
    /// The callable's name, when it was stated.
    pub callable: Option<String>,
    /// The directory for the Python path: the script's, the project's or the current one.
    pub dir: PathBuf,
}

/// What an application's callable is called where nobody says.
pub const CALLABLES: [&str; 2] = ["application", "app"];

impl Target {
    pub fn resolve(given: &str) -> Result<Target, Refusal> {
        let path = absolute(given).map_err(|error| Refusal::new(format!("target {given:?}: {error}")))?;
        if path.is_dir() {
            return project(given, &path);
        }
        if path.exists() {
            return script(given, path, None);
        }
        let Some((source, callable)) = given.rsplit_once(':') else {
            refuse!("there is no {given}; give a script, module:callable or a project's directory")
        };
        if !is_dotted_name(callable) {
            refuse!("{callable:?} in {given} is not the name of a callable, like module:application")
        }
        if source.contains('/') || source.ends_with(".py") || source.ends_with(".wsgi") {
            let path = absolute(source).unwrap_or_else(|_| source.into());
            if !path.is_file() {
                refuse!("there is no script {}; correct the path", path.display())
            }
            return script(given, path, Some(callable.to_owned()));
        }
        if !is_dotted_name(source) {
            refuse!("{source:?} in {given} is not a module's name, like package.module:callable")
        }
        let dir = absolute(".").map_err(|error| Refusal::new(format!("the current directory: {error}")))?;
        Ok(module(given, source, callable, dir))
    }

    /// The file that the target stands for, as far as that is known without Python.
    pub fn file(&self) -> &Path {
        match &self.source {
            Source::Script(path) => path,
            Source::Module(_) => &self.dir,
        }
    }

    /// What the workers must be able to reach.
    pub fn needs(&self) -> [&Path; 2] {
        [&self.dir, self.file()]
    }

    /// The owner's user id, of the script or of the directory.
    pub fn owner(&self) -> Option<u32> {
        fs::metadata(self.file()).ok().map(|metadata| metadata.uid())
    }

    /// The names to look for, in order.
    pub fn callables(&self) -> Vec<&str> {
        match &self.callable {
            Some(name) => vec![name],
            None => CALLABLES.to_vec(),
        }
    }

    /// Whether it is this module, or in this package.
    pub fn is_in(&self, package: &str) -> bool {
        match &self.source {
            Source::Script(_) => false,
            Source::Module(name) => {
                name.strip_prefix(package).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
        }
    }

    /// The target as it is written with its callable.
    pub fn with_callable(&self, name: &str) -> String {
        match &self.source {
            Source::Script(path) => format!("{}:{name}", path.display()),
            Source::Module(module) => format!("{module}:{name}"),
        }
    }

    /// The callable of a target that cannot be imported today.
    pub fn likely_callable(&self) -> String {
        let found = match (&self.callable, &self.source) {
            (None, Source::Script(path)) => defined_callable(path),
            _ => None,
        };
        found.unwrap_or(self.callables()[0]).to_owned()
    }
}

fn script(given: &str, path: PathBuf, callable: Option<String>) -> Result<Target, Refusal> {
    let Some(dir) = path.parent() else { refuse!("{given} is not a file; give a script") };
    Ok(Target { given: given.into(), dir: dir.into(), source: Source::Script(path), callable })
}

fn module(given: &str, name: &str, callable: &str, dir: PathBuf) -> Target {
    let (source, callable) = (Source::Module(name.into()), Some(callable.into()));
    Target { given: given.into(), source, callable, dir }
}

/// A Django project, or a directory with one file that defines an application.
fn project(given: &str, dir: &Path) -> Result<Target, Refusal> {
    let manage = dir.join("manage.py");
    if manage.is_file() {
        let Some(settings) = settings_module(&fs::read_to_string(&manage).unwrap_or_default()) else {
            refuse!("{} names no DJANGO_SETTINGS_MODULE; give module:callable instead", manage.display())
        };
        let Some(name) = project_module(dir, &settings) else {
            refuse!("found no wsgi.py or asgi.py beside {settings} in {given}; give module:callable instead")
        };
        return Ok(module(given, &name, "application", dir.into()));
    }
    let defining = |name: &&str| defined_callable(&dir.join(name)).is_some();
    let files: Vec<_> =
        ["wsgi.py", "app.py", "main.py", "application.py"].into_iter().filter(defining).collect();
    match files[..] {
        [] => refuse!(
            "{given} has neither a manage.py nor a wsgi.py, app.py or main.py that defines application or app; name the script"
        ),
        ["wsgi.py", ..] => script(given, dir.join("wsgi.py"), None),
        [only] => script(given, dir.join(only), None),
        _ => refuse!("{given} has several applications ({}); name one of them", files.join(", ")),
    }
}

/// The module in `os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")`.
fn settings_module(manage: &str) -> Option<String> {
    let after = manage.split_once("DJANGO_SETTINGS_MODULE")?.1;
    let mut quoted = after.split(['"', '\'']).skip(1);
    quoted.find(|text| !text.is_empty() && is_dotted_name(text)).map(str::to_owned)
}

/// The `wsgi` module, else the `asgi` one, nearest to the settings: in their package or in one that holds it.
fn project_module(dir: &Path, settings: &str) -> Option<String> {
    let mut package = settings;
    loop {
        package = package.rsplit_once('.').map_or("", |(parent, _)| parent);
        let path = dir.join(package.replace('.', "/"));
        for name in ["wsgi", "asgi"] {
            if path.join(name).with_extension("py").is_file() {
                return Some(format!("{package}.{name}").trim_start_matches('.').to_owned());
            }
        }
        if package.is_empty() {
            return None;
        }
    }
}

/// The callable that a script defines or imports at its top level.
fn defined_callable(path: &Path) -> Option<&'static str> {
    let text = fs::read_to_string(path).ok()?;
    CALLABLES.into_iter().find(|name| text.lines().any(|line| defines(line, name)))
}

fn defines(line: &str, name: &str) -> bool {
    let words: Vec<_> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    match words[..] {
        ["async", "def", defined, ..] | ["def" | "class", defined, ..] => defined == name,
        ["from", ..] => words.last() == Some(&name),
        [first, ..] if first == name => line[name.len()..].trim_start().starts_with(['=', ':']),
        _ => false,
    }
}

fn is_dotted_name(text: &str) -> bool {
    text.split('.').all(is_identifier)
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::super::private_dir::PrivateDir;
    use super::*;

    fn tree(files: &[(&str, &str)]) -> PrivateDir {
        let dir = PrivateDir::create(&std::env::temp_dir(), 0o700).unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn resolve(dir: &PrivateDir, name: &str) -> Result<Target, Refusal> {
        Target::resolve(&format!("{}/{name}", dir.path().display()))
    }

    #[test]
    fn scripts() {
        let dir = tree(&[("app.py", "app = Flask()\n")]);
        let target = resolve(&dir, "app.py").unwrap();
        assert_eq!(target.source, Source::Script(dir.path().join("app.py")));
        assert_eq!((target.callable.as_deref(), &*target.dir), (None, dir.path()));
        assert_eq!(target.likely_callable(), "app");
        let named = resolve(&dir, "app.py:site.app").unwrap();
        assert_eq!(named.callables(), ["site.app"]);
        assert_eq!(named.likely_callable(), "site.app");
        assert!(resolve(&dir, "app.py:not/a name").is_err());
        assert!(resolve(&dir, "other.py").is_err());
        assert!(resolve(&dir, "other.py:app").is_err());
    }

    #[test]
    fn modules() {
        let target = Target::resolve("shop.web:app").unwrap();
        assert_eq!(target.source, Source::Module("shop.web".into()));
        assert_eq!(target.callables(), ["app"]);
        assert!(target.is_in("shop") && target.is_in("shop.web") && !target.is_in("sho"));
        assert_eq!(target.dir, std::env::current_dir().unwrap());
        for bad in ["shop-web:app", "shop:", ":app", "shop:a b", "no_such_thing"] {
            assert!(Target::resolve(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn django_projects() {
        let manage = "import os\nos.environ.setdefault(\n  'DJANGO_SETTINGS_MODULE', 'conf.settings.dev')\n";
        let dir = tree(&[("manage.py", manage), ("conf/wsgi.py", ""), ("conf/settings/dev.py", "")]);
        let target = resolve(&dir, "").unwrap();
        assert_eq!(target.source, Source::Module("conf.wsgi".into()));
        assert_eq!((target.callables(), &*target.dir), (vec!["application"], dir.path()));
        assert!(resolve(&tree(&[("manage.py", "")]), "").is_err());
        assert!(resolve(&tree(&[("manage.py", manage)]), "").is_err());
    }

    #[test]
    fn directories_with_an_application() {
        let named = |files: &[(&str, &str)]| {
            let dir = tree(files);
            let target = resolve(&dir, "").ok()?;
            Some(target.file().file_name()?.to_str()?.to_owned())
        };
        assert_eq!(named(&[("main.py", "def application(environ, start):\n")]).unwrap(), "main.py");
        let both = [("wsgi.py", "from app import app"), ("app.py", "app: Flask = make()\n")];
        assert_eq!(named(&both).unwrap(), "wsgi.py");
        assert_eq!(named(&[("main.py", "app=1"), ("app.py", "app=1")]), None);
        assert_eq!(named(&[("main.py", "apple = 1\n  app = 2\nappend()")]), None);
    }
}
