"""kosoku, which has the cases of Autobahn's test suite, against an echo application on both servers.

Arguments are kosoku's: -x '12.*' -x '13.*' leaves out the cases that compress much, and take minutes.
"""

import pathlib
import subprocess
import sys
import tempfile

from servers import KINDS, Mount

KOSOKU = pathlib.Path(sys.executable).with_name("kosoku")


def passes(kind, process, arguments):
    """Whether no case fails, in the server's own processes or in a process group."""
    server = KINDS[kind]()
    try:
        mounts = [Mount("/", "asgi_socket.py", "%{GLOBAL}", process)]
        server.start(mounts=mounts, groups={process: "processes=1 threads=2"} if process else None)
        print(f"{kind}, {'process group' if process else 'embedded'}:", flush=True)
        with tempfile.TemporaryDirectory() as reports:
            address = f"ws://127.0.0.1:{server.port}/echo"
            return subprocess.run([KOSOKU, "-p", "4", "-o", reports, *arguments, address]).returncode == 0
    finally:
        server.close()


def main():
    places = [(kind, process) for kind in KINDS for process in (None, "echo")]
    sys.exit(not all([passes(kind, process, sys.argv[1:]) for kind, process in places]))


if __name__ == "__main__":
    main()
