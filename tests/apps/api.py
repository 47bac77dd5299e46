"""What mod_wsgi and apache offer applications, asked for by path and answered in JSON."""

import importlib
import io
import json
import os
import signal
import sys
import threading

import mod_wsgi

EVENTS = []
STOPPED = os.environ.get("STOPPED_FILE", "")


def described(value):
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {key: described(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(each) for each in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return type(value).__name__


def before_application(name, **event):
    """Keeps every event; the second request of /wrapped is answered by another application."""
    if name == "request_started":
        event["request_data"]["marked"] = event["request_environ"]["PATH_INFO"]
        if event["request_environ"]["QUERY_STRING"] == "wrap":
            return {"application_object": wrapper, "extra": "seen by those that follow"}
    return None


def keep(name, **event):
    EVENTS.append([name, described(event)])


def wrapper(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps("wrapped").encode()]


def module():
    import logging

    return {
        "version": mod_wsgi.version,
        "process_group": mod_wsgi.process_group,
        "application_group": mod_wsgi.application_group,
        "maximum_processes": mod_wsgi.maximum_processes,
        "threads_per_process": mod_wsgi.threads_per_process,
        "types": {
            "FileWrapper": str(mod_wsgi.FileWrapper),
            "RequestTimeout": [base.__name__ for base in mod_wsgi.RequestTimeout.__mro__],
            "LogHandler": issubclass(mod_wsgi.LogHandler, logging.Handler),
        },
        "names": sorted(name for name in dir(mod_wsgi) if not name.startswith("__")),
        "none": [mod_wsgi.request_metrics(), mod_wsgi.process_metrics(), mod_wsgi.server_metrics()],
    }


def apache_module():
    try:
        apache = importlib.import_module("apache")
    except ImportError:
        return None
    return {name: getattr(apache, name) for name in
            ("version", "maximum_processes", "threads_per_process", "description", "mpm_name", "build_date")}


def streams(environ):
    errors = environ["wsgi.errors"]
    errors.buffer.write(bytearray(b"through the buffer\n"))
    errors.buffer.writelines([b"first\n", memoryview(b"second\n")])
    try:
        errors.fileno()
    except OSError as error:
        fileno = str(error)
    return {
        "types": [str(type(errors)), str(type(errors.buffer)), str(type(environ["wsgi.input"])),
                  str(environ["wsgi.file_wrapper"])],
        "is_text": isinstance(errors, io.TextIOWrapper),
        "fileno": fileno,
    }


def signals():
    def handler(*args):
        pass

    before = signal.getsignal(signal.SIGTERM)
    returned = signal.signal(signal.SIGTERM, handler)
    return [returned is handler, signal.getsignal(signal.SIGTERM) is before]


def subscribe():
    callbacks = before_application, keep
    for callback in callbacks:
        assert mod_wsgi.subscribe_events(callback) is callback
    assert mod_wsgi.event_callbacks == list(callbacks)
    assert mod_wsgi.subscribe_shutdown(stopped) is stopped
    assert mod_wsgi.shutdown_callbacks == [stopped]
    return None


def stopped(name, **event):
    print("told of", name, event)


def other_thread():
    raised = []

    def ask():
        try:
            mod_wsgi.request_data()
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return raised


def active(environ):
    requests = mod_wsgi.active_requests
    return {"type": type(requests).__name__, "ids": list(requests), "own": environ["mod_wsgi.request_id"],
            "same": requests[environ["mod_wsgi.request_id"]] is mod_wsgi.request_data(),
            "lasting": mod_wsgi.active_requests is requests}


def restricted():
    found = {"types": [str(type(sys.stdin)), str(type(sys.stdout))]}
    for name, use in (("stdin", lambda: sys.stdin.read()), ("stdout", lambda: print("x"))):
        try:
            use()
        except OSError as error:
            found[name] = str(error)
    return found


def bad_subscriber(name, **event):
    if name == "request_started":
        raise ValueError("from the subscriber")


def application(environ, start_response):
    path = environ["PATH_INFO"]
    answer = None
    if path == "/module":
        answer = module()
    elif path == "/apache":
        answer = [apache_module(), environ.get("apache.version")]
    elif path == "/streams":
        answer = streams(environ)
    elif path == "/signals":
        answer = signals()
    elif path == "/subscribe":
        subscribe()
    elif path == "/subscribe_signals":
        answer = mod_wsgi.subscribe_signals(stopped) is stopped
    elif path == "/bad_subscriber":
        mod_wsgi.subscribe_events(bad_subscriber)
    elif path == "/events":
        answer, EVENTS[:] = list(EVENTS), []
    elif path == "/data":
        data = mod_wsgi.request_data()
        data["seen"] = data.get("seen", 0) + 1
        answer = [data, data is mod_wsgi.request_data(), other_thread()]
    elif path == "/active":
        answer = active(environ)
    elif path == "/body":
        environ["wsgi.input"].read(3)
        answer = len(environ["wsgi.input"].read())
    elif path == "/raise":
        raise LookupError("asked for")
    elif path == "/late":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return late()
    elif path == "/exit":
        raise SystemExit(3)
    elif path == "/record":
        mod_wsgi.start_recording_metrics()
    elif path == "/metrics":
        answer = [mod_wsgi.request_metrics(), mod_wsgi.process_metrics()]
    elif path == "/restricted":
        answer = restricted()
    elif path == "/interval":
        answer = sys.getswitchinterval()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def late():
    yield b"first"
    raise LookupError("late")
