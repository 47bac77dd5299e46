# Imports an application as Burrow's runtime would, and prints what came of it as one line of JSON.
import importlib
import json
import operator
import os
import site
import sys
import traceback
import types


def load(script, module):
    if module:
        return importlib.import_module(module)
    loaded = types.ModuleType("_burrow_preflight")
    loaded.__file__ = script
    sys.modules[loaded.__name__] = loaded
    with open(script, "rb") as file:
        exec(compile(file.read(), script, "exec"), loaded.__dict__)
    return loaded


def choose(module, names):
    for name in names:
        try:
            found = operator.attrgetter(name)(module)
        except AttributeError:
            continue
        if not callable(found):
            return {"outcome": "not_callable", "name": name, "type": type(found).__name__}
        return {"outcome": "found", "name": name}
    return {"outcome": "absent"}


def place(error, directory):
    """File and line, in the application's own code if it is on the stack."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != "<string>"]
    frames = [f for f in frames if not f.filename.startswith("<frozen ")]
    own = [f for f in frames if f.filename.startswith(directory + os.sep) and "site-packages" not in f.filename]
    for frame in (own or frames)[-1:]:
        return frame.filename, frame.lineno
    return None, None


def explain(error, directory):
    message = getattr(error, "msg", None) if isinstance(error, SyntaxError) else str(error)
    file, line = place(error, directory)
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    kind = type(error).__name__
    return {"outcome": "raised", "error": f"{kind}: {message}" if message else kind, "file": file, "line": line,
            "missing": missing}


def main():
    job = json.loads(sys.argv[1])
    answer = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.argv = ["mod_wsgi"]
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    before = sys.path[:]
    site.addsitedir(job["dir"])
    sys.path[:] = [path for path in sys.path if path not in before] + before
    try:
        result = choose(load(job["script"], job["module"]), job["names"])
    except BaseException as error:
        result = explain(error, job["dir"])
    print(json.dumps(result), file=answer, flush=True)
    os._exit(0)


main()
