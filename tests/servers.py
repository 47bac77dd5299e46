"""Real httpd and nginx instances that are driven in one vocabulary.

A server lives in a directory of its own, listens on ports of its own and serves the applications in a
copy of tests/apps. Every test talks to it as a client would, and reads its error log as its
administrator would.
"""

import atexit
import ctypes
import dataclasses
import functools
import http.client
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import httpx
import psutil

TESTS = pathlib.Path(__file__).resolve().parent
DIST = pathlib.Path(os.environ.get("BURROW_DIST", TESTS.parent / "target" / "dist")).resolve()
APPS = TESTS / "apps"
#: The Python that runs the tests is the one whose packages the applications use.
PYTHON_HOME = sys.prefix

IS_ROOT = os.geteuid() == 0
WORKER = pwd.getpwnam("www-data") if IS_ROOT else pwd.getpwuid(os.geteuid())

#: What no error log may ever hold.
CRASH = re.compile(
    r"exited on signal|AH00052|exit signal|segfault|\[(?:\w*:)?(?:emerg|alert)\]|panicked"
    r"|Fatal Python error|double free|corrupted"
)
SEVERITY = {
    "emerg": 0, "alert": 1, "crit": 2, "error": 3, "warn": 4, "notice": 5, "info": 6, "debug": 7,
}  # fmt: skip

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Makes this process the parent of whatever a server leaves behind, so that it can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for(condition, what, timeout=10):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.01)


@functools.cache
def certificate():
    """A self-signed certificate and its key, made once."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-cert-"))
    atexit.register(shutil.rmtree, folder)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2",
         "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


def free_port():
    """A port that nobody uses, from the range that belongs to this process of the test run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    first = 24000 + worker * 1000
    for _ in range(1000):
        free_port.last = first + (free_port.last + 1) % 1000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", free_port.last))
            except OSError:
                continue
            return free_port.last
    raise AssertionError("no free port")


free_port.last = os.getpid() % 1000


@dataclasses.dataclass
class Mount:
    """An application at a path of the site."""

    path: str
    #: A file in tests/apps, an absolute path or "module:callable".
    target: str
    #: Application group; None leaves the server's default.
    group: str | None = None
    #: Directives of the location, by server.
    nginx: str = ""
    apache: str = ""


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


@dataclasses.dataclass
class LogLine:
    level: str
    text: str

    @property
    def severity(self):
        return SEVERITY[self.level]

    @property
    def message(self):
        """The text without the request's context."""
        return re.sub(r"^\[(?:client|remote) \S+\] |, client: .*", "", self.text)


class Server:
    """What httpd and nginx have in common here."""

    kind: str
    program: str
    #: What it logs when it has started.
    ready: str
    #: Finds level and text in a line of the error log.
    log_pattern: re.Pattern

    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix=f"burrow-{self.kind}-"))
        self.root.chmod(0o755)
        self.apps = self.root / "apps"
        shutil.copytree(APPS, self.apps, ignore=shutil.ignore_patterns("__pycache__"))
        #: Folders that the workers may write to: for applications, and for what is left of a crash.
        self.data = self.root / "data"
        self.cores = self.root / "cores"
        for folder in (self.data, self.cores):
            folder.mkdir()
            os.chown(folder, WORKER.pw_uid, WORKER.pw_gid)
        self.htdocs = self.root / "htdocs"
        self.htdocs.mkdir()
        (self.htdocs / "static.txt").write_text("static\n")
        for file in certificate():
            shutil.copy(file, self.root)
        self.port = free_port()
        self.tls_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tls_url = f"https://127.0.0.1:{self.tls_port}"
        self.error_log = self.root / "error.log"
        self.error_log.touch()
        self.log_start = 0
        self.process = None
        #: Leave the directory behind, for whoever looks into a failure.
        self.keep = False
        self.client = httpx.Client(
            base_url=self.url, timeout=30, trust_env=False, headers={"accept-encoding": "identity"}
        )

    # ---- life

    def start(self, app=None, group=None, *, mounts=None, unprivileged=False, **settings):
        """Starts the server with `app` at its root, or with several mounts."""
        if mounts is None:
            mounts = [Mount("/", app or "hello.py", group)]
        self.configure(mounts, **settings)
        identity = {}
        if unprivileged and IS_ROOT:
            identity = {"user": WORKER.pw_uid, "group": WORKER.pw_gid, "extra_groups": []}
            for path in [self.root, *self.root.rglob("*")]:
                os.chown(path, WORKER.pw_uid, WORKER.pw_gid)
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "stderr.log").open("ab"),
            start_new_session=True,
            **identity,
        )
        wait_for(self.accepts, f"{self.kind} listening on {self.port}")
        if "master_process off" not in settings.get("main", ""):
            # Only now does it heed signals.
            self.wait_log(self.ready)
            processes = settings.get("processes", 1)
            wait_for(lambda: len(self.workers()) >= processes, f"{processes} worker processes")
        return self

    def accepts(self):
        assert self.process.poll() is None, f"{self.kind} ended at once: {self.logs()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def configtest(self, app=None, group=None, *, mounts=None, **settings):
        """The server's own check of a configuration: (exit code, what it said)."""
        self.configure(mounts or [Mount("/", app or "hello.py", group)], **settings)
        done = subprocess.run(self.command("-t"), capture_output=True, text=True, timeout=30)
        self.error_log.write_text("")  # nginx says it there once more
        return done.returncode, done.stdout + done.stderr

    @property
    def master_pid(self):
        return self.process.pid

    def kill(self, number):
        os.kill(self.process.pid, number)

    def stop(self, how=signal.SIGTERM, timeout=20):
        """Ends the server and sees to it that nothing is left of it. How long it took."""
        if self.process is None:
            return 0
        began = time.monotonic()
        process, self.process = self.process, None
        if process.poll() is None:
            os.kill(process.pid, how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            stuck = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(True))]
            for pid in stuck:
                os.kill(pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"{self.kind} did not stop within {timeout} s; killed {stuck}") from None
        took = time.monotonic() - began
        left = self.leftovers()
        deadline = time.monotonic() + 1
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            left = self.leftovers()
        described = [f"{p.pid} {p.name()} {p.cmdline()}" for p in left]
        for survivor in left:
            survivor.kill()
        assert not left, f"{self.kind} left processes behind: {described}"
        return took

    def leftovers(self):
        """Processes that hold this server's error log open."""
        left = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                files = {os.readlink(f"/proc/{process.pid}/fd/{fd}")
                         for fd in os.listdir(f"/proc/{process.pid}/fd")}  # fmt: skip
            except (psutil.NoSuchProcess, FileNotFoundError):
                continue
            if any(name.startswith(f"{self.root}/") for name in files):
                left.append(process)
        return left

    def check(self):
        """What must hold whatever a test did."""
        crashes = [line for line in self.log().splitlines() if CRASH.search(line)]
        assert not crashes, f"{self.kind} crashed:\n" + "\n".join(crashes)

    def close(self):
        """Stops, checks and removes everything; keeps the directory when something was wrong."""
        try:
            # Before the client: httpd's event MPM may crash in a SIGTERM while a connection is being closed.
            self.stop()
        finally:
            self.client.close()
            self.log_start = 0
            self.check()
        if not self.keep:
            shutil.rmtree(self.root)

    def workers(self):
        """The pids of the worker processes that take requests."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            try:
                if self.is_worker(child):
                    found.append(child.pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def connections(self):
        """How many connections of clients the workers have open."""
        return sum(
            connection.status == psutil.CONN_ESTABLISHED
            and connection.laddr.port in (self.port, self.tls_port)
            for pid in self.workers()
            for connection in psutil.Process(pid).net_connections("tcp")
        )

    def reload(self, timeout=20):
        """A graceful reload, until new workers have taken the place of all old ones."""
        old = set(self.workers())
        self.kill(self.reload_signal)
        wait_for(lambda: (new := set(self.workers())) and not new & old, "new workers", timeout)

    # ---- clients

    def get(self, path="/", **options):
        return self.client.get(path, **options)

    def post(self, path="/", **options):
        return self.client.post(path, **options)

    def http2(self, **options):
        """A client that speaks HTTP/2 over TLS."""
        options.setdefault("headers", {"accept-encoding": "identity"})
        return httpx.Client(
            base_url=self.tls_url, http1=False, http2=True, verify=False, timeout=30,
            trust_env=False, **options,
        )  # fmt: skip

    def connect(self, tls=False, timeout=20):
        """A bare connection."""
        port = self.tls_port if tls else self.port
        connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
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

    # ---- the error log

    def mark(self):
        """From here on, log() begins now."""
        self.log_start = self.error_log.stat().st_size

    def log(self):
        with self.error_log.open("rb") as file:
            file.seek(self.log_start)
            return file.read().decode("utf-8", "backslashreplace")

    def log_lines(self):
        """The log in lines with their level."""
        parsed = []
        for line in self.log().splitlines():
            match = self.log_pattern.match(line)
            assert match, f"not a log line: {line!r}"
            parsed.append(LogLine(match["level"], match["text"]))
        return parsed

    def wait_log(self, pattern, timeout=5):
        """The first line that matches."""

        def look():
            return next((line for line in self.log().splitlines() if re.search(pattern, line)), None)

        return wait_for(look, f"{pattern!r} in the error log", timeout)

    def logs(self):
        """(title, text) of what there is to read after a failure."""
        stderr = self.root / "stderr.log"
        texts = {
            f"error log in {self.root}": self.log() if self.error_log.exists() else "",
            "stderr": stderr.read_text(errors="backslashreplace") if stderr.exists() else "",
        }
        return [(title, text[-3000:]) for title, text in texts.items() if text]

    # ---- files

    def write_app(self, name, source):
        """Writes an application so that its mtime differs from any it had."""
        path = self.apps / name
        before = path.stat().st_mtime_ns if path.exists() else time.time_ns() - 10**12
        path.write_text(source)
        os.utime(path, ns=(before + 10**9, before + 10**9))
        return path


def read_response(connection, method="GET"):
    """One answer from a connection; raises http.client.IncompleteRead when it is cut."""
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return Response(answer.status, answer.reason, answer.getheaders(), answer.read())


class Nginx(Server):
    kind = "nginx"
    ready = "start worker process "
    reload_signal = signal.SIGHUP
    log_pattern = re.compile(
        r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(?P<level>\w+)\] \d+#\d+: (?:\*\d+ )?(?P<text>.*)"
    )

    def command(self, *options):
        return ["nginx", "-p", str(self.root), "-c", "nginx.conf", "-e", str(self.error_log), *options]

    def is_worker(self, process):
        title = " ".join(process.cmdline())
        return title.startswith("nginx: worker process") and "shutting down" not in title

    def location(self, mount):
        """The location of a mount."""
        lines = [f"wsgi_pass {self.target(mount)};"]
        if mount.group is not None:
            lines.append(f'wsgi_application_group "{mount.group}";')
        return f"location {mount.path} {{\n" + "\n".join([*lines, mount.nginx]) + "\n}"

    def target(self, mount):
        return mount.target if ":" in mount.target else self.apps / mount.target

    def configure(self, mounts, *, nginx="", http="", main="", threads=None, processes=1,
                  python_home=PYTHON_HOME, python_path=None, reloading=None, log_level="info",
                  **_apache):  # fmt: skip
        wsgi = [f"wsgi_python_home {python_home};"] if python_home else []
        wsgi.append(f"wsgi_python_path {python_path or self.apps};")
        if threads:
            wsgi.append(f"wsgi_threads {threads};")
        if reloading is not None:
            wsgi.append(f"wsgi_script_reloading {'on' if reloading else 'off'};")
        newline = "\n"
        (self.root / "tmp").mkdir(exist_ok=True)
        (self.root / "nginx.conf").write_text(f"""\
{f"user {WORKER.pw_name} {group_name()};" if IS_ROOT else ""}
daemon off;
worker_processes {processes};
pid {self.root}/server.pid;
error_log {self.error_log} {log_level};
load_module {DIST}/lib/burrow/ngx_http_burrow_module.so;
{main}
working_directory {self.cores};
worker_rlimit_core 500m;
events {{ worker_connections 512; }}
http {{
    access_log {self.root}/access.log;
    client_body_temp_path {self.root}/tmp/body;
    proxy_temp_path {self.root}/tmp/proxy;
    fastcgi_temp_path {self.root}/tmp/fastcgi;
    uwsgi_temp_path {self.root}/tmp/uwsgi;
    scgi_temp_path {self.root}/tmp/scgi;
    types {{ text/html html; text/plain txt; }}
    sendfile on;
    client_max_body_size 20m;
    gzip_types text/plain;
    gzip_min_length 1;
    gzip on;
    {newline.join(wsgi)}
    {http}
    server {{
        listen 127.0.0.1:{self.port};
        listen 127.0.0.1:{self.tls_port} ssl http2;
        server_name localhost;
        ssl_certificate {self.root}/cert.pem;
        ssl_certificate_key {self.root}/key.pem;
        root {self.htdocs};
        location = /static.txt {{ }}
        {nginx}
        {newline.join(self.location(mount) for mount in mounts)}
    }}
}}
""")


class Apache(Server):
    kind = "apache"
    ready = "resuming normal operations"
    reload_signal = signal.SIGUSR1
    log_pattern = re.compile(
        r"\[[^\]]+\] \[\w*:(?P<level>[a-z]+)\d?\] (?:\[pid \d+(?::tid \d+)?\] )?(?P<text>.*)"
    )
    modules = (
        "authz_core authz_host authn_core authn_file authz_user auth_basic alias mime dir deflate filter"
        " ssl socache_shmcb http2 rewrite headers env setenvif reqtimeout"
    ).split()

    def command(self, *options):
        file = str(self.root / "httpd.conf")
        return ["apache2", "-d", str(self.root), "-f", file, *(options or ["-DFOREGROUND"])]

    def stop(self, how=signal.SIGTERM, timeout=20):
        """As for every server, but only once no connection is being closed.

        When it is told to stop at that moment, mpm_event of httpd 2.4 shuts down sockets that its worker
        threads have just freed, and now and then crashes in it, whatever modules there are.
        """
        if self.process is not None and how == signal.SIGTERM:
            self.client.close()
            deadline = time.monotonic() + 1
            while self.process.poll() is None and self.connections() and time.monotonic() < deadline:
                time.sleep(0.01)
        return super().stop(how, timeout)

    def is_worker(self, process):
        # The manager is one of these too until it has become its own program.
        return process.name() in ("apache2", "httpd") and process.uids().real == WORKER.pw_uid

    def location(self, mount):
        lines = [f"WSGIScriptAlias {mount.path} {self.apps / mount.target}"]
        inside = [f"WSGIApplicationGroup {mount.group}"] if mount.group is not None else []
        if inside or mount.apache:
            lines += [f"<Location {mount.path}>", *inside, mount.apache, "</Location>"]
        return "\n".join(lines)

    def configure(self, mounts, *, apache="", main="", vhost_main="", threads=None, processes=1,
                  mpm="event", python_home=PYTHON_HOME, python_path=None, reloading=None,
                  log_level="info", **_nginx):  # fmt: skip
        wsgi = [f"WSGIPythonHome {python_home}"] if python_home else []
        wsgi.append(f"WSGIPythonPath {python_path or self.apps}")
        if reloading is not None:
            wsgi.append(f"WSGIScriptReloading {'On' if reloading else 'Off'}")
        if mpm == "prefork":
            names = ("StartServers", "MinSpareServers", "MaxSpareServers", "ServerLimit", "MaxRequestWorkers")
            limits = "\n".join(f"{name} {processes}" for name in names)
        else:
            threads = threads or 8
            if threads == 1:
                # mpm_event drops connections that are kept alive when no thread is idle.
                self.client.headers["connection"] = "close"
            limits = (
                f"StartServers {processes}\nServerLimit {processes}\nThreadLimit {threads}\n"
                f"ThreadsPerChild {threads}\nMinSpareThreads 1\nMaxSpareThreads {threads * (processes + 1)}\n"
                f"MaxRequestWorkers {threads * processes}"
            )
        modules = "\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
            for name in [f"mpm_{mpm}", *self.modules]
        )
        newline = "\n"
        site = f"""\
ServerName localhost
DocumentRoot {self.htdocs}
AllowEncodedSlashes On
AddOutputFilterByType DEFLATE text/plain
Alias /static.txt {self.htdocs}/static.txt
{apache}
{newline.join(self.location(mount) for mount in sorted(mounts, key=lambda mount: -len(mount.path)))}
"""
        (self.root / "site.conf").write_text(site)
        (self.root / "httpd.conf").write_text(f"""\
ServerRoot {self.root}
DefaultRuntimeDir {self.root}
PidFile {self.root}/server.pid
ServerName localhost
Listen 127.0.0.1:{self.port}
Listen 127.0.0.1:{self.tls_port}
{modules}
LoadModule wsgi_module {DIST}/lib/burrow/mod_burrow.so
{f"User {WORKER.pw_name}{newline}Group {group_name()}" if IS_ROOT else ""}
ErrorLog {self.error_log}
LogLevel {log_level} ssl:warn http2:warn
LogFormat "%h %t \\"%r\\" %>s %b" common
CoreDumpDirectory {self.cores}
CustomLog {self.root}/access.log common
TypesConfig /etc/mime.types
Timeout 30
KeepAliveTimeout 5
GracefulShutdownTimeout 10
EnableSendfile On
{limits}
{newline.join(wsgi)}
<Directory />
    AllowOverride None
    Require all granted
</Directory>
{main}
<VirtualHost 127.0.0.1:{self.port}>
    Include {self.root}/site.conf
</VirtualHost>
<VirtualHost 127.0.0.1:{self.tls_port}>
    SSLEngine on
    SSLCertificateFile {self.root}/cert.pem
    SSLCertificateKeyFile {self.root}/key.pem
    Protocols h2 http/1.1
    Include {self.root}/site.conf
</VirtualHost>
""")


def group_name():
    import grp

    return grp.getgrgid(WORKER.pw_gid).gr_name


KINDS = {"nginx": Nginx, "apache": Apache}
