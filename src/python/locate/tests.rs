//! On made-up trees: only names and links matter.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Tree(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn link(&self, name: &str, target: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// An installation in `base` and a virtual environment of it in `venv`.
    fn with_venv(version: &str) -> Self {
        let tree = Self::new();
        tree.file(&format!("base/bin/python{version}"), "")
            .link("base/bin/python3", &format!("python{version}"))
            .file(&format!("base/lib/python{version}/os.py"), "")
            .link("venv/bin/python3", tree.path("base/bin/python3").to_str().unwrap());
        tree.configured(&format!("version = {version}.4"))
    }

    fn configured(self, version: &str) -> Self {
        let home = self.path("base/bin");
        self.file("venv/pyvenv.cfg", &format!("home = {}\n{version}\n", home.display()));
        self
    }

    fn find(&self, home: &str) -> Result<Installation, String> {
        Installation::find(&self.path(home))
    }

    #[track_caller]
    fn refuses(&self, home: &str, expected: &str) {
        let message = self.find(home).unwrap_err();
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn a_venv_leads_to_its_base() {
    let tree = Tree::with_venv("3.11");
    tree.file("base/lib/libpython3.11.so.1.0", "");
    let found = tree.find("venv").unwrap();
    assert_eq!(found.executable, tree.path("venv/bin/python3"));
    assert_eq!(found.base, tree.path("base"));
    assert_eq!(found.version.to_string(), "3.11");
    assert_eq!(found.library().unwrap(), tree.path("base/lib/libpython3.11.so.1.0"));
}

#[test]
fn a_prefix_is_its_own_base() {
    let found = Tree::with_venv("3.12").find("base").unwrap();
    assert!(found.base.ends_with("base"));
    assert_eq!(found.version.to_string(), "3.12");
}

#[test]
fn libraries_are_looked_for_where_distributions_put_them() {
    for dir in [format!("lib/{}", triplet()), "lib64".into()] {
        let tree = Tree::with_venv("3.11");
        let name = format!("base/{dir}/libpython3.11.so.1.0");
        tree.file(&name, "");
        assert_eq!(tree.find("venv").unwrap().library().unwrap(), tree.path(&name));
    }
}

#[test]
fn a_copied_python_is_known_by_the_configuration() {
    for line in ["version = 3.13.0", "version_info = 3.13.0.final.0"] {
        let tree = Tree::with_venv("3.13").configured(line);
        fs::remove_file(tree.path("venv/bin/python3")).unwrap();
        tree.file("venv/bin/python3", "");
        let found = tree.find("venv").unwrap();
        assert_eq!(found.base, tree.path("base"));
        assert_eq!(found.version.to_string(), "3.13");
    }
}

#[test]
fn an_unnamed_version_is_the_standard_librarys() {
    let tree = Tree::new();
    tree.file("bin/python3", "").file("lib/python3.12/os.py", "").file("lib/python3/dist-packages/x.py", "");
    assert_eq!(tree.find("").unwrap().version.to_string(), "3.12");
    tree.file("lib/python3.13/os.py", "");
    tree.refuses("", "cannot tell which Python");
}

#[test]
fn free_threaded_builds_have_names_of_their_own() {
    let tree = Tree::with_venv("3.13t");
    let named = tree.find("venv").unwrap();
    assert_eq!(named.version.soabi(), format!("cpython-313t-{}", triplet()));
    // The same python under its other name.
    fs::rename(tree.path("base/bin/python3.13t"), tree.path("base/bin/python3.13")).unwrap();
    fs::remove_file(tree.path("base/bin/python3")).unwrap();
    tree.link("base/bin/python3", "python3.13").file("base/lib/libpython3.13t.so.1.0", "");
    let found = tree.find("venv").unwrap();
    assert_eq!(found.library().unwrap(), tree.path("base/lib/libpython3.13t.so.1.0"));
}

#[test]
fn what_is_no_home_is_refused() {
    let tree = Tree::with_venv("3.11");
    tree.file("empty/bin/sh", "")
        .link("gone/bin/python3", "python")
        .link("gone/bin/python", "/none/python3.11");
    tree.refuses("none", "does not exist");
    tree.refuses("venv/bin/python3", "is not a folder");
    tree.refuses("empty", "neither a virtual environment nor a Python installation");
    tree.refuses("gone", "/bin/python3' leads to '/none/python3.11', which does not exist");
}

#[test]
fn old_pythons_are_refused() {
    Tree::with_venv("3.9").refuses("venv", "Python 3.9, which is too old: Python 3.10 or newer");
    Tree::with_venv("2.7").refuses("base", "Python 2.7, which is too old");
}

#[test]
fn a_venv_of_another_version_is_refused() {
    let tree = Tree::with_venv("3.13").configured("version = 3.11.2");
    tree.refuses("venv", "made with Python 3.11 but its python is now 3.13");
}

#[test]
fn a_venv_without_its_base_is_refused() {
    let tree = Tree::new().configured("version = 3.11.2");
    tree.file("venv/bin/python3", "").refuses("venv", "does not exist: make the virtual environment again");
    tree.file("venv/pyvenv.cfg", "version = 3.11.2\n").refuses("venv", "has no line 'home");
}

#[test]
fn a_missing_library_or_runtime_is_named() {
    let tree = Tree::with_venv("3.11");
    let found = tree.find("venv").unwrap();
    assert!(found.library().unwrap_err().contains("--enable-shared"));
    let runtime = format!("runtime/cpython-311-{}.so", triplet());
    assert!(found.runtime(&tree.path("runtime")).unwrap_err().contains("make install"));
    fs::create_dir(tree.path("runtime")).unwrap();
    assert!(found.runtime(&tree.path("runtime")).unwrap_err().contains(&runtime));
    tree.file(&runtime, "");
    assert_eq!(found.runtime(&tree.path("runtime")), Ok(tree.path(&runtime)));
}

#[test]
fn a_library_of_the_distribution_is_a_package() {
    let version = Version { major: 3, minor: 99, free_threaded: false };
    let system = Installation { executable: "/usr/bin/python3".into(), base: "/usr".into(), version };
    let message = system.library().unwrap_err();
    assert!(message.contains("install") && message.contains("libpython3.99"), "{message}");
}
