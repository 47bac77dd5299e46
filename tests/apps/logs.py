"""Writes to everything that ends in the error log, one way per path."""

import logging
import sys
import threading
import warnings

logging.basicConfig(level=logging.DEBUG, format="%(levelname)s:%(name)s:%(message)s")
print("printed at import")


def application(environ, start_response):
    shape = environ["PATH_INFO"].strip("/").replace("-", "_")
    globals()[f"log_{shape}"](environ, environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"logged"]


def log_print(environ, text):
    print(text)


def log_print_stderr(environ, text):
    print(text, file=sys.stderr)


def log_print_partial(environ, text):
    # No newline at the end of the request.
    sys.stdout.write(text[:3])
    sys.stdout.write(text[3:])


def log_write_lines(environ, text):
    sys.stderr.writelines([f"{text}-1\n", f"{text}-2\n", f"{text}-", "3\n"])


def log_errors(environ, text):
    environ["wsgi.errors"].write(text + "\n")
    environ["wsgi.errors"].flush()


def log_errors_partial(environ, text):
    environ["wsgi.errors"].write(text)


def log_errors_lines(environ, text):
    environ["wsgi.errors"].writelines([f"{text}-1\n", f"{text}-2\n"])


def log_unicode(environ, text):
    print(f"{text} \u20ac caf\xe9 \U0001f600 \udcff \0 \x1b[31m end-{text}")


def log_long(environ, text):
    print(f"{text} " + "x" * 5000 + f" end-{text}")


def log_buffer(environ, text):
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.flush()


def log_stream(environ, text):
    # What libraries ask a stream for.
    assert sys.stderr.isatty() is False and sys.stdout.writable() and not sys.stdout.closed
    assert isinstance(sys.stderr.encoding, str) and sys.stderr.errors
    print(text)


def log_debug(environ, text):
    logging.getLogger("app.debug").debug(text)


def log_info(environ, text):
    logging.getLogger("app.info").info(text)


def log_warning(environ, text):
    logging.getLogger("app.warning").warning(text)


def log_error(environ, text):
    logging.getLogger("app.error").error(text)


def log_critical(environ, text):
    logging.getLogger("app.critical").critical(text)


def log_exception(environ, text):
    try:
        raise ValueError(f"cause of {text}")
    except ValueError:
        logging.getLogger("app.exception").exception(text)


def log_warnings(environ, text):
    warnings.warn(text, UserWarning, stacklevel=1)


def log_thread(environ, text):
    thread = threading.Thread(target=print, args=(text,))
    thread.start()
    thread.join()


def log_thread_raises(environ, text):
    def fail():
        raise ValueError(text)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def log_many_threads(environ, text):
    threads = [
        threading.Thread(target=lambda n=n: [print(f"{text}-{n}-{i}-end") for i in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def log_unraisable(environ, text):
    class Bad:
        def __del__(self):
            raise ValueError(text)

    Bad()


def log_closed(environ, text):
    # An application that closes its streams must not take the log from the others.
    sys.stdout.close()
    sys.stderr.close()


def log_stdin(environ, text):
    print(f"{text} read {sys.stdin.read()!r}")
