use super::*;

fn networks(list: &[&str]) -> Vec<Network> {
    list.iter().map(|text| Network::parse(text).unwrap()).collect()
}

/// What becomes of the headers, when `trusted` names what is believed from `peer`.
fn apply<'a>(
    trusted: &[&str],
    proxies: Option<&[&str]>,
    peer: &str,
    headers: &[(&'a str, &'a str)],
) -> Forwarded<'a> {
    let codes: Vec<u8> =
        trusted.iter().map(|name| header_code(ServerKind::Apache, name.as_bytes()).unwrap()).collect();
    let networks = proxies.map(networks);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    Proxies { headers: &codes, networks: networks.as_deref() }.apply(peer.as_bytes(), &headers)
}

/// REMOTE_ADDR and what is left of X-Forwarded-For.
fn client(proxies: Option<&[&str]>, list: &str) -> (Option<String>, Option<String>) {
    let headers = [("X-Forwarded-For", list)];
    let forwarded = apply(&["X-Forwarded-For"], proxies, "10.0.0.1", &headers);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (forwarded.remote_addr.as_deref().map(text), forwarded.headers.first().map(|(_, value)| text(value)))
}

fn some(address: &str, list: &str) -> (Option<String>, Option<String>) {
    (Some(address.into()), Some(list.into()))
}

fn names<'a>(forwarded: &'a Forwarded) -> Vec<&'a str> {
    forwarded.headers.iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect()
}

const INSIDE: Option<&[&str]> = Some(&["10.0.0.0/8", "2001:db8::/32"]);

#[test]
fn codes_are_for_known_headers_in_any_case() {
    assert!(header_code(ServerKind::Apache, b"x-forwarded-for").is_ok());
    assert!(header_code(ServerKind::Apache, b"Forwarded").is_err());
    assert!(header_code(ServerKind::Apache, b"X-Forwarded-For ").is_err());
}

#[test]
fn on_nginx_the_realip_module_tells_the_client() {
    for client in ["X-Forwarded-For", "X-Client-IP", "X-Real-IP"] {
        let refusal = header_code(ServerKind::Nginx, client.as_bytes()).unwrap_err();
        assert!(refusal.contains(&format!("real_ip_header {client}")), "{refusal}");
    }
    assert!(header_code(ServerKind::Nginx, b"X-Forwarded-Proto").is_ok());
}

#[test]
fn without_a_list_of_proxies_the_leftmost_address_is_the_client() {
    assert_eq!(client(None, "198.51.100.7, 10.0.0.9"), some("198.51.100.7", "198.51.100.7, 10.0.0.9"));
    assert_eq!(client(None, " , ,198.51.100.7"), some("198.51.100.7", " , ,198.51.100.7"));
}

#[test]
fn the_client_is_left_of_the_leftmost_of_the_last_trusted_ones() {
    assert_eq!(
        client(INSIDE, "6.6.6.6, 198.51.100.7, 10.0.0.9"),
        some("198.51.100.7", "198.51.100.7, 10.0.0.9")
    );
    assert_eq!(
        client(INSIDE, "6.6.6.6, 10.9.9.9, 198.51.100.7, 10.0.0.9, 2001:db8::7"),
        some("198.51.100.7", "198.51.100.7, 10.0.0.9, 2001:db8::7")
    );
}

#[test]
fn with_none_trusted_the_rightmost_and_with_all_the_leftmost() {
    assert_eq!(client(INSIDE, "6.6.6.6, 198.51.100.7"), some("198.51.100.7", "198.51.100.7"));
    assert_eq!(client(INSIDE, "10.0.0.7,10.0.0.8"), some("10.0.0.7", "10.0.0.7, 10.0.0.8"));
}

#[test]
fn empty_elements_do_not_count() {
    assert_eq!(client(INSIDE, "198.51.100.7,, 10.0.0.9,"), some("198.51.100.7", "198.51.100.7, 10.0.0.9"));
    assert_eq!(client(INSIDE, ", ,").0, None);
    assert_eq!(client(INSIDE, "").0, None);
}

#[test]
fn a_name_is_no_address_and_never_looked_up() {
    // localhost would be 127.0.0.1, if anybody asked.
    let (address, _) = client(Some(&["10.0.0.0/8", "127.0.0.0/8"]), "6.6.6.6, localhost, 10.0.0.9");
    assert_eq!(address.unwrap(), "localhost");
    assert_eq!(client(INSIDE, "6.6.6.6, unknown").0.unwrap(), "unknown");
}

#[test]
fn mapped_addresses_are_those_that_they_map() {
    assert_eq!(client(INSIDE, "198.51.100.7, ::ffff:10.0.0.9").0.unwrap(), "198.51.100.7");
    let headers = [("X-Real-IP", "198.51.100.7")];
    let forwarded = apply(&["X-Real-IP"], INSIDE, "::ffff:10.0.0.1", &headers);
    assert_eq!(forwarded.remote_addr.unwrap(), b"198.51.100.7");
}

#[test]
fn an_untrusted_peer_is_not_believed_and_its_headers_go() {
    let headers = [
        ("X-Forwarded-For", "1.1.1.1"),
        ("X-Real-IP", "1.1.1.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-HTTPS", "1"),
        ("X-Forwarded-Host", "evil"),
        ("Accept", "*/*"),
    ];
    for peer in ["192.0.2.1", "", "unix"] {
        let forwarded = apply(&["X-Forwarded-For", "X-Forwarded-Proto"], INSIDE, peer, &headers);
        assert_eq!((&forwarded.remote_addr, forwarded.https), (&None, None));
        assert_eq!(names(&forwarded), ["X-Forwarded-Host", "Accept"], "no word about the host");
    }
}

#[test]
fn of_a_trusted_peer_only_the_header_that_is_believed_stays() {
    let headers = [("X-Real-IP", "1.1.1.1"), ("x-forwarded-for", "198.51.100.7"), ("X-Scheme", "https")];
    let forwarded = apply(&["X-Forwarded-For"], INSIDE, "10.0.0.1", &headers);
    assert_eq!(forwarded.remote_addr.as_deref(), Some(&b"198.51.100.7"[..]));
    assert_eq!(names(&forwarded), ["X-Forwarded-For", "X-Scheme"]);
}

#[test]
fn of_two_that_are_named_the_later_with_a_value_wins() {
    let headers = [("X-Forwarded-For", "198.51.100.7"), ("X-Real-IP", "198.51.100.8")];
    let forwarded = apply(&["X-Forwarded-For", "X-Real-IP"], None, "10.0.0.1", &headers);
    assert_eq!(forwarded.remote_addr.as_deref(), Some(&b"198.51.100.8"[..]));
    assert_eq!(names(&forwarded), ["X-Real-IP"]);
    let forwarded = apply(&["X-Forwarded-For", "X-Real-IP"], None, "10.0.0.1", &headers[..1]);
    assert_eq!(forwarded.remote_addr.as_deref(), Some(&b"198.51.100.7"[..]));
    let forwarded = apply(&["X-Forwarded-For", "X-Real-IP"], INSIDE, "10.0.0.1", &headers);
    assert_eq!(names(&forwarded), ["X-Real-IP"], "nor is the list of those behind it put back");
}

#[test]
fn schemes() {
    let https = |name: &str, value: &str| apply(&[name], None, "10.0.0.1", &[(name, value)]).https;
    for name in ["X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Scheme"] {
        assert_eq!(https(name, "HTTPS"), Some(true), "{name}");
        assert_eq!(https(name, "http"), Some(false), "{name}");
        assert_eq!(https(name, "on"), None, "{name}");
    }
    for name in ["X-Forwarded-HTTPS", "X-Forwarded-SSL", "X-HTTPS"] {
        for yes in ["On", "true", "1"] {
            assert_eq!(https(name, yes), Some(true), "{name} {yes}");
        }
        for no in ["Off", "false", "0"] {
            assert_eq!(https(name, no), Some(false), "{name} {no}");
        }
        assert_eq!(https(name, "https"), None, "{name}");
    }
}

#[test]
fn names_of_host_and_server() {
    let headers = [
        ("Host", "backend"),
        ("X-Forwarded-Host", "shop.example:8443"),
        ("X-Forwarded-Server", "front"),
        ("X-Forwarded-Port", "8443"),
    ];
    let trusted = ["X-Forwarded-Host", "X-Forwarded-Server", "X-Forwarded-Port"];
    let forwarded = apply(&trusted, None, "10.0.0.1", &headers);
    assert_eq!(forwarded.headers[0], (&b"Host"[..], Cow::Borrowed(&b"shop.example:8443"[..])));
    assert_eq!(forwarded.server_name.as_deref(), Some(&b"front"[..]));
    assert_eq!(forwarded.server_port.as_deref(), Some(&b"8443"[..]));
    let forwarded = apply(&["X-Host"], None, "10.0.0.1", &[("X-Host", "shop")]);
    assert_eq!(names(&forwarded), ["X-Host", "Host"], "a request of HTTP/1.0 has none");
}

#[test]
fn where_the_application_is_mounted() {
    for name in ["X-Script-Name", "X-Forwarded-Script-Name"] {
        let forwarded = apply(&[name], None, "10.0.0.1", &[(name, "/shop")]);
        assert_eq!(forwarded.script_name.as_deref(), Some(&b"/shop"[..]));
    }
}

#[test]
fn a_header_that_came_twice_is_one_list() {
    let headers = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "198.51.100.7, 10.0.0.9")];
    let forwarded = apply(&["X-Forwarded-For"], INSIDE, "10.0.0.1", &headers);
    assert_eq!(forwarded.remote_addr.as_deref(), Some(&b"198.51.100.7"[..]));
    assert_eq!(names(&forwarded), ["X-Forwarded-For"]);
}
