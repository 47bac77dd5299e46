"""What a process of a process group is, and requests whose course a test decides."""

import contextlib
import itertools
import json
import locale
import os
import resource
import socket
import sys
import time
import urllib.parse

import mod_wsgi

VERSION = "one"
AT_IMPORT = {"environ": dict(os.environ), "cwd": os.getcwd(), "uid": os.getuid()}

kept = []
turns = itertools.count()

PLAIN = [("Content-Type", "text/plain")]


def application(environ, start_response):
    answer = globals()[f"answer_{environ['PATH_INFO'].strip('/').replace('-', '_') or 'facts'}"]
    return answer(environ, start_response, dict(urllib.parse.parse_qsl(environ["QUERY_STRING"])))


def status():
    with open("/proc/self/status") as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines)


def interpreter():
    """Its number; 0 is the main one."""
    try:
        import _interpreters

        return _interpreters.get_current()[0]
    except ImportError:
        import _xxsubinterpreters

        return int(_xxsubinterpreters.get_current())


def answer_facts(environ, start_response, query):
    mask = os.umask(0)
    os.umask(mask)
    limits = ("RLIMIT_DATA", "RLIMIT_AS", "RLIMIT_CPU")
    with open("/proc/self/cmdline", "rb") as command:
        command = command.read().decode()
    facts = {
        "pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid(), "groups": sorted(os.getgroups()),
        "umask": mask, "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv, "command": command,
        "environ": dict(os.environ), "at_import": AT_IMPORT,
        "prefix": sys.prefix, "version": sys.version, "nice": os.nice(0),
        "limits": {name: resource.getrlimit(getattr(resource, name))[0] for name in limits},
        "locale": locale.setlocale(locale.LC_ALL), "encoding": sys.getfilesystemencoding(),
        "switch_interval": sys.getswitchinterval(), "status": status(),
        "process_group": mod_wsgi.process_group, "application_group": mod_wsgi.application_group,
        "maximum_processes": mod_wsgi.maximum_processes,
        "threads_per_process": mod_wsgi.threads_per_process,
        "interpreter": interpreter(),
    }  # fmt: skip
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]


def answer_environ(environ, start_response, query):
    """As environ.py, without the words."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"reprs": {key: repr(value) for key, value in environ.items()}}).encode()]


def answer_buffers(environ, start_response, query):
    """Of the connections from the server: what the kernel takes for either direction."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as each:
            is_link = (each.family, each.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            if is_link and not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                options = (socket.SO_SNDBUF, socket.SO_RCVBUF)
                found.append([each.getsockopt(socket.SOL_SOCKET, option) for option in options])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]


def answer_pid(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return [str(os.getpid()).encode()]


def answer_version(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return [VERSION.encode()]


def await_file(path):
    """Until the test makes this file."""
    while not os.path.exists(path):
        time.sleep(0.005)


def answer_wait(environ, start_response, query):
    """Waits before the head; the log says when it does."""
    print(f"waiting for {query['file']} in {os.getpid()}")
    await_file(query["file"])
    return answer_pid(environ, start_response, query)


def answer_stream(environ, start_response, query):
    """Its pid, and then nothing until the file is there."""
    start_response("200 OK", PLAIN)
    yield b"%d\n" % os.getpid()
    await_file(query["file"])
    yield b"whole\n"


def answer_echo(environ, start_response, query):
    """Answers each line of the body when it comes."""
    start_response("200 OK", PLAIN)
    for line in environ["wsgi.input"]:
        yield line.upper()


def answer_upper(environ, start_response, query):
    """Answers the whole body when it has come."""
    body = environ["wsgi.input"].read().upper()
    start_response("200 OK", PLAIN)
    return [body]


def answer_endless(environ, start_response, query):
    start_response("200 OK", PLAIN)
    while True:
        yield b"more\n"
        time.sleep(0.005)


def answer_file(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](open(query["file"], "rb"))


def answer_spin(environ, start_response, query):
    """Python code for so many seconds; whether it was let to go on."""
    end = time.monotonic() + float(query["seconds"])
    try:
        while time.monotonic() < end:
            pass
    except mod_wsgi.RequestTimeout:
        print("interrupted")
        raise
    return answer_pid(environ, start_response, query)


def answer_burn(environ, start_response, query):
    """Uses so many seconds of processor time."""
    end = time.process_time() + float(query["seconds"])
    while time.process_time() < end:
        pass
    return answer_pid(environ, start_response, query)


def answer_sleep(environ, start_response, query):
    """One call that no exception can end."""
    time.sleep(float(query["seconds"]))
    return answer_pid(environ, start_response, query)


def answer_turn(environ, start_response, query):
    """How many of these have begun before it."""
    turn = next(turns)
    time.sleep(0.01)
    start_response("200 OK", PLAIN)
    return [b"%d" % turn]


def answer_grow(environ, start_response, query):
    """Holds so many bytes for good."""
    kept.append(b"x" * int(query["bytes"]))
    return answer_pid(environ, start_response, query)
