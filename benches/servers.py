"""Starting nginx, httpd and what stands behind them, each with a configuration made for the run."""

import collections
import grp
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
DIST = HERE.parent / "target/dist"
MODULES = DIST / "lib/burrow"
APP = HERE / "app.py"
ASGI_APP = HERE / "app_asgi.py"
HTTPD_MODULES = pathlib.Path("/usr/lib/apache2/modules")
# The event MPM closes kept-alive connections when all its threads are busy: more threads than clients.
HTTPD_THREADS = 80
WORKER = "www-data"


class Server:
    """Commands that together answer on one port; the last one is the web server."""

    def __init__(self, name, port, cpu=None):
        self.name, self.port = name, port
        #: What the commands are started by.
        self.pin = ["taskset", "-c", str(cpu)] if cpu is not None else []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-bench-"))
        self.app = APP
        self.commands = []
        self.processes = []
        if os.getuid() == 0:
            self.folder.chmod(0o755)
            check_access(APP)
            check_access(MODULES)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def socket(self):
        """Where what stands behind a web server listens."""
        return self.folder / "app.sock"

    @property
    def log(self):
        return self.folder / "error.log"

    def httpd(self, body, children=1, most_children=1, threads=HTTPD_THREADS, factor=16):
        user = f"User {WORKER}\nGroup {grp.getgrgid(pwd.getpwnam(WORKER).pw_gid).gr_name}"
        loads = "\n".join(
            f"LoadModule {name}_module {HTTPD_MODULES}/mod_{name}.so" for name in ("mpm_event", "authz_core")
        )
        config = self.folder / "httpd.conf"
        config.write_text(f"""\
ServerRoot {self.folder}
ServerName localhost
DocumentRoot {self.folder}
{loads}
{user if os.getuid() == 0 else ""}
PidFile {self.folder}/httpd.pid
Mutex file:{self.folder}
Listen 127.0.0.1:{self.port}
ListenBacklog 1024
ErrorLog {self.log}
LogLevel warn
ServerLimit {most_children}
StartServers {children}
ThreadLimit {threads}
ThreadsPerChild {threads}
MaxRequestWorkers {most_children * threads}
MinSpareThreads 1
MaxSpareThreads {most_children * threads}
AsyncRequestWorkerFactor {factor}
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 30
<Directory />
    Options FollowSymLinks
    AllowOverride None
    Require all granted
</Directory>
{body}
""")
        self.commands.append(["apache2", "-DFOREGROUND", "-f", str(config)])
        return self

    def nginx(self, location, http="", main="", workers=1, connections=4096):
        temporary = "\n".join(
            f"    {kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = self.folder / "nginx.conf"
        config.write_text(f"""\
{main}
{f"user {WORKER};" if os.getuid() == 0 else ""}
worker_processes {workers};
daemon off;
pid {self.folder}/nginx.pid;
error_log {self.log} warn;
worker_rlimit_nofile {connections + 4096};
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    default_type text/plain;
    client_body_buffer_size 64k;
    client_max_body_size 0;
{temporary}
    {http}
    server {{
        listen 127.0.0.1:{self.port} backlog=1024;
        {location}
    }}
}}
""")
        self.commands.append(["nginx", "-e", str(self.log), "-c", str(config)])
        return self

    def asgi(self):
        """With the application that speaks ASGI."""
        self.app = ASGI_APP
        return self

    def run(self, *command):
        self.commands.append([str(word) for word in command])
        return self

    def uwsgi(self, venv, threads):
        """uWSGI behind an nginx that the caller adds."""
        return self.run(
            "uwsgi", "--plugin", "python3", "--virtualenv", venv, "--wsgi-file", APP, "--need-app",
            "--single-interpreter", "--master", "--die-on-term", "--disable-logging", "--listen", 1024,
            "--enable-threads", "--processes", 1, "--threads", threads,
            "--uwsgi-socket", self.socket, "--chmod-socket=666",
        )  # fmt: skip

    def gunicorn(self, venv, threads):
        """gunicorn with threads behind an nginx that the caller adds."""
        return self.run(
            venv / "bin/gunicorn", "--chdir", HERE, "--workers", 1, "--worker-class", "gthread",
            "--threads", threads, "--worker-connections", 1000, "--backlog", 1024,
            "--keep-alive", 75, "--log-level", "warning", "--no-control-socket",
            "--bind", f"unix:{self.socket}", "app:application",
        )  # fmt: skip

    def uvicorn(self, venv, bind):
        return self.run(
            venv / "bin/uvicorn", "--app-dir", HERE, "--loop", "uvloop", "--http", "httptools",
            "--no-access-log", "--log-level", "warning", "--backlog", 1024, bind, "app_asgi:application",
        )  # fmt: skip

    def granian(self, venv, interface, threads):
        app = {"wsgi": "app:application", "asgi": "app_asgi:application"}[interface]
        options = ["--blocking-threads", threads] if interface == "wsgi" else ["--loop", "uvloop"]
        return self.run(
            venv / "bin/granian", "--host", "127.0.0.1", "--port", self.port, "--interface", interface,
            "--workers", 1, "--http", 1, "--no-ws", "--log-level", "warning", "--working-dir", HERE,
            *options, app,
        )  # fmt: skip

    def bjoern(self, venv):
        code = f"import bjoern, app; bjoern.run(app.application, '127.0.0.1', {self.port})"
        return self.run(venv / "bin/python", "-c", f"import sys; sys.path[0] = {str(HERE)!r}; {code}")

    def burrow_httpd(self, python_home=None, **size):
        return self.wsgi_httpd(MODULES / "mod_burrow.so", python_home, **size)

    def wsgi_httpd(self, module, python_home=None, daemon=None, **size):
        """The same lines for mod_wsgi and for Burrow. `daemon`: options of a process group to run in."""
        lines = [
            f"LoadModule wsgi_module {module}",
            f"WSGIScriptAlias / {self.app}",
            "WSGIApplicationGroup %{GLOBAL}",
        ]
        if python_home:
            lines.append(f"WSGIPythonHome {python_home}")
        if daemon:
            lines += [
                f"WSGISocketPrefix {self.folder}/wsgi",
                f"WSGIDaemonProcess bench {group_options(python_home, daemon)}",
                "WSGIProcessGroup bench",
            ]
        return self.httpd("\n".join(lines), **size)

    def burrow_nginx(self, python_home=None, daemon=None, location="", **size):
        location += f' wsgi_pass {self.app}; wsgi_application_group "%{{GLOBAL}}";'
        http = f"wsgi_python_home {python_home};" if python_home else ""
        if daemon:
            location += " wsgi_process_group bench;"
            http += f" wsgi_daemon_process bench {group_options(python_home, daemon)};"
        return self.nginx(
            f"location / {{ {location} }}", http, f"load_module {MODULES}/ngx_http_burrow_module.so;", **size
        )

    def __enter__(self):
        environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
        try:
            for command in self.commands:
                self.processes.append(
                    subprocess.Popen(
                        self.pin + command,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=open(self.folder / "stderr", "ab"),
                        start_new_session=True,
                    )
                )
            self.wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_it_answers(self):
        while True:
            if any(process.poll() is not None for process in self.processes):
                raise RuntimeError(f"{self.name} ended:\n{self.messages()}")
            try:
                with urllib.request.urlopen(self.url("/hello"), timeout=10):
                    return
            except urllib.error.HTTPError as error:
                if error.code < 502:  # 502: what stands behind is not there yet
                    raise RuntimeError(f"{self.name}: {error}\n{self.messages()}") from error
            except OSError:
                pass
            time.sleep(0.05)

    def messages(self):
        files = [self.folder / "stderr", self.log]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                print(f"{self.name} does not stop", file=sys.stderr)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def reload(self):
        """A graceful reload of the web server."""
        command = self.commands[-1]
        signal = {"nginx": ["-s", "reload"], "apache2": ["-k", "graceful"]}[command[0]]
        environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
        arguments = [argument for argument in command if argument != "-DFOREGROUND"]
        subprocess.run([*arguments, *signal], check=True, env=environment, capture_output=True)

    @property
    def master(self):
        return self.processes[-1].pid

    def family(self):
        return [pid for process in self.processes for pid in [process.pid, *descendants(process.pid)]]

    def workers(self):
        """The processes that run the application, when Burrow is in the web server."""
        return [pid for pid in children(self.master) if executable(pid) == executable(self.master)]


def group_options(python_home, options):
    return f"python-home={python_home} {options}" if python_home else options


def check_access(path):
    """Workers started by root are not root: they must be able to get here."""
    if subprocess.run(["runuser", "-u", WORKER, "--", "test", "-r", path]).returncode:
        sys.exit(f"{WORKER}, which the servers' workers run as, cannot read {path}: "
                 "use a checkout outside of closed folders, or another user than root")  # fmt: skip


def children(pid):
    return children_of_all().get(pid, [])


def descendants(pid):
    tree = children_of_all()
    found = [pid]
    for parent in found:
        found += tree.get(parent, [])
    return found[1:]


def children_of_all():
    """Every process's children. /proc/PID/task/PID/children may leave out some while others end."""
    tree = collections.defaultdict(list)
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            tree[stat_fields(pid)[1]].append(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return {int(parent): pids for parent, pids in tree.items()}


def stat_fields(pid):
    """Those of /proc/PID/stat from the state on."""
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()


def executable(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def status_kib(pid, field):
    """VmRSS or VmHWM of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        try:
            fields = stat_fields(pid)
            ticks += int(fields[11]) + int(fields[12])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_kib(pids):
    """The memory of these processes; what several share counts once."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total
