//! What trusted proxies say about a request: who the client is, how it reached the proxy, where the
//! application is mounted. Headers that must not be believed are dropped. Nothing is ever looked up in DNS.

mod ffi;
mod network;

pub use network::Network;

use std::borrow::Cow;

use crate::settings::ServerKind;

/// What a header is about. Of one category, one header is believed and the others are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Category {
    Client,
    Scheme,
    Host,
    ServerName,
    ServerPort,
    ScriptName,
}

use Category::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    /// Addresses, separated by commas: each proxy has added that of its peer.
    List,
    Plain,
    /// "http" or "https".
    Name,
    /// On or Off, as "1", "true" …
    Flag,
}

/// The headers that proxies are known to send; their codes are their places here, from 1.
const HEADERS: &[(&str, Category, Syntax)] = &[
    ("X-Forwarded-For", Client, Syntax::List),
    ("X-Client-IP", Client, Syntax::Plain),
    ("X-Real-IP", Client, Syntax::Plain),
    ("X-Forwarded-Proto", Scheme, Syntax::Name),
    ("X-Forwarded-Scheme", Scheme, Syntax::Name),
    ("X-Scheme", Scheme, Syntax::Name),
    ("X-Forwarded-HTTPS", Scheme, Syntax::Flag),
    ("X-Forwarded-SSL", Scheme, Syntax::Flag),
    ("X-HTTPS", Scheme, Syntax::Flag),
    ("X-Forwarded-Host", Host, Syntax::Plain),
    ("X-Host", Host, Syntax::Plain),
    ("X-Forwarded-Server", ServerName, Syntax::Plain),
    ("X-Forwarded-Port", ServerPort, Syntax::Plain),
    ("X-Script-Name", ScriptName, Syntax::Plain),
    ("X-Forwarded-Script-Name", ScriptName, Syntax::Plain),
];

/// The code of a header.
pub fn header_code(server: ServerKind, name: &[u8]) -> Result<u8, String> {
    let shown = String::from_utf8_lossy(name);
    let Some(index) = HEADERS.iter().position(|(known, ..)| known.as_bytes().eq_ignore_ascii_case(name))
    else {
        return Err(format!("{shown} is no header that proxies are known to send; leave it out"));
    };
    match HEADERS[index] {
        (name, Client, _) if server == ServerKind::Nginx => Err(format!(
            "who the client is nginx itself can tell: write real_ip_header {name} and set_real_ip_from, of its \
             realip module"
        )),
        _ => Ok(index as u8 + 1),
    }
}

/// A header of the request.
pub type Header<'a> = (&'a [u8], Cow<'a, [u8]>);

/// What the proxies change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forwarded<'a> {
    pub remote_addr: Option<Vec<u8>>,
    pub https: Option<bool>,
    pub server_name: Option<Vec<u8>>,
    pub server_port: Option<Vec<u8>>,
    pub script_name: Option<Vec<u8>>,
    /// All that are left, in order.
    pub headers: Vec<Header<'a>>,
}

/// Whom to believe, and what.
pub struct Proxies<'a> {
    /// Codes, in the order of the configuration: a later one wins.
    pub headers: &'a [u8],
    /// None: every peer is a trusted proxy.
    pub networks: Option<&'a [Network]>,
}

impl Proxies<'_> {
    fn trust(&self, address: &[u8]) -> bool {
        let Some(networks) = self.networks else { return true };
        Network::address(address).is_some_and(|address| networks.iter().any(|network| network.holds(address)))
    }

    /// What becomes of a request that came from `peer`.
    pub fn apply<'a>(&self, peer: &[u8], headers: &[(&'a [u8], &'a [u8])]) -> Forwarded<'a> {
        let mut forwarded = Forwarded::default();
        let mut list = None;
        let mut host = None;
        let mut believed = Vec::new();
        let peer_is_trusted = self.trust(peer);
        let named = self.headers.iter().filter_map(|code| HEADERS.get(usize::from(*code).wrapping_sub(1)));
        for &(name, category, syntax) in named.clone() {
            let Some(value) = value(headers, name).filter(|_| peer_is_trusted) else { continue };
            believed.retain(|(other, _)| *other != category);
            believed.push((category, name));
            match category {
                Client if syntax == Syntax::List => {
                    if let Some((client, rest)) = self.client(&value) {
                        forwarded.remote_addr = Some(client);
                        list = rest;
                    }
                }
                Client => {
                    forwarded.remote_addr = Some(value);
                    list = None;
                }
                Scheme => forwarded.https = https(&value, syntax).or(forwarded.https),
                Host => host = Some(value),
                ServerName => forwarded.server_name = Some(value),
                ServerPort => forwarded.server_port = Some(value),
                ScriptName => forwarded.script_name = Some(value),
            }
        }
        let stays = |name: &[u8]| {
            let about = HEADERS.iter().find(|(known, ..)| known.as_bytes().eq_ignore_ascii_case(name));
            let Some((known, category, _)) = about else { return true };
            let is_named = named.clone().any(|(_, other, _)| other == category);
            !is_named || believed.contains(&(*category, *known))
        };
        let kept = headers.iter().filter(|(name, _)| stays(name));
        forwarded.headers = kept.map(|(name, value)| (*name, Cow::Borrowed(*value))).collect();
        if let Some(list) = list {
            replace(&mut forwarded.headers, b"X-Forwarded-For", list);
        }
        if let Some(host) = host {
            replace(&mut forwarded.headers, b"Host", host);
        }
        forwarded
    }

    /// The client of a list, and the list from there on where it is shorter now. What stands left of the last
    /// trusted proxy, seen from the right, may be made up, but for its right neighbour.
    fn client(&self, list: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let addresses: Vec<&[u8]> = list
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|address| !address.is_empty())
            .collect();
        let leftmost = addresses.first()?;
        if self.networks.is_none() {
            return Some((leftmost.to_vec(), None));
        }
        let trusted = addresses.iter().rev().take_while(|address| self.trust(address)).count();
        let first = (addresses.len() - trusted).saturating_sub(1);
        Some((addresses[first].to_vec(), Some(addresses[first..].join(&b", "[..]))))
    }
}

/// The value of a header; of several of one name, all.
fn value(headers: &[(&[u8], &[u8])], name: &str) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = headers
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| *value)
        .collect();
    (!values.is_empty()).then(|| values.join(&b", "[..]))
}

/// Puts the value in the place of the first header of this name; others of the name go.
fn replace<'a>(headers: &mut Vec<Header<'a>>, name: &'static [u8], value: Vec<u8>) {
    let first = headers.iter().position(|(other, _)| other.eq_ignore_ascii_case(name));
    headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    headers.insert(first.unwrap_or(headers.len()), (name, Cow::Owned(value)));
}

/// None where the value says neither.
fn https(value: &[u8], syntax: Syntax) -> Option<bool> {
    let (yes, no): (&[&str], &[&str]) = match syntax {
        Syntax::Name => (&["https"], &["http"]),
        _ => (&["on", "true", "1"], &["off", "false", "0"]),
    };
    let is = |words: &[&str]| words.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(value));
    match (is(yes), is(no)) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
