//! Users and groups, by name or as #id.

use std::ffi::CString;

use nix::unistd::{getgrouplist, Gid, Group, Uid, User};

use super::options::number;

pub fn user(name: &str) -> Result<u32, String> {
    let found = match name.strip_prefix('#') {
        Some(id) => User::from_uid(number::<u32>(id)?.into()),
        None => User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("there is no such user".into()),
        Err(error) => Err(format!("the user cannot be looked up: {error}")),
    }
}

pub fn group(name: &str) -> Result<u32, String> {
    let found = match name.strip_prefix('#') {
        Some(id) => Group::from_gid(number::<u32>(id)?.into()),
        None => Group::from_name(name),
    };
    match found {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("there is no group '{name}'")),
        Err(error) => Err(format!("the group cannot be looked up: {error}")),
    }
}

/// Groups, separated by commas.
pub fn groups(names: &str) -> Result<Vec<u32>, String> {
    names.split(',').map(str::trim).map(group).collect()
}

/// The groups that a login of this user would have.
pub fn groups_of(user: &User, gid: u32) -> Vec<u32> {
    let Ok(name) = CString::new(user.name.as_str()) else { return vec![gid] };
    getgrouplist(&name, Gid::from_raw(gid))
        .map_or_else(|_| vec![gid], |groups| groups.into_iter().map(Gid::as_raw).collect())
}

/// The account of a number; None where there is none, which is no harm.
pub fn of(uid: u32) -> Option<User> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten()
}
