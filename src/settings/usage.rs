//! Which process groups there are and what runs in them: judged once all of the configuration is read.

use std::collections::BTreeSet;
use std::ffi::{c_char, CStr};
use std::fmt;

use super::process_group::ProcessGroup;
use super::ServerKind;

/// Where a directive stands.
#[derive(Clone)]
pub struct Place {
    pub directive: String,
    pub file: String,
    pub line: u32,
    /// None in the main server.
    pub virtual_host: Option<VirtualHost>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Where the server keeps the name of a virtual host; it may be given behind the directive.
#[derive(Clone, Copy)]
pub struct VirtualHost(*const *const c_char);

impl VirtualHost {
    /// # Safety
    /// `name` can be read until the settings are checked: NULL, or a string.
    pub unsafe fn new(name: *const *const c_char) -> Self {
        VirtualHost(name)
    }

    pub fn name(self) -> Vec<u8> {
        // SAFETY: see `new`.
        let name = unsafe { *self.0 };
        if name.is_null() {
            return Vec::new();
        }
        // SAFETY: see `new`.
        unsafe { CStr::from_ptr(name) }.to_bytes().to_owned()
    }

    /// As mod_wsgi compares them: those of one name are one.
    fn is(self, other: VirtualHost) -> bool {
        // SAFETY: see `new`.
        let (one, another) = unsafe { (*self.0, *other.0) };
        if one.is_null() || another.is_null() {
            return self.0 == other.0;
        }
        // SAFETY: see `new`.
        unsafe { CStr::from_ptr(one) == CStr::from_ptr(another) }
    }
}

/// The process groups of a configuration and what names them.
#[derive(Default)]
pub struct ProcessGroups {
    defined: Vec<(Place, ProcessGroup)>,
    named: Vec<Use>,
}

struct Use {
    place: Place,
    name: Vec<u8>,
    /// An application is to run there.
    runs: bool,
}

impl ProcessGroups {
    pub fn define(&mut self, place: Place, group: ProcessGroup) -> Result<(), String> {
        if let Some((first, _)) = self.defined.iter().find(|(_, other)| other.name == group.name) {
            return Err(format!("there is a process group '{}' already, in {first}", group.name));
        }
        self.defined.push((place, group));
        Ok(())
    }

    /// All that are defined, and where.
    pub fn all(&self) -> impl Iterator<Item = &(Place, ProcessGroup)> {
        self.defined.iter()
    }

    /// Whether there is a group that an application is to run in.
    pub fn run_something(&self) -> bool {
        self.named.iter().any(|named| named.runs)
    }

    /// How many lines say that an application runs in this group; one that is included twice is one.
    pub fn uses(&self, name: &str) -> usize {
        let uses = self.named.iter().filter(|named| named.runs && named.name == name.as_bytes());
        uses.map(|named| (&named.place.file, named.place.line)).collect::<BTreeSet<_>>().len()
    }

    /// Where a group is defined, and what as.
    pub fn find(&self, name: &[u8]) -> Option<&(Place, ProcessGroup)> {
        self.defined.iter().find(|(_, group)| group.name.as_bytes() == name)
    }

    /// An application is to run in this group.
    pub fn run_in(&mut self, place: Place, name: &[u8]) {
        self.named.push(Use { place, name: name.to_owned(), runs: true });
    }

    /// Options are for this group.
    pub fn name(&mut self, place: Place, name: &[u8]) {
        if !name.is_empty() {
            self.named.push(Use { place, name: name.to_owned(), runs: false });
        }
    }

    /// Judges each group; a refusal gets the place in front.
    pub fn check_each(&self, judge: impl Fn(&ProcessGroup) -> Result<(), String>) -> Result<(), String> {
        self.defined.iter().try_for_each(|(place, group)| {
            judge(group).map_err(|message| format!("{place}: {} {}: {message}", place.directive, group.name))
        })
    }

    /// Refuses the names of groups that are not there, or not there for everybody.
    pub fn check_names(&self, server: ServerKind) -> Result<(), String> {
        self.named.iter().try_for_each(|named| {
            let (place, name) = (&named.place, String::from_utf8_lossy(&named.name));
            let refuse =
                |why: String| Err(format!("{place}: {}: process group '{name}' {why}", place.directive));
            let Some((defined, _)) = self.find(&named.name) else {
                return refuse(format!("is not defined: there is no {} {name}", server.daemon_directive()));
            };
            match (defined.virtual_host, place.virtual_host) {
                (Some(its), Some(here)) if !its.is(here) => {
                    refuse(format!("is not accessible here: it belongs to the virtual host of {defined}"))
                }
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32, virtual_host: Option<VirtualHost>) -> Place {
        Place { directive: "WSGIProcessGroup".into(), file: "site.conf".into(), line, virtual_host }
    }

    fn groups(host: Option<VirtualHost>) -> ProcessGroups {
        let mut groups = ProcessGroups::default();
        groups.define(place(1, host), ProcessGroup::new("shop", []).unwrap()).unwrap();
        groups
    }

    #[test]
    fn a_group_may_be_used_or_not() {
        let mut groups = groups(None);
        assert_eq!(groups.check_names(ServerKind::Apache), Ok(()));
        groups.name(place(2, None), b"shop");
        groups.name(place(2, None), b"");
        assert_eq!(groups.check_names(ServerKind::Apache), Ok(()));
    }

    #[test]
    fn names_are_unique() {
        let again = groups(None).define(place(7, None), ProcessGroup::new("shop", []).unwrap());
        assert!(again.unwrap_err().ends_with("already, in site.conf:1"));
    }

    #[test]
    fn a_refusal_says_where_the_group_is() {
        let refused = groups(None).check_each(|_| Err("no".into()));
        assert_eq!(refused, Err("site.conf:1: WSGIProcessGroup shop: no".into()));
    }

    #[test]
    fn an_unknown_group_is_refused_in_one_line_that_says_where() {
        for use_it in [ProcessGroups::run_in, ProcessGroups::name] {
            let mut groups = groups(None);
            use_it(&mut groups, place(9, None), b"tools");
            let message = groups.check_names(ServerKind::Apache).unwrap_err();
            assert!(
                message.starts_with("site.conf:9: WSGIProcessGroup: process group 'tools' is not defined")
            );
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn virtual_hosts_of_one_name_share_their_groups() {
        let names = [c"shop".as_ptr(), c"shop".as_ptr(), c"tools".as_ptr(), std::ptr::null()];
        // SAFETY: the names live as long as the test.
        let host = |index: usize| unsafe { VirtualHost::new(&names[index]) };
        let check = |from| {
            let mut groups = groups(Some(host(0)));
            groups.run_in(place(9, from), b"shop");
            groups.check_names(ServerKind::Apache)
        };
        assert_eq!(check(Some(host(1))), Ok(()));
        assert_eq!(check(None), Ok(()));
        assert!(check(Some(host(2))).unwrap_err().contains("not accessible"));
        assert!(check(Some(host(3))).unwrap_err().contains("not accessible"));
    }
}
