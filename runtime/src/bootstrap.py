"""What is done in Python in every interpreter: streams, logging, limits, loading, exit.

Run once in each interpreter with `native` (the mod_wsgi module) in its globals, and followed by hooks.py
and api.py in the same globals.
"""

import atexit
import functools
import importlib
import importlib.machinery
import importlib.util
import io
import logging
import os
import sys
import threading
import time
import traceback
import types
import warnings
from threading import get_ident  # a thread's own, whatever gevent makes of threading


def take(name, *default):
    """A function of the runtime that is not for applications."""
    function = getattr(native, name, *default)
    if hasattr(native, name):
        delattr(native, name)
    return function


log = take("_log")
observe_requests, active_requests = take("_observe"), take("_active_requests")
record_metrics, metrics = take("_record_metrics"), take("_metrics")
# of an event loop, see asgi.py
drain, flush, retire, look, ready, begun, stopped = map(
    take, ("_drain", "_flush", "_retire", "_look", "_ready", "_begun", "_stopped")
)
# of greenlets, see greenlets.py
arrivals, attend, late, switched = map(take, ("_arrivals", "_attend", "_late", "_switched"))
# in httpd's own processes
ssl_is_https, ssl_variable = take("_ssl_is_https", None), take("_ssl_variable", None)
scoreboard = take("_server_metrics", None)

# syslog's numbers, as the host counts
CRIT, ERR, WARN, NOTICE, INFO, DEBUG = 2, 3, 4, 5, 6, 7


class LogHandler(logging.Handler):
    """Sends records to the web server's error log, at the level that corresponds."""

    def emit(self, record):
        try:
            number = record.levelno
            level = (CRIT if number >= logging.CRITICAL else ERR if number >= logging.ERROR
                     else WARN if number >= logging.WARNING else INFO if number >= logging.INFO else DEBUG)
            for line in self.format(record).splitlines():
                log(level, line)
        except Exception:
            self.handleError(record)


class FileWrapper:
    """wsgi.file_wrapper: a file to send. A real file is sent by the web server itself."""

    def __init__(self, filelike, blksize=8192):
        self.filelike = filelike
        self.blksize = blksize

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.blksize)
        if data:
            return data
        raise StopIteration

    def close(self):
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


def install_streams():
    def stream(level, name):
        log = native.Log(level, name)
        return io.TextIOWrapper(log, "utf-8", "backslashreplace", line_buffering=True, write_through=True)

    try:
        sys.stdin = open(os.devnull)
    except OSError:  # below another root
        sys.stdin = io.StringIO()
    sys.stdout = sys.__stdout__ = stream(ERR, "<stdout>")
    sys.stderr = sys.__stderr__ = stream(ERR, "<stderr>")
    logging.lastResort = LogHandler(logging.WARNING)

    def showwarning(message, category, filename, lineno, file=None, line=None):
        text = warnings.formatwarning(message, category, filename, lineno, line)
        if file is not None:
            file.write(text)
            return
        for each in text.splitlines():
            log(WARN, each)

    warnings.showwarning = showwarning


def let_threads_finish():
    """A thread inherits from its starter whether the end waits for it. The server's threads are no daemons."""
    describe = threading._DummyThread.__init__

    def __init__(self):
        describe(self)
        self._daemonic = False

    threading._DummyThread.__init__ = __init__


def extend_path(paths):
    """Adds folders, with the .pth files in them, in front of sys.path."""
    import site
    before = list(sys.path)
    for path in paths:
        site.addsitedir(path)
    added = [path for path in sys.path if path not in before]
    sys.path[:] = added + before


def no_fork(*args, **kwargs):
    raise RuntimeError(
        "os.fork() and preexec_fn are not possible in a process with Python sub-interpreters: use subprocess "
        "(with start_new_session, process_group, user or umask instead of preexec_fn) or multiprocessing's "
        "spawn method, or let the only application of the process run in the main interpreter "
        "(application group %{GLOBAL}), or run it in daemon mode")


def forbid_fork():
    """While a sub-interpreter exists a forked child hangs or crashes, on every version of CPython."""
    os.fork = os.forkpty = no_fork
    on_import("multiprocessing.context", use_spawn)


def use_spawn(context):
    default = context._default_context
    default._default_context = context._concrete_contexts["spawn"]
    default._actual_context = None


def on_import(name, then):
    """Calls then(module) as soon as the module is imported; at once if it is already."""
    if name in sys.modules:
        then(sys.modules[name])
        return

    class Finder:
        @staticmethod
        def find_spec(fullname, path=None, target=None):
            if fullname != name:
                return None
            sys.meta_path.remove(Finder)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                then(module)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder)


def unblock_signals_of_children():
    """The server's threads block every signal, and a child would inherit that: terminate() would do nothing."""
    import _posixsubprocess
    import signal

    def unblocked(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
            try:
                return function(*args, **kwargs)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return call

    fork_exec = unblocked(_posixsubprocess.fork_exec)

    def fork_exec_checked(*args):
        # preexec_fn is the last argument, or the last but one: a Python function in a forked child.
        if os.fork is no_fork and any(map(callable, args[-2:])):
            no_fork()
        return fork_exec(*args)

    def keep_blocked(tracker):
        # It ends by opening SIGINT and SIGTERM, as if they had been open before.
        ensure_running = tracker.ResourceTracker.ensure_running

        @functools.wraps(ensure_running)
        def ensure_running_blocked(self):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            try:
                return ensure_running(self)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        tracker.ResourceTracker.ensure_running = ensure_running_blocked
        tracker.ensure_running = tracker._resource_tracker.ensure_running

    on_import("multiprocessing.resource_tracker", keep_blocked)
    _posixsubprocess.fork_exec = fork_exec_checked
    for name in ("posix_spawn", "posix_spawnp", "system"):
        setattr(os, name, unblocked(getattr(os, name)))


def restore_environment(environment):
    """os.environ as the process began, without what other interpreters have changed in the process's own."""
    variables = dict(variable.split(b"=", 1) for variable in environment)
    os.environ._data.clear()
    os.environ._data.update(variables)


def prepare_interpreter(main, environment):
    if not main:
        restore_environment(environment)
        if sys.version_info < (3, 12):
            # The C module's statics break cancellation in a second interpreter.
            sys.modules["_asyncio"] = None
        forbid_fork()
    install_streams()
    let_threads_finish()
    unblock_signals_of_children()


# -- what the runtime calls ---------------------------------------------------------------------------

def module_name(path):
    try:
        from _md5 import md5  # hashlib would load OpenSSL: a tenth of the start, and 3 MiB
    except ImportError:
        from hashlib import md5
    return "_mod_wsgi_" + md5(os.fsencode(path), usedforsecurity=False).hexdigest()


#: One for each script: a script of hooks can be an application, too.
loading = {}


def load_script(path, callable_name):
    """The callable of that name in a script, which is executed as a fresh module if it has changed."""
    with loading.setdefault(path, threading.RLock()):
        modified = os.stat(path).st_mtime_ns // 1000
        module = sys.modules.get(module_name(path))
        if getattr(module, "__mtime__", None) != modified:
            module = execute_script(path)
            module.__mtime__ = modified
        return find_callable(module, callable_name, path)


def reload_required_of(path):
    """The function by which a script itself asks to be loaded again; None if it has none."""
    return getattr(sys.modules[module_name(path)], "reload_required", None)


def reload_required(function, path):
    if not function(path):
        return False
    module = sys.modules.get(module_name(path))
    if module is not None:
        module.__mtime__ = None
    return True


def compile_script(path):
    with io.open_code(path) as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def execute_script(path):
    name = module_name(path)
    module = types.ModuleType(name)
    module.__file__ = path
    code = compile_script(path)
    if "linecache" in sys.modules:
        sys.modules["linecache"].checkcache(path)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
        return module
    except BaseException:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
        raise


def load_module(name, callable_name):
    """Imports a module and returns its callable; a dotted name is looked up step by step."""
    return find_callable(importlib.import_module(name), callable_name, name)


class MissingCallable(AttributeError):
    """One line says all of it: there is no traceback to look at."""

    __module__ = "builtins"  # for that line


def find_callable(module, name, target):
    if name == "*":
        return module
    found = module
    for step in name.split("."):
        try:
            found = getattr(found, step)
        except AttributeError:
            raise MissingCallable(f"{target} has no callable named '{name}'", name=name) from None
    if not callable(found):
        raise TypeError(f"'{name}' of {target} is not callable but {type(found).__name__}")
    return found


def import_failed(target, place, exception):
    """Logs that a target cannot be used, in mod_wsgi's words, which monitors look for. Is there more to say?"""
    def say(number, text):
        log(ERR, f"[script {target}] WSGI{number}: {text}.")

    if isinstance(exception, MissingCallable):
        say("0089", f"Target WSGI script '{target}' does not contain WSGI application '{exception.name}'")
        return False
    *_, (innermost, _) = traceback.walk_tb(exception.__traceback__)
    if innermost.f_code is compile_script.__code__:
        say("0105", f"Could not read or compile WSGI script '{target}' for {place}")
    elif isinstance(exception, SystemExit):
        say("0107", f"SystemExit exception raised when doing exec of Python script file '{target}'")
    else:
        say("0109", f"Unable to execute Python script file '{target}'")
    return True


def report(exception):
    """Logs an exception's traceback, once, without the runtime's own frames."""
    tb = exception.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    for text in traceback.format_exception(type(exception), exception, tb):
        for line in text.splitlines():
            log(ERR, line)
    module = refused_module(exception)
    if module is not None:
        log(ERR, f"burrow: {refusal(module)}")


def log_stack_of(thread, title):
    log(WARN, title)
    for line in "".join(traceback.format_stack(sys._current_frames()[thread])).splitlines():
        log(WARN, line)


def threads():
    """A line for each thread that this interpreter knows: its ident and a title. As UTF-8."""
    lines = [f"{thread.ident} Thread {thread.native_id} ({thread.name})" for thread in threading.enumerate()]
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def thread_of(frame):
    """The ident of the thread whose frame this is, if it is one of threading's."""
    while frame.f_back is not None:
        frame = frame.f_back
    is_thread = frame.f_code is threading.Thread._bootstrap.__code__
    return frame.f_locals["self"].ident if is_thread else 0


def stacks(frames, more, titles):
    """The stacks that have these innermost frames, under their threads' titles. As UTF-8."""
    text = []
    for ident, frame in [*frames, *more]:
        ident = ident or thread_of(frame)
        if ident != get_ident():
            text += ["\n", titles.get(ident, f"Thread {ident}"), ":\n", *traceback.format_stack(frame)]
    return "".join(text).encode("utf-8", "backslashreplace")


def shut_down():
    """What the end of a Python process does, as far as other threads can bear it."""
    main = threading.main_thread()
    if main.ident != threading.get_ident():
        # The thread that set this interpreter up lives as long as the process: do not wait for it.
        getattr(threading, "_shutdown_locks", set()).discard(getattr(main, "_tstate_lock", None))
    for step in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            step()
        except BaseException as exception:
            report(exception)
