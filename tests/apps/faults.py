"""Answers that are wrong in every way, one per path. SECRET must never reach a client."""

import io
import sys
import urllib.parse

SECRET = "do-not-tell"
PLAIN = [("Content-Type", "text/plain")]


def application(environ, start_response):
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    shape = environ["PATH_INFO"].strip("/").replace("-", "_")
    if shape.startswith("status_"):
        start_response(STATUS[int(shape[7:])], PLAIN)
        return [SECRET.encode()]
    if shape.startswith("headers_"):
        start_response("200 OK", HEADERS[int(shape[8:])])
        return [SECRET.encode()]
    if shape.startswith("late_exc_info_"):
        return late_exc_info(start_response, EXC_INFO[int(shape[14:])])
    if shape.startswith("body_"):
        start_response("200 OK", PLAIN)
        return BODY[int(shape[5:])]()
    return globals()[f"fault_{shape}"](environ, start_response, query)


def yielding(*chunks):
    yield from chunks


STATUS = [
    "", "OK", "2000 Long", "20 Short", "abc OK", "200OK", " 200 OK", "99 Low", "099 Low", "100 Continue",
    "101 Switching", "199 Interim", "600\r\nX-Evil: 1", "200 OK\r\nX-Evil: 1", "200 OK\n", "200 \0",
    "200 \u20ac", "-20 Negative", "\u0662\u0660\u0660 Arabic", 200, b"200 OK", None, ("200 OK",),
]  # fmt: skip

HEADERS = [
    None, (), (("A", "b"),), {"A": "b"}, "A: b", ["A: b"], [["A", "b"]], [("A",)], [("A", "b", "c")], [None],
    [(b"A", "b")], [("A", b"b")], [("A", 1)], [("A", None)], [(1, "b")], [("A", "\u20ac")],
    [("\u20ac", "b")], [("", "b")], [("A B", "c")], [("A:", "b")], [("A\r\nX-Evil", "1")], [("A\n", "1")],
    [("A\0", "1")], [("A", "b\r\nX-Evil: 1")], [("A", "b\nX-Evil: 1")], [("A", "b\rX-Evil: 1")],
    [("A", "b\0")], [("A", "b\n")], [("Content-Length", "ten")], [("Content-Length", "-1")],
    [("Content-Length", "1e3")], [("Content-Length", "1"), ("Content-Length", "2")],
    [("Content-Length", "99999999999999999999")], [("Content-Length", "")],
]  # fmt: skip


class Uniterable:
    def __iter__(self):
        raise RuntimeError("cannot iterate")


BODY = [
    lambda: None, lambda: 42, lambda: SECRET, lambda: [SECRET], lambda: [None], lambda: (SECRET,),
    lambda: [1, b"x"], lambda: yielding(SECRET), lambda: yielding(b"", SECRET), lambda: yielding(None),
    lambda: {SECRET: 1}, Uniterable, lambda: object(), lambda: {1: 2},
]  # fmt: skip


def fault_input(environ, start_response, query):
    name, *arguments = query["do"].split(",")
    arguments = [int(argument) if argument.isdigit() else argument for argument in arguments]
    getattr(environ["wsgi.input"], name)(*arguments)
    start_response("200 OK", PLAIN)
    return [b"fine"]


# ---- before anything was sent


def fault_raise(environ, start_response, query):
    raise ValueError(f"raised {SECRET}")


def fault_raise_after_head(environ, start_response, query):
    start_response("200 OK", PLAIN)
    raise ValueError(f"raised {SECRET}")


def fault_raise_first(environ, start_response, query):
    start_response("200 OK", PLAIN)
    if not query:
        raise ValueError(f"raised {SECRET}")
    yield b"never"


def fault_raise_after_empty(environ, start_response, query):
    start_response("200 OK", PLAIN)
    yield b""
    raise ValueError(f"raised {SECRET}")


def fault_system_exit(environ, start_response, query):
    sys.exit(f"raised {SECRET}")


def fault_keyboard_interrupt(environ, start_response, query):
    raise KeyboardInterrupt(f"raised {SECRET}")


def fault_generator_exit(environ, start_response, query):
    raise GeneratorExit(f"raised {SECRET}")


def fault_chained(environ, start_response, query):
    try:
        raise KeyError("first cause")
    except KeyError as error:
        raise ValueError(f"raised {SECRET}") from error


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fault_unprintable(environ, start_response, query):
    raise Unprintable


def fault_surrogate(environ, start_response, query):
    raise ValueError("raised \udcff \u20ac \0 end")


def fault_recursion(environ, start_response, query):
    return fault_recursion(environ, start_response, query)


def fault_no_start(environ, start_response, query):
    return [SECRET.encode()]


def fault_no_start_empty(environ, start_response, query):
    return []


def fault_no_start_generator(environ, start_response, query):
    yield SECRET.encode()


def fault_start_twice(environ, start_response, query):
    start_response("200 OK", PLAIN)
    start_response("201 Created", PLAIN)
    return [b"twice"]


def fault_start_no_arguments(environ, start_response, query):
    start_response()
    return [SECRET.encode()]


def fault_write_str(environ, start_response, query):
    start_response("200 OK", PLAIN)(SECRET)
    return []


# ---- after a part was sent


def fault_late_raise(environ, start_response, query):
    start_response("200 OK", PLAIN)
    yield b"first chunk\n"
    raise ValueError(f"raised {SECRET}")


def fault_late_raise_with_length(environ, start_response, query):
    start_response("200 OK", [*PLAIN, ("Content-Length", "100")])
    yield b"first chunk\n"
    raise ValueError(f"raised {SECRET}")


def fault_late_raise_large(environ, start_response, query):
    start_response("200 OK", PLAIN)
    for _ in range(50):
        yield b"x" * 65536
    raise ValueError(f"raised {SECRET}")


def fault_late_raise_after_write(environ, start_response, query):
    start_response("200 OK", PLAIN)(b"first chunk\n")
    raise ValueError(f"raised {SECRET}")


def fault_late_str(environ, start_response, query):
    start_response("200 OK", PLAIN)
    yield b"first chunk\n"
    yield SECRET


def fault_late_str_in_list(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return [b"first chunk\n", SECRET]


def fault_late_head(environ, start_response, query):
    start_response("200 OK", PLAIN)
    yield b"first chunk\n"
    try:
        raise ValueError(f"raised {SECRET}")
    except ValueError:
        start_response("500 Too late", PLAIN, sys.exc_info())


EXC_INFO = ["text", 42, (), (1, 2, 3), (None, None, None), (ValueError, "text", None), (ValueError, None, 7)]


def late_exc_info(start_response, exc_info):
    start_response("200 OK", PLAIN)
    yield b"first chunk\n"
    start_response("500 Too late", PLAIN, exc_info)
    yield b"never"


def fault_late_system_exit(environ, start_response, query):
    start_response("200 OK", PLAIN)
    yield b"first chunk\n"
    sys.exit(SECRET)


class BrokenFile(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 100000:
            raise ValueError(f"raised {SECRET}")
        return super().read(size)


def fault_late_file(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](BrokenFile(b"x" * 300000))


def short(environ, start_response, body):
    start_response("200 OK", [*PLAIN, ("Content-Length", "1000")])
    return body


def fault_short_list(environ, start_response, query):
    return short(environ, start_response, [b"short"])


def fault_short_bytes(environ, start_response, query):
    return short(environ, start_response, b"short")


def fault_short_many(environ, start_response, query):
    return short(environ, start_response, [b"short"] * 10)


def fault_short_generator(environ, start_response, query):
    return short(environ, start_response, (b"short" for _ in range(10)))


def fault_short_empty(environ, start_response, query):
    return short(environ, start_response, [])


def fault_short_write(environ, start_response, query):
    start_response("200 OK", [*PLAIN, ("Content-Length", "1000")])(b"short")
    return []


def fault_short_file(environ, start_response, query):
    return short(environ, start_response, environ["wsgi.file_wrapper"](open("/etc/hostname", "rb")))


def fault_short_bytes_io(environ, start_response, query):
    return short(environ, start_response, environ["wsgi.file_wrapper"](io.BytesIO(b"short")))


# ---- more than was promised


def long(start_response):
    return start_response("200 OK", [*PLAIN, ("Content-Length", "5")])


def fault_long_list(environ, start_response, query):
    long(start_response)
    return [b"12345678"]


def fault_long_many(environ, start_response, query):
    long(start_response)
    return [b"123", b"456", b"78"]


def fault_long_generator(environ, start_response, query):
    long(start_response)
    yield b"12345"
    yield b"678"


def fault_long_write(environ, start_response, query):
    write = long(start_response)
    write(b"123")
    write(b"45678")
    return []


def fault_long_bytes_io(environ, start_response, query):
    long(start_response)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"12345678"))


# ---- other


class BadClose(list):
    def close(self):
        raise ValueError(f"raised {SECRET}")


def fault_close(environ, start_response, query):
    start_response("200 OK", PLAIN)
    return BadClose([b"whole"])


def fault_framing(environ, start_response, query):
    start_response(
        "200 OK", [*PLAIN, ("Transfer-Encoding", "chunked"), ("Connection", "X"), ("Trailer", "X")]
    )
    return [b"framed"]
