"""mod_wsgi's directives in nginx's dress: the same words, the same meaning."""


import pytest
from servers import Mount


def seen(server, path="/", **options):
    answer = server.get(path, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_python_flags(nginx):
    nginx.start("directives.py", "%{GLOBAL}", http="""
        wsgi_python_optimize 1; wsgi_python_hash_seed 42; wsgi_dont_write_bytecode on;
        wsgi_python_warnings error::UserWarning; wsgi_python_warnings ignore::ImportWarning;
        wsgi_switch_interval 0.02;
    """)  # fmt: skip
    found = seen(nginx)
    assert (found["optimize"], found["dont_write_bytecode"]) == (1, True)
    assert found["switch_interval"] == pytest.approx(0.02)
    assert {"error", "ignore"} <= set(found["warnings"])
    first = found["hash"]
    nginx.reload()
    assert seen(nginx)["hash"] == first


def test_restrictions_by_interpreter(nginx):
    sections = """
        wsgi_restrict_stdin on;
        wsgi_interpreter_options application-group=shop {
            wsgi_restrict_stdin off; wsgi_restrict_stdout on; wsgi_restrict_signal off;
            wsgi_python_path /opt/shop;
        }
    """
    mounts = [Mount("/shop", "directives.py", "shop"), Mount("/main", "directives.py", "%{GLOBAL}")]
    nginx.start(mounts=mounts, http=sections)
    shop, main = seen(nginx, "/shop"), seen(nginx, "/main")
    assert "restricted" not in shop["stdin"] and "restricted by mod_wsgi" in main["stdin"]
    assert "restricted by mod_wsgi" in shop["stdout"] and "restricted" not in main["stdout"]
    assert "/opt/shop" in shop["path"] and "/opt/shop" not in main["path"]
    assert "only works in main thread" in shop["signal"] and "only works" not in main["signal"]


@pytest.mark.parametrize("destroy", ["on", "off"])
def test_exit_functions(nginx, destroy):
    nginx.start("directives.py", "%{GLOBAL}", http=f"wsgi_destroy_interpreter {destroy};")
    seen(nginx)
    nginx.stop()
    assert (nginx.data / "exit").exists() == (destroy == "on")


def test_pass_authorization(nginx):
    nginx.start(mounts=[
        Mount("/on", "directives.py", "a"),
        Mount("/off", "directives.py", "a", nginx="wsgi_pass_authorization off;"),
    ])  # fmt: skip
    sent = {"Authorization": "Bearer x", "Proxy-Authorization": "Bearer y", "X-Other": "z"}
    passed = {"HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_X_OTHER"}
    assert passed <= seen(nginx, "/on", headers=sent)["environ"].keys()
    assert passed & seen(nginx, "/off", headers=sent)["environ"].keys() == {"HTTP_X_OTHER"}


def test_chunked_requests(nginx):
    off = Mount("/off", "hello.py", nginx="wsgi_chunked_request off;")
    nginx.start(mounts=[off, Mount("/", "hello.py")])
    body = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert nginx.exchange(body % b"/off").status == 411
    assert nginx.exchange(body % b"/").status == 200


@pytest.mark.parametrize("value, method", [("on", "GET"), ("off", "HEAD")])
def test_head(nginx, value, method):
    nginx.start(mounts=[Mount("/", "directives.py", nginx=f"wsgi_map_head_to_get {value};")])
    answer = nginx.request("/", method="HEAD")
    assert (dict(answer.headers)["X-Method"], answer.body) == (method, b"")
    assert nginx.get().headers["x-method"] == "GET"


SENT = {
    "X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example",
    "X-Forwarded-Port": "8443", "X-Script-Name": "/shop", "X-Scheme": "gopher",
}  # fmt: skip


def test_trusted_proxies(nginx):
    headers = "wsgi_trusted_proxy_headers X-Forwarded-Proto X-Forwarded-Host X-Forwarded-Port;"
    named = f"{headers} wsgi_trusted_proxy_headers X-Script-Name; wsgi_trusted_proxies"
    nginx.start(
        mounts=[
            Mount("/trusted", "directives.py", "a", nginx=f"{named} 127.0.0.0/8;"),
            Mount("/stranger", "directives.py", "a", nginx=f"{named} 192.0.2.1;"),
            Mount("/inherited", "directives.py", "a"),
        ],
        http=headers,
    )
    found = seen(nginx, "/trusted/x", headers=SENT)
    environ = found["environ"]
    assert found["scheme"] == "https"
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"]) == ("shop.example", "8443")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/x")
    assert environ["mod_wsgi.mount_point"] == "/shop"
    assert environ["mod_wsgi.script_name"] == "/trusted"
    # The client's address is not its business; another header of a category that is named is not believed.
    assert (environ["REMOTE_ADDR"], environ["HTTP_X_FORWARDED_FOR"]) == ("127.0.0.1", "198.51.100.7")
    assert "HTTP_X_SCHEME" not in environ

    found = seen(nginx, "/stranger", headers=SENT)
    assert found["scheme"] == "http"
    assert {key for key in found["environ"] if key.startswith("HTTP_X_")} == {"HTTP_X_FORWARDED_FOR"}

    found = seen(nginx, "/inherited", headers=SENT)
    assert (found["scheme"], found["environ"]["SCRIPT_NAME"]) == ("https", "/inherited")


def test_trusted_proxies_beside_realip(nginx):
    """The realip module has put the client in the place of the proxy, which is who must be trusted."""
    nginx.start("directives.py", http="""
        set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;
        wsgi_trusted_proxy_headers X-Forwarded-Proto; wsgi_trusted_proxies 127.0.0.1;
    """)  # fmt: skip
    found = seen(nginx, headers=SENT)
    assert (found["scheme"], found["environ"]["REMOTE_ADDR"]) == ("https", "198.51.100.7")
