//! `burrow_proxies_*` of c/shim.h.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use burrow_abi::{
    burrow_network, burrow_pair, burrow_proxies, burrow_request, burrow_settings, burrow_str, slice,
    BURROW_REMOTE_ADDR, BURROW_REQUEST_SCHEME, BURROW_SCRIPT_NAME, BURROW_SERVER_NAME, BURROW_SERVER_PORT,
};

use super::{header_code, Forwarded, Header, Network, Proxies};
use crate::settings;

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_proxy_header(
    settings: *mut burrow_settings,
    name: burrow_str,
    code: *mut u8,
) -> *const c_char {
    // SAFETY: c/shim.h.
    let (settings, name) = unsafe { (settings::from_c(settings), name.bytes()) };
    match header_code(settings.server(), name) {
        Ok(known) => {
            // SAFETY: c/shim.h.
            unsafe { *code = known };
            ptr::null()
        }
        Err(refusal) => settings.keep(refusal),
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_network_parse(text: burrow_str, network: *mut burrow_network) -> c_int {
    // SAFETY: c/shim.h.
    let text = std::str::from_utf8(unsafe { text.bytes() });
    let Some(parsed) = text.ok().and_then(Network::parse) else { return 0 };
    // SAFETY: c/shim.h.
    unsafe { *network = burrow_network { address: parsed.address.octets(), prefix: parsed.prefix } };
    1
}

/// The server's memory, which lives as long as the request.
struct Pool {
    alloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    pool: *mut c_void,
}

impl Pool {
    /// Room for values of a plain type; None where there is none left.
    fn array<T>(&self, count: usize) -> Option<NonNull<T>> {
        // SAFETY: c/shim.h; memory of the server is aligned for any plain type.
        NonNull::new(unsafe { (self.alloc)(self.pool, (count * size_of::<T>()).max(1)).cast() })
    }

    fn copy(&self, bytes: &[u8]) -> Option<burrow_str> {
        let copy = self.array::<u8>(bytes.len())?.as_ptr();
        // SAFETY: the copy has room for the bytes and is new.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len()) };
        Some(burrow_str { data: copy.cast(), len: bytes.len() })
    }

    fn copy_pairs(&self, pairs: &[burrow_pair]) -> Option<*const burrow_pair> {
        let copy = self.array::<burrow_pair>(pairs.len())?.as_ptr();
        // SAFETY: the copy has room for as many and is new.
        unsafe { ptr::copy_nonoverlapping(pairs.as_ptr(), copy, pairs.len()) };
        Some(copy)
    }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_proxies_apply(
    proxies: *const burrow_proxies,
    request: *mut burrow_request,
    alloc: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    pool: *mut c_void,
) -> c_int {
    let pool = Pool { alloc: alloc.expect("the server has memory"), pool };
    // SAFETY: c/shim.h.
    let (proxies, request) = unsafe { (&*proxies, &mut *request) };
    // SAFETY: c/shim.h.
    let (codes, networks, headers, peer) = unsafe {
        (
            slice(proxies.headers, proxies.n_headers),
            (!proxies.networks.is_null()).then(|| slice(proxies.networks, proxies.n_networks)),
            slice(request.headers, request.n_headers),
            request.vars[BURROW_REMOTE_ADDR as usize].bytes(),
        )
    };
    let network =
        |network: &burrow_network| Network { address: network.address.into(), prefix: network.prefix };
    let networks: Option<Vec<Network>> = networks.map(|networks| networks.iter().map(network).collect());
    // SAFETY: c/shim.h.
    let pairs = headers.iter().map(|pair| unsafe { (pair.name.bytes(), pair.value.bytes()) });
    let proxies = Proxies { headers: codes, networks: networks.as_deref() };
    let forwarded = proxies.apply(peer, &pairs.collect::<Vec<_>>());
    // SAFETY: as above.
    unsafe { put(&pool, request, &forwarded) }.map_or(-1, |()| 0)
}

/// # Safety
/// `request` is as c/shim.h says.
unsafe fn put(pool: &Pool, request: &mut burrow_request, forwarded: &Forwarded) -> Option<()> {
    let copy =
        |(name, value): &Header| Some(burrow_pair { name: pool.copy(name)?, value: pool.copy(value)? });
    let headers: Vec<_> = forwarded.headers.iter().map(copy).collect::<Option<_>>()?;
    request.headers = pool.copy_pairs(&headers)?;
    request.n_headers = headers.len();
    if let Some(script_name) = &forwarded.script_name {
        let of_url = request.vars[BURROW_SCRIPT_NAME as usize];
        // SAFETY: the caller vouches.
        let params = unsafe { slice(request.params, request.n_params) };
        let more = [
            burrow_pair { name: burrow_str::new(b"mod_wsgi.mount_point"), value: pool.copy(script_name)? },
            burrow_pair { name: burrow_str::new(b"mod_wsgi.script_name"), value: of_url },
        ];
        let params: Vec<burrow_pair> = params.iter().chain(&more).copied().collect();
        request.params = pool.copy_pairs(&params)?;
        request.n_params = params.len();
    }
    let scheme = forwarded.https.map(|https| if https { &b"https"[..] } else { b"http" });
    for (var, value) in [
        (BURROW_REMOTE_ADDR, forwarded.remote_addr.as_deref()),
        (BURROW_SERVER_NAME, forwarded.server_name.as_deref()),
        (BURROW_SERVER_PORT, forwarded.server_port.as_deref()),
        (BURROW_SCRIPT_NAME, forwarded.script_name.as_deref()),
        (BURROW_REQUEST_SCHEME, scheme),
    ] {
        if let Some(value) = value {
            request.vars[var as usize] = pool.copy(value)?;
        }
    }
    Some(())
}
