"""Real httpd and nginx instances that are driven in one vocabulary.

A server lives in a directory of its own, listens on ports of its own and serves the applications in a
copy of tests/apps. Every test talks to it as a client would, and reads its error log as its
administrator would.
"""

from .apache import Apache
from .clients import read_response
from .machine import (
    DIST,
    IS_ROOT,
    PYTHON_HOME,
    TESTS,
    WORKER,
    adopt_orphans,
    find_thread,
    free_port,
    grows_little,
    rests,
    thread_status,
    wait_for,
)
from .nginx import Nginx
from .server import Mount

KINDS = {"nginx": Nginx, "apache": Apache}

__all__ = [
    "DIST", "IS_ROOT", "KINDS", "PYTHON_HOME", "TESTS", "WORKER", "Apache", "Mount", "Nginx", "adopt_orphans",
    "find_thread", "free_port", "grows_little", "read_response", "rests", "thread_status", "wait_for",
]  # fmt: skip
