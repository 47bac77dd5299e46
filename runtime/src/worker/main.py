"""What Python's main thread prepares in a worker, besides what every interpreter does."""

import _signal  # the module signal may be restricted
import faulthandler
import gc
import os
import sys
import threading
import time


def leave(number, frame):
    raise SystemExit


def set_up(is_service, wakeup, stack_signal, stack_file):
    """`wakeup`: the descriptor that the main thread waits for."""
    faulthandler.register(stack_signal, stack_file, all_threads=False)
    _signal.signal(_signal.SIGTERM, leave)
    if not is_service:
        # A program that has the main thread for itself may want this for an event loop.
        _signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


def set_up_for_imports(locale_name):
    faulthandler.enable(2)
    if locale_name:
        import locale
        try:
            locale.setlocale(locale.LC_ALL, locale_name)
        except locale.Error as error:
            print(f"burrow: locale={locale_name}: {error}", file=sys.stderr)


def other_threads():
    """The names of all threads but the main one, those that libraries have started included."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    try:
        tasks = {int(task) for task in os.listdir("/proc/self/task")} | known.keys()
    except OSError:  # below another root
        tasks = known.keys()
    return [known.get(task, "one of a library written in C") for task in sorted(tasks - {os.getpid()})]


def freeze():
    """Before forks. The threads that stand in their way, as UTF-8."""
    # One that has been joined is the kernel's for another moment.
    until = time.monotonic() + 1
    while other_threads() and threading.active_count() == 1 and time.monotonic() < until:
        time.sleep(0.01)
    gc.freeze()
    return ", ".join(other_threads()).encode("utf-8", "backslashreplace")
