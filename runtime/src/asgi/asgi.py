"""The event loop of an interpreter and the lifespans of its ASGI applications.

Run on the loop's thread, with what it takes of bootstrap.py in its globals.
"""

import asyncio
import os
import stat

ANY_LOOP, ASYNCIO, UVLOOP = range(3)


def new_event_loop(choice):
    if choice != ASYNCIO:
        try:
            import uvloop
            return uvloop.new_event_loop()
        except ImportError as error:
            # without it, or with another interpreter of this process that has it
            if choice == UVLOOP:
                log(WARN, f"burrow: uvloop cannot be imported here ({error}): applications run on asyncio")
    return asyncio.new_event_loop()


def run(loop, descriptor, drain):
    asyncio.set_event_loop(loop)
    loop.add_reader(descriptor, drain)
    while True:
        try:
            loop.run_forever()
        except BaseException as exception:  # an application's callback has asked for the end
            report(exception)


class Lifespan:
    """One application's. The runtime, which knows it by `address`, is told once whether requests may come."""

    def __init__(self, application, name, address):
        self.application, self.name, self.address = application, name, address
        self.state = {}
        self.begun = None
        self.events = asyncio.Queue()
        self.events.put_nowait({"type": "lifespan.startup"})
        self.shut = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self.run())

    async def run(self):
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.application(scope, self.events.get, self.send)
        except BaseException as exception:
            if self.begun is None:
                log(INFO, f"burrow: ASGI application '{self.name}' does without lifespan events "
                          f"({type(exception).__name__}: {exception})")
            elif self.begun:
                log(ERR, f"burrow: the lifespan of ASGI application '{self.name}' has ended early:")
                report(exception)
        self.begin(True)
        self.shut.set()

    def begin(self, may_come):
        if self.begun is None:
            self.begun = may_come
            begun(self.address, may_come)

    async def send(self, message):
        kind = message["type"]
        if kind == "lifespan.startup.complete" and self.begun is None:
            self.begin(True)
        elif kind == "lifespan.startup.failed" and self.begun is None:
            log(ERR, f"burrow: ASGI application '{self.name}' has failed to start:")
            self.complain(message)
            self.begin(False)
        elif kind == "lifespan.shutdown.complete" and self.begun:
            self.shut.set()
        elif kind == "lifespan.shutdown.failed" and self.begun:
            log(ERR, f"burrow: ASGI application '{self.name}' has failed to shut down:")
            self.complain(message)
            self.shut.set()
        else:
            raise RuntimeError(f"ASGI message '{kind}' is not expected now")

    def complain(self, message):
        for line in message.get("message", "").splitlines():
            log(ERR, line)

    async def end(self):
        self.events.put_nowait({"type": "lifespan.shutdown"})
        await self.shut.wait()


#: Tasks, to which the loop itself keeps weak references only.
ending = set()


def keep(coroutine):
    ending.add(task := asyncio.get_running_loop().create_task(coroutine))
    task.add_done_callback(ending.discard)


def end(lifespan):
    """An application was replaced, and its last request is over."""
    keep(lifespan.end())


def stop(tasks, lifespans, grace):
    """Lets the tasks end, cancels those that do not, and shuts the applications down."""

    async def end_all():
        try:
            others = ending - {asyncio.current_task()}
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=grace)
                for task in late:
                    task.cancel()
            await asyncio.gather(*(lifespan.end() for lifespan in lifespans), *others)
        finally:
            stopped()

    keep(end_all())


def blocked(thread):
    """Logs what keeps the loop's thread from coming around."""
    log_stack_of(thread, "burrow: the event loop of ASGI applications is blocked by code that does not await:")


#: Their numbers, by what OpenSSL calls them.
cipher_suites = {}


def cipher_suite(name):
    """The number of a TLS cipher suite, or None."""
    if not cipher_suites:
        try:
            import ssl
        except ImportError:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL")
        cipher_suites.update((cipher["name"], cipher["id"] & 0xFFFF) for cipher in context.get_ciphers())
    return cipher_suites.get(name)


def part_of(event):
    """Descriptor, offset and count of what an http.response.zerocopysend names."""
    file, offset, count = event["file"], event.get("offset"), event.get("count")
    descriptor = file if isinstance(file, int) else file.fileno()
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("what is to be sent is not a regular file")
    start = position(file) if offset is None else offset
    if start < 0 or count is not None and count < 0:
        raise ValueError("offset and count of http.response.zerocopysend must not be negative")
    rest = max(0, about.st_size - start)
    count = rest if count is None else min(count, rest)
    if offset is None:
        position(file, start + count)
    return descriptor, start, count


def position(file, *to):
    """Where a file is read next, or from now on."""
    if isinstance(file, int):
        return os.lseek(file, *to, os.SEEK_SET) if to else os.lseek(file, 0, os.SEEK_CUR)
    return file.seek(*to) if to else file.tell()


async def send_read(send, part, more_body):
    """Sends a part of a file in pieces that are read here."""
    descriptor, offset, count = part
    while count > 0:
        piece = os.pread(descriptor, min(count, 1 << 18), offset)
        if not piece:
            raise EOFError("a file has become shorter while it was sent")
        offset, count = offset + len(piece), count - len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": more_body or count > 0})
