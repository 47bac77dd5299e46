//! What may be written as an application's target: "/srv/app.wsgi" or "package.module:callable".

/// A script's path holds a '/', a module's name does not.
pub fn check(target: &[u8]) -> Result<(), String> {
    let shown = String::from_utf8_lossy(target);
    if target.contains(&b'/') {
        return match target[0] {
            b'/' => Ok(()),
            _ => Err(format!("script path '{shown}' is relative: write the whole path")),
        };
    }
    if target.ends_with(b".py") {
        return Err(format!(
            "'{shown}' is neither a script's whole path nor a module's name: write '/…/{shown}' or '{}'",
            &shown[..shown.len() - 3]
        ));
    }
    let mut parts = target.splitn(2, |byte| *byte == b':');
    if parts.all(is_dotted_name) {
        return Ok(());
    }
    Err(format!("'{shown}' is no application: write a script's whole path, or package.module:callable"))
}

/// A script of hooks: its functions have fixed names.
pub fn check_script(target: &[u8]) -> Result<(), String> {
    check(target)?;
    if target[0] == b'/' || !target.contains(&b':') {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(target);
    Err(format!("'{shown}': name the script or module alone; what is called in it has a fixed name"))
}

/// The name of a callable; may be empty.
pub fn check_callable(name: &[u8]) -> Result<(), String> {
    if name.is_empty() || is_dotted_name(name) {
        return Ok(());
    }
    Err(format!("'{}' is not the name of a Python callable", String::from_utf8_lossy(name)))
}

/// Letters beyond ASCII are left for Python to judge.
fn is_dotted_name(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'.').all(|part| {
        part.first().is_some_and(|first| !first.is_ascii_digit())
            && part.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute() {
        assert_eq!(check(b"/srv/shop/app.wsgi"), Ok(()));
        assert!(check(b"shop/app.wsgi").unwrap_err().contains("relative"));
        assert!(check(b"app.py").unwrap_err().contains("'/…/app.py' or 'app'"));
    }

    #[test]
    fn modules_have_names() {
        for good in ["shop", "shop.wsgi", "shop.wsgi:application", "_a1:factory.app", "käse:app"] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in ["", ":app", "shop:", "shop..wsgi", "1shop", "shop wsgi", "shop:app:more", "shop-1"] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn scripts_of_hooks_name_no_callable() {
        assert_eq!(check_script(b"/srv/a:b.py"), Ok(()));
        assert_eq!(check_script(b"shop.auth"), Ok(()));
        assert!(check_script(b"shop.auth:check").unwrap_err().contains("alone"));
        assert!(check_script(b"").is_err());
    }

    #[test]
    fn callables_have_names() {
        assert_eq!(check_callable(b""), Ok(()));
        assert_eq!(check_callable(b"app"), Ok(()));
        assert!(check_callable(b"app()").is_err());
    }
}
