import hashlib

USERS = {
    "ann": (hashlib.sha256(b"secret").hexdigest(), ["staff"]),
    "ben": (hashlib.sha256(b"geheim").hexdigest(), ["guests"]),
}


def check_password(environ, user, password):
    if user not in USERS:
        return None
    return hashlib.sha256(password.encode()).hexdigest() == USERS[user][0]


def groups_for_user(environ, user):
    return USERS[user][1]
