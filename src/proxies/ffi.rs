//! `burrow_proxies_*` of c/shim.h.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::slice;

use burrow_abi::{
    burrow_network, burrow_pair, burrow_proxies, burrow_request, burrow_str, BURROW_REMOTE_ADDR,
    BURROW_REQUEST_SCHEME, BURROW_SCRIPT_NAME, BURROW_SERVER_NAME, BURROW_SERVER_PORT,
};

use super::{header_code, Forwarded, Network, Proxies};

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_proxy_header(name: burrow_str) -> u8 {
    // SAFETY: c/shim.h.
    header_code(unsafe { name.bytes() })
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
    /// Room for values of a plain type.
    fn array<T>(&self, count: usize) -> *mut T {
        // SAFETY: c/shim.h; memory of the server is aligned for any plain type.
        unsafe { (self.alloc)(self.pool, (count * size_of::<T>()).max(1)).cast() }
    }

    fn copy(&self, bytes: &[u8]) -> burrow_str {
        let copy = self.array::<u8>(bytes.len());
        // SAFETY: the copy has room for the bytes and is new.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len()) };
        burrow_str { data: copy.cast(), len: bytes.len() }
    }

    fn copy_pairs(&self, pairs: impl ExactSizeIterator<Item = burrow_pair>) -> *const burrow_pair {
        let copy = self.array::<burrow_pair>(pairs.len());
        // SAFETY: there is room for as many.
        pairs.enumerate().for_each(|(index, pair)| unsafe { copy.add(index).write(pair) });
        copy
    }
}

/// # Safety
/// `first` and `count` are as c/shim.h says.
unsafe fn list<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller vouches.
    unsafe { slice::from_raw_parts(first, count) }
}

/// # Safety
/// c/shim.h.
#[no_mangle]
pub unsafe extern "C" fn burrow_proxies_apply(
    proxies: *const burrow_proxies,
    request: *mut burrow_request,
    alloc: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    pool: *mut c_void,
) {
    let pool = Pool { alloc: alloc.expect("the server has memory"), pool };
    // SAFETY: c/shim.h.
    let (proxies, request) = unsafe { (&*proxies, &mut *request) };
    // SAFETY: c/shim.h.
    let (codes, networks, headers, peer) = unsafe {
        (
            list(proxies.headers, proxies.n_headers),
            (!proxies.networks.is_null()).then(|| list(proxies.networks, proxies.n_networks)),
            list(request.headers, request.n_headers),
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
    unsafe { put(&pool, request, &forwarded) };
}

/// # Safety
/// `request` is as c/shim.h says.
unsafe fn put(pool: &Pool, request: &mut burrow_request, forwarded: &Forwarded) {
    let headers = forwarded
        .headers
        .iter()
        .map(|(name, value)| burrow_pair { name: pool.copy(name), value: pool.copy(value) });
    request.n_headers = headers.len();
    request.headers = pool.copy_pairs(headers);
    if let Some(script_name) = &forwarded.script_name {
        let of_url = request.vars[BURROW_SCRIPT_NAME as usize];
        // SAFETY: the caller vouches.
        let params = unsafe { list(request.params, request.n_params) };
        let more = [
            burrow_pair { name: burrow_str::new(b"mod_wsgi.mount_point"), value: pool.copy(script_name) },
            burrow_pair { name: burrow_str::new(b"mod_wsgi.script_name"), value: of_url },
        ];
        let params: Vec<burrow_pair> = params.iter().chain(&more).copied().collect();
        request.n_params = params.len();
        request.params = pool.copy_pairs(params.into_iter());
    }
    let mut set = |var: u32, value: Option<&[u8]>| {
        if let Some(value) = value {
            request.vars[var as usize] = pool.copy(value);
        }
    };
    set(BURROW_REMOTE_ADDR, forwarded.remote_addr.as_deref());
    set(BURROW_SERVER_NAME, forwarded.server_name.as_deref());
    set(BURROW_SERVER_PORT, forwarded.server_port.as_deref());
    set(BURROW_SCRIPT_NAME, forwarded.script_name.as_deref());
    let scheme = |https: bool| if https { &b"https"[..] } else { b"http" };
    set(BURROW_REQUEST_SCHEME, forwarded.https.map(scheme));
}
