"""Which interface an application's callable has. In the globals of bootstrap.py."""

UNKNOWN, WSGI, ASGI = range(3)


def interface_of(function, stated):
    """The callable to be called for each request, and its interface."""
    if type(function) is types.FunctionType and function.__code__.co_argcount == 2 and stated == UNKNOWN:
        # What nearly all are that are written by hand, without the time that the import of inspect takes.
        if not function.__code__.co_flags & CO_COROUTINE and not hasattr(function, "__wrapped__"):
            return function, WSGI
    if is_factory(function):
        function = function()
        if not callable(function):
            raise TypeError(f"the factory has returned no callable but {type(function).__name__}")
    return function, stated if stated != UNKNOWN else detected(function)


#: As in inspect.
CO_COROUTINE = 0x80


def takes(function, count):
    """Whether it can be called with so many arguments."""
    import inspect
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def unwrapped(function):
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, functools.partial) else function.__wrapped__
    return function


def is_factory(function):
    import inspect
    try:
        return not inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def detected(function):
    import inspect
    inner = unwrapped(function)
    call = None if inspect.isclass(inner) else getattr(type(inner), "__call__", None)
    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(call):
        return ASGI
    try:
        return ASGI if takes(function, 3) and not takes(function, 2) else WSGI
    except ValueError:  # a function of C without a signature
        return WSGI
