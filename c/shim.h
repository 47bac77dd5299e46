/* What the server shims (C) and the host (Rust) say to each other: the only header both read.
 *
 * Conventions
 * - A burrow_str is bytes with a length, not NUL-terminated; data == NULL means "absent".
 * - A function that can refuse returns NULL when all is well, else a message for the person who
 *   wrote the configuration: what is wrong and the cure. The message lives as long as the settings.
 * - Nothing here is called from a signal handler.
 */
#ifndef BURROW_SHIM_H
#define BURROW_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#pragma GCC visibility push(hidden)

typedef struct {
    const char *data;
    size_t len;
} burrow_str;

typedef struct {
    burrow_str name;
    burrow_str value;
} burrow_pair;

/* The numbers are syslog's (and httpd's APLOG_*). */
typedef enum {
    BURROW_LOG_CRIT = 2,
    BURROW_LOG_ERR = 3,
    BURROW_LOG_WARN = 4,
    BURROW_LOG_NOTICE = 5,
    BURROW_LOG_INFO = 6,
    BURROW_LOG_DEBUG = 7
} burrow_level;

/* ---- settings: one per configuration that the server has read ------------------------------ */

typedef struct burrow_settings burrow_settings;

typedef enum { BURROW_APACHE, BURROW_NGINX } burrow_server_kind;

burrow_settings *burrow_settings_create(burrow_server_kind server);
void burrow_settings_destroy(burrow_settings *settings);

/* Where a directive stands, for what can be judged only once all of them are read. */
typedef struct {
    burrow_str directive;
    burrow_str file;
    unsigned line;
    /* Where its virtual host keeps its name, which may follow; NULL in the main server. Read until
     * burrow_settings_check. */
    const char *const *server_name;
} burrow_place;

/* The Python installation or virtual environment of everything embedded. */
const char *burrow_settings_python_home(burrow_settings *settings, const burrow_place *place,
                                        burrow_str dir);

/* The interpreters that an option is for. */
typedef struct {
    burrow_str process_group;     /* "" is the server's own processes; absent: of any */
    burrow_str application_group; /* "" is the main interpreter; absent: any */
} burrow_scope;

/* An option of Python, of its interpreters or of the telemetry, by the name in
 * src/settings/options.rs; scope is NULL where it is for all interpreters. */
const char *burrow_settings_option(burrow_settings *settings, const burrow_place *place,
                                   const burrow_scope *scope, burrow_str name, burrow_str value);
/* A process group of daemon mode; its options are those of src/settings/process_group.rs. */
const char *burrow_settings_daemon_process(burrow_settings *settings, const burrow_place *place,
                                           burrow_str name, const burrow_pair *options,
                                           size_t n_options);
/* Daemon mode: whom the server's workers run as, the prefix of the folder that holds its sockets,
 * the seconds that the server waits for one read or write, and the least severe level that it logs
 * (a burrow_level). Before burrow_settings_check. */
void burrow_settings_instance(burrow_settings *settings, uid_t uid, gid_t gid, burrow_str prefix,
                              double timeout, unsigned log_level);
/* In how many interpreters an application of the server's own processes runs: a number,
 * "auto" or "off". */
const char *burrow_settings_interpreters(burrow_settings *settings, const burrow_place *place,
                                         burrow_str value, unsigned *interpreters);
/* Something is to run in this process group, not "". burrow_settings_check judges it. */
void burrow_settings_use_process_group(burrow_settings *settings, const burrow_place *place,
                                       burrow_str name);
/* There will be requests for applications in the server's own processes, not known by name yet. */
void burrow_settings_expect_embedded(burrow_settings *settings);
/* NULL, or why no application may run in the server's own processes. */
const char *burrow_settings_refuse_embedded(const burrow_settings *settings);
/* What was read and has no effect, with the reason: for the log, once. NULL behind the last one. */
const char *burrow_settings_note(const burrow_settings *settings, size_t index);
/* Once the whole configuration is read, also under configtest: runs no Python, opens no library. */
const char *burrow_settings_check(burrow_settings *settings);

/* ---- applications ------------------------------------------------------------------------- */

/* One application: a callable of a target in an application group. Belongs to its settings. */
typedef struct burrow_app burrow_app;

typedef struct {
    burrow_str target;            /* "/srv/app.wsgi" or "package.module:callable" */
    burrow_str callable;          /* "" or absent: what the target names, else "application" */
    burrow_str application_group; /* "" is the main interpreter */
    burrow_str process_group;     /* "" or absent: the server's own processes */
    burrow_str server_name;       /* of the request: a process group can belong to a virtual host */
    int is_whole;                 /* a script that is imported for what it does, no application */
    unsigned threads;             /* nginx: application threads of the group in each worker */
    unsigned interpreters;        /* of burrow_settings_interpreters; 0: the group's only one */
} burrow_app_key;

/* Finds the application, or adds it. Any thread, any time. NULL with *error set when the key is
 * refused (relative script path, bad module name; once burrow_settings_check is through: a process
 * group that there is not, or not here). */
burrow_app *burrow_app_find(burrow_settings *settings, const burrow_app_key *key,
                            const char **error);
/* Whether it runs in a process group, not in the server's own processes. */
int burrow_app_is_daemon(const burrow_app *app);
/* The seconds that one write to the client may take; 0: the server's. */
double burrow_app_write_timeout(const burrow_app *app);
/* Import it as soon as the worker process starts. */
void burrow_app_preload(burrow_app *app);

/* ---- the worker process ------------------------------------------------------------------- */

/* httpd's scoreboard; times in microseconds since the epoch. */
typedef struct {
    int processes; /* how many there can be */
    int threads;   /* in each */
    int generation;
    int64_t restart_time;
} burrow_scoreboard;

typedef struct {
    pid_t pid;
    int generation;
    int quiescing;
} burrow_process_score;

typedef struct {
    int thread;
    int generation;
    char status; /* mod_status's letter */
    uint64_t requests;
    uint64_t bytes;
    int64_t start_time;
    int64_t stop_time;
    int64_t last_used;
    burrow_str client;
    burrow_str request;
    burrow_str vhost;
} burrow_worker_score;

/* What Python asks of httpd in its own processes. `request` is what the request was begun with. */
typedef struct {
    int (*is_https)(void *request);
    /* A variable of mod_ssl's; absent where there is none. */
    burrow_str (*ssl_variable)(void *request, const char *name);
    /* The request_rec, or NULL where the configuration does not pass it on. */
    void *(*request_rec)(void *request);
    /* 0 where the configuration does not let it be seen. */
    int (*scoreboard)(burrow_scoreboard *board);
    void (*process_score)(int process, burrow_process_score *score);
    void (*worker_score)(int process, int thread, burrow_worker_score *score);
} burrow_httpd;

/* What the Python module `apache` says; lives as long as the process. */
typedef struct {
    unsigned version[3];
    burrow_str description;
    burrow_str mpm_name;
    burrow_str build_date;
    const burrow_httpd *httpd; /* NULL in a process group */
} burrow_apache;

typedef struct {
    burrow_server_kind kind;
    const burrow_apache *apache; /* NULL where the server is not httpd */
    burrow_str software;         /* SERVER_SOFTWARE */
    int multiprocess;            /* wsgi.multiprocess */
    int multithread;             /* wsgi.multithread; nginx: an application's threads decide */
    unsigned processes;          /* most processes there can be */
    unsigned threads;            /* threads in each */
    /* httpd: connections in each, where those of WebSockets need no thread; 0: each needs one */
    unsigned connections;
    /* One line, no newline. `request` is what the request was begun with, or NULL. httpd: called
     * from any thread; nginx: called on the event loop only, by burrow_loop_drain. */
    void (*log)(void *request, burrow_level level, burrow_str line);
} burrow_server;

/* In the worker, after the fork and once privileges are dropped: starts Python on a thread of its
 * own and returns at once. Refuses (logs, and every request answers 500) where the process is root.
 * `server` is copied. */
void burrow_process_start(burrow_settings *settings, const burrow_server *server);
/* The process takes no further connections: closes those to process groups that are idle, and
 * WebSockets in order. */
void burrow_process_retire(const burrow_settings *settings);
/* Runs every interpreter's exit functions, for at most timeout_ms. Requests get 503 from now on. */
void burrow_process_stop(unsigned timeout_ms);

/* ---- requests ----------------------------------------------------------------------------- */

/* The variables that a server knows, in the order of the runtime's table of keys. */
typedef enum {
    BURROW_REQUEST_METHOD,
    BURROW_REQUEST_URI,      /* as the client sent it */
    BURROW_SCRIPT_NAME,      /* decoded; "" at the root */
    BURROW_PATH_INFO,        /* decoded; never absent */
    BURROW_QUERY_STRING,     /* never absent */
    BURROW_SERVER_PROTOCOL,  /* "HTTP/1.1", "HTTP/2.0" … */
    BURROW_REQUEST_SCHEME,   /* "http" or "https": also wsgi.url_scheme */
    BURROW_SERVER_NAME,
    BURROW_SERVER_PORT,
    BURROW_SERVER_ADDR,
    BURROW_REMOTE_ADDR,
    BURROW_REMOTE_PORT,
    BURROW_REMOTE_USER,
    BURROW_AUTH_TYPE,
    BURROW_DOCUMENT_ROOT,
    BURROW_SCRIPT_FILENAME,
    BURROW_SERVER_SOFTWARE,
    /* From here on for mod_wsgi.*: whatever the server does not know is absent. */
    BURROW_REQUEST_HANDLER, /* "wsgi-script" */
    BURROW_LISTENER_HOST,   /* of the listening address; "" when it is any */
    BURROW_LISTENER_PORT,
    BURROW_REQUEST_ID,    /* what the server's logs call the request */
    BURROW_CONNECTION_ID, /* … and its connection */
    BURROW_VAR_COUNT
} burrow_var;

typedef enum {
    BURROW_RELOADING = 1, /* look at the script's mtime first */
    BURROW_NO_BODY = 2,   /* the request has no body: never ask for one */
    BURROW_HEADER_ONLY = 4, /* the client gets the head alone, even where the method says GET */
    /* A WebSocket's handshake (HTTP/1.1, GET, Upgrade: websocket, Connection: upgrade) on a
     * connection that can be taken over: by a head of status 101 without BURROW_LAST. The shim adds
     * Connection: Upgrade to it; from then on read and send are of the connection's bytes, either
     * way, until BURROW_LAST or the request's end. */
    BURROW_UPGRADE = 8,
    BURROW_EARLY_HINTS = 16, /* the client can be sent a 103 */
    BURROW_TRAILERS = 32 /* … and trailers, if it accepts those (TE) */
} burrow_request_flag;

typedef struct {
    burrow_str vars[BURROW_VAR_COUNT];
    const burrow_pair *headers; /* as received, in order; the runtime makes the keys and merges */
    size_t n_headers;
    const burrow_pair *params; /* further variables, ready as they are; later ones win */
    size_t n_params;
    /* Of a TLS connection: SSL_PROTOCOL, SSL_CIPHER, SSL_SERVER_CERT, SSL_CLIENT_VERIFY and, where
     * the client has one, SSL_CLIENT_S_DN and each SSL_CLIENT_CERT of its chain, its own first; as
     * mod_ssl has them. */
    const burrow_pair *tls;
    size_t n_tls;
    burrow_str body;        /* the whole body, where the server has it in memory; else absent */
    int64_t content_length; /* bytes; -1 when unknown (chunked) */
    int64_t request_start;  /* microseconds since the epoch */
    int64_t queue_start;    /* the same, of when it was handed to a process group; 0: it was not */
    int64_t daemon_start;   /* the same, of when a thread there took it; 0: none did */
    int64_t script_modified; /* the script's mtime in microseconds; 0: not looked at */
    unsigned flags;
} burrow_request;

/* Of a head that stands for trailers. */
#define BURROW_STATUS_TRAILERS 0

/* The head of the answer. Framing headers (Content-Length, Transfer-Encoding, Connection) are never
 * among `headers`. */
typedef struct {
    unsigned status;
    burrow_str reason; /* may be empty */
    const burrow_pair *headers;
    size_t n_headers;
    int64_t content_length; /* -1: unknown, the server frames as it likes */
} burrow_head;

/* A piece of the answer: bytes, or len bytes of a file. The receiver owns the descriptor and closes
 * it. */
typedef struct {
    const char *data;
    size_t len;
    int fd;         /* -1: bytes */
    int64_t offset; /* in the file */
} burrow_body;

typedef enum {
    BURROW_LAST = 1, /* the answer ends here, whole */
    BURROW_FLUSH = 2 /* send what there is now */
} burrow_send_flag;

/* How the application's side talks to a request; called without the GIL, may block. */
typedef struct {
    /* Up to len bytes of the request's body; 0 at its end; -1 when the client is gone. */
    ssize_t (*read)(void *exchange, char *buf, size_t len);
    /* The first call brings the head, later ones NULL; but the last one, where that head had no
     * content_length, may bring another, of BURROW_STATUS_TRAILERS: fields behind the body.
     * body->len may be 0. Returns 0, or -1 when the client is gone; 1 is for a process group's
     * answer, whose rest the client does not get. Data need not live longer than the call. */
    int (*send)(void *exchange, const burrow_head *head, const burrow_body *body, unsigned flags);
} burrow_io;

/* A WebSocket's connection that no thread of httpd's has. Called on one thread; nothing waits. */
typedef struct {
    /* As burrow_client's; with drains what it returns less than len of is all that there was. */
    ssize_t (*read)(void *exchange, char *buf, size_t len);
    int drains;
    /* 0; 1: something is pending, until the descriptor is writable, then without bytes; -1: the
     * client is gone. Behind a 0 at most BURROW_SUSPENDED_MAX bytes follow before the next one. */
    int (*send)(void *exchange, const char *data, size_t len);
    /* Logs the request, frees it with its exchange, and shuts down the connection for sending. What
     * the two functions below are called with. */
    void *(*finish)(void *exchange);
    /* Closes the connection, whose memory httpd may still write to. */
    void (*close)(void *memory);
    /* It does not any more. */
    void (*release)(void *memory);
    int64_t timeout; /* microseconds that a client may take nothing for */
} burrow_suspension;
#define BURROW_SUSPENDED_MAX 16384

/* The client, where somebody waits for it and for a process group at once; besides burrow_io. */
typedef struct {
    /* As read, but -2 when there is nothing yet. */
    ssize_t (*read)(void *exchange, char *buf, size_t len);
    /* What becomes readable with more of the body and hangs up when the client leaves; -1: there is
     * no such descriptor; -2: the client is gone. */
    int (*descriptor)(void *exchange);
    /* Behind a 101 that was sent: has request, exchange and connection outlive burrow_serve, which
     * is to return then, whatever it says. 0, or -1 where a thread has to stay. Without a websocket
     * it only tells which. */
    int (*suspend)(void *exchange, void *websocket, burrow_suspension *suspension);
} burrow_client;

typedef enum {
    BURROW_DONE,        /* an answer was sent, whole */
    BURROW_FAILED,      /* nothing was sent, the cause is logged: 500 */
    BURROW_UNAVAILABLE, /* nothing was sent: 503 */
    BURROW_ABORTED,     /* the head was sent but the answer is not whole: cut the connection */
    BURROW_GONE,        /* the client left */
    BURROW_DIED,        /* nothing was sent: the process that served it has died; 502 */
    BURROW_TIMEOUT      /* nothing was sent: a time limit has passed; 504 */
} burrow_outcome;

/* httpd: runs one request to its end on the calling thread, here or in a process group. `exchange`
 * is what `io` and `client` are called with and log lines are bound to. It begins with a pointer
 * that is the host's, NULL at first; so does that of burrow_ask. */
burrow_outcome burrow_serve(burrow_app *app, const burrow_request *request, const burrow_io *io,
                            const burrow_client *client, void *exchange);
/* httpd's thread has let go of the connection of burrow_client's `websocket`, but for its memory:
 * on that thread. */
void burrow_suspended(void *websocket);

/* ---- hooks: what a script is asked about a request ------------------------------------------ */

/* A script of functions that the server asks, as burrow_app_find; on nginx with application
 * threads. */
burrow_app *burrow_script_find(burrow_settings *settings, burrow_str target,
                               burrow_str application_group, unsigned threads, const char **error);

typedef enum {
    BURROW_ALLOW_ACCESS,      /* (environ, host) */
    BURROW_CHECK_PASSWORD,    /* (environ, user, password) */
    BURROW_GET_REALM_HASH,    /* (environ, user, realm) */
    BURROW_GROUPS_FOR_USER,   /* (environ, user) */
    /* These three: (environ). NONE, too, where the script has no such function. */
    BURROW_PROCESS_GROUP,
    BURROW_APPLICATION_GROUP,
    BURROW_CALLABLE_OBJECT
} burrow_hook;

/* A hook that raises, does not import or returns what it may not is a failure, which is logged
 * here. It is 0 so that what is forgotten fails. */
typedef enum {
    BURROW_FAILURE,
    BURROW_TRUE,
    BURROW_FALSE,
    BURROW_NONE,
    BURROW_TEXT /* groups: any number of them */
} burrow_verdict;

typedef struct {
    burrow_hook hook;
    burrow_str arguments[2]; /* absent behind the last one */
    burrow_str place;        /* the directive, its file and line: for the log */
    /* Called for each text of the verdict, which lives as long as the call, without a zero byte. */
    void (*text)(void *to, burrow_str text);
    void *to;
} burrow_question;

/* httpd: asks on the calling thread; `exchange` is what log lines are bound to. */
burrow_verdict burrow_ask(burrow_app *script, const burrow_question *question,
                          const burrow_request *request, void *exchange);

/* ---- what trusted proxies say about a request ------------------------------------------------ */

/* A network of addresses. IPv4 is written as in ::ffff:192.0.2.0/120. */
typedef struct {
    unsigned char address[16];
    unsigned prefix;
} burrow_network;

typedef struct {
    const unsigned char *headers; /* codes of burrow_proxy_header; a later one wins */
    size_t n_headers;
    const burrow_network *networks; /* of the proxies that are trusted; NULL: every peer is */
    size_t n_networks;
} burrow_proxies;

/* The code of a header that a proxy may say something with. */
const char *burrow_proxy_header(burrow_settings *settings, burrow_str name, unsigned char *code);
/* "192.0.2.1", "192.0.2.0/24", "2001:db8::/32". Whether it is one. */
int burrow_network_parse(burrow_str text, burrow_network *network);
/* Applies the headers of a trusted peer and drops those that must not be believed. What changes is
 * allocated from `alloc`, and `request` points there afterwards. 0, or -1 where that gives NULL. */
int burrow_proxies_apply(const burrow_proxies *proxies, burrow_request *request,
                         void *(*alloc)(void *pool, size_t size), void *pool);

/* ---- nginx: requests cross from the event loop to application threads ----------------------- */

/* A request in flight. Made, fed and released on the event loop. */
typedef struct burrow_exchange burrow_exchange;
/* A piece of an answer that the event loop owns until it is sent. */
typedef struct burrow_chunk burrow_chunk;

typedef struct {
    /* All on the event loop, from burrow_loop_drain; never for an exchange that was released.
     * `chunk` (NULL when there are no bytes) must be given to burrow_chunk_free in the end;
     * *body describes it. */
    void (*respond)(void *request, const burrow_head *head, burrow_chunk *chunk,
                    const burrow_body *body, unsigned flags);
    /* The last call for this request; there is none after a piece with BURROW_LAST. */
    void (*finish)(void *request, burrow_outcome outcome);
    void (*read_more)(void *request); /* unbuffered body: there is room again */
    /* The one call for a question. */
    void (*answer)(void *request, burrow_verdict verdict, burrow_str text);
} burrow_loop_ops;

/* In the worker, before burrow_process_start. Returns the eventfd to watch, or -1 with errno. */
int burrow_loop_open(const burrow_loop_ops *ops);
/* The eventfd is readable: handles everything that has been queued. */
void burrow_loop_drain(void);
void burrow_loop_close(void);

/* Copies *request; what it points at stays there until the exchange is released. `server_request`
 * is what the ops are called with. */
burrow_exchange *burrow_exchange_create(burrow_app *app, const burrow_request *request,
                                        void *server_request);
/* The same for a question, which is copied; its `text` is not called. To be submitted and
 * released. */
burrow_exchange *burrow_exchange_ask(burrow_app *script, const burrow_question *question,
                                     const burrow_request *request, void *server_request);
/* Body bytes that arrive later (copied). Returns how many are queued and unread: above
 * BURROW_BODY_HIGH stop reading until read_more. */
#define BURROW_BODY_HIGH 131072
size_t burrow_exchange_body(burrow_exchange *exchange, burrow_str data);
/* A part of the body that nginx has in a file; the descriptor is duplicated. 0, or -1 and errno. */
int burrow_exchange_body_file(burrow_exchange *exchange, int fd, int64_t offset, size_t len);
/* No more body. `whole` is 0 when the client left in the middle of it. */
void burrow_exchange_body_end(burrow_exchange *exchange, int whole);
/* Its turn comes with burrow_loop_hand_over. */
void burrow_exchange_submit(burrow_exchange *exchange);
/* Gives what was submitted to those who serve it: once in a turn of the event loop, at its end, so
 * that threads do not take the processor from it in the middle. */
void burrow_loop_hand_over(void);
/* So many chunks of the answer, with so many bytes, have left: a waiting application may go on. */
void burrow_exchange_sent(burrow_exchange *exchange, size_t chunks, size_t bytes);
/* The server's request is gone (finished or aborted); the exchange must not be used again. */
void burrow_exchange_release(burrow_exchange *exchange);
void burrow_chunk_free(burrow_chunk *chunk);

/* ---- nginx: requests for process groups, on its event loop ---------------------------------- */

/* The workers of a process group, as this worker process of nginx's reaches them: lives as long. */
typedef struct burrow_group burrow_group;

typedef struct {
    burrow_str socket; /* the path of their socket; absent where this server has no manager */
    uint64_t connect_timeout; /* milliseconds until a request that cannot be sent is answered 503 */
    uint64_t queue_timeout;   /* … that no thread has taken is answered 504; 0: never */
    uint64_t socket_timeout;  /* … for one read or write */
    size_t response_buffer_size; /* bytes of an answer that the client is slow to take */
    size_t send_buffer_size;     /* of the socket; 0: the system's */
    size_t receive_buffer_size;
} burrow_group_options;

/* That of an application that is a daemon's. In the worker process, once for each group. */
burrow_group *burrow_group_open(const burrow_app *app, burrow_group_options *options);
/* An idle connection is closed: nobody gets it any more. */
void burrow_group_forget(burrow_group *group, void *connection);

/* A request on its way to a process group, and its answer on the way back. */
typedef struct burrow_relay burrow_relay;

/* Copies what it needs of *request. NULL where that is too long. */
burrow_relay *burrow_relay_create(burrow_group *group, const burrow_app *app,
                                  const burrow_request *request);
/* Its connection, where it has one, is to be closed. */
void burrow_relay_destroy(burrow_relay *relay);

/* What is sent first; with a body, frames of that follow. */
burrow_str burrow_relay_frame(const burrow_relay *relay);
/* The beginning of a frame of the body; the longest holds BURROW_FRAME_MAX bytes of it. */
#define BURROW_FRAME_HEADER 8
#define BURROW_FRAME_MAX 65536
void burrow_frame_header(size_t length, int last, unsigned char header[BURROW_FRAME_HEADER]);
/* A whole frame, behind a 101: this process is about to end. */
void burrow_frame_retired(unsigned char header[BURROW_FRAME_HEADER]);
/* Keeps bytes of a body that nobody else keeps, for a repetition; `kept` are those of the attempt
 * before. */
void burrow_relay_keep(burrow_relay *relay, burrow_str data);
burrow_str burrow_relay_kept(const burrow_relay *relay);

/* An idle connection to a worker that serves at once, for this request; NULL: connect. */
void *burrow_relay_take(burrow_relay *relay);
/* A new connection for this request. */
void burrow_relay_connect(burrow_relay *relay, void *connection);
/* Whether the worker that has it is likely to be on this processor. */
int burrow_relay_is_near(const burrow_relay *relay);
/* Gives the connection back. Not 0: it is idle now. 0: it is to be closed; also where the request
 * has not been `sent` whole. `rest` is what was received behind the answer. */
int burrow_relay_release(burrow_relay *relay, int sent, burrow_str rest);

/* recvmsg(), with errno. *more is 0 where a short count means that there is nothing else now. */
ssize_t burrow_relay_receive(burrow_relay *relay, int fd, void *buf, size_t len, int *more);

typedef enum {
    BURROW_PART_MORE,  /* nothing yet, until `len` bytes have come, of a head in one piece */
    BURROW_PART_HEAD,  /* points into the bytes and the relay */
    BURROW_PART_BODY,  /* bytes, or a part of a file, which is the receiver's to close */
    BURROW_PART_TRAILERS, /* as HEAD; the end comes next */
    BURROW_PART_END,   /* the answer is whole */
    BURROW_PART_ABORT, /* it is not, and nothing follows; `outcome` is for where no head has come,
                        * `why`, where there is one, for the log */
    BURROW_PART_BAD    /* the worker has sent what it may not; `why` is for the log */
} burrow_part_kind;

typedef struct {
    burrow_head head;
    burrow_body body;
    size_t len;
    int flush;
    burrow_outcome outcome;
    burrow_str why;
} burrow_part;

/* The next part of what was received; *bytes gets what is left. That comes first the next time. */
burrow_part_kind burrow_relay_read(burrow_relay *relay, burrow_str *bytes, burrow_part *part);

typedef enum {
    BURROW_CLOSED,  /* the connection has ended */
    BURROW_OVERDUE, /* queue_timeout is over */
    BURROW_FULL,    /* connect_timeout is, and the group's backlog was full */
    BURROW_ABSENT   /* there was no socket, or it cannot be connected to */
} burrow_cause;

typedef struct {
    int repeat; /* send it again on another connection; else see outcome */
    burrow_outcome outcome;
    burrow_str why; /* for the log */
} burrow_next;

/* What becomes of a request without a head that has come to this. `fd` is its connection, or -1. */
burrow_next burrow_relay_end(burrow_relay *relay, burrow_cause cause, int fd);
/* Milliseconds since a thread has taken the request; -1: none has. */
int64_t burrow_relay_taken(const burrow_relay *relay);

/* ---- the manager: from the server's master process ------------------------------------------ */

/* Starts the manager, or tells the running one of a new configuration. log_fd is where its messages
 * (and its workers') go; it is duplicated. *started gets the pid of a newly started process, or 0.
 * Never called under configtest. */
const char *burrow_manager_configure(burrow_settings *settings, int log_fd, pid_t *started);
/* httpd: what the module `apache` says in process groups; copied. Before burrow_manager_configure
 * is called. */
void burrow_settings_apache(burrow_settings *settings, const burrow_apache *apache);
/* httpd: the process that was started has died; the next configure starts another. */
void burrow_manager_died(void);
/* httpd: it restarts, not gracefully: the next configuration replaces all processes of groups. */
void burrow_manager_restarts(void);
/* Asks it to end and waits at most timeout_ms for that. */
void burrow_manager_stop(unsigned timeout_ms);
/* In a worker process: lets go of the master's end. */
void burrow_manager_detach(void);
/* In a worker process: its master has ended, and the manager with it. */
int burrow_manager_is_gone(void);

#pragma GCC visibility pop
#endif
