"""Well-formed answers of every shape, one per path. /events tells what happened to a named one."""

import io
import json
import os
import sys
import tempfile
import threading
import urllib.parse

events = {}
gates = {}
lock = threading.Lock()

LINES = b"".join(b"line %d\n" % number for number in range(20000))


def gate(name):
    with lock:
        return gates.setdefault(name, threading.Event())


class Body:
    """An iterable that records how it is used."""

    def __init__(self, name, chunks):
        self.seen = events.setdefault(name, [])
        self.chunks = iter(chunks)

    def __iter__(self):
        self.seen.append("iter")
        return self

    def __next__(self):
        chunk = next(self.chunks)
        self.seen.append(len(chunk))
        return chunk

    def close(self):
        self.seen.append("close")


class Recorded(io.BytesIO):
    """A file-like object without a descriptor."""

    def __init__(self, name, content):
        super().__init__(content)
        self.name = name

    def close(self):
        events.setdefault(self.name, []).append("close")
        super().close()


class RecordedFile(io.FileIO):
    """A real file."""

    def __init__(self, name, content):
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(content)
        super().__init__(file.name)
        os.unlink(file.name)
        self.key = name

    def close(self):
        if not self.closed:
            events.setdefault(self.key, []).append("close")
        super().close()


class List(list):
    pass


def application(environ, start_response):
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    name = query.get("name", "")
    shape = environ["PATH_INFO"].strip("/").replace("-", "_")
    answer = globals()[f"answer_{shape}"](environ, start_response, name)
    if shape not in ("events", "open"):
        events.setdefault(name, []).append("returned")
    return answer


def head(start_response, *headers, status="200 OK"):
    return start_response(status, [("Content-Type", "text/plain"), *headers])


def answer_events(environ, start_response, name):
    body = json.dumps(events.get(name, [])).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def answer_open(environ, start_response, name):
    gate(name).set()
    head(start_response)
    return [b"opened"]


# ---- what may be returned


def answer_list_of_one(environ, start_response, name):
    head(start_response)
    return [b"one"]


def answer_list_of_many(environ, start_response, name):
    head(start_response)
    return [b"%d," % number for number in range(1000)]


def answer_list_with_empty(environ, start_response, name):
    head(start_response)
    return [b"", b"a", b"", b"b", b""]


def answer_list_of_empty(environ, start_response, name):
    head(start_response)
    return [b""]


def answer_empty_list(environ, start_response, name):
    head(start_response)
    return []


def answer_tuple(environ, start_response, name):
    head(start_response)
    return (b"tu", b"ple")


def answer_tuple_of_one(environ, start_response, name):
    head(start_response)
    return (b"one",)


def answer_list_subclass(environ, start_response, name):
    head(start_response)
    return List([b"sub", b"class"])


def answer_bytes(environ, start_response, name):
    head(start_response)
    return b"whole"


def answer_generator(environ, start_response, name):
    head(start_response)
    return (chunk for chunk in (b"gen", b"", b"erator"))


def answer_generator_function(environ, start_response, name):
    # start_response is called when the first chunk is asked for, not before.
    def generate():
        head(start_response)
        yield b"late "
        yield b"head"

    return generate()


def answer_empty_generator(environ, start_response, name):
    def generate():
        head(start_response)
        return
        yield

    return generate()


def answer_first_chunk_empty(environ, start_response, name):
    def generate():
        yield b""
        head(start_response, ("X-Late", "yes"))
        yield b"body"

    return generate()


def answer_getitem(environ, start_response, name):
    # Iterable by the old protocol alone.
    class Sequence:
        def __getitem__(self, index):
            return (b"get", b"item")[index]

    head(start_response)
    return Sequence()


def answer_body(environ, start_response, name):
    head(start_response)
    return Body(name, [b"abc", b"de"])


def answer_large(environ, start_response, name):
    head(start_response)
    return [LINES]


def answer_large_chunks(environ, start_response, name):
    head(start_response)
    return Body(name, [LINES] * 20)


def answer_endless(environ, start_response, name):
    head(start_response)
    return Body(name, iter(lambda: b"x" * 65536, None))


def answer_endless_write(environ, start_response, name):
    write = head(start_response)
    seen = events.setdefault(name, [])
    try:
        while True:
            write(b"x" * 65536)
            seen.append(65536)
    except BaseException as error:
        seen.append([base.__name__ for base in type(error).__mro__])
        raise


def answer_gated(environ, start_response, name):
    def generate():
        yield b"first\n"
        events[name].append("second asked for")
        yield b"second\n" if gate(name).wait(10) else b"timeout\n"

    head(start_response)
    return generate()


def answer_gated_write(environ, start_response, name):
    write = head(start_response)
    write(b"first\n")
    events.setdefault(name, []).append("written")
    write(b"second\n" if gate(name).wait(10) else b"timeout\n")
    return []


# ---- write()


def answer_write(environ, start_response, name):
    write = head(start_response)
    write(b"written ")
    write(b"")
    write(b"twice ")
    return [b"and returned"]


def answer_write_length(environ, start_response, name):
    write = head(start_response, ("Content-Length", "6"))
    write(b"abc")
    return [b"def"]


def answer_write_only(environ, start_response, name):
    head(start_response)(b"written")
    return []


# ---- start_response


def answer_replaced_head(environ, start_response, name):
    head(start_response, ("X-Old", "1"))
    try:
        raise ValueError("handled by the application")
    except ValueError:
        start_response("503 Replaced", [("Content-Type", "text/plain"), ("X-New", "1")], sys.exc_info())
    return [b"replaced"]


def answer_headers(environ, start_response, name):
    start_response(
        "299 Strange Reason: yes",
        [
            ("Content-Type", "text/x-mine; charset=latin-1"),
            ("X-Latin", "caf\xe9"),
            ("X-Twice", "1"),
            ("X-Twice", "2"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2; Path=/"),
            ("x-lower", "kept"),
            ("X-Empty", ""),
            ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("Server", "mine"),
            ("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("ETag", '"tag"'),
            ("Location", "/elsewhere"),
            ("Vary", "X-One"),
            ("Vary", "X-Two"),
        ],
    )
    return [b"headers"]


def answer_no_type(environ, start_response, name):
    start_response("200 OK", [])
    return [b"untyped"]


def answer_status_only_number(environ, start_response, name):
    head(start_response, status="200 ")
    return [b"no reason"]


def answer_length(environ, start_response, name):
    head(start_response, ("Content-Length", "5"))
    return Body(name, [b"ab", b"cde"])


def answer_length_zero(environ, start_response, name):
    head(start_response, ("Content-Length", "0"))
    return Body(name, [])


def answer_204(environ, start_response, name):
    start_response("204 No Content", [])
    return Body(name, [])


def answer_304(environ, start_response, name):
    start_response("304 Not Modified", [("ETag", '"x"')])
    return Body(name, [])


def answer_204_with_body(environ, start_response, name):
    start_response("204 No Content", [])
    return Body(name, [b"must not be sent"])


def answer_404(environ, start_response, name):
    head(start_response, status="404 Not Found")
    return [b"my own 404"]


def answer_500(environ, start_response, name):
    head(start_response, status="500 Internal Server Error")
    return [b"my own 500"]


def answer_redirect(environ, start_response, name):
    start_response("302 Found", [("Location", "/responses/list-of-one"), ("Content-Length", "0")])
    return []


# ---- wsgi.file_wrapper


def answer_file(environ, start_response, name):
    head(start_response)
    return environ["wsgi.file_wrapper"](RecordedFile(name, LINES))


def answer_file_block(environ, start_response, name):
    head(start_response)
    return environ["wsgi.file_wrapper"](RecordedFile(name, LINES), 1000)


def answer_file_offset(environ, start_response, name):
    file = RecordedFile(name, LINES)
    file.seek(len(LINES) - 100)
    head(start_response)
    return environ["wsgi.file_wrapper"](file)


def answer_file_length(environ, start_response, name):
    file = RecordedFile(name, LINES)
    file.seek(10)
    head(start_response, ("Content-Length", "50"))
    return environ["wsgi.file_wrapper"](file, 8)


def answer_file_empty(environ, start_response, name):
    head(start_response)
    return environ["wsgi.file_wrapper"](RecordedFile(name, b""))


def answer_file_buffered(environ, start_response, name):
    # open() gives a BufferedReader: what it has read ahead counts as read.
    file = tempfile.TemporaryFile()
    file.write(LINES)
    file.seek(0)
    file.readline()
    head(start_response)
    return environ["wsgi.file_wrapper"](file)


def answer_file_after_write(environ, start_response, name):
    head(start_response)(b"before ")
    return environ["wsgi.file_wrapper"](RecordedFile(name, b"file"))


def answer_bytes_io(environ, start_response, name):
    head(start_response)
    return environ["wsgi.file_wrapper"](Recorded(name, LINES))


def answer_pipe(environ, start_response, name):
    # It has a descriptor but is no file.
    reader, writer = os.pipe()
    os.write(writer, b"through a pipe")
    os.close(writer)
    head(start_response)
    return environ["wsgi.file_wrapper"](os.fdopen(reader, "rb"))


def answer_file_wrapped(environ, start_response, name):
    # A middleware that iterates over it.
    head(start_response)
    return (chunk.upper() for chunk in environ["wsgi.file_wrapper"](RecordedFile(name, LINES)))


def answer_file_without_close(environ, start_response, name):
    class Reader:
        left = [b"a", b"b"]

        def read(self, size):
            return self.left.pop(0) if self.left else b""

    Reader.left = [b"a", b"b"]
    head(start_response)
    return environ["wsgi.file_wrapper"](Reader())
