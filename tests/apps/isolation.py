"""What one application group does to its interpreter, for others to look for."""

import json
import logging
import os
import sys
import threading
import types
import warnings

local = threading.local()


def spoil():
    sys.modules["spoilt"] = types.ModuleType("spoilt")
    json.spoilt = True
    sys.path.append("/spoilt")
    warnings.filterwarnings("error", message="spoilt")
    os.environ["SPOILT"] = "yes"
    local.spoilt = True
    logging.getLogger("spoilt").setLevel(logging.DEBUG)
    logging.addLevelName(7, "SPOILT")
    logging.root.addHandler(logging.NullHandler())
    sys.setrecursionlimit(7777)


def signs():
    return {
        "module": "spoilt" in sys.modules,
        "attribute": hasattr(json, "spoilt"),
        "path": "/spoilt" in sys.path,
        "warnings": "spoilt" in str(warnings.filters),
        "environment": "SPOILT" in os.environ,
        "local": hasattr(local, "spoilt"),
        "logger": "spoilt" in logging.root.manager.loggerDict,
        "level": logging.getLevelName(7) == "SPOILT",
        "handler": any(type(handler) is logging.NullHandler for handler in logging.root.handlers),
        "recursion": sys.getrecursionlimit() == 7777,
    }


def application(environ, start_response):
    if environ["PATH_INFO"] == "/spoil":
        spoil()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(signs()).encode()]
