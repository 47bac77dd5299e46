/* What the parts of the nginx module share. */
#ifndef NGX_HTTP_BURROW_H
#define NGX_HTTP_BURROW_H

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "../shim.h"

/* A directive's place in the configuration, for what can be judged only after its block is read. */
typedef struct {
    ngx_str_t file;
    ngx_uint_t line;
} ngx_burrow_place_t;

/* An application that some location passes requests to. */
typedef struct {
    ngx_str_t group;
    ngx_str_t target;
    ngx_str_t callable;
    burrow_app *app;
    ngx_str_t process_group;
    unsigned resource:1; /* its group is that of %{RESOURCE} */
} ngx_burrow_application_t;

/* A process group that locations pass requests to, as a worker process of nginx reaches it. */
typedef struct {
    ngx_str_t name;
    burrow_app *app; /* any that runs there */
    burrow_group *workers;
    burrow_group_options options;
    struct sockaddr_un address;
    ngx_queue_t waiting; /* for a connection: of ngx_burrow_relay_t */
    ngx_event_t retry;
} ngx_burrow_group_t;

/* A wsgi_import_script. */
typedef struct {
    ngx_str_t target;
    ngx_str_t group; /* data is NULL where none is said */
    ngx_str_t process_group; /* the same */
    ngx_burrow_place_t place;
} ngx_burrow_import_t;

/* A script of hooks, as a location has it. */
typedef struct {
    ngx_str_t target; /* data is NULL where nothing is said */
    ngx_str_t group;
    ngx_str_t realm;
    ngx_str_t place; /* the directive, its file and line */
    burrow_app *script; /* NULL: nobody is asked */
    unsigned off:1;
} ngx_burrow_script_t;

typedef struct {
    burrow_settings *settings;
    ngx_array_t applications; /* of ngx_burrow_application_t */
    ngx_array_t imports;      /* of ngx_burrow_import_t */
    ngx_str_t socket_prefix;  /* of process groups; data is NULL where none is said */
    ngx_array_t groups;       /* of ngx_burrow_group_t * */
    ngx_array_t daemons;      /* of ngx_burrow_loc_conf_t *: locations with such a group */
    unsigned embeds:1; /* something runs in nginx's own processes */
} ngx_burrow_main_conf_t;

typedef struct {
    ngx_str_t name;
    ngx_http_complex_value_t value;
    unsigned if_not_empty:1;
} ngx_burrow_param_t;

typedef struct {
    ngx_str_t target;
    ngx_burrow_place_t place; /* of wsgi_pass */
    burrow_app *app;
    ngx_burrow_group_t *group; /* NULL: it runs in nginx's own processes */
    ngx_str_t process_group;   /* data is NULL where nothing is said */
    ngx_burrow_place_t process_group_place;
    ngx_http_upstream_conf_t upstream;
    ngx_str_t script_name; /* the location's prefix */
    ngx_str_t callable;
    ngx_str_t application_group;
    ngx_array_t *params; /* of ngx_burrow_param_t */
    ngx_array_t *proxy_headers; /* codes; NULL: none is believed */
    ngx_array_t *proxies;       /* of burrow_network; NULL: every peer */
    ngx_int_t threads;
    ngx_uint_t interpreters;
    ngx_flag_t script_reloading;
    ngx_flag_t request_buffering;
    ngx_flag_t intercept_errors;
    ngx_flag_t pass_authorization;
    ngx_flag_t chunked_request;
    ngx_flag_t map_head_to_get;
    ngx_burrow_script_t access;
    ngx_burrow_script_t auth_user;
} ngx_burrow_loc_conf_t;

/* A request that an application answers; in the request's pool. The host knows it by its address.
 * Begins as ngx_burrow_ask_t does: log lines come with either. */
typedef struct {
    ngx_http_request_t *request;
    burrow_exchange *exchange; /* NULL: nothing more is exchanged */
    ngx_chain_t *busy;         /* pieces of the answer that have not left */
    ngx_chain_t *free;
    unsigned in_flight:1;
    unsigned answered:1;
    unsigned upgraded:1;
    unsigned ending:1; /* an upgraded connection, once all has left */
} ngx_burrow_ctx_t;

/* A request that a process group answers; in the request's pool. */
typedef struct {
    ngx_http_request_t *request;
    ngx_burrow_group_t *group;
    burrow_relay *relay;
    ngx_connection_t *connection; /* for nginx's upstream, until it has it */
    ngx_event_handler_pt upstream_handler;
    ngx_chain_t *in; /* what is to be put into frames, and frames */
    ngx_chain_t *busy;
    ngx_chain_t *free;
    ngx_queue_t waiting;
    ngx_queue_t batch;
    ngx_msec_t begun_at;
    ngx_msec_t give_up;  /* when it has waited for too long */
    ngx_event_t overdue; /* when it should have been taken by a thread */
    ngx_event_t next;    /* this attempt is over: see lost and outcome */
    burrow_cause obstacle; /* why it waits */
    burrow_outcome outcome;
    unsigned lost:1;
    unsigned is_waiting:1;
    unsigned is_single:1; /* the REQUEST is all that is sent */
    unsigned is_batched:1;
    unsigned begun:1;     /* the REQUEST was framed */
    unsigned filtering:1; /* the body of the answer */
    /* Behind a 101: what the worker says has ended; the frame that is being sent. */
    unsigned ended:1;
    unsigned retired:1; /* the worker is to be told that this process is about to end */
    size_t header_left;
    size_t frame_left;
    u_char header[BURROW_FRAME_HEADER];
} ngx_burrow_relay_t;

/* A question about a request; in the request's pool. The host knows it by its address. */
typedef struct {
    ngx_http_request_t *request;
    burrow_exchange *exchange; /* NULL: nobody is being asked */
    burrow_verdict verdict;
    ngx_str_t text;
    unsigned done:1;
} ngx_burrow_ask_t;

/* The module's context of a request until an application takes it. */
typedef struct {
    ngx_burrow_ask_t access;
    ngx_burrow_ask_t user;
} ngx_burrow_asked_t;

#pragma GCC visibility push(hidden)

extern ngx_command_t ngx_burrow_commands[];

/* directives.c */
char *ngx_burrow_refuse(ngx_conf_t *cf, const char *message);
/* Of the directive that is being read. */
burrow_place ngx_burrow_here(ngx_conf_t *cf);
void *ngx_burrow_create_main_conf(ngx_conf_t *cf);
void *ngx_burrow_create_loc_conf(ngx_conf_t *cf);
char *ngx_burrow_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child);

/* python_options.c */
char *ngx_burrow_interpreters(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_burrow_set_python_option(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* May stand in wsgi_interpreter_options, too. */
char *ngx_burrow_set_interpreter_option(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_burrow_interpreter_options(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* application.c */
/* Makes %{GLOBAL} the empty name; NGX_ERROR where there is another expansion. */
ngx_int_t ngx_burrow_take_group(ngx_str_t *group);
char *ngx_burrow_find_application(ngx_conf_t *cf, ngx_burrow_loc_conf_t *conf);
char *ngx_burrow_import_script(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_burrow_check_configuration(ngx_conf_t *cf);

/* groups.c */
char *ngx_burrow_daemon_process(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_burrow_process_group(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
void ngx_burrow_create_upstream_conf(ngx_http_upstream_conf_t *conf);
char *ngx_burrow_merge_upstream_conf(ngx_conf_t *cf, ngx_burrow_loc_conf_t *conf,
                                     ngx_burrow_loc_conf_t *prev);
/* Something is to run in a process group, "" being none. */
void ngx_burrow_use_group(ngx_burrow_main_conf_t *main, const char *directive,
                          const ngx_burrow_place_t *place, ngx_str_t name);
ngx_int_t ngx_burrow_join_group(ngx_burrow_main_conf_t *main, ngx_burrow_loc_conf_t *conf);
void ngx_burrow_open_groups(ngx_burrow_main_conf_t *main, ngx_log_t *log);

/* relay.c */
void ngx_burrow_relay(ngx_http_request_t *r);
void ngx_burrow_open_group(ngx_burrow_group_t *group, ngx_log_t *log);
void ngx_burrow_serve_waiting(ngx_burrow_group_t *group);
void ngx_burrow_relay_fail(ngx_burrow_relay_t *relay, burrow_outcome outcome);
void ngx_burrow_relay_lost(ngx_burrow_relay_t *relay);
void ngx_burrow_relay_leave(ngx_burrow_relay_t *relay);

/* peer.c */
ngx_int_t ngx_burrow_init_peer(ngx_http_request_t *r, ngx_http_upstream_srv_conf_t *conf);
ngx_int_t ngx_burrow_reach(ngx_burrow_relay_t *relay);
void ngx_burrow_watch_peer(ngx_burrow_relay_t *relay);
void ngx_burrow_close_peer(ngx_burrow_relay_t *relay);
ssize_t ngx_burrow_receive(ngx_connection_t *c, u_char *buf, size_t size);

/* batch.c */
void ngx_burrow_batch_join(ngx_burrow_relay_t *relay);
void ngx_burrow_batch_leave(ngx_burrow_relay_t *relay);

/* frames.c */
ngx_int_t ngx_burrow_create_request(ngx_http_request_t *r);
ngx_int_t ngx_burrow_send_frames(void *relay, ngx_chain_t *in);

/* upstream.c */
ngx_int_t ngx_burrow_create_upstream(ngx_burrow_relay_t *relay);
burrow_part_kind ngx_burrow_read_part(ngx_burrow_relay_t *relay, burrow_str *bytes,
                                      burrow_part *part);

/* tunnel.c */
ngx_int_t ngx_burrow_open_tunnel(ngx_burrow_relay_t *relay);
void ngx_burrow_retire_tunnel(ngx_burrow_relay_t *relay);

/* handler.c */
ngx_int_t ngx_burrow_handler(ngx_http_request_t *r);
void ngx_burrow_finish(void *request, burrow_outcome outcome);
void ngx_burrow_release(void *ctx);
void ngx_burrow_finalize(ngx_burrow_ctx_t *ctx, ngx_int_t rc);
void ngx_burrow_complete(ngx_burrow_ctx_t *ctx, ngx_int_t rc);
ngx_int_t ngx_burrow_status_of(burrow_outcome outcome);

/* As long as an application or a script works on a request, so that a worker that quits waits. */
void ngx_burrow_hold(void);
void ngx_burrow_let_go(void);
ngx_int_t ngx_burrow_watch_client(ngx_connection_t *c);
void ngx_burrow_submit(burrow_exchange *exchange);

/* access.c */
/* Whether the argument is option, which ends with '=', and its value. */
ngx_uint_t ngx_burrow_take_option(ngx_str_t arg, const char *option, ngx_str_t *value);
char *ngx_burrow_set_script(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_burrow_merge_script(ngx_conf_t *cf, ngx_burrow_script_t *script,
                              const ngx_burrow_script_t *outer, ngx_int_t threads);
ngx_int_t ngx_burrow_add_access_handlers(ngx_conf_t *cf);
void ngx_burrow_answer(void *request, burrow_verdict verdict, burrow_str text);

/* proxies.c */
char *ngx_burrow_trusted_proxy_headers(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_burrow_trusted_proxies(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* Where the location has proxy_headers. */
ngx_int_t ngx_burrow_apply_proxies(ngx_http_request_t *r, burrow_request *request);

/* request.c */
/* Returns the end of what it writes, at most NGX_INT64_LEN bytes. */
u_char *ngx_burrow_decimal(u_char *to, uint64_t n);
ngx_int_t ngx_burrow_describe_request(ngx_http_request_t *r, burrow_request *request);

/* tls.c */
ngx_int_t ngx_burrow_describe_tls(ngx_http_request_t *r, burrow_request *request);

/* body.c */
ngx_int_t ngx_burrow_describe_body(ngx_http_request_t *r, burrow_request *request);
ngx_int_t ngx_burrow_pass_body(ngx_burrow_ctx_t *ctx, const burrow_request *request);
void ngx_burrow_read_more(void *request);

/* head.c */
ngx_int_t ngx_burrow_send_head(ngx_burrow_ctx_t *ctx, const burrow_head *head);
ngx_uint_t ngx_burrow_takes_trailers(ngx_http_request_t *r);
ngx_int_t ngx_burrow_set_trailers(ngx_http_request_t *r, const burrow_head *trailers);
ngx_int_t ngx_burrow_status_line(ngx_pool_t *pool, const burrow_head *head, ngx_str_t *line);

/* interim.c */
/* Whether the client of a request can be sent one. */
ngx_uint_t ngx_burrow_takes_interim(ngx_http_request_t *r);
ngx_uint_t ngx_burrow_is_interim(const burrow_head *head);
ngx_int_t ngx_burrow_send_interim(ngx_http_request_t *r, const burrow_head *head);

/* response.c */
void ngx_burrow_respond(void *request, const burrow_head *head, burrow_chunk *chunk,
                        const burrow_body *body, unsigned flags);
void ngx_burrow_write_handler(ngx_http_request_t *r);
void ngx_burrow_free_chunks(void *ctx);
/* Takes the chunk over; NULL where there is no memory. */
ngx_chain_t *ngx_burrow_wrap(ngx_burrow_ctx_t *ctx, burrow_chunk *chunk, const burrow_body *body,
                             unsigned flags);
/* Gives back the pieces that have left: the first ones of ctx->free. */
void ngx_burrow_reclaim(ngx_burrow_ctx_t *ctx);
/* Waits until the client takes more, where it does not now. */
ngx_int_t ngx_burrow_watch_write(ngx_http_request_t *r);

/* upgrade.c */
ngx_uint_t ngx_burrow_is_handshake(ngx_http_request_t *r);
void ngx_burrow_upgrade(ngx_burrow_ctx_t *ctx, const burrow_head *head, burrow_chunk *chunk,
                        const burrow_body *body, unsigned flags);
void ngx_burrow_upgraded_send(ngx_burrow_ctx_t *ctx, burrow_chunk *chunk, const burrow_body *body,
                              unsigned flags);
void ngx_burrow_upgraded_read_more(ngx_burrow_ctx_t *ctx);
void ngx_burrow_upgraded_end(ngx_burrow_ctx_t *ctx);

/* manager.c */
ngx_int_t ngx_burrow_set_instance(ngx_cycle_t *cycle, ngx_burrow_main_conf_t *conf);
ngx_int_t ngx_burrow_init_module(ngx_cycle_t *cycle);
void ngx_burrow_exit_master(ngx_cycle_t *cycle);

#pragma GCC visibility pop

extern ngx_module_t ngx_http_burrow_module;

static inline burrow_str ngx_burrow_str(ngx_str_t s)
{
    return (burrow_str) { (const char *) s.data, s.len };
}

#endif
