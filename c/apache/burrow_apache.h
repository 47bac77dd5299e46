/* What the files of this folder share: httpd's configuration records, one struct per request. */
#ifndef BURROW_APACHE_H
#define BURROW_APACHE_H

#include "httpd.h"
#include "http_config.h"
#include "http_core.h"
#include "http_log.h"
#include "http_main.h"
#include "http_protocol.h"
#include "http_request.h"
#include "apr_strings.h"

#include <signal.h>

#include "../shim.h"

#define WSGI_HANDLER "wsgi-script"

#pragma GCC visibility push(default)
extern module AP_MODULE_DECLARE_DATA wsgi_module;
#pragma GCC visibility pop
#pragma GCC visibility push(hidden)

APLOG_USE_MODULE(wsgi);

/* What a line says of an application besides its script. NULL and -1: what the directory says. */
typedef struct {
    const char *process_group;
    const char *application_group;
    const char *callable;
    int pass_authorization;
    const char *group_place; /* of process_group, for the log */
    unsigned interpreters;
} script_options;

/* One WSGIScriptAlias or WSGIScriptAliasMatch. */
typedef struct {
    const char *location;
    ap_regex_t *regex; /* WSGIScriptAliasMatch */
    const char *script;
    int is_module; /* it is "package.module:callable" */
    const server_rec *server; /* that the line belongs to */
    script_options options;
} script_alias;

typedef struct {
    apr_array_header_t *aliases; /* of script_alias */
    int server_metrics;          /* WSGIServerMetrics; of the main server */
} server_config;

/* The script of an access, authentication or dispatch hook. */
typedef struct {
    const char *path;
    const char *application_group; /* "": the main interpreter */
    const char *place;             /* the directive, its file and line */
} hook_script;

/* One WSGIHandlerScript. */
typedef struct {
    const char *name;
    const char *path;
    script_options options;
} handler_script;

typedef enum {
    WSGI_MAP_HEAD_UNSET,
    WSGI_MAP_HEAD_OFF,
    WSGI_MAP_HEAD_ON,
    WSGI_MAP_HEAD_AUTO
} map_head_to_get;

typedef struct {
    const hook_script *access; /* NULL: none */
    const hook_script *auth_user;
    const hook_script *auth_group;
    const hook_script *dispatch;
    apr_array_header_t *handlers;         /* of handler_script; NULL: none */
    const char *process_group;            /* NULL: httpd's own processes, as "" */
    const char *group_place;              /* of process_group, for the log */
    const char *application_group;        /* NULL: %{RESOURCE} */
    const char *callable;                 /* NULL: the default */
    apr_array_header_t *restrict_process; /* of names; NULL: any process group */
    const char *restrict_place;           /* the directive's file and line */
    apr_array_header_t *proxy_headers;    /* codes, or NULL */
    apr_array_header_t *proxies;          /* of burrow_network; NULL: every peer */
    map_head_to_get map_head_to_get;
    /* Flags; -1: unset. */
    int script_reloading;
    int pass_authorization;
    int chunked_request;
    int enable_sendfile;
    int pass_apache_request;
    int error_override;
} dir_config;

/* A request that an alias took; kept in its request_config. */
typedef struct {
    const script_alias *alias;
    const char *script; /* the alias's script, regular expression replaced */
} alias_match;

/* A request in flight: what burrow_io and the log are called with. */
typedef struct {
    void *host; /* first; the host's */
    request_rec *r;
    apr_bucket_brigade *in;
    apr_bucket_brigade *out;
    int body_ended;
    int body_error; /* the status that a failed read of the body deserves, or 0 */
    int body_looked_for;
    apr_time_t body_awaited; /* since when the client is waited for to send some of it, or 0 */
    int head_sent;
    int is_handshake; /* the connection can be had */
    int is_upgraded; /* what is read and sent are the connection's bytes */
    int is_suspended; /* it is the host's, until that has called finish */
    int plain_fd;     /* then: the socket, where no filter matters, else -1 */
    int is_drained;   /* and the core holds nothing of what was received */
    int is_daemon;
    int error_status;     /* whose page the client gets instead of a process group's, or 0 */
    const char *redirect; /* the path that it gets instead, or NULL */
} exchange;

/* module.c: the settings of the configuration in force. */
extern burrow_settings *wsgi_settings;
extern int wsgi_multithread;
/* Where the sockets of process groups are: WSGISocketPrefix; NULL: in the run folder. */
extern const char *wsgi_socket_prefix;

static inline burrow_str wsgi_str(const char *s)
{
    return (burrow_str){s, s ? strlen(s) : 0};
}

/* directives.c */
extern const command_rec wsgi_directives[];
burrow_place wsgi_place(const cmd_parms *cmd);
/* The directive, its file and line. */
const char *wsgi_place_text(cmd_parms *cmd);

/* aliases.c: the functions of directives, and what their arguments have in common. */
const char *wsgi_add_script_alias(cmd_parms *cmd, void *dir, const char *args);
const char *wsgi_add_import_script(cmd_parms *cmd, void *dir, const char *args);
const char *wsgi_add_daemon_process(cmd_parms *cmd, void *dir, const char *args);
const char *wsgi_set_socket_prefix(cmd_parms *cmd, void *dir, const char *value);
/* Takes "name=value", the value quoted or not, from *args. */
const char *wsgi_next_option(cmd_parms *cmd, const char **args, const char **name,
                             const char **value);
/* All of args: options whose names are among those in `names`, which NULL ends. */
const char *wsgi_read_options(cmd_parms *cmd, const char *args, const char *const *names,
                              script_options *options);
const char *wsgi_check_script(cmd_parms *cmd, const char *path);
/* Is it "%{ENV:name}"? */
int wsgi_is_env(const char *value);
/* Make %{GLOBAL} the empty name, and leave other expansions for the request. */
const char *wsgi_check_process_group(cmd_parms *cmd, const char **value);
const char *wsgi_check_application_group(cmd_parms *cmd, const char **value);

/* python_options.c */
const char *wsgi_set_python_home(cmd_parms *cmd, void *dir, const char *value);
const char *wsgi_set_anywhere(cmd_parms *cmd, void *dir, const char *value);
const char *wsgi_set_global(cmd_parms *cmd, void *dir, const char *value);
const char *wsgi_set_two_words(cmd_parms *cmd, void *dir, const char *one, const char *other);
const char *wsgi_set_for_interpreters(cmd_parms *cmd, void *dir, const char *value);
const char *wsgi_interpreter_options(cmd_parms *cmd, void *dir, const char *args);

/* proxies.c */
const char *wsgi_add_proxy_headers(cmd_parms *cmd, void *dir, const char *args);
const char *wsgi_add_trusted_proxies(cmd_parms *cmd, void *dir, const char *args);
/* Where the directory has proxy_headers. */
void wsgi_apply_proxies(burrow_request *request, request_rec *r, const dir_config *config);

/* hooks.c */
const char *wsgi_set_hook_script(cmd_parms *cmd, void *dir, const char *args);
const char *wsgi_add_handler_script(cmd_parms *cmd, void *dir, const char *args);
const handler_script *wsgi_find_handler(const dir_config *config, const char *name);
void wsgi_register_hooks(apr_pool_t *p);
/* What the dispatch script, if any, puts in the place of the names. OK or a status. */
int wsgi_dispatch(request_rec *r, const burrow_request *described, script_options *options);

/* handler.c */
int wsgi_translate_name(request_rec *r);
int wsgi_map_to_storage(request_rec *r);
int wsgi_handler(request_rec *r);
/* "host:port", without a port that is usual. */
const char *wsgi_with_port(apr_pool_t *p, const char *host, apr_port_t port);
/* The name of a group with what is to be expanded in it. */
const char *wsgi_group_name(request_rec *r, const char *s, burrow_str script_name);
/* Around whatever Python does: see handler.c. */
void wsgi_block_signals(sigset_t *before);
void wsgi_restore_signals(const sigset_t *before);

/* httpd.c */
extern const burrow_httpd wsgi_httpd;

/* tls.c */
int wsgi_is_tls(request_rec *r);
burrow_str wsgi_tls_variable(request_rec *r, const char *name);
/* Where the connection is one of TLS. */
void wsgi_describe_tls(burrow_request *request, request_rec *r);

/* request.c */
/* Before the request's body is looked at. */
void wsgi_request_prepare(request_rec *r);
void wsgi_request_build(burrow_request *request, request_rec *r, int pass_authorization);
ssize_t wsgi_request_read(void *exchange, char *buf, size_t len);
#define NOTHING_YET (-2) /* of wsgi_client_read */
ssize_t wsgi_client_read(void *exchange, char *buf, size_t len);
int wsgi_client_descriptor(void *exchange);

/* response.c */
int wsgi_response_send(void *exchange, const burrow_head *head, const burrow_body *body,
                       unsigned flags);
/* Ends the answer so that the client can tell it is not whole. */
void wsgi_response_cut(exchange *x);

/* trailers.c */
/* Whether the client can be sent some. */
int wsgi_takes_trailers(request_rec *r);
/* Before the end of the answer is sent. */
void wsgi_set_trailers(request_rec *r, const burrow_head *trailers);
void wsgi_register_trailers(void);

/* suspended.c */
int wsgi_client_suspend(void *exchange, void *websocket, burrow_suspension *suspension);
unsigned wsgi_suspended_init(apr_pool_t *p, unsigned threads);
void wsgi_register_suspended(apr_pool_t *p);

/* preload.c */
void wsgi_preload_aliases(apr_pool_t *p, server_rec *main_server);

/* manager.c */
void wsgi_manager_configure(server_rec *s);
int wsgi_manager_monitor(apr_pool_t *p, server_rec *s);
void wsgi_manager_detach(void);

#pragma GCC visibility pop
#endif
