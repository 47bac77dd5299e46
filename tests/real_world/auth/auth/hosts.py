def allow_access(environ, host):
    return environ["QUERY_STRING"] == "token=good" and host in ("127.0.0.1", "localhost")
