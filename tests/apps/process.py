"""Uses the rest of Python in one way per path; answers {"ok": value} or {"error": text}."""

import asyncio
import concurrent.futures
import ctypes
import importlib
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time


def application(environ, start_response):
    shape = environ["PATH_INFO"].strip("/").replace("-", "_")
    try:
        answer = {"ok": globals()[f"try_{shape}"]()}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def forked(fork):
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        os.write(writer, b"from the child")
        os._exit(7)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    return [said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def try_fork():
    return forked(os.fork)


def try_forkpty():
    pid, terminal = os.forkpty()
    if pid == 0:
        os._exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return status


def try_multiprocessing():
    process = multiprocessing.Process(target=sys.exit, args=(5,))
    process.start()
    process.join(30)
    return process.exitcode


def try_multiprocessing_fork():
    process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(5,))
    process.start()
    process.join(30)
    return process.exitcode


def try_multiprocessing_spawn():
    process = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(5,))
    process.start()
    process.join(30)
    return process.exitcode


def try_multiprocessing_pool():
    with multiprocessing.Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


def try_multiprocessing_terminate():
    process = multiprocessing.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(30)
    return process.exitcode


def try_process_executor():
    with concurrent.futures.ProcessPoolExecutor(1) as executor:
        return executor.submit(abs, -4).result(30)


def try_subprocess():
    done = subprocess.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True)
    return [done.returncode, done.stdout, done.stderr]


def try_subprocess_codes():
    # The server's own SIGCHLD handling must not eat one of them.
    return [subprocess.call(["sh", "-c", f"exit {n % 7}"]) for n in range(40)] == [n % 7 for n in range(40)]


def try_subprocess_python():
    command = [sys.executable, "-c", "import sys; print(sys.prefix)"]
    done = subprocess.run(command, capture_output=True, text=True)
    return [done.returncode, done.stdout.strip() == sys.prefix]


def try_subprocess_threads():
    codes = []
    threads = [
        threading.Thread(target=lambda n=n: codes.append(subprocess.call(["sh", "-c", f"exit {n}"]) - n))
        for n in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def try_subprocess_preexec():
    return subprocess.call(["true"], preexec_fn=os.setsid)


def try_terminate():
    process = subprocess.Popen(["sleep", "60"])
    process.terminate()
    return process.wait(30)


def try_terminate_posix_spawn():
    process = subprocess.Popen(["/bin/sleep", "60"], close_fds=False)
    process.terminate()
    try:
        return process.wait(5)
    finally:
        process.kill()


def try_interrupt():
    process = subprocess.Popen(["sleep", "60"])
    process.send_signal(signal.SIGINT)
    return process.wait(30)


def try_signal_mask():
    # A child starts with no signal blocked and none ignored that matters.
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    ignored = int(fields["SigIgn"], 16)
    return [int(fields["SigBlk"], 16), [n for n in (1, 2, 13, 15, 17) if ignored >> (n - 1) & 1]]


def try_os_system():
    return os.waitstatus_to_exitcode(os.system("exit 4"))


def try_popen_read():
    with os.popen("echo popen") as pipe:
        return pipe.read()


def try_descriptors():
    # A program that is started has the server's sockets no longer.
    listing = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True).stdout
    return "socket:" in listing


def try_threads():
    results = []
    threads = [threading.Thread(target=results.append, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(results) == list(range(20))


executor = concurrent.futures.ThreadPoolExecutor(4)


def try_executor():
    return list(executor.map(lambda n: n * n, range(5)))


def try_asyncio():
    async def main():
        await asyncio.sleep(0)
        return await asyncio.gather(*(asyncio.sleep(0.001, n) for n in range(5)))

    return asyncio.run(main())


def try_asyncio_wait_for():
    async def main():
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            return "timed out"

    return asyncio.run(main())


def try_asyncio_cancel():
    async def main():
        seen = []

        async def wait():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            seen.append("seen")
        return seen

    return asyncio.run(main())


def try_asyncio_subprocess():
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "echo out; exit 6", stdout=-1)
        out, _ = await process.communicate()
        return [out.decode(), process.returncode]

    return asyncio.run(main())


def try_asyncio_thread():
    async def main():
        return await asyncio.to_thread(threading.get_ident) != threading.get_ident()

    return asyncio.run(main())


def try_sqlite():
    connection = sqlite3.connect(":memory:")
    connection.create_function("where_am_i", 1, lambda value: f"{value} {id(threading)}")
    (said,) = connection.execute("select where_am_i('here')").fetchone()
    # The callback has to run in this interpreter: its modules are these.
    return said == f"here {id(threading)}"


def try_ctypes():
    numbers = (ctypes.c_int * 5)(5, 2, 4, 1, 3)
    here = id(threading)
    seen = set()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    def compare(a, b):
        seen.add(id(sys.modules["threading"]) == here)
        return a[0] - b[0]

    ctypes.CDLL(None).qsort(numbers, 5, ctypes.sizeof(ctypes.c_int), compare)
    return [list(numbers), seen == {True}]


def try_ctypes_callback_with_lock():
    # A callback that waits for another thread, which needs the GIL for that.
    done = threading.Event()

    @ctypes.CFUNCTYPE(ctypes.c_int)
    def callback():
        threading.Thread(target=done.set).start()
        return done.wait(10)

    return callback()


def try_lock_timeout():
    lock = threading.Lock()
    lock.acquire()
    began = time.monotonic()
    return [lock.acquire(timeout=0.05), time.monotonic() - began < 5]


def try_signal_handler():
    # mod_wsgi's rule: ignored, and the handler is returned.
    before = signal.getsignal(signal.SIGUSR1)
    returned = signal.signal(signal.SIGUSR1, try_signal_handler)
    return [returned is try_signal_handler, signal.getsignal(signal.SIGUSR1) == before]


def try_imports():
    # The standard library's C modules, as a web application uses them.
    names = (
        "bz2 csv ctypes datetime decimal hashlib lzma pickle random re socket ssl struct uuid zlib zoneinfo"
        " unicodedata xml.etree.ElementTree"
    )
    for name in names.split():
        importlib.import_module(name)
    return str(sys.modules["decimal"].Decimal("1.1") + 1)
