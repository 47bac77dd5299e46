use super::*;
use crate::embedded::Group;
use crate::settings::AppKey;
use burrow_abi::BURROW_FLUSH;
use std::io::{Seek, Write};
use std::thread;

fn exchange() -> Arc<Exchange> {
    let key = AppKey { target: b"app:application", callable: b"", process_group: b"", group: b"", copies: 0 };
    let app = App::new(key, Arc::new(Group::new(b"")));
    app.want_threads(1);
    // SAFETY: the request points at nothing.
    unsafe { Exchange::new(Box::leak(Box::new(app)), &burrow_request::default(), None, ptr::dangling_mut()) }
}

fn read(exchange: &Arc<Exchange>, len: usize) -> Option<Vec<u8>> {
    let mut buf = vec![0; len];
    // SAFETY: the buffer is that long.
    let n = usize::try_from(unsafe { exchange.read(buf.as_mut_ptr(), len) }).ok()?;
    buf.truncate(n);
    Some(buf)
}

fn send(exchange: &Arc<Exchange>, data: &[u8], flags: u32) -> bool {
    let body = burrow_body { data: data.as_ptr().cast(), len: data.len(), fd: -1, offset: 0 };
    // SAFETY: the data is there.
    unsafe { exchange.send(None, &body, flags) }
}

#[test]
fn a_body_is_read_in_order_from_memory_and_file() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"..file..").unwrap();
    file.rewind().unwrap();
    let exchange = exchange();
    assert_eq!(exchange.add_body(b"memory"), 6);
    exchange.add_body_file(file.into(), 2, 4);
    exchange.end_body(true);
    assert_eq!(read(&exchange, 4).unwrap(), b"memo");
    assert_eq!(read(&exchange, 4).unwrap(), b"ry");
    assert_eq!(read(&exchange, 3).unwrap(), b"fil");
    assert_eq!(read(&exchange, 3).unwrap(), b"e");
    assert_eq!(read(&exchange, 3).unwrap(), b"");
}

#[test]
fn a_cut_body_does_not_end() {
    let exchange = exchange();
    exchange.add_body(b"half");
    exchange.end_body(false);
    assert_eq!(read(&exchange, 9).unwrap(), b"half");
    assert_eq!(read(&exchange, 9), None);
}

#[test]
fn readers_wait_for_the_body() {
    let exchange = exchange();
    thread::scope(|scope| {
        let reader = scope.spawn(|| read(&exchange, 9));
        exchange.add_body(b"late");
        assert_eq!(reader.join().unwrap().unwrap(), b"late");
    });
}

#[test]
fn senders_wait_until_enough_has_left() {
    let exchange = exchange();
    assert!(send(&exchange, &vec![0; ANSWER_HIGH], 0));
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(&exchange, b"more", BURROW_FLUSH));
        exchange.sent(1, ANSWER_HIGH);
        assert!(sender.join().unwrap());
    });
    assert_eq!(exchange.lock().unsent, PIECE_COST + 4);
}

#[test]
fn small_pieces_count_with_what_they_cost() {
    let exchange = exchange();
    for _ in 0..=ANSWER_HIGH / (PIECE_COST + 1) {
        assert!(send(&exchange, b"1", 0));
    }
    assert!(exchange.lock().unsent > ANSWER_HIGH);
}

#[test]
fn release_ends_all_waiting() {
    let exchange = exchange();
    assert!(send(&exchange, &vec![0; ANSWER_HIGH], 0));
    thread::scope(|scope| {
        let reader = scope.spawn(|| read(&exchange, 9));
        let sender = scope.spawn(|| send(&exchange, b"more", 0));
        exchange.release();
        assert_eq!(reader.join().unwrap(), None);
        assert!(!sender.join().unwrap());
    });
}

#[test]
fn nothing_follows_the_last_piece() {
    let exchange = exchange();
    assert!(send(&exchange, b"all", BURROW_LAST));
    assert!(!send(&exchange, b"more", 0));
}
