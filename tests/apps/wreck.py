"""Ruins its process in one way per path, before the head of its answer or, below /late, after it."""

import ctypes
import os
import signal
import socket
import stat
import threading
import time

PLAIN = [("Content-Type", "text/plain")]


def application(environ, start_response):
    late, _, way = environ["PATH_INFO"].strip("/").rpartition("/")
    if late:
        return after_the_head(start_response, way)
    globals()[f"do_{way.replace('-', '_')}"]()
    start_response("200 OK", PLAIN)
    return [b"survived"]


def after_the_head(start_response, way):
    start_response("200 OK", PLAIN)
    yield b"begun"
    globals()[f"do_{way.replace('-', '_')}"]()
    yield b"survived"


def do_kill():
    os.kill(os.getpid(), signal.SIGKILL)


def do_segfault():
    ctypes.string_at(1)


def do_abort():
    os.abort()


def do_exit():
    os._exit(3)


def do_exit_of_a_thread():
    thread = threading.Thread(target=os._exit, args=(4,))
    thread.start()
    thread.join()


def do_close():
    """All that it has open, so that nothing reaches it any more."""
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))


def do_stuck():
    """In C, without letting go of Python's lock, and no signal helps."""
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def do_memory():
    """More than the limit."""
    keep = []
    try:
        while True:
            keep.append(bytearray(16 << 20))
    finally:
        keep.clear()


def do_fork():
    """A child that has copies of everything, and stays."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)


def do_fork_and_die():
    do_fork()
    do_kill()


def links():
    """The descriptors of the connections to the server's processes."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as connection:
                if connection.family != socket.AF_UNIX or connection.type != socket.SOCK_STREAM:
                    continue
                connection.getpeername()  # fails for one that listens
                yield fd
        except OSError:
            continue


def do_garbage():
    """Writes what is no frame to every server that it is connected to."""
    for fd in list(links()):
        os.write(fd, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100))


def do_lie():
    """Announces a frame of 4 GiB."""
    for fd in list(links()):
        os.write(fd, b"\xff\xff\xff\xff\x03\0\0\0")


def do_split():
    """A second head."""
    for fd in list(links()):
        head = (-1).to_bytes(8, "little", signed=True) + (200).to_bytes(4, "little") + bytes(4 + 4)
        os.write(fd, (len(head).to_bytes(4, "little") + b"\x04\x00\0\0" + head) * 2)


def do_spin():
    while True:
        pass
