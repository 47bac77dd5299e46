"""How the manager starts a worker process: `python worker.py RUNTIME`."""

# Children of multiprocessing (spawn, forkserver) import the main module again, under another name.
if __name__ == "__main__":
    import sys
    import types
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    # This file's folder is no place to import from, and this module nothing for such children to import.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    path = sys.argv[1]
    sys.argv[:] = ["mod_wsgi"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["__main__"].__builtins__ = __builtins__

    spec = spec_from_file_location(
        "burrow_runtime", path, loader=ExtensionFileLoader("burrow_runtime", path)
    )
    runtime = module_from_spec(spec)
    spec.loader.exec_module(runtime)
    runtime.run()
