def check_password(environ, user, password):
    if user not in ("ann", "ben"):
        return None
    return user.capitalize() if password == "secret" else False
