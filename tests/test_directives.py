"""mod_wsgi's directives on httpd: what they do, and where they may stand."""

import re

import pytest
from servers import Mount, wait_for

WITHOUT_EFFECT = [
    "WSGIVerboseDebugging On", "WSGIAcceptMutex flock", "WSGISocketRotation Off",
    "WSGICaseSensitivity Off", "WSGIPythonEggs /var/eggs",
    "WSGITelemetryService unix:/run/t interval=1", "WSGITelemetryOptions +CaptureUserAgent",
    "WSGISlowRequests 2.5", "WSGIIgnoreActivity On",
    "WSGIGroupAuthoritative Off",
]  # fmt: skip


def test_a_virtual_hosts_group_is_its_own(apache):
    code, said = apache.configtest(
        main="<VirtualHost *:1>\nServerName a\nWSGIDaemonProcess shop\n</VirtualHost>\n"
        "<VirtualHost *:1>\nServerName b\nWSGIProcessGroup shop\n</VirtualHost>"
    )
    assert code != 0 and "not accessible" in said


def test_a_group_that_nothing_uses(apache):
    code, said = apache.configtest(
        main='WSGIDaemonProcess shop user=www-data processes=2 threads=4 display-name="%{GROUP} x"'
    )
    assert code == 0, said


def test_without_effect_is_explained_once(apache):
    *main, group = WITHOUT_EFFECT
    apache.start(main="\n".join([*main, "<Directory />", group, "</Directory>"]))
    assert apache.get().status_code == 200
    lines = [line for line in apache.log_lines() if "has no effect" in line.text]
    assert {line.level for line in lines} == {"info"}
    for directive in WITHOUT_EFFECT:
        name = directive.split()[0]
        found = [line.text for line in lines if line.text.startswith(f"{name} has no effect: ")]
        assert len(found) == 1 and re.search(r"\(\S+httpd\.conf:\d+\)$", found[0]), (name, found)


def seen(server, path="/", **options):
    answer = server.get(path, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_python_flags(apache):
    flags = (
        "WSGIPythonOptimize 1\nWSGIPythonHashSeed 42\nWSGIPythonWarnings error::UserWarning\n"
        "WSGIPythonWarnings ignore::ImportWarning\nWSGIDontWriteBytecode On\nWSGISwitchInterval 0.02"
    )
    apache.start("directives.py", "%{GLOBAL}", main=flags)
    found = seen(apache)
    assert (found["optimize"], found["dont_write_bytecode"]) == (1, True)
    assert found["switch_interval"] == pytest.approx(0.02)
    assert {"error", "ignore"} <= set(found["warnings"])
    first = found["hash"]
    apache.reload()
    assert seen(apache)["hash"] == first


@pytest.mark.parametrize(("flags", "interval"), [("", 0.001), ("WSGISwitchInterval 0.005", 0.005)])
def test_switch_interval_beside_others(apache, flags, interval):
    apache.start("directives.py", "one", main=flags)
    assert seen(apache)["switch_interval"] == pytest.approx(interval)


def test_restrictions_by_interpreter(apache):
    sections = (
        "WSGIRestrictStdin On\n"
        "<WSGIInterpreterOptions application-group=shop>\nWSGIRestrictStdin Off\nWSGIRestrictStdout On\n"
        "WSGIRestrictSignal Off\nWSGIPythonPath /opt/shop\n</WSGIInterpreterOptions>"
    )
    mounts = [Mount("/shop", "directives.py", "shop"), Mount("/main", "directives.py", "%{GLOBAL}")]
    apache.start(mounts=mounts, main=sections)
    shop, main = seen(apache, "/shop"), seen(apache, "/main")
    assert "restricted" not in shop["stdin"] and "restricted by mod_wsgi" in main["stdin"]
    assert "restricted by mod_wsgi" in shop["stdout"] and "restricted" not in main["stdout"]
    assert "/opt/shop" in shop["path"] and "/opt/shop" not in main["path"]
    assert "only works in main thread" in shop["signal"] and "only works" not in main["signal"]
    assert shop["group"] == "shop"


@pytest.mark.parametrize("destroy", ["On", "Off"])
def test_exit_functions(apache, destroy):
    apache.start("directives.py", "%{GLOBAL}", main=f"WSGIDestroyInterpreter {destroy}")
    seen(apache)
    apache.stop()
    assert (apache.data / "exit").exists() == (destroy == "On")


def test_restrict_embedded(apache):
    apache.start(main="WSGIRestrictEmbedded On")
    assert apache.get().status_code == 500
    apache.wait_log(r"WSGIRestrictEmbedded in \S+httpd\.conf:\d+: no application")
    for pid in apache.workers():
        assert "libpython" not in open(f"/proc/{pid}/maps").read()


def test_python_starts_with_the_worker(apache):
    apache.start()
    apache.wait_log("resuming normal operations")

    def has_python(pid):
        return "libpython" in open(f"/proc/{pid}/maps").read()

    wait_for(lambda: all(map(has_python, apache.workers())), "Python in every worker")


def test_restrict_process(apache):
    apache.start(mounts=[
        Mount("/yes", "hello.py", apache="WSGIRestrictProcess %{GLOBAL} shop"),
        Mount("/no", "hello.py", apache="WSGIRestrictProcess shop"),
    ])  # fmt: skip
    assert apache.get("/yes").status_code == 200
    assert apache.get("/no").status_code == 500
    apache.wait_log(r"WSGIRestrictProcess in \S+site\.conf:\d+: process group")


def test_process_group_of_the_environment(apache):
    apache.start(mounts=[
        Mount("/own", "hello.py", apache="SetEnv GROUP %{GLOBAL}\nWSGIProcessGroup %{ENV:GROUP}"),
        Mount("/other", "hello.py", apache="SetEnv GROUP shop\nWSGIProcessGroup %{ENV:GROUP}"),
        Mount("/unknown", "hello.py", apache="WSGIProcessGroup %{ENV:NOTHING_OF_THIS_NAME}"),
    ])  # fmt: skip
    assert apache.get("/own").status_code == 200
    assert apache.get("/other").status_code == 500
    assert apache.get("/unknown").status_code == 500
    apache.wait_log(r"WSGIProcessGroup in \S+site\.conf:\d+: No WSGI daemon process called 'shop'")
    apache.wait_log(re.escape("No WSGI daemon process called '%{ENV:NOTHING_OF_THIS_NAME}'"))


def test_chunked_requests(apache):
    apache.start(mounts=[Mount("/off", "hello.py", apache="WSGIChunkedRequest Off"), Mount("/", "hello.py")])
    body = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert apache.exchange(body % b"/off").status == 411
    assert apache.exchange(body % b"/").status == 200


@pytest.mark.parametrize("value, method", [("On", "GET"), ("Off", "HEAD"), ("Auto", "GET")])
def test_head(apache, value, method):
    """The site compresses by type: with Auto that filter is to see the whole answer."""
    apache.start(mounts=[Mount("/", "directives.py", apache=f"WSGIMapHEADToGET {value}")])
    assert apache.client.head("/").headers["x-method"] == method
    assert apache.get().headers["x-method"] == "GET"


METRICS = """
import ctypes, json, mod_wsgi

get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

def application(environ, start_response):
    capsule = environ.get("apache.request_rec")
    pool = None  # the first member of a request_rec
    if capsule is not None:
        pool = ctypes.cast(get_pointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))[0]
    body = json.dumps([mod_wsgi.server_metrics(), bool(pool)]).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""


def test_server_metrics_and_request_rec(apache):
    apache.write_app("metrics.py", METRICS)
    passing = Mount("/passed", "metrics.py", "a", apache="WSGIPassApacheRequest On")
    mounts = [passing, Mount("/", "metrics.py", "a")]
    apache.start(mounts=mounts, main="ExtendedStatus On\nWSGIServerMetrics On", threads=3)
    assert seen(apache, "/")[1] is False
    board, passed = seen(apache, "/passed")
    assert passed is True
    assert (board["server_limit"], board["thread_limit"], board["running_generation"]) == (1, 3, 0)
    assert board["restart_time"] <= board["current_time"] and board["running_time"] < 60
    (process,) = board["processes"]
    assert (process["process_num"], process["quiescing"]) == (0, False)
    assert process["pid"] in apache.workers()
    assert len(process["workers"]) == 3
    (busy,) = [worker for worker in process["workers"] if worker["status"] == "W"]
    assert (busy["request"], busy["client"]) == ("GET /passed HTTP/1.1", "127.0.0.1")
    assert sum(worker["access_count"] for worker in process["workers"]) == 1


def test_htaccess_classes(apache):
    allowed = f"<Directory {apache.apps}>\nAllowOverride FileInfo\n</Directory>"
    apache.start("directives.py", main=allowed)
    for lines, status in [
        ("WSGIPassAuthorization On\nWSGIChunkedRequest Off\nWSGIMapHEADToGET On\nWSGIErrorOverride On\n"
         "WSGIEnableSendfile Off\nWSGITrustedProxyHeaders X-Real-IP\nWSGITrustedProxies 127.0.0.1", 200),
        ("WSGIAccessScript /srv/a.py", 500), ("WSGIProcessGroup %{GLOBAL}", 500),
        ("WSGITrustedProxies name", 500),
    ]:  # fmt: skip
        (apache.apps / ".htaccess").write_text(lines + "\n")
        assert apache.get().status_code == status, lines
    # httpd says of a bad .htaccess file that it is an alert.
    apache.error_log.write_text("")


def test_module_as_target(apache):
    apache.start(mounts=[], apache=(
        "WSGIScriptAlias /m directives:application process-group=%{GLOBAL} application-group=%{GLOBAL}\n"
        "WSGIScriptAlias /no directives:application\n<Location /no>\nRequire all denied\n</Location>"
    ))  # fmt: skip
    environ = seen(apache, "/m/a/b")["environ"]
    assert environ["SCRIPT_FILENAME"] == "directives:application"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/m", "/a/b")
    assert apache.get("/no").status_code == 403


def test_trusted_proxies(apache):
    headers = (
        "WSGITrustedProxyHeaders X-Forwarded-For X-Forwarded-Proto\nWSGITrustedProxyHeaders X-Script-Name"
    )
    trusted = f"{headers}\nWSGITrustedProxies 127.0.0.0/8 10.0.0.0/8"
    stranger = f"{headers}\nWSGITrustedProxies 192.0.2.1"
    apache.start(mounts=[
        Mount("/trusted", "directives.py", "a", apache=trusted),
        Mount("/stranger", "directives.py", "a", apache=stranger),
        Mount("/plain", "directives.py", "a"),
    ])  # fmt: skip
    sent = {
        "X-Forwarded-For": "6.6.6.6, 198.51.100.7,, 10.0.0.9", "X-Real-IP": "6.6.6.6",
        "X-Forwarded-Proto": "https", "X-Script-Name": "/shop",
    }  # fmt: skip
    found = seen(apache, "/trusted/x", headers=sent)
    environ = found["environ"]
    assert found["scheme"] == "https"
    assert environ["REMOTE_ADDR"] == "198.51.100.7"
    assert environ["HTTP_X_FORWARDED_FOR"] == "198.51.100.7, 10.0.0.9"
    assert "HTTP_X_REAL_IP" not in environ
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/x")
    assert environ["mod_wsgi.mount_point"] == "/shop"
    assert environ["mod_wsgi.script_name"] == "/trusted"

    found = seen(apache, "/stranger", headers=sent)
    assert (found["scheme"], found["environ"]["REMOTE_ADDR"]) == ("http", "127.0.0.1")
    assert not any(key.startswith("HTTP_X_") for key in found["environ"])

    environ = seen(apache, "/plain", headers=sent)["environ"]
    assert environ["REMOTE_ADDR"] == "127.0.0.1" and environ["HTTP_X_REAL_IP"] == "6.6.6.6"


def test_script_names_of_proxies_make_no_interpreters(apache):
    apache.start(mounts=[Mount("/a", "directives.py", apache="WSGITrustedProxyHeaders X-Script-Name")])
    groups = {seen(apache, "/a", headers={"X-Script-Name": f"/{n}"})["group"] for n in range(3)}
    assert len(groups) == 1
