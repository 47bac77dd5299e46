"""What scripts are asked about a request. Run after bootstrap.py in the same globals."""


def ask(script, hook, environ, arguments):
    """True, False, None or a list of bytes: what the script's function of that name answers."""
    for key in not_for_hooks if hook in optional else not_for_hooks + credentials:
        environ.pop(key, None)
    if ssl_is_https and hook not in optional:
        environ["mod_ssl.is_https"], environ["mod_ssl.var_lookup"] = ssl_is_https, var_lookup
    if hook in optional and not hasattr(script, hook):
        return None
    function = find_callable(script, hook, getattr(script, "__file__", script.__name__))
    return judges[hook](function(environ, *arguments))


def var_lookup(name):
    """The value of a variable of mod_ssl's, as SSL_CLIENT_S_DN; None where there is none."""
    return ssl_variable(name.encode("latin-1") if isinstance(name, str) else name)


def allowed(answer):
    if answer is None or isinstance(answer, bool):
        return answer
    raise TypeError(f"allow_access() must return True, False or None, not {type(answer).__name__}")


def user_name(answer):
    if answer is None or isinstance(answer, bool):
        return answer
    if not isinstance(answer, str):
        raise TypeError("check_password() must return True, False, None or the user's name as str, "
                        f"not {type(answer).__name__}")
    if not answer:
        raise ValueError("check_password() returned an empty user name")
    return [text(answer, "utf-8")]


def group_names(answer):
    if isinstance(answer, (str, bytes)):
        raise TypeError(f"groups_for_user() must return an iterable of names, not {type(answer).__name__}")
    return [text(name) for name in answer]


def text_or_none(answer):
    return None if answer is None else [text(answer)]


def text(value, encoding="latin-1"):
    if isinstance(value, str):
        value = value.encode(encoding)
    elif not isinstance(value, bytes):
        raise TypeError(f"str or bytes expected, not {type(value).__name__}")
    if b"\0" in value:
        raise ValueError("a zero byte in what a hook returned")
    return value


not_for_hooks = ("wsgi.input", "wsgi.file_wrapper", "mod_wsgi.callable_object")
#: Nobody has been authenticated yet, whatever the server believes; the password is an argument where it matters.
credentials = ("REMOTE_USER", "AUTH_TYPE", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION")
optional = {"process_group", "application_group", "callable_object"}
judges = {
    "allow_access": allowed,
    "check_password": user_name,
    "get_realm_hash": text_or_none,
    "groups_for_user": group_names,
    "process_group": text_or_none,
    "application_group": text_or_none,
    "callable_object": text_or_none,
}
