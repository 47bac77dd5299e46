"""Answers with its environ: {key: [type, repr]} and the plain strings."""

import json


def application(environ, start_response):
    seen = {
        "dict": type(environ) is dict,
        "types": {key: type(value).__name__ for key, value in environ.items()},
        "reprs": {str(key): repr(value) for key, value in environ.items()},
        "strings": {key: value for key, value in environ.items() if type(value) is str},
        "key_types": sorted({type(key).__name__ for key in environ}),
    }
    body = json.dumps(seen).encode()
    environ.clear()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
