"""Graceful reloads lose nothing."""

import threading

import psutil
from servers import Mount, wait_for


class Load:
    """Clients that ask all the time, each request on a connection of its own."""

    def __init__(self, server, path="/", clients=4):
        self.server = server
        self.path = path
        self.stop = threading.Event()
        self.failures = []
        self.answered = 0
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def run(self):
        while not self.stop.is_set():
            try:
                response = self.server.request(self.path)
                if response.status != 200:
                    self.failures.append(response)
            except Exception as error:
                self.failures.append(error)
            self.answered += 1


def test_reloads_under_load(server):
    server.start(mounts=[Mount("/", "hello.py"), Mount("/main", "hello.py", "%{GLOBAL}")], processes=2)
    master = psutil.Process(server.master_pid)
    server.reload()
    before = master.num_fds(), master.memory_info().rss
    loads = Load(server), Load(server, "/main")
    with loads[0], loads[1]:
        for turn in range(1, 6):
            server.reload()
            for load in loads:
                wait_for(lambda load=load, turn=turn: load.answered > 10 * turn, "requests")
    for load in loads:
        assert not load.failures, load.failures[:5]
    assert 1 <= len(server.workers()) <= 2
    assert master.num_fds() <= before[0] + 2
    assert master.memory_info().rss < before[1] + 8 * 2**20
