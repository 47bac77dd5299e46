"""What holds of applications in the server's own processes holds in process groups, word for word."""

import inspect

import pytest
import test_body
import test_environ
import test_faults
import test_logs
import test_process
import test_responses
from conftest import SITE
from servers import Mount
from test_logs import token  # noqa: F401
from test_responses import name  # noqa: F401

#: A changed script is imported by a new process first, while the old one serves: test_daemon_reload.py.
EDITING = {"test_unloadable", "test_missing_script", "test_printed_at_import"}

for module in (test_body, test_environ, test_faults, test_logs, test_process, test_responses):
    for title, test in vars(module).items():
        ours = title.startswith("test_") and "site" in inspect.signature(test).parameters
        if ours and title not in EDITING:
            globals()[f"{module.__name__}_{title[5:]}"] = test


def start(server):
    mounts = []
    for app in SITE:
        mounts.append(Mount(f"/{app}", f"{app}.py", app, "shop"))
        mounts.append(Mount(f"/main/{app}", f"{app}.py", "%{GLOBAL}", "shop"))
    mounts.append(Mount("/stream", "body.py", "body", "shop", nginx="wsgi_request_buffering off;"))
    server.start(mounts=mounts, groups={"shop": "threads=8"}, threads=16)


@pytest.fixture
def site(shop):
    """Either server with the applications of `site` in a process group."""
    return shop
