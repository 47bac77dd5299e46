"""The rest of Python inside an application: it works, or an error names the cure; nothing hangs."""

import re

import pytest
from servers import Mount

CURE = re.compile(r"GLOBAL|spawn|daemon|application group")

#: What comes out; a set holds several right answers.
EXPECTED = {
    "multiprocessing": 5,
    "multiprocessing-spawn": 5,
    "multiprocessing-pool": [1, 2, 3],
    "multiprocessing-terminate": -15,
    "process-executor": 4,
    "subprocess": [3, "out\n", "err\n"],
    "subprocess-codes": True,
    "subprocess-python": [0, True],
    "subprocess-threads": [0] * 10,
    "terminate": -15,
    "terminate-posix-spawn": -15,
    "interrupt": -2,
    "signal-mask": [0, []],
    "os-system": 4,
    "popen-read": "popen\n",
    "descriptors": False,
    "threads": True,
    "executor": [0, 1, 4, 9, 16],
    "asyncio": [0, 1, 2, 3, 4],
    "asyncio-wait-for": "timed out",
    "asyncio-cancel": ["cancelled", "seen"],
    "asyncio-subprocess": ["out\n", 6],
    "asyncio-thread": True,
    "sqlite": True,
    "ctypes": [[1, 2, 3, 4, 5], True],
    "ctypes-callback-with-lock": True,
    "lock-timeout": [False, True],
    "imports": "2.1",
}
#: What an interpreter that is not alone may refuse.
FORKS = {
    "fork": ["from the child", 7],
    "forkpty": 7,
    "multiprocessing-fork": 5,
    "subprocess-preexec": 0,
}


def check(server, mount, what, expected, may_refuse):
    answer = server.get(f"{mount}/{what}", timeout=60).json()
    if may_refuse and "error" in answer:
        assert CURE.search(answer["error"]), answer
    else:
        assert answer == {"ok": expected}


@pytest.mark.parametrize("mount", ["/process", "/main/process"])
@pytest.mark.parametrize("what", EXPECTED)
def test_with_other_interpreters(site, mount, what):
    # Twice: the second time is the one that finds what the first has left behind.
    for _ in range(2):
        check(site, mount, what, EXPECTED[what], may_refuse=False)


@pytest.mark.parametrize("mount", ["/process", "/main/process"])
@pytest.mark.parametrize("what", FORKS)
def test_forks_with_other_interpreters(site, mount, what):
    check(site, "/process", "threads", True, may_refuse=False)
    for _ in range(2):
        check(site, mount, what, FORKS[what], may_refuse=True)


def test_asyncio_in_two_interpreters(server):
    server.start(mounts=[Mount(f"/{name}", "process.py", name) for name in ("a", "b")])
    for _ in range(3):
        for mount in ("/a", "/b"):
            for what in ("asyncio-wait-for", "asyncio-cancel", "asyncio"):
                check(server, mount, what, EXPECTED[what], may_refuse=False)


def test_alone_in_the_main_interpreter(server):
    server.start("process.py", group="%{GLOBAL}")
    for what, expected in {**FORKS, **EXPECTED}.items():
        check(server, "", what, expected, may_refuse=False)


def test_signal_handlers_stay_the_servers(site):
    assert site.get("/process/signal-handler").json() == {"ok": [True, True]}
    assert site.get("/main/process/signal-handler").json() == {"ok": [True, True]}
    assert "Ignoring Python signal handler registration for signal 10" in site.log()
