import os

import trac.web.main

os.environ["TRAC_ENV"] = os.path.join(os.path.dirname(__file__), "env")
os.environ["PYTHON_EGG_CACHE"] = os.path.join(os.path.dirname(__file__), "eggs")


def application(environ, start_response):
    return trac.web.main.dispatch_request(environ, start_response)
