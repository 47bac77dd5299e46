//! Variables for the environment of a process group.

use std::fs;
use std::path::Path;

/// Name and value.
pub type Variable = (String, String);

/// Of "NAME=VALUE".
pub fn variable(text: &str) -> Result<Variable, String> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    match text.split_once('=') {
        Some((name, value)) if is_name(name) && !value.contains('\0') => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}

/// Of a file with one on each line, which may begin with "export"; a value may be in quotes. Empty lines and
/// those with a # in front count for nothing.
pub fn read(path: &Path) -> Result<Vec<Variable>, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(index, line)| {
            let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
            let (name, value) =
                variable(line).map_err(|message| format!("{}:{}: {message}", path.display(), index + 1))?;
            Ok((name, unquoted(value.trim())))
        })
        .collect()
}

fn unquoted(value: &str) -> String {
    let inside = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(variable("A_1=b=c"), Ok(("A_1".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), "".into())));
        for bad in ["", "A", "=b", "1A=b", "A-B=c", "A=\0"] {
            assert!(variable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_have_comments_and_quotes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "# all\n\nA=1\n export B = x\n").unwrap();
        let said = read(file.path()).unwrap_err();
        assert!(said.ends_with(":4: write NAME=VALUE"), "{said}");
        fs::write(&file, "A=1 # one\nexport B=\"x y\"\nC='\"'\nD='\n").unwrap();
        let read: Vec<_> = read(file.path()).unwrap().into_iter().map(|(_, value)| value).collect();
        assert_eq!(read, ["1 # one", "x y", "\"", "'"]);
    }
}
