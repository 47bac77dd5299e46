"""A chat: Django Channels in two processes with Redis between them, and a browser with two windows."""

import contextlib
import subprocess

import pytest
import selenium.webdriver
import websockets.sync.client
from servers import Mount
from servers.machine import wait_for


@pytest.fixture(scope="module")
def redis(open_folder):
    """A Redis on a UNIX socket that the worker's user may use."""
    socket = open_folder / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "777"]
    command += ["--save", "", "--dir", str(open_folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        wait_for(socket.exists, "Redis")
        yield f"unix://{socket}"
        server.terminate()


@pytest.fixture
def chat(server, redis):
    group = f"processes=2 threads=1 env=CHAT_REDIS={redis}"
    mounts = [Mount("/", "frameworks/chat_app.py", process="chat")]
    # Room for all the sockets that it takes to meet both processes.
    server.start(mounts=mounts, groups={"chat": group}, threads=64)
    return server


def test_what_one_process_says_is_heard_in_the_other(chat):
    url = f"ws://127.0.0.1:{chat.port}/socket"
    with contextlib.ExitStack() as stack:
        sockets = {}

        def both():
            socket = stack.enter_context(websockets.sync.client.connect(url))
            sockets[socket.recv(timeout=30)] = socket
            return len(sockets) == 2

        wait_for(both, "sockets in two processes")
        first, second = sockets.values()
        first.send("from the first")
        assert second.recv(timeout=30) == "from the first"
        second.send("from the second")
        assert [first.recv(timeout=30), first.recv(timeout=30)] == ["from the first", "from the second"]


@contextlib.contextmanager
def browser(folder):
    options = selenium.webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}",
    ):  # fmt: skip
        options.add_argument(argument)
    service = selenium.webdriver.ChromeService("/usr/bin/chromedriver")
    driver = selenium.webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def test_two_windows_of_a_browser(chat, tmp_path):
    with browser(tmp_path) as driver:
        driver.get(f"{chat.url}/page")
        first = driver.current_window_handle
        driver.switch_to.new_window("tab")
        driver.get(f"{chat.url}/page")
        second = driver.current_window_handle

        def state(window):
            driver.switch_to.window(window)
            return driver.execute_script("return document.body.dataset.state")

        def lines(window):
            driver.switch_to.window(window)
            script = "return [...document.querySelectorAll('li')].map(line => line.textContent)"
            return driver.execute_script(script)

        for window in (first, second):
            wait_for(lambda window=window: state(window) == "open", "an open socket")
        for window, text in ((first, "hello from one"), (second, "and from two")):
            driver.switch_to.window(window)
            driver.find_element("id", "text").send_keys(text + "\n")
        for window in (first, second):
            said = ["and from two", "hello from one"]
            wait_for(lambda window=window, said=said: sorted(lines(window)[1:]) == said, "what was said")
