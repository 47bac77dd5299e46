"""What applications import: mod_wsgi's events, metrics and types, and the module apache.

Run after bootstrap.py and hooks.py in the same globals. Nothing here is called for a request unless somebody has
subscribed to events or asked for metrics.
"""

import resource

# Interpreters that share the GIL take turns more often than Python's threads do, unless they are told how
# often. Of three threads the one that does not compute may wait for many turns of the two that do.
PYTHONS_SWITCH_INTERVAL, SHARED_SWITCH_INTERVAL = 0.005, 0.001

request_data = native.request_data
event_callbacks, shutdown_callbacks, signal_callbacks = [], [], []


class RequestTimeout(BaseException):
    """Raised in a request that has taken longer than its time-out; a BaseException, so that
    `except Exception` lets it pass. It may be caught to clean up, and must be raised again."""


# -- events -------------------------------------------------------------------------------------------

def subscribe_events(callback):
    """Calls callback(name, **event) at every event of this interpreter; returns the callback."""
    event_callbacks.append(callback)
    observe_requests()
    return callback


def subscribe_shutdown(callback):
    """Calls callback(name, **event) before the process ends; returns the callback."""
    shutdown_callbacks.append(callback)
    return callback


def subscribe_signals(callback):
    """Calls callback(name, **event) at signals of a daemon process; returns the callback."""
    if native.process_group:
        signal_callbacks.append(callback)
    else:
        log(INFO, "mod_wsgi.subscribe_signals() called outside daemon mode; the callback will not be invoked. "
                  "Signal callbacks are only delivered in daemon mode processes.")
        log_stack()
    return callback


def publish(name, event):
    """Tells the subscribers; what they return is there for those that follow."""
    more = {"process_stopping": shutdown_callbacks, "process_signal": signal_callbacks}.get(name, ())
    for callback in [*event_callbacks, *more]:
        try:
            answer = callback(name, **event)
            if isinstance(answer, dict):
                event.update(answer)
        except BaseException as exception:
            number, end = ("0190", "; ignored.") if isinstance(exception, SystemExit) else ("0112", ".")
            log(ERR, f"WSGI{number}: {type(exception).__name__} exception raised by event callback for "
                     f"'{name}'{end}")
            report(exception)


class Observation:
    """A request as the subscribers of events see it."""

    def __init__(self, environ, data):
        self.environ = environ
        self.id = {"request_id": environ["mod_wsgi.request_id"]} if "mod_wsgi.request_id" in environ else {}
        self.data = data
        self.about = {
            "thread_id": environ["mod_wsgi.thread_id"],
            "server_pid": int(environ["mod_wsgi.server_pid"]),
            "request_start": environ["mod_wsgi.request_start"],
            "queue_start": environ["mod_wsgi.queue_start"],
            "daemon_start": environ["mod_wsgi.daemon_start"],
        }

    def publish(self, name, **event):
        event = {**self.id, **event, "request_data": self.data}
        publish(name, event)
        return event

    def started(self, application):
        """The application to call."""
        event = self.publish(
            "request_started", **self.about, daemon_connects=0, daemon_restarts=0,
            application_object=application, callable_object=self.environ["mod_wsgi.callable_object"],
            request_environ=self.environ, application_start=self.environ["mod_wsgi.application_start"],
        )
        return event["application_object"]

    def responded(self, status, headers, exc_info=None):
        self.publish("response_started", response_status=status, response_headers=headers,
                     exception_info=exc_info)

    def raised(self, exception):
        self.publish("request_exception", exception_info=(type(exception), exception, exception.__traceback__))

    def finished(self, status, start, finish, input, output, gil, cpu_user, cpu_system):
        self.publish(
            "request_finished", **self.about,
            input_reads=input[0], input_length=input[1], input_time=input[2],
            output_writes=output[0], output_length=output[1], output_time=output[2],
            cpu_user_time=cpu_user, cpu_system_time=cpu_system, cpu_time=cpu_user + cpu_system,
            application_start=start, application_finish=finish, application_time=max(finish - start, 0.0),
            status=status, gil_wait_time=gil[2], gil_wait_count=gil[0],
        )


def observation(environ, data):
    """What the runtime is to tell of a request; None if nobody listens."""
    return Observation(environ, data) if event_callbacks else None


class ScopeObservation(Observation):
    """The same of an ASGI application's request, which has a scope instead of an environ."""

    def __init__(self, scope, data, about):
        self.scope, self.data = scope, data
        self.id = {"request_id": about.pop("request_id")} if "request_id" in about else {}
        self.about = {**about, "server_pid": os.getpid()}

    def started(self, application, start):
        event = self.publish(
            "request_started", **self.about, daemon_connects=0, daemon_restarts=0,
            application_object=application, request_scope=self.scope, application_start=start,
        )
        return event["application_object"]


def scope_observation(scope, data, about):
    """As observation()."""
    return ScopeObservation(scope, data, about) if event_callbacks else None


# -- metrics ------------------------------------------------------------------------------------------

PHASES = ("server_time", "queue_time", "daemon_time", "application_time", "request_time", "gil_wait_time",
          "input_read_time", "output_write_time")
#: What a request goes through where it is handed to a daemon process.
DAEMON_PHASES = "queue_time", "daemon_time"
PROCESS_START = time.time()
sample = None


def take_sample():
    cpu = os.times()
    return {"time": time.time(), "cpu_user": cpu.user, "cpu_system": cpu.system}


def start_recording_metrics():
    """From here on request_metrics() and process_metrics() count requests."""
    global sample
    if sample is None:
        record_metrics()
        sample = {**take_sample(), "busy": metrics(False)[0][1] / 1e6}


def memory():
    with open("/proc/self/statm") as file:
        rss = int(file.read().split()[1]) * resource.getpagesize()
    return {"memory_max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "memory_rss": rss}


def request_metrics():
    """What has happened since the last call; None unless metrics are recorded."""
    global sample
    if sample is None:
        return None
    counters, phases, threads = metrics(True)
    _, busy, _, requests, gil_waits, *rest = counters
    before, sample = sample, {**take_sample(), "busy": busy / 1e6}
    period = max(sample["time"] - before["time"], 1e-6)
    user, system = ((sample[name] - before[name]) for name in ("cpu_user", "cpu_system"))
    maximum = max(native.threads_per_process, len(threads))
    result = {
        "pid": os.getpid(), "start_time": before["time"], "stop_time": sample["time"], "sample_period": period,
        "cpu_user_utilization": user / period, "cpu_user_time": user / period,
        "cpu_system_utilization": system / period, "cpu_system_time": system / period,
        "cpu_utilization": (user + system) / period, "cpu_time": (user + system) / period,
        **memory(),
        "request_threads_maximum": maximum,
        "request_threads_started": len(threads),
        "request_threads_active": sum(1 for each in threads if each[1] or each[4]),
        "capacity_utilization": (sample["busy"] - before["busy"]) / period / maximum,
        "request_count": requests, "request_throughput": requests / period,
        "gil_wait_count": gil_waits,
    }
    names = ("input_bytes", "input_reads", "output_bytes", "output_writes",
             *(f"status_{number}xx" for number in range(1, 6)))
    result.update(zip(names, rest))
    for name, (total, shortest, longest, *buckets) in zip(PHASES, phases):
        result[name] = total / 1e6 / requests if requests else 0.0
        result[f"{name}_min_us"] = shortest if requests else None
        result[f"{name}_max_us"] = longest if requests else None
        result[f"{name}_buckets"] = buckets
    for name in () if native.process_group else DAEMON_PHASES:
        result[name] = result[f"{name}_min_us"] = result[f"{name}_max_us"] = None
        result[f"{name}_buckets"] = [0] * 65
    columns = [*zip(*threads)] or [()] * 6
    pad = [0] * (maximum - len(threads))
    completed = [*columns[1], *pad]
    result["request_threads_completed"] = completed
    result["request_threads_buckets"] = sorted(completed, reverse=True)
    for name, column in zip(("busy_time", "cpu_time", "current_elapsed", "max_duration"), columns[2:]):
        result[f"request_threads_{name}"] = [*(each / 1e6 for each in column), *pad]
    return result


def process_metrics():
    """What the process has done so far; None unless metrics are recorded."""
    if sample is None:
        return None
    counters, _, threads = metrics(False)
    requests, busy, active = counters[:3]
    cpu = os.times()
    now = time.time()
    return {
        "pid": os.getpid(), "request_busy_time": busy / 1e6, "request_count": requests, **memory(),
        "cpu_user_time": cpu.user, "cpu_system_time": cpu.system, "cpu_time": cpu.user + cpu.system,
        "restart_time": PROCESS_START, "current_time": now, "running_time": int(now - PROCESS_START),
        "request_threads": len(threads), "active_requests": active,
        "threads": [{"thread_id": number, "request_count": each[0]} for number, each in enumerate(threads, 1)],
    }


def server_metrics():
    """httpd's scoreboard; None on nginx, in process groups and without WSGIServerMetrics On."""
    return scoreboard and scoreboard()


# -- restrictions ---------------------------------------------------------------------------------------

def restricted(name):
    class Restricted:
        def __getattribute__(self, attribute):
            raise OSError(f"{name} access restricted by mod_wsgi")

    Restricted.__module__, Restricted.__qualname__ = "mod_wsgi", "Restricted"
    return Restricted()


def log_stack():
    frames = [frame for frame in traceback.extract_stack(sys._getframe(2)) if frame.filename != __file__]
    for text in traceback.format_list(frames):
        for line in text.splitlines():
            log(INFO, line)


def restrict_signal():
    """The server manages the signals of its processes; children may do as they like."""
    import signal
    original = signal.signal
    pid = os.getpid()

    def intercepted(signalnum, handler):
        if os.getpid() != pid:
            return original(signalnum, handler)
        log(INFO, f"Ignoring Python signal handler registration for signal {int(signalnum)} in WSGI process; "
                  "mod_wsgi manages signals.")
        log_stack()
        return handler

    signal.signal = intercepted


# -- modules ------------------------------------------------------------------------------------------

def module_attribute(name):
    """mod_wsgi.active_requests, which costs something from its first use on."""
    if name != "active_requests":
        raise AttributeError(f"module 'mod_wsgi' has no attribute '{name}'")
    native.active_requests = active_requests()
    return native.active_requests


def complete_module():
    for each in (LogHandler, FileWrapper, RequestTimeout, subscribe_events, subscribe_shutdown,
                 subscribe_signals, start_recording_metrics, request_metrics, process_metrics, server_metrics):
        each.__module__ = "mod_wsgi"
        setattr(native, each.__name__, each)
    native.event_callbacks = event_callbacks
    native.shutdown_callbacks = shutdown_callbacks
    native.signal_callbacks = signal_callbacks
    native.__getattr__ = module_attribute


def borrow_path():
    """mod_wsgi-express's package of the same name: its submodules (mod_wsgi.server …) are ours as well."""
    spec = importlib.machinery.PathFinder.find_spec("mod_wsgi")
    if spec is not None and spec.submodule_search_locations:
        native.__path__ = list(spec.submodule_search_locations)


def install_apache(version, description, mpm_name, build_date):
    module = types.ModuleType("apache", "What applications can know of the httpd that serves them.")
    module.version, module.description = version, description
    module.mpm_name, module.build_date = mpm_name, build_date
    module.maximum_processes = native.maximum_processes
    module.threads_per_process = native.threads_per_process
    sys.modules["apache"] = module


# -- what the runtime calls ---------------------------------------------------------------------------

def set_up(main, environment, paths, stdin, stdout, signal, switch_interval, own_gil, apache):
    """Makes an interpreter ready: is it the main one, where to import from, what is restricted."""
    complete_module()
    if apache:
        install_apache(*apache)
    prepare_interpreter(main, environment)
    if stdin:
        sys.stdin.close()
        sys.stdin = restricted("sys.stdin")
    if stdout:
        sys.stdout = restricted("sys.stdout")
    if signal:
        restrict_signal()
    if (main or own_gil) and switch_interval:
        sys.setswitchinterval(switch_interval)
    if not (main or own_gil or switch_interval) and sys.getswitchinterval() == PYTHONS_SWITCH_INTERVAL:
        sys.setswitchinterval(SHARED_SWITCH_INTERVAL)
    extend_path(paths)
    borrow_path()


def stopping(reason):
    publish("process_stopping", {"shutdown_reason": reason})


def signalled(name, number):
    publish("process_signal", {"signame": name, "signum": number})
