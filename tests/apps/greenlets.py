"""What a process with async=gevent is, and requests that wait."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import gevent
import gevent.monkey
import gevent.socket
import mod_wsgi

from daemon import *  # noqa: F403
from daemon import PLAIN, await_file
from daemon import application as others

here = most = 0
local = threading.local()
#: Of time, before it was patched.
really_sleep = gevent.monkey.get_original("time", "sleep")


def application(environ, start_response):
    name = f"answer_{environ['PATH_INFO'].strip('/')}"
    if name not in globals() or globals()[name].__module__ != __name__:
        return others(environ, start_response)
    query = dict(pair.split("=", 1) for pair in environ["QUERY_STRING"].split("&") if pair)
    return globals()[name](environ, start_response, query)


def answer_about(environ, start_response, query):
    facts = {
        "multithread": environ["wsgi.multithread"], "multiprocess": environ["wsgi.multiprocess"],
        "threads": mod_wsgi.threads_per_process, "patched": socket.socket is gevent.socket.socket,
        "native": len(os.listdir("/proc/self/task")), "group": mod_wsgi.application_group,
    }  # fmt: skip
    start_response("200 OK", PLAIN)
    return [json.dumps(facts).encode()]


def answer_meet(environ, start_response, query):
    """Waits until so many requests are here at once; how many there have been at most."""
    global here, most
    here += 1
    most = max(most, here)
    local.mine = mine = object()
    while most < int(query["count"]):
        time.sleep(0.005)
    here -= 1
    assert local.mine is mine
    start_response("200 OK", PLAIN)
    return [str(most).encode()]


def answer_break(environ, start_response, query):
    start_response("200 OK", PLAIN)
    yield b"a piece\n"
    time.sleep(0)
    raise ValueError("raised behind a piece")


def answer_left(environ, start_response, query):
    """Goes on writing until that is no longer possible."""
    write = start_response("200 OK", PLAIN)
    try:
        while True:
            write(bytes(1000))
            time.sleep(0.005)
    except OSError as error:
        print(f"a greenlet was told: {error}")
        raise


def answer_large(environ, start_response, query):
    """More than anybody takes who does not read."""
    start_response("200 OK", PLAIN)
    for _ in range(int(query["count"])):
        yield bytes(1 << 20)


def answer_say(environ, start_response, query):
    """One line in two pieces, and others print between them."""
    sys.stdout.write(f"request {query['name']} from port {environ['REMOTE_PORT']} ")
    await_file(query["file"])
    print(f"goes on as {query['name']}")
    assert mod_wsgi.request_data() is mod_wsgi.request_data()
    print(f"errors of {query['name']}", file=environ["wsgi.errors"])
    return answer_about(environ, start_response, query)


def answer_block(environ, start_response, query):
    """Sleeps, and keeps all others from going on, until the file is there."""
    while not os.path.exists(query["file"]):
        really_sleep(0.01)
    return answer_about(environ, start_response, query)


def answer_late(environ, start_response, query):
    """As long as the time limit lets it."""
    try:
        while True:
            time.sleep(60)
    except mod_wsgi.RequestTimeout:
        print("interrupted")
        raise


def answer_elsewhere(environ, start_response, query):
    """Another greenlet reads the body and answers; this one has limited its own time."""
    write = start_response("200 OK", PLAIN)

    def work():
        for line in environ["wsgi.input"]:
            write(line.upper())

    gevent.spawn(work).get()
    return []


def answer_impatient(environ, start_response, query):
    """Reads a line in time, a second one in vain, and then that one."""
    body = environ["wsgi.input"]
    first = body.readline()
    try:
        with gevent.Timeout(0.05):
            body.readline()
    except gevent.Timeout:
        write = start_response("200 OK", PLAIN)
        write(first + b"too late\n")
    return [body.readline()]


def answer_start(environ, start_response, query):
    said = [subprocess.check_output(["echo", "-n", "a program"])]
    thread = threading.Thread(target=lambda: said.append(b" and a thread"))
    thread.start()
    thread.join()
    start_response("200 OK", PLAIN)
    return said


def answer_exit(environ, start_response, query):
    """A greenlet that ends the program, elsewhere."""
    gevent.spawn(sys.exit, 3).join()
    return answer_about(environ, start_response, query)
