"""What directives make of the interpreter, as JSON."""

import atexit
import json
import pathlib
import signal
import sys
import warnings


def outcome(function):
    try:
        return repr(function())
    except (OSError, ValueError) as error:
        return str(error)


def at_exit():
    (pathlib.Path(__file__).parents[1] / "data" / "exit").touch()


atexit.register(at_exit)


def application(environ, start_response):
    answer = {
        "optimize": sys.flags.optimize,
        "hash": hash("burrow"),
        "warnings": [each[0] for each in warnings.filters],
        "dont_write_bytecode": sys.dont_write_bytecode,
        "switch_interval": sys.getswitchinterval(),
        "stdin": outcome(lambda: sys.stdin.fileno),
        "stdout": outcome(lambda: sys.stdout.write),
        "signal": outcome(lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN)),
        "path": sys.path,
        "group": environ["mod_wsgi.application_group"],
        "environ": {key: value for key, value in environ.items() if isinstance(value, str)},
        "scheme": environ["wsgi.url_scheme"],
    }
    body = json.dumps(answer).encode()
    headers = [("Content-Type", "application/json"), ("X-Method", environ["REQUEST_METHOD"])]
    start_response("200 OK", headers)
    return [body]
