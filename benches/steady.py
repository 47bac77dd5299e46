"""A load of so many requests a second, whatever becomes of them."""

import contextlib
import os
import selectors
import signal
import socket
import time

ANSWERS = {"/hello": b"Hello, World!\n", "/slow": b"Hello, World!\n" * 2}
#: So many requests a second take a while, and are in progress when a process is replaced.
SLOW = 100
TIMEOUT = 30
REQUEST = "GET {}?{}. HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Steady:
    """Clients with a connection for each request, whose time counts from the moment when it was due."""

    def __init__(self, server, rate):
        self.address, self.rate = ("127.0.0.1", server.port), rate
        self.times, self.errors = [], {}
        self.selector = selectors.DefaultSelector()

    def run(self, link, other):
        """In a process of their own, until they are told to stop."""
        other.close()  # or it would outlive whoever asks
        # Clients are elsewhere, and wait for no processor that the servers are using.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        self.selector.register(link, selectors.EVENT_READ)
        self.selector.register(self.clock(), selectors.EVENT_READ)
        began = time.monotonic()
        number = 0
        while not link.poll():
            for key, _ in self.selector.select():
                if isinstance(key.data, Request):
                    self.advance(key.data)
                elif key.fileobj is not link:
                    key.fileobj.recv(4096)
            while (due := began + number / self.rate) <= time.monotonic():
                self.begin(number, due)
                number += 1
        self.finish()
        link.send((self.times, self.errors))

    def clock(self):
        """Becomes readable when the next request is due: waits have whole milliseconds only."""
        woken, wake = socket.socketpair()
        for end in woken, wake:
            end.setblocking(False)
        self.wake = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 1 / self.rate, 1 / self.rate)
        return woken

    def begin(self, number, due):
        slow = number % max(2, self.rate // SLOW) == 1
        path = list(ANSWERS)[slow]
        request = Request(number, path, due)
        self.selector.register(request.socket, selectors.EVENT_WRITE, request)
        request.socket.connect_ex(self.address)
        self.advance(request)

    def advance(self, request):
        """Sends it, or reads what there is of its answer."""
        try:
            if not request.sent:
                request.sent = request.socket.send(REQUEST.format(request.path, request.number).encode())
                self.selector.modify(request.socket, selectors.EVENT_READ, request)
                return
            while piece := request.socket.recv(65536):
                request.answer += piece
        except BlockingIOError:
            return
        except OSError as error:
            self.end(request, repr(error))
        else:
            head, _, body = request.answer.partition(b"\r\n\r\n")
            right = head.startswith(b"HTTP/1.1 200 ") and body == ANSWERS[request.path]
            self.end(request, "" if right else repr(request.answer[:200]))

    def end(self, request, error):
        self.selector.unregister(request.socket)
        request.socket.close()
        if error:
            self.errors[request.number] = f"{request.path}: {error}"
        if request.path != "/slow":
            self.times.append((request.due, time.monotonic() - request.due))

    def finish(self):
        """Waits for the requests in progress."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        end = time.monotonic() + TIMEOUT
        while requests := self.requests():
            if time.monotonic() > end:
                for request in requests:
                    self.end(request, "no answer")
            for key, _ in self.selector.select(1):
                if isinstance(key.data, Request):
                    self.advance(key.data)

    def requests(self):
        return [key.data for key in self.selector.get_map().values() if isinstance(key.data, Request)]


class Request:
    def __init__(self, number, path, due):
        self.number, self.path, self.due = number, path, due
        self.sent, self.answer = 0, b""
        self.socket = socket.socket()
        self.socket.setblocking(False)
