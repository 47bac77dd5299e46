"""Applications inside wsgiref's checker of both sides of PEP 3333."""

from wsgiref.validate import validator

import flask_app
import hello

APPLICATIONS = {"/hello": hello.application, "/flask": flask_app.application}


def choose(environ, start_response):
    for prefix, chosen in APPLICATIONS.items():
        if environ["PATH_INFO"].startswith(prefix):
            environ["SCRIPT_NAME"] += prefix
            environ["PATH_INFO"] = environ["PATH_INFO"][len(prefix) :]
            # Werkzeug would call read() without a size then, which PEP 3333 allows and the checker does not.
            environ.pop("wsgi.input_terminated", None)
            return validator(chosen)(environ, start_response)
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"no such application"]


application = validator(choose)
