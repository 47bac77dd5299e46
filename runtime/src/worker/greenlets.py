"""async=gevent: the hub runs on the main thread, and each request in a greenlet of its own.

Executed before the applications are imported, in the globals of bootstrap.py. `arrivals`, `attend`, `late` and
`switched` are the runtime's, see greenlets.rs.
"""

try:
    import gevent.lock
    import gevent.monkey
    import greenlet
except ImportError as error:
    raise ImportError(f"async=gevent: gevent cannot be imported ({error}); "
                      f"'{sys.executable} -m pip install gevent' installs it") from None

gevent.monkey.patch_all()

MAIN_THREAD = get_ident()
READABLE = 1
hub = gevent.get_hub()
#: Held while an application is imported.
importing = gevent.lock.RLock()

greenlet.settrace(switched)


def wait(descriptor, events, seconds):
    """Whether the descriptor is ready in time; 0: it has all the time."""
    hub = gevent.get_hub()
    watcher = hub.loop.io(descriptor, events)
    try:
        with gevent.Timeout(seconds or None, False):
            hub.wait(watcher)
            return True
        return False
    finally:
        watcher.close()


def pause():
    gevent.sleep(0.01)


class Reception:
    """Takes requests as they come, so many at once."""

    def __init__(self, descriptor, most):
        self.free = most
        self.watcher = hub.loop.io(descriptor, READABLE)
        self.watcher.start(self.receive)

    def receive(self):
        """In the hub: something has arrived."""
        for _ in range(arrivals(self.free)):
            self.free -= 1
            gevent.spawn(self.attend)
        if not self.free:
            self.watcher.stop()

    def attend(self):
        try:
            attend()
        finally:
            if not self.free:
                self.watcher.start(self.receive)
            self.free += 1


def interrupt():
    """From another thread: requests that do not run are late."""
    hub.loop.run_callback_threadsafe(interrupt_late)


def interrupt_late():
    while (request := late()) is not None:
        request.throw(RequestTimeout)


def blocked():
    """Logs what keeps the hub from coming around."""
    log_stack_of(MAIN_THREAD, "burrow: the process's other requests wait for code that does not yield to gevent's hub:")
