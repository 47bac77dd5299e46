# Which extension modules of an application an interpreter with a lock of its own refuses, and whether the
# application imports there all the same. Behind src/serve/load.py, whose text is LOAD, and runtime/src/refusals.py, in
# the same namespace.
import importlib.machinery
import json
import os
import sys
import traceback

# Both write to the descriptor `output`.
PROBE = """
import _imp, importlib.machinery, json, os
for name, path in %r:
    os.write(output, (json.dumps([name, None]) + "\\n").encode())
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    try:
        _imp.create_dynamic(importlib.machinery.ModuleSpec(name, loader, origin=path))
    except ImportError as error:
        os.write(output, (json.dumps([name, str(error)]) + "\\n").encode())
"""
IMPORT = """
try:
    load(*%r)
    error = ""
except BaseException as raised:
    # Packages say much about what may be wrong; what is wrong comes first.
    while raised.__cause__ or raised.__context__:
        raised = raised.__cause__ or raised.__context__
    error = f"{type(raised).__name__}: {raised}"
os.write(output, (json.dumps(error) + "\\n").encode())
"""


def run_in_own_interpreter(code):
    """Runs code in a new interpreter with a lock of its own, in a process that a module may crash; what it has
    written, line by line, and how the process ended."""
    reader, writer = os.pipe()
    source = f"output = {writer}\n{code}"
    child = os.fork()
    if child == 0:
        if sys.version_info >= (3, 13):
            import _interpreters
            config = _interpreters.new_config("isolated", allow_daemon_threads=True)
            _interpreters.exec(_interpreters.create(config), source)
        else:
            import _xxsubinterpreters
            _xxsubinterpreters.run_string(_xxsubinterpreters.create(), source)
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as lines:
        said = [json.loads(line) for line in lines if line.endswith("\n")]
    return said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def extension_modules():
    """[name, file] of all that are imported."""
    found = []
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec and isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            found.append([name, spec.origin])
    return found


def describe(name, file, reason):
    own = os.path.dirname(os.__file__) + os.sep
    if file.startswith(own) and "site-packages" not in file:
        package, version, fixed = "Python", sys.version.split()[0], "3.13" if sys.version_info < (3, 13) else None
    else:
        package, version = distribution_of(name) or (None, None)
        fixed = FIXED.get(package)
    return {"module": name, "file": file, "package": package, "version": version, "fixed": fixed, "reason": reason}


def examine(*target):
    if sys.version_info < (3, 12):
        return {"outcome": "too_old"}
    before = {name for name, _ in extension_modules()}
    try:
        load(*target)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {"outcome": "raised", "error": f"{type(error).__name__}: {error}",
                "place": f"{last.filename}:{last.lineno}"}
    modules = [each for each in extension_modules() if each[0] not in before]
    refused = {}
    while modules:
        said, status = run_in_own_interpreter(PROBE % (modules,))
        refused.update({name: reason for name, reason in said if reason})
        if status == 0 or not said:
            break
        # The last one that was begun has ended the process.
        crashed = said[-1][0]
        refused[crashed] = "it ends the process"
        modules = modules[[name for name, _ in modules].index(crashed) + 1:]
    files = dict(extension_modules())
    said, status = run_in_own_interpreter(LOAD + IMPORT % (target,))
    error = said[0] if said else f"the process ended with {status}"
    return {"outcome": "examined", "imports": error == "", "error": error,
            "refused": [describe(name, files[name], reason) for name, reason in refused.items()]}


def diagnose(script, module, folder):
    return {**examine(script, module, folder), "python": sys.version.split()[0]}


answer(diagnose)
