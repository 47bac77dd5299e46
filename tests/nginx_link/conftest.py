"""Fixtures: `site` is an nginx whose process group's socket, `group`, is in the hands of the test."""


import pytest
import servers
from standin import MOUNTS, Group, first_of


@pytest.fixture(scope="module")
def running():
    server = servers.Nginx().start(mounts=MOUNTS, groups={"shop": ""})
    with Group(server).listen() as group:
        yield server, group
    server.close()


@pytest.fixture
def group(running):
    """What nginx connects to."""
    running[1].forget()
    return running[1]


@pytest.fixture
def site(running, watch):
    return watch(running[0])


@pytest.fixture
def first(site, group, clients):
    """A connection that is idle, after its first request."""
    with first_of(site, group, clients) as worker:
        yield worker
