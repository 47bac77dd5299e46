//! The directives that are nginx's alone.

/// Directives of the nginx module that mod_wsgi has no word for, and what httpd does instead.
pub const NGINX_ONLY: &[(&str, &str, &str)] = &[
    (
        "wsgi_param",
        "*name* *value* [if_not_empty]: a variable of the environ",
        "`SetEnv`, `SetEnvIf`, `RewriteRule … [E=…]`",
    ),
    (
        "wsgi_threads",
        "*number* (8): threads for an application group in each worker process; 0: the application runs on \
         nginx's event loop itself, for applications that never block ([performance](performance.md))",
        "the MPM's `ThreadsPerChild`",
    ),
    (
        "wsgi_request_buffering",
        "on\\|off (on): whether nginx reads the whole body first; what exceeds its `client_body_buffer_size` (16k) \
         waits in a file",
        "bodies are read as the application asks for them",
    ),
    (
        "wsgi_buffering",
        "on\\|off (on): whether nginx takes the answers of a process group as fast as they come, into memory, where \
         the client is slower; `X-Accel-Buffering: no` in an answer turns it off",
        "`response-buffer-size=` of the process group",
    ),
    (
        "wsgi_buffers",
        "*number* *size* (of 32k, as many as `response-buffer-size=` of the process group wants): that memory, for one \
         answer",
        "`response-buffer-size=` of the process group",
    ),
    (
        "wsgi_buffer_size",
        "*size* (16k): for the head of an answer of a process group, and what comes with it; longer heads get more",
        "nothing to set",
    ),
    (
        "wsgi_read_timeout",
        "*time* (`socket-timeout=` of the process group): for which a process may be silent, then 504",
        "`socket-timeout=` of the process group",
    ),
];
