"""nginx."""

import re
import signal

from . import machine
from .machine import IS_ROOT, PYTHON_HOME, group_name
from .server import Server


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
        if mount.process is not None:
            lines.append(f"wsgi_process_group {mount.process};")
        return f"location {mount.path} {{\n" + "\n".join([*lines, mount.nginx]) + "\n}"

    def configure(self, mounts, *, nginx="", http="", main="", threads=None, processes=1, groups=None,
                  python_home=PYTHON_HOME, python_path=None, reloading=None, log_level="info",
                  **_apache):  # fmt: skip
        wsgi = [f"wsgi_python_home {python_home};"] if python_home else []
        wsgi.append(f"wsgi_python_path {python_path or self.apps};")
        if threads:
            wsgi.append(f"wsgi_threads {threads};")
        if reloading is not None:
            wsgi.append(f"wsgi_script_reloading {'on' if reloading else 'off'};")
        wsgi += [f"wsgi_daemon_process {line};" for line in self.process_groups(groups)]
        newline = "\n"
        (self.root / "tmp").mkdir(exist_ok=True)
        (self.root / "nginx.conf").write_text(f"""\
{f"user {machine.WORKER.pw_name} {group_name()};" if IS_ROOT else ""}
daemon off;
worker_processes {processes};
pid {self.root}/server.pid;
error_log {self.error_log} {log_level};
load_module {machine.DIST}/lib/burrow/ngx_http_burrow_module.so;
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
