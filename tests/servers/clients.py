"""Clients of a server, from httpx down to the bytes of a request."""

import dataclasses
import http.client
import socket
import ssl
import subprocess

import httpx


@dataclasses.dataclass
class Response:
    """An answer as it came over the wire."""

    status: int
    reason: str
    headers: list
    body: bytes

    def header(self, name):
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, values
        return values[0] if values else None


def read_response(connection, method="GET"):
    """One answer from a connection; raises http.client.IncompleteRead when it is cut."""
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return Response(answer.status, answer.reason, answer.getheaders(), answer.read())


class Clients:
    """What asks the server at `port` and `tls_port`."""

    port: int
    tls_port: int

    def __init__(self):
        self.url = f"http://127.0.0.1:{self.port}"
        self.tls_url = f"https://127.0.0.1:{self.tls_port}"
        self.client = httpx.Client(
            base_url=self.url, timeout=30, trust_env=False, headers={"accept-encoding": "identity"}
        )

    def get(self, path="/", **options):
        return self.client.get(path, **options)

    def post(self, path="/", **options):
        return self.client.post(path, **options)

    def http2(self, kind=httpx.Client, **options):
        """A client that speaks HTTP/2 over TLS, for one thread: several would mix up its streams."""
        options.setdefault("headers", {"accept-encoding": "identity"})
        return kind(
            base_url=self.tls_url, http1=False, http2=True, verify=False, timeout=30,
            trust_env=False, **options,
        )  # fmt: skip

    def connect(self, tls=False, timeout=20):
        """A bare connection; `tls` can be the protocols that it may speak."""
        port = self.tls_port if tls else self.port
        connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if tls is not True:
                context.set_alpn_protocols(tls)
            connection = context.wrap_socket(connection)
        return connection

    def exchange(self, request, method="GET"):
        """Sends the very bytes of `request` and reads one answer."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_response(connection, method)

    def request(self, target, *headers, method="GET"):
        """A request whose target and headers reach the server as they are written here."""
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        return self.exchange("\r\n".join(lines).encode("latin-1"), method)

    def curl(self, path, *options, tls=True, timeout=30):
        """curl's exit code and what it wrote."""
        done = subprocess.run(
            ["curl", "-sk", "--max-time", str(timeout), *options, (self.tls_url if tls else self.url) + path],
            capture_output=True,
        )
        return done.returncode, done.stdout
