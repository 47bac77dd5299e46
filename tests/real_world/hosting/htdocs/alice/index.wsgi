def main(environ, start_response):
    lost = environ.get("REDIRECT_STATUS") == "404"
    status = "404 Not Found" if lost else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    told = environ["REDIRECT_URL"] if lost else environ["PATH_INFO"]
    return [f"Alice's page {environ['SCRIPT_NAME']} {told}".encode()]
