# Imports an application as Burrow's runtime would, in a process of its own that says what came of it in one line of
# JSON. Whatever examines the application stands behind this.
import importlib
import json
import os
import site
import sys
import types


def load(script, module, folder):
    """The application's module, with the folder at the front of the path."""
    before = sys.path[:]
    site.addsitedir(folder)
    sys.path[:] = [path for path in sys.path if path not in before] + before
    if module:
        return importlib.import_module(module)
    loaded = types.ModuleType("_burrow_script")
    loaded.__file__ = script
    sys.modules[loaded.__name__] = loaded
    with open(script, "rb") as file:
        exec(compile(file.read(), script, "exec"), loaded.__dict__)
    return loaded


def answer(examine):
    """Prints what `examine` finds out about the job, and nothing that the application prints."""
    job = json.loads(sys.argv[1])
    output = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.argv = ["mod_wsgi"]
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    print(json.dumps(examine(**job)), file=output, flush=True)
    os._exit(0)
