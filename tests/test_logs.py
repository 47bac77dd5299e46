"""What applications print, log and warn ends in the server's error log, with the request it belongs to."""

import itertools

import pytest
from servers import wait_for

tokens = itertools.count(1000)


@pytest.fixture
def token():
    return f"token{next(tokens)}"


def line_with(site, token):
    def look():
        return next((line for line in site.log_lines() if token in line.message), None)

    return wait_for(look, f"{token} in the error log", timeout=30)


def has_context(site, line):
    if site.kind == "nginx":
        return "client: 127.0.0.1" in line.text and 'request: "GET ' in line.text
    return line.text.startswith(("[client 127.0.0.1:", "[remote 127.0.0.1:"))


LEVELS = {
    "print": "error",
    "print-stderr": "error",
    "print-partial": "error",
    "errors": "error",
    "errors-partial": "error",
    "buffer": "error",
    "stream": "error",
    "debug": None,
    "info": None,
    "warning": None,
    "error": None,
    "critical": None,
    "warnings": "warn",
}


@pytest.mark.parametrize("mount", ["/logs", "/main/logs"])
@pytest.mark.parametrize("way", LEVELS)
def test_line(site, token, mount, way):
    # logging.basicConfig() in the application sends its records to sys.stderr, whatever their level.
    assert site.get(f"{mount}/{way}?{token}").content == b"logged"
    line = line_with(site, token)
    assert line.level == (LEVELS[way] or "error")
    assert has_context(site, line)
    assert sum(token in line.message for line in site.log_lines()) == 1


@pytest.mark.parametrize("way", ["write-lines", "errors-lines"])
def test_lines(site, token, way):
    site.get(f"/logs/{way}?{token}")
    for number in range(1, 3 if way == "errors-lines" else 4):
        assert has_context(site, line_with(site, f"{token}-{number}"))


LEVEL_APP = """
import logging

def application(environ, start_response):
    token = environ["QUERY_STRING"]
    if environ["PATH_INFO"] == "/handler":
        import mod_wsgi
        log = logging.getLogger("handled")
        log.propagate = False
        log.setLevel(logging.DEBUG)
        log.handlers = [mod_wsgi.LogHandler()]
    else:
        log = logging.getLogger("plain")
    log.debug("debug " + token)
    log.info("info " + token)
    log.warning("warning " + token)
    log.error("error " + token)
    log.critical("critical " + token)
    start_response("200 OK", [])
    return []
"""


def test_logging_without_configuration(server, token):
    server.write_app("levels.py", LEVEL_APP)
    server.start("levels.py")
    server.get(f"/?{token}")
    assert line_with(server, f"warning {token}").level == "warn"
    assert line_with(server, f"error {token}").level == "error"
    assert f"info {token}" not in server.log()


def test_log_handler(server, token):
    server.write_app("levels.py", LEVEL_APP)
    server.start("levels.py", log_level="debug")
    server.get(f"/handler?{token}")
    levels = {"debug": "debug", "info": "info", "warning": "warn", "error": "error", "critical": "crit"}
    for name, level in levels.items():
        # Not log_lines(): nginx's own debug messages have several lines.
        server.wait_log(rf"[\[:]{level}\] .*{name} {token}")


def test_exception_is_logged_once(site, token):
    site.get(f"/logs/exception?{token}")
    line_with(site, f"ValueError: cause of {token}")
    assert site.log().count("Traceback (most recent call last)") == 1


def test_unicode_and_control_characters(site, token):
    site.get(f"/logs/unicode?{token}")
    line = line_with(site, f"end-{token}")
    # One line, and no terminal escape reaches the administrator's terminal.
    assert token in line.text.split("end-")[0]
    assert "\x1b" not in site.log() and "\0" not in site.log()


def test_long_line(site, token):
    site.get(f"/logs/long?{token}")
    line_with(site, token)
    line_with(site, f"end-{token}")


def test_printed_at_import(site):
    site.write_app("edited.py", "print('printed while loading')\nfrom hello import application\n")
    site.get("/edited")
    line_with(site, "printed while loading")


def test_other_threads(site, token):
    site.get(f"/logs/thread?{token}")
    assert line_with(site, token).level == "error"


def test_exception_in_a_thread(site, token):
    site.get(f"/logs/thread-raises?{token}")
    line_with(site, f"ValueError: {token}")
    assert site.log().count("Traceback (most recent call last)") == 1


def test_exception_in_a_finalizer(site, token):
    site.get(f"/logs/unraisable?{token}")
    line_with(site, token)


def test_threads_do_not_mix_their_lines(site, token):
    site.get(f"/logs/many-threads?{token}")
    line_with(site, f"{token}-3-49-end")
    found = [line.message for line in site.log_lines() if token in line.message]
    assert sorted(found) == sorted(f"{token}-{n}-{i}-end" for n in range(4) for i in range(50))


def test_stdin_is_empty(site, token):
    site.get(f"/logs/stdin?{token}")
    line_with(site, f"{token} read ''")


def test_closed_streams(server, token):
    server.start("logs.py")
    server.get("/closed")
    server.get(f"/print?{token}")
    assert server.get(f"/errors?{token}").status_code == 200
    line_with(server, token)
