"""What httpd does with the answers of a process group, and with requests for one."""

import os
import time
import urllib.parse

PLAIN = [("Content-Type", "text/plain")]


def application(environ, start_response):
    answer = globals()[f"answer_{environ['PATH_INFO'].strip('/').replace('-', '_')}"]
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    return answer(environ, start_response, query)


def answer_pid(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return [str(os.getpid()).encode()]


def answer_status(environ, start_response, query):
    """This status, with a page and a challenge."""
    start_response(query["is"], [*PLAIN, ("WWW-Authenticate", 'Basic realm="relayed"'), ("X-Own", "1")])
    return [b"the application's own page"]


def answer_header(environ, start_response, query):
    """One that is so long."""
    start_response("200 OK", [*PLAIN, ("X-Long", "x" * int(query["bytes"]))])
    return [b""]


def answer_location(environ, start_response, query):
    start_response(query.get("status", "200 OK"), [*PLAIN, ("Location", query["to"])])
    return [b"not for the client"]


def answer_count(environ, start_response, query):
    """How long the body is; with `slowly`, between pauses."""
    length = 0
    while piece := environ["wsgi.input"].read(1 << 20):
        length += len(piece)
        time.sleep(float(query.get("slowly", 0)))
    start_response("200 OK", PLAIN)
    return [f"{length} {os.getpid()}".encode()]


def answer_zeros(environ, start_response, query):
    """So many bytes."""
    start_response("200 OK", [*PLAIN, ("Content-Length", query["bytes"])])
    piece = bytes(1 << 16)
    try:
        for _ in range(int(query["bytes"]) // len(piece)):
            yield piece
    finally:
        print("over")


def answer_echo(environ, start_response, query):
    """Each line of the body when it comes."""
    start_response("200 OK", PLAIN)
    for line in environ["wsgi.input"]:
        yield line.upper()


def answer_wait(environ, start_response, query):
    """Says that it waits, goes on when the file is there, and tells in another whether it was let to."""
    print("waiting")
    try:
        while not os.path.exists(query["file"]):
            time.sleep(0.01)
        start_response("200 OK", PLAIN)
        yield b"whole"
    finally:
        print("over")
