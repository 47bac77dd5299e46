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

#include "../shim.h"

#define WSGI_HANDLER "wsgi-script"

#pragma GCC visibility push(default)
extern module AP_MODULE_DECLARE_DATA wsgi_module;
#pragma GCC visibility pop
#pragma GCC visibility push(hidden)

APLOG_USE_MODULE(wsgi);

/* One WSGIScriptAlias or WSGIScriptAliasMatch. */
typedef struct {
    const char *location;
    ap_regex_t *regex; /* WSGIScriptAliasMatch */
    const char *script;
    const char *application_group; /* NULL: what the directory says */
    const char *callable;          /* NULL: what the directory says */
    int pass_authorization;        /* -1: what the directory says */
} script_alias;

typedef struct {
    apr_array_header_t *aliases; /* of script_alias */
} server_config;

typedef struct {
    const char *application_group; /* NULL: %{RESOURCE} */
    const char *callable;          /* NULL: the default */
    int script_reloading;          /* -1: unset */
    int pass_authorization;        /* -1: unset */
} dir_config;

/* A request that an alias took; kept in its request_config. */
typedef struct {
    const script_alias *alias;
    const char *script; /* the alias's script, regular expression replaced */
} alias_match;

/* A request in flight: what burrow_io and the log are called with. */
typedef struct {
    request_rec *r;
    apr_bucket_brigade *in;
    apr_bucket_brigade *out;
    int body_ended;
    int body_error; /* the status that a failed read of the body deserves, or 0 */
    int head_sent;
} exchange;

/* module.c: the settings of the configuration in force. */
extern burrow_settings *wsgi_settings;
extern int wsgi_multithread;

/* directives.c */
extern const command_rec wsgi_directives[];

/* handler.c */
int wsgi_translate_name(request_rec *r);
int wsgi_handler(request_rec *r);

/* request.c */
void wsgi_request_build(burrow_request *request, request_rec *r, int pass_authorization);
ssize_t wsgi_request_read(void *exchange, char *buf, size_t len);

/* response.c */
int wsgi_response_send(void *exchange, const burrow_head *head, const burrow_body *body,
                       unsigned flags);
/* Ends the answer so that the client can tell it is not whole. */
void wsgi_response_cut(exchange *x);

/* manager.c */
void wsgi_manager_configure(server_rec *s);
int wsgi_manager_monitor(apr_pool_t *p, server_rec *s);
void wsgi_manager_detach(void);

#pragma GCC visibility pop
#endif
