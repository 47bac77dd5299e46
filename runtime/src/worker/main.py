"""What Python's main thread prepares in a worker, besides what every interpreter does."""

import _signal  # the module signal may be restricted
import faulthandler
import locale
import sys


def leave(number, frame):
    raise SystemExit


def set_up(is_service, wakeup, stack_signal, stack_file, locale_name):
    """`wakeup`: the descriptor that the main thread waits for."""
    faulthandler.enable(2)
    faulthandler.register(stack_signal, stack_file, all_threads=False)
    _signal.signal(_signal.SIGTERM, leave)
    if not is_service:
        # A program that has the main thread for itself may want this for an event loop.
        _signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    if locale_name:
        try:
            locale.setlocale(locale.LC_ALL, locale_name)
        except locale.Error as error:
            print(f"burrow: locale={locale_name}: {error}", file=sys.stderr)
