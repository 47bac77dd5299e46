# Whether an application imports, and which of these names its callable has. Behind load.py, in the same namespace.
import operator
import traceback


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


def place(error, folder):
    """File and line, in the application's own code if it is on the stack."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != "<string>"]
    frames = [f for f in frames if not f.filename.startswith("<frozen ")]
    own = [f for f in frames if f.filename.startswith(folder + os.sep) and "site-packages" not in f.filename]
    for frame in (own or frames)[-1:]:
        return frame.filename, frame.lineno
    return None, None


def explain(error, folder):
    message = getattr(error, "msg", None) if isinstance(error, SyntaxError) else str(error)
    file, line = place(error, folder)
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    kind = type(error).__name__
    return {"outcome": "raised", "error": f"{kind}: {message}" if message else kind, "file": file, "line": line,
            "missing": missing}


def preflight(script, module, folder, names):
    try:
        return choose(load(script, module, folder), names)
    except BaseException as error:
        return explain(error, folder)


answer(preflight)
