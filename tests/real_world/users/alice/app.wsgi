import getpass
import os


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    told = [getpass.getuser(), os.getcwd(), environ["mod_wsgi.process_group"], environ["wsgi.multiprocess"]]
    return [" ".join(map(str, told)).encode()]
