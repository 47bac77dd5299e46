"""What lasts between requests, and which Python this is."""

import importlib
import json
import os
import sys
import threading
import urllib.parse

import shared

loaded = shared.count("loaded")
local = threading.local()
requests = 0


def application(environ, start_response):
    global requests
    requests += 1
    local.requests = getattr(local, "requests", 0) + 1
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    modules = {}
    for name in filter(None, query.get("import", "").split(",")):
        try:
            modules[name] = getattr(importlib.import_module(name), "__file__", None)
        except ImportError as error:
            modules[name] = f"{type(error).__name__}: {error}"
    answer = {
        "requests": requests,
        "thread_requests": local.requests,
        "thread": threading.get_ident(),
        "shared": shared.count(query["count"]) if "count" in query else None,
        "loaded": loaded,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "executable": sys.executable,
        "version": sys.version,
        "path": sys.path,
        "argv": sys.argv,
        "encoding": sys.getfilesystemencoding(),
        "name": __name__,
        "file": __file__,
        "in_modules": __name__ in sys.modules,
        "main_module": sys.modules["__main__"].__name__,
        "modules": modules,
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


second = application
