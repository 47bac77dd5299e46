"""Hooks that answer what the query string says; `state` counts, for all of them and the application."""

import hashlib
import pathlib
import time

ANSWERS = {
    "": True, "true": True, "false": False, "none": None, "text": "someone", "euro": "€", "empty": "",
    "one": 1, "zero": 0, "bytes": b"someone", "nul": "some\0one", "list": ["someone"], "object": object(),
}  # fmt: skip
#: What a hook that waits waits for.
GO = pathlib.Path(__file__).parents[1] / "data" / "go"
state = {"asked": 0}


def said(environ):
    state["asked"] += 1
    query = environ["QUERY_STRING"]
    if query == "raise":
        raise RuntimeError("raised by a hook")
    if query == "exit":
        raise SystemExit("left by a hook")
    if query == "wait":
        print("a hook waits")
        while not GO.exists():
            time.sleep(0.01)
        return True
    return ANSWERS[query]


def allow_access(environ, host):
    if environ["QUERY_STRING"] == "environ":
        print("keys", *sorted(environ), "host", host)
        return not {"REMOTE_USER", "HTTP_AUTHORIZATION", "SECRET", "wsgi.input"} & environ.keys()
    return said(environ)


def check_password(environ, user, password):
    if password == "wrong":
        return False
    if password == "who":
        return None
    return said(environ) if password == "told" else (user, password) == ("käse", "geheim:1")


def get_realm_hash(environ, user, realm):
    if user == "nobody":
        return None
    if user == "raise":
        raise RuntimeError("raised by a hook")
    return hashlib.md5(f"{user}:{realm}:geheim".encode()).hexdigest()


def groups_for_user(environ, user):
    query = environ["QUERY_STRING"]
    if query == "generator":
        return (name for name in ("guests", b"admins"))
    if query == "late":
        return (["admins"][1 // (1 - n)] for n in range(2))
    if query == "number":
        return ["admins", 1]
    if query == "admins":
        return "admins"
    answer = said(environ)
    return ["guests", "admins"] if answer is True else [] if answer is False else answer


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    user = environ.get("REMOTE_USER")
    return [f"{user} {state['asked']}".encode("latin-1")]


def handle_request(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    keys = ("mod_wsgi.handler_script", "SCRIPT_NAME", "PATH_INFO", "HTTP_AUTHORIZATION")
    answer = [environ.get(key, "-") for key in keys] + [environ["SCRIPT_FILENAME"].rsplit("/", 1)[-1]]
    return [" ".join(answer).encode("latin-1")]
