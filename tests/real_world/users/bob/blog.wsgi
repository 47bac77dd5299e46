import os

import shared


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    told = [environ["SCRIPT_NAME"], os.getuid(), os.getpid(), environ["mod_wsgi.application_group"], shared.NAME]
    return [" ".join(map(str, told)).encode()]
