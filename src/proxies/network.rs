//! Networks of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// "192.0.2.0/24" or "2001:db8::/32"; one address is a network of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// IPv4 as mapped into IPv6.
    pub address: Ipv6Addr,
    /// Of 128 bits.
    pub prefix: u32,
}

const IPV4_PREFIX: u32 = 96;

impl Network {
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let network = match partial_ipv4(address) {
            Some((address, given)) => {
                let bits = bits.map_or(Some(given), ipv4_bits)?;
                Network { address: address.to_ipv6_mapped(), prefix: IPV4_PREFIX + bits }
            }
            None => {
                let address: Ipv6Addr = address.parse().ok()?;
                let prefix = bits.map_or(Some(128), |bits| bits.parse().ok())?;
                Network { address, prefix }
            }
        };
        (network.prefix <= 128).then_some(network)
    }

    /// An address as it stands in a header or comes from the server. A zone of IPv6 does not count.
    pub fn address(text: &[u8]) -> Option<Ipv6Addr> {
        let text = std::str::from_utf8(text).ok()?;
        let text = text.split('%').next()?;
        Some(match text.parse().ok()? {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        })
    }

    /// IPv4 is in networks of IPv4 only, mapped or not.
    pub fn holds(&self, address: Ipv6Addr) -> bool {
        let is_ipv4 = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
        if is_ipv4(address) != (is_ipv4(self.address) && self.prefix >= IPV4_PREFIX) {
            return false;
        }
        let different = u128::from(address) ^ u128::from(self.address);
        different.checked_shr(128 - self.prefix).unwrap_or(0) == 0
    }
}

/// "10.1" is 10.1.0.0/16.
fn partial_ipv4(text: &str) -> Option<(Ipv4Addr, u32)> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut parts = [0; 4];
    let mut given = 0;
    for part in text.split('.') {
        *parts.get_mut(given)? =
            part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()))?;
        given += 1;
    }
    Some((parts.into(), 8 * given as u32))
}

/// "24" or "255.255.255.0".
fn ipv4_bits(text: &str) -> Option<u32> {
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        let mask = u32::from(mask);
        return (mask.leading_ones() + mask.trailing_zeros() == 32 || mask == 0).then(|| mask.leading_ones());
    }
    text.parse().ok().filter(|bits| *bits <= 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        Network::parse(network).unwrap().holds(Network::address(address.as_bytes()).unwrap())
    }

    #[test]
    fn networks_hold_their_addresses() {
        for (network, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.0/24", "192.0.2.255"),
            ("192.0.2.77/24", "192.0.2.1"),
            ("10.1", "10.1.200.3"),
            ("10.", "10.1.200.3"),
            ("10.0.0.0/255.0.0.0", "10.255.0.1"),
            ("0.0.0.0/0", "203.0.113.9"),
            ("2001:db8::/32", "2001:db8:1::5"),
            ("fe80::1", "fe80::1%eth0"),
            ("::/0", "2001:db8::1"),
            ("192.0.2.0/24", "::ffff:192.0.2.9"),
            ("::ffff:192.0.2.0/120", "192.0.2.9"),
        ] {
            assert!(holds(network, address), "{network} {address}");
        }
    }

    #[test]
    fn networks_hold_no_others() {
        for (network, address) in [
            ("192.0.2.1", "192.0.2.2"),
            ("192.0.2.0/25", "192.0.2.128"),
            ("2001:db8::/32", "2001:db9::1"),
            ("::/0", "192.0.2.1"),
            ("0.0.0.0/0", "2001:db8::1"),
        ] {
            assert!(!holds(network, address), "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "proxy",
            "192.0.2.0/33",
            "192.0.2.0/x",
            "1.2.3.4.5",
            "256.1.1.1",
            "+1.2",
            "::/129",
            "::1/-1",
            "10.0.0.0/255.0.255.0",
            "192.0.2.1 ",
            "1..2",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
        for text in [&b""[..], b"unknown", b"localhost", b"192.0.2.1:80", b"[::1]", b"\xff"] {
            assert_eq!(Network::address(text), None);
        }
    }
}
