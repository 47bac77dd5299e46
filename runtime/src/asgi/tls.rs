//! The `tls` extension of a scope.

use burrow_abi::{burrow_request, slice};

use super::running::Running;
use crate::object::{dict, integer, set_item, tuple, utf8, Object, Result};
use crate::same::Last;

/// What was made for the last request.
#[derive(Default)]
pub struct Known {
    server_cert: Last<Object, 1>,
    suite: Last<Object, 1>,
}

/// Of a request that came over TLS.
pub fn describe(running: &Running, request: &burrow_request) -> Result<Object> {
    let (keys, known) = (&running.keys, &running.template.tls);
    // SAFETY: as many pairs as it says, whose strings are there until the request's outcome is told.
    let told = unsafe { slice(request.tls, request.n_tls) };
    // SAFETY: as above.
    let told = told.iter().map(|pair| unsafe { (pair.name.bytes(), pair.value.bytes()) });
    let values =
        |name: &'static [u8]| told.clone().filter_map(move |(is, value)| (is == name).then_some(value));
    let value = |name: &'static [u8]| values(name).next();
    let server_cert = |pem| known.server_cert.get([pem], || utf8(pem));
    let suite = |name| known.suite.get([name], || running.cipher_suite.call(&[&utf8(name)?]));
    let entries = [
        (&keys.server_cert, value(b"SSL_SERVER_CERT").map(server_cert)),
        (
            &keys.client_cert_chain,
            Some(values(b"SSL_CLIENT_CERT").map(utf8).collect::<Result<_>>().and_then(tuple)),
        ),
        (&keys.client_cert_name, value(b"SSL_CLIENT_S_DN").map(utf8)),
        (&keys.client_cert_error, value(b"SSL_CLIENT_VERIFY").and_then(error).map(utf8)),
        (&keys.tls_version, value(b"SSL_PROTOCOL").and_then(version).map(integer)),
        (&keys.cipher_suite, value(b"SSL_CIPHER").map(suite)),
    ];
    let tls = dict()?;
    for (key, made) in entries {
        let made = made.unwrap_or_else(|| Ok(running.template.nothing.clone()))?;
        set_item(&tls, key.as_ptr(), &made)?;
    }
    Ok(tls)
}

/// Why the client's certificate is not believed. GENEROUS is one that nobody has looked at.
fn error(verify: &[u8]) -> Option<&[u8]> {
    match verify {
        b"NONE" | b"SUCCESS" => None,
        _ => Some(verify.strip_prefix(b"FAILED:").unwrap_or(verify)),
    }
}

/// As it stands in the protocol's own messages.
fn version(name: &[u8]) -> Option<u64> {
    match name {
        b"TLSv1" => Some(0x301),
        b"TLSv1.1" => Some(0x302),
        b"TLSv1.2" => Some(0x303),
        b"TLSv1.3" => Some(0x304),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_on_certificates() {
        assert_eq!([error(b"NONE"), error(b"SUCCESS")], [None, None]);
        assert_eq!(error(b"FAILED:certificate has expired"), Some(&b"certificate has expired"[..]));
        assert_eq!(error(b"GENEROUS"), Some(&b"GENEROUS"[..]));
    }
}
