"""Reads its body as the query string says ("read,5;readline;list") and answers with what it got."""

import io
import json
import resource
import threading
import urllib.parse

#: What happened, by the name a client gave its request.
events = {}


def perform(stream, operation):
    name, *numbers = operation.split(",")
    numbers = [int(number) for number in numbers]
    if name == "list":
        return list(stream)
    if name == "next":
        return next(stream, None)
    return getattr(stream, name)(*numbers)


def plain(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def run(stream, operations):
    return [plain(perform(stream, operation)) for operation in operations.split(";")]


def expected(body, operations):
    """What a file with the same bytes would give."""
    return run(io.BytesIO(body), operations)


def application(environ, start_response):
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    seen = events.setdefault(query.get("name"), [])
    stream = environ["wsgi.input"]
    path = environ["PATH_INFO"]
    if path == "/events":
        answer = events.get(query["of"], [])
    elif path == "/count":
        length = 0
        while chunk := stream.read(int(query.get("size", 65536))):
            length += len(chunk)
        answer = length
    elif path == "/pieces":
        # One read at a time, each of them recorded when it returns.
        seen.append("called")
        try:
            while chunk := stream.read(1):
                seen.append(chunk.decode("latin-1"))
            seen.append("end")
        except BaseException as error:
            seen.append([*(base.__name__ for base in type(error).__mro__), str(error)])
            raise
        answer = seen
    elif path == "/memory":
        with open("/proc/self/statm") as file:
            answer = int(file.read().split()[1]) * resource.getpagesize()
    elif path == "/unread":
        answer = "not read"
    elif path == "/both":
        # Two threads that read the body of one request.
        got = []

        def reader():
            while chunk := stream.read(1000):
                got.append(len(chunk))

        threads = [threading.Thread(target=reader) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answer = sum(got)
    else:
        answer = run(stream, query["do"])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
