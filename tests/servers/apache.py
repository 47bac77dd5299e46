"""Apache httpd."""

import contextlib
import pathlib
import re
import signal
import threading
import time

from . import machine
from .machine import IS_ROOT, PYTHON_HOME, group_name
from .server import Server


def close_if_concurrent(request):
    """Where all its threads are busy mpm_event closes the connections that are kept alive, also where a
    request is under way; httpx, unlike a browser, does not send that again.
    """
    if threading.current_thread() is not threading.main_thread():
        request.headers["connection"] = "close"


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

    def __init__(self):
        super().__init__()
        self.client.event_hooks["request"].append(close_if_concurrent)

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
            while self.process.poll() is None and self.is_busy() and time.monotonic() < deadline:
                time.sleep(0.01)
        return super().stop(how, timeout)

    def is_busy(self):
        """Whether a worker has a connection, or a thread of it runs, perhaps at the end of one."""
        if self.connections() > 0:
            return True
        for pid in self.workers():
            for file in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
                # The thread may have ended since.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if file.read_text().rpartition(")")[2].split()[0] == "R":
                        return True
        return False

    def is_worker(self, process):
        # The manager is one of these too until it has become its own program.
        return process.name() in ("apache2", "httpd") and process.uids().real == machine.WORKER.pw_uid

    def alias(self, mount):
        line = f"WSGIScriptAlias {mount.path} {self.target(mount)}"
        if self.preloads(mount):
            line += f" process-group={mount.process} application-group={mount.group}"
        return line

    def preloads(self, mount):
        """Whether httpd knows enough to have an application imported before its first request."""
        return mount.process and mount.group and "%{ENV" not in mount.process

    def section(self, mount):
        """The directives of a mount's location."""
        inside = []
        if not self.preloads(mount):
            if mount.group is not None:
                inside.append(f"WSGIApplicationGroup {mount.group}")
            if mount.process is not None:
                inside.append(f"WSGIProcessGroup {mount.process}")
        if not inside and not mount.apache:
            return ""
        return "\n".join([f"<Location {mount.path}>", *inside, mount.apache, "</Location>"])

    def configure(self, mounts, *, apache="", main="", vhost_main="", threads=None, processes=1,
                  groups=None, mpm="event", python_home=PYTHON_HOME, python_path=None, reloading=None,
                  log_level="info", **_nginx):  # fmt: skip
        wsgi = [f"WSGIPythonHome {python_home}"] if python_home else []
        wsgi.append(f"WSGIPythonPath {python_path or self.apps}")
        if reloading is not None:
            wsgi.append(f"WSGIScriptReloading {'On' if reloading else 'Off'}")
        wsgi += [f"WSGIDaemonProcess {line}" for line in self.process_groups(groups)]
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
        # Of the aliases the first one that fits is taken, of the sections the last one wins.
        by_length = sorted(mounts, key=lambda mount: len(mount.path))
        site = f"""\
ServerName localhost
DocumentRoot {self.htdocs}
AllowEncodedSlashes On
AddOutputFilterByType DEFLATE text/plain
Alias /static.txt {self.htdocs}/static.txt
{apache}
{newline.join(self.alias(mount) for mount in reversed(by_length))}
{newline.join(self.section(mount) for mount in by_length)}
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
LoadModule wsgi_module {machine.DIST}/lib/burrow/mod_burrow.so
{f"User {machine.WORKER.pw_name}{newline}Group {group_name()}" if IS_ROOT else ""}
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
