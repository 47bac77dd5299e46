def main(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello {environ['REMOTE_USER']}: {environ['HTTP_AUTHORIZATION']}".encode()]
