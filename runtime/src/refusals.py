"""Extension modules that an interpreter with a lock of its own does not take. Used by the runtime and by
`burrow doctor`; the names of the runtime's sources are in one namespace.
"""

import re

#: Distributions, the first of their versions that such an interpreter takes.
FIXED = {"MarkupSafe": "3.0.3"}


def refused_module(exception):
    """The name of the extension module whose refusal has led to an exception; None if nothing was refused."""
    seen = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        if isinstance(exception, ImportError) and "subinterpreters" in str(exception):
            named = re.search(r"module (\S+) does not support", str(exception))
            return named[1] if named else exception.name or "?"
        exception = exception.__cause__ or exception.__context__
    return None


def distribution_of(module):
    """Name and version of what a module was installed with; None where that is not known."""
    import importlib.metadata
    for name in importlib.metadata.packages_distributions().get(module.partition(".")[0], ()):
        return name, importlib.metadata.version(name)
    return None


def refusal(module):
    """What is to be said of a module that was refused."""
    found = distribution_of(module)
    installed = f" of {found[0]} {found[1]}" if found else ""
    fixed = f" (version {FIXED[found[0]]} does)" if found and found[0] in FIXED else ""
    return (f"the extension module {module}{installed} does not load in an interpreter with a lock of its own{fixed}: "
            "run the application in the main interpreter (application group %{GLOBAL}), in a process group, or "
            "without WSGIPerInterpreterGIL and interpreters=; `burrow doctor` names all such modules")
