//! What the tables say of a directive or an option.

/// What becomes of a mod_wsgi directive or option in Burrow on httpd.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Status {
    Same,
    /// Works, with this difference; there is nothing to do about it.
    Differs(&'static str),
    /// Accepted, for this reason without effect.
    NoEffect(&'static str),
    Refused {
        why: &'static str,
        cure: &'static str,
    },
}

/// What there is on nginx.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nginx {
    /// A directive of Burrow's, and what there is to say about it.
    Has(&'static str, &'static str),
    /// nginx's own means.
    Own(&'static str),
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// Where httpd takes a directive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Context {
    MainServer,
    MainServerOrInterpreterOptions,
    VirtualHost,
    Directory,
    /// .htaccess too, with this class of `AllowOverride`.
    Htaccess(&'static str),
}

pub struct Directive {
    pub name: &'static str,
    pub arguments: &'static str,
    pub context: Context,
    pub default: &'static str,
    pub httpd: Status,
    pub nginx: Nginx,
}

/// An option of `WSGIDaemonProcess` or `WSGIScriptAlias`, written name=value.
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub httpd: Status,
    pub nginx: Nginx,
}

pub const fn directive(
    name: &'static str,
    arguments: &'static str,
    context: Context,
    default: &'static str,
    httpd: Status,
    nginx: Nginx,
) -> Directive {
    Directive { name, arguments, context, default, httpd, nginx }
}

pub const fn setting(name: &'static str, default: &'static str, httpd: Status, nginx: Nginx) -> Setting {
    Setting { name, default, httpd, nginx }
}
