"""Directives: values that are refused, with file and line, and what the right ones do."""

import grp
import pathlib
import re
import shutil
import subprocess

import pytest
from servers import DIST, PYTHON_HOME, WORKER, Mount
from serving import needs_root

PYENV = pathlib.Path.home() / ".pyenv" / "versions"

APACHE = {
    "WSGIScriptAlias /x": "at least two",
    "WSGIScriptAlias /x relative.py": "whole path|relative",
    "WSGIScriptAlias /x /srv/x.py unknown-option=1": "unknown-option",
    "WSGIScriptAlias /x /srv/x.py process-group=other": "not defined",
    "WSGIScriptAlias /x /srv/x.py application-group=%{NONSENSE}": "NONSENSE",
    "WSGIScriptAliasMatch ( /srv/x.py": "regular expression",
    "WSGIApplicationGroup": "takes one argument",
    "WSGIApplicationGroup %{NONSENSE}": "NONSENSE",
    "WSGIProcessGroup other": "not defined",
    "WSGIPassAuthorization maybe": "On or Off",
    "WSGIScriptReloading maybe": "On or Off",
    "WSGICallableObject": "takes one argument",
    "WSGIImportScript /srv/x.py": "process-group",
    "WSGIImportScript /srv/x.py process-group=%{GLOBAL} application-group=%{RESOURCE}": "RESOURCE",
    "WSGIPythonHome /usr": "cannot occur|context|not allowed",
    "WSGIPythonPath /usr": "cannot occur|context|not allowed",
    "WSGINonsense on": "Invalid command",
    **{
        f"<Location />\n{line}\n</Location>": cause
        for line, cause in {
            "WSGIAccessScript": "the path of a script",
            "WSGIAccessScript hooks.py": "whole path",
            "WSGIAuthUserScript /x process-group=y": "unknown option process-group",
            "WSGIAuthGroupScript /x application-group=%{NONE}": "NONE",
            "WSGIDispatchScript relative.py": "whole path",
            "WSGIHandlerScript name": "the path of a script",
            "WSGIHandlerScript name /x pass-authorization=perhaps": "On or Off",
            "WSGIHandlerScript name /x callable-object=y": "unknown option callable-object",
            "WSGIGroupAuthoritative perhaps": "neither On nor Off",
        }.items()
    },
}
APACHE_MAIN = {
    "WSGIPythonHome relative": "relative",
    "WSGIPythonHome /nonexistent": "/nonexistent",
    "WSGIPythonHome /etc": "/etc",
    "WSGIPythonHome /etc/hostname": "/etc/hostname",
    f"WSGIPythonHome /usr\nWSGIPythonHome {PYTHON_HOME}": "already",
    "WSGIPythonPath relative": "relative",
    "WSGIPythonOptimize 3": "from 0 to 2",
    "WSGIPythonHashSeed soon": "or random",
    "WSGIDontWriteBytecode maybe": "neither On nor Off",
    "WSGISwitchInterval 0": "positive",
    "WSGIPerInterpreterGIL Perhaps": "neither On nor Off",
    "WSGIInterface cgi": "'cgi' is none of auto, wsgi, asgi",
    "WSGILoop curio": "'curio' is none of auto, asyncio, uvloop",
    "WSGIDaemonProcess shop loop=curio": "'curio' is none of auto, asyncio, uvloop",
    "WSGIWebSocketMaxMessage 16M": "'16M' is not a number from 125 to 1073741824",
    "WSGIWebSocketPingInterval -1": "'-1' is not a number from 0 to 86400",
    "WSGIDaemonProcess shop websocket-idle-timeout=soon": "'soon' is not a number from 0 to",
    "WSGIFreeThreading On": "free-threaded build",
    "<WSGIInterpreterOptions application-group=x>\nWSGIFreeThreading On\n</WSGIInterpreterOptions>":
        "leave application-group out",
    "WSGIDaemonProcess shop interpreters=0": "from 1 to 256, or auto",
    "WSGIAcceptMutex spin": "none of default",
    "WSGITelemetryService udp:host:1": "unix:/path",
    "WSGITelemetryService unix:/run/t interval=0.1": "at least 0.5",
    "WSGITelemetryOptions Everything": "Everything",
    "WSGISlowRequests -1": "seconds",
    "WSGIMapHEADToGET sometimes": "On, Off or Auto",
    "WSGITrustedProxyHeaders Forwarded": "no header that proxies",
    "WSGITrustedProxies proxy.example": "names are not looked up",
    "WSGIDaemonProcess": "cannot name a process group",
    "WSGIDaemonProcess shop\nWSGIDaemonProcess shop": "already",
    "WSGIDaemonProcess shop env=1A=x": "NAME=VALUE",
    "WSGIDaemonProcess shop env-file=/nonexistent": "cannot be read",
    f"WSGIDaemonProcess {'x' * 90}": "107 is the most",
    "WSGIDaemonProcess shop\nWSGISocketPrefix /nonexistent/wsgi": "make it",
    "WSGIDaemonProcess shop chroot=/srv": "is needed there",
    "WSGIProcessGroup shop": "not defined",
    "WSGIScriptAlias /x /srv/x.py process-group=shop": "not defined",
    "WSGIImportScript /x.py process-group=shop application-group=a": "not defined",
    "<WSGIInterpreterOptions colour=blue>\n</WSGIInterpreterOptions>": "not colour=",
    "<WSGIInterpreterOptions>\nWSGIPythonOptimize 1\n</WSGIInterpreterOptions>": "may not stand",
    "<WSGIInterpreterOptions application-group=a>\nWSGISwitchInterval 1\n</WSGIInterpreterOptions>": "one",
    "<WSGIInterpreterOptions process-group=a>\nWSGIPythonPath /a\n</WSGIInterpreterOptions>": "not defined",
    "<VirtualHost *>\nWSGIPythonOptimize 1\n</VirtualHost>": "cannot occur|not allowed",
    "<Directory />\nWSGIRestrictEmbedded On\n</Directory>": "cannot occur|not allowed",
    "<Directory />\nWSGIDaemonProcess shop\n</Directory>": "cannot occur|not allowed",
}
NGINX = {
    "wsgi_pass;": "number of arguments",
    "wsgi_pass /srv/x.py /srv/y.py;": "number of arguments",
    "wsgi_pass relative/x.py;": "relative|whole path|relative/x.py",
    "wsgi_pass 'bad module:app';": "bad module",
    "wsgi_pass module:;": "module:",
    "wsgi_pass :app;": ":app",
    "wsgi_pass /srv/x.py; wsgi_pass /srv/y.py;": "duplicate",
    "wsgi_pass ' ';": "wsgi_pass",
    "wsgi_threads many;": "invalid|number",
    "wsgi_threads -1;": "invalid|number|least|between",
    "wsgi_threads 1000000;": "most|between|invalid|greater",
    "wsgi_script_reloading maybe;": '"on" or "off"',
    "wsgi_request_buffering maybe;": '"on" or "off"',
    "wsgi_intercept_errors maybe;": '"on" or "off"',
    "wsgi_application_group;": "number of arguments",
    "wsgi_application_group '%{NONSENSE}';": "NONSENSE|GLOBAL",
    "wsgi_application_group a; wsgi_application_group b;": "duplicate",
    "wsgi_param NAME;": "number of arguments",
    "wsgi_python_home /usr;": "not allowed here",
    "wsgi_python_path /usr;": "not allowed here",
    "wsgi_import_script /srv/x.py;": "not allowed here",
    "wsgi_callable_object;": "number of arguments",
    "wsgi_access_script app.py;": "whole path",
    "wsgi_access_script a:b;": "alone",
    "wsgi_access_script off x=1;": "no options",
    "wsgi_access_script /x group=1;": 'unknown option "group=1"',
    "wsgi_access_script /x realm=1;": 'unknown option "realm=1"',
    "wsgi_access_script /x 'application-group=%{SERVER}';": "GLOBAL",
    "wsgi_access_script /x; wsgi_access_script /y;": "duplicate",
    "wsgi_auth_user_script /x 'realm=a\"b';": "no quotes",
    "wsgi_nonsense on;": "unknown directive",
}
NGINX_HTTP = {
    "wsgi_python_home relative;": "relative",
    "wsgi_python_home /nonexistent;": "/nonexistent",
    "wsgi_python_home /etc;": "/etc",
    f"wsgi_python_home /usr; wsgi_python_home {PYTHON_HOME};": "already|daemon",
    "wsgi_python_path relative;": "relative",
    "wsgi_import_script relative.py;": "relative",
    "wsgi_import_script /srv/x.py something=else;": "application-group",
    "wsgi_import_script /srv/x.py 'application-group=%{SERVER}';": "GLOBAL",
    "wsgi_python_optimize 3;": "from 0 to 2",
    "wsgi_python_hash_seed soon;": "or random",
    "wsgi_dont_write_bytecode maybe;": "neither On nor Off",
    "wsgi_switch_interval 0;": "positive",
    "wsgi_per_interpreter_gil perhaps;": "neither On nor Off",
    "wsgi_interface cgi;": "'cgi' is none of auto, wsgi, asgi",
    "wsgi_loop curio;": "'curio' is none of auto, asyncio, uvloop",
    "wsgi_websocket_max_message 16m;": "'16m' is not a number from 125 to 1073741824",
    "wsgi_websocket_ping_interval -1;": "'-1' is not a number from 0 to 86400",
    "wsgi_websocket_idle_timeout soon;": "'soon' is not a number from 0 to",
    "wsgi_free_threading on;": "free-threaded build",
    "wsgi_interpreters 0;": "from 1 to 256, or auto",
    "wsgi_trusted_proxy_headers Forwarded;": "no header that proxies",
    "wsgi_trusted_proxy_headers X-Forwarded-For;": "real_ip_header X-Forwarded-For",
    "wsgi_trusted_proxies proxy.example;": "not looked up",
    "wsgi_map_head_to_get sometimes;": '"on" or "off"',
    "wsgi_interpreter_options colour=blue { }": "takes process-group= and application-group=",
    "wsgi_interpreter_options application-group=a application-group=b { }": "twice",
    "wsgi_interpreter_options application-group=%{RESOURCE} { }": "name of a group",
    "wsgi_interpreter_options { wsgi_python_optimize 1; }": "may not stand",
    "wsgi_interpreter_options { wsgi_restrict_stdin on off; }": "takes one argument",
    "wsgi_interpreter_options application-group=a { wsgi_switch_interval 1; }": "one",
    "wsgi_interpreter_options process-group=a { wsgi_python_path /a; }": "not defined",
    "wsgi_restrict_embedded on;": "no application runs in the server's own processes",
    "wsgi_daemon_process shop threads;": "name=value",
    "wsgi_daemon_process shop threads=x;": "threads=x",
    "wsgi_daemon_process shop; wsgi_daemon_process shop;": "already",
    'wsgi_daemon_process "%{GLOBAL}";': "cannot name a process group",
    "wsgi_process_group shop;": "there is no wsgi_daemon_process shop",
    'wsgi_process_group "%{ENV:GROUP}";': "name of a process group",
    "wsgi_process_group a; wsgi_process_group b;": "duplicate",
    "wsgi_import_script hello process-group=shop;": "there is no wsgi_daemon_process shop",
    "wsgi_import_script hello colour=blue;": "process-group=NAME",
    "wsgi_import_script hello process-group=a process-group=b;": "once",
    "wsgi_buffers 1 4k;": "at least 2",
    "wsgi_buffering maybe;": '"on" or "off"',
}
#: Options of a process group of either server.
PROCESS_GROUP = {
    "user=nobody-there": "no such user",
    "user=root": "root",
    "python-home=/nonexistent": "does not exist",
    "python=/nonexistent": "/nonexistent",
    "processes=0": "from 1",
    "colour=blue": "no option colour",
    "home=relative": "relative",
    "home=/nonexistent": "does not exist",
    "home=/etc/hostname": "not a folder",
}


def check_refusal(code, said, cause, file):
    assert code != 0, said
    assert re.search(cause, said), said
    assert re.search(rf"{file}:\d+|line \d+ of \S*{file}", said), said


@pytest.mark.parametrize("directive", APACHE)
def test_apache(apache, directive):
    check_refusal(*apache.configtest(apache=directive), APACHE[directive], "site.conf")


@pytest.mark.parametrize("directive", APACHE_MAIN)
def test_apache_main(apache, directive):
    check_refusal(*apache.configtest(python_home=None, main=directive), APACHE_MAIN[directive], "httpd.conf")


@pytest.mark.parametrize("directive", NGINX)
def test_nginx(nginx, directive):
    location = f"location /wrong {{ {directive} }}"
    check_refusal(*nginx.configtest(nginx=location), NGINX[directive], "nginx.conf")


@pytest.mark.parametrize("directive", NGINX_HTTP)
def test_nginx_http(nginx, directive):
    check_refusal(*nginx.configtest(python_home=None, http=directive), NGINX_HTTP[directive], "nginx.conf")


@pytest.mark.parametrize("options", PROCESS_GROUP)
def test_process_group(server, options):
    mounts = [Mount("/", "hello.py", process="shop")]
    said = server.configtest(mounts=mounts, groups={"shop": options})
    check_refusal(*said, PROCESS_GROUP[options], r"\.conf")


@pytest.mark.parametrize(
    "directive",
    ["wsgi_import_script /x.py process-group=shop application-group=a;", "wsgi_free_threading on;"],
)
def test_a_refusal_names_one_place(nginx, directive):
    _, said = nginx.configtest(http=directive)
    assert len(re.findall(r"nginx\.conf:\d+", said)) == 1, said
    assert "wsgi_python_home" not in said


def test_configtest_is_quiet_when_all_is_well(server):
    code, said = server.configtest()
    assert code == 0
    assert "burrow" not in said.replace(str(server.root), "").lower()


def check_with(server, old, new, groups=None):
    """The check of a configuration with something replaced: (exit code, what it said)."""
    server.configure([Mount("/", "hello.py")], groups=groups)
    file = server.root / {"apache": "httpd.conf", "nginx": "nginx.conf"}[server.kind]
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    done = subprocess.run(server.command("-t"), capture_output=True, text=True, timeout=30)
    server.error_log.write_text("")  # nginx says it there once more
    return done.returncode, done.stderr


def account(server):
    """The lines that say whom a server's workers run as."""
    user, group = WORKER.pw_name, grp.getgrgid(WORKER.pw_gid).gr_name
    return f"User {user}\nGroup {group}" if server.kind == "apache" else f"user {user} {group};"


@needs_root
@pytest.mark.parametrize("lines", ["", f"User {WORKER.pw_name}", "Group daemon", "User #54321\nGroup daemon"])
def test_an_httpd_whose_workers_would_stay_root(apache, lines):
    code, said = check_with(apache, account(apache), lines)
    assert code != 0
    assert "would be root, which runs no applications: write User" in said


@needs_root
def test_an_nginx_whose_workers_are_root(nginx):
    code, said = check_with(nginx, account(nginx), "user root;")
    assert code != 0
    assert "would be root, which runs no applications: write another user" in said


@needs_root
def test_a_group_of_a_server_without_one(apache):
    code, said = check_with(apache, account(apache), f"User {WORKER.pw_name}", groups={"shop": ""})
    check_refusal(code, said, "no group: write group=", "httpd.conf")


def test_debians_snippets(server):
    # They name what `make install` installs.
    apache = server.kind == "apache"
    snippet = DIST.parent.parent / "conf" / ("burrow.load" if apache else "50-mod-http-burrow.conf")
    (server.root / "load.conf").write_text(snippet.read_text().replace("/usr/local", str(DIST)))
    include = f"{'Include' if apache else 'include'} {server.root}/load.conf{'' if apache else ';'}"
    line = (
        f"LoadModule wsgi_module {DIST}/lib/burrow/mod_burrow.so" if apache
        else f"load_module {DIST}/lib/burrow/ngx_http_burrow_module.so;"
    )  # fmt: skip
    code, said = check_with(server, line, include)
    assert code == 0, said


def test_a_copied_module(apache):
    # Runtimes lie beside the module: a link leads to them, a copy does not.
    original, module = f"{DIST}/lib/burrow/mod_burrow.so", apache.root / "mod_burrow.so"
    shutil.copy(original, module)
    code, said = check_with(apache, original, str(module))
    assert code != 0
    assert "make install" in said
    module.unlink()
    module.symlink_to(original)
    assert check_with(apache, original, str(module))[0] == 0


def refused(server, home, cause):
    """The configuration with such a python is refused."""
    check_refusal(*server.configtest(python_home=home), cause, r"\.conf")


def test_no_libpython(server):
    # An installation of a Python that this machine has no library of.
    home = server.root / "python"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3.18").write_text("#!/bin/sh\nexit 1\n")
    (home / "bin" / "python3.18").chmod(0o755)
    (home / "bin" / "python3").symlink_to("python3.18")
    refused(server, home, r"libpython3\.18")


@pytest.mark.parametrize("version", ["3.9", "3.8"])
def test_a_python_that_is_too_old(server, version):
    found = sorted(PYENV.glob(f"{version}.*"))
    if not found:
        pytest.skip(f"no Python {version} here")
    refused(server, found[-1], r"3\.10 or newer")


def test_a_venv_whose_base_is_gone(server):
    home = server.root / "venv"
    (home / "bin").mkdir(parents=True)
    (home / "pyvenv.cfg").write_text("home = /opt/gone/bin\nversion = 3.11.2\n")
    (home / "bin" / "python3").symlink_to("/opt/gone/bin/python3")
    refused(server, home, "/opt/gone|venv")


# ---- what the directives do

CALLABLES = """
def answer(text):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text]
    return application

application = answer(b"application")
other = answer(b"other")

class Site:
    deep = staticmethod(answer(b"deep"))
"""


def test_callable_object(server):
    server.write_app("callables.py", CALLABLES)

    def mount(path, name):
        return Mount(
            path,
            "callables.py",
            nginx=f"wsgi_callable_object {name};" if name else "",
            apache=f"WSGICallableObject {name}" if name else "",
        )

    server.start(
        mounts=[
            mount("/plain", ""),
            mount("/other", "other"),
            mount("/deep", "Site.deep"),
            mount("/missing", "missing"),
        ]
    )
    assert server.get("/plain").text == "application"
    assert server.get("/other").text == "other"
    if server.kind == "nginx":
        assert server.get("/deep").text == "deep"
    response = server.get("/missing")
    assert response.status_code in (404, 500)
    assert "missing" in server.log() and "callables.py" in server.log()
    assert server.get("/other").text == "other"


def test_import_script(server):
    # Imported when the process starts, before anyone asks for it.
    server.write_app("early.py", "print('imported early')\n")
    script = server.apps / "early.py"
    if server.kind == "nginx":
        server.start("hello.py", http=f'wsgi_import_script {script} "application-group=%{{GLOBAL}}";')
    else:
        server.start(
            "hello.py",
            main=f"WSGIImportScript {script} process-group=%{{GLOBAL}} application-group=%{{GLOBAL}}",
        )
    server.wait_log("imported early")
    assert server.get("/").status_code == 200
    assert "WSGI0089" not in server.log()


def test_import_script_that_fails(server):
    server.write_app("early.py", "1 / 0\n")
    script = server.apps / "early.py"
    server.start(
        "hello.py",
        http=f"wsgi_import_script {script} application-group=early;",
        main=""
        if server.kind == "nginx"
        else f"WSGIImportScript {script} process-group=%{{GLOBAL}} application-group=early",
    )
    server.wait_log("ZeroDivisionError")
    assert "early.py" in server.log()
    assert server.get("/").status_code == 200
