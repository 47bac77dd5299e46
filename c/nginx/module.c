/* The module's record, and its life in a worker process. */
#include "ngx_http_burrow.h"

/* How long the applications' exit functions may take; on TERM the master kills after 1.5 s. */
#define STOP_TIMEOUT_MS 5000
#define TERMINATE_TIMEOUT_MS 1000

static ngx_connection_t *loop_connection;

static void log_line(void *request, burrow_level level, burrow_str line)
{
    ngx_burrow_ctx_t *ctx = request; /* or an ngx_burrow_ask_t */
    ngx_log_t *log = ngx_cycle->log;

    if (ctx != NULL) {
        log = ctx->request->connection->log;
        ngx_http_set_log_request(log, ctx->request);
    }
    /* nginx counts as syslog does, from "stderr" instead of from "emerg" */
    ngx_log_error((ngx_uint_t) level + 1, log, 0, "%*s", line.len, line.data);
}

static void drain(ngx_event_t *event)
{
    ngx_connection_t *c = event->data;
    ngx_burrow_main_conf_t *conf;

    if (c->close) {
        c->close = 0; /* a worker that quits closes idle connections, but still needs this one */
        conf = ngx_http_cycle_get_module_main_conf(ngx_cycle, ngx_http_burrow_module);
        burrow_process_retire(conf->settings);
    }
    burrow_loop_drain();
}

/* Watches the descriptor through which application threads wake the event loop. Idle, so that a
 * worker that quits calls the handler; a channel, so that it does not wait for its end. */
static ngx_int_t watch(ngx_cycle_t *cycle)
{
    static const burrow_loop_ops ops = {
        .respond = ngx_burrow_respond,
        .finish = ngx_burrow_finish,
        .read_more = ngx_burrow_read_more,
        .answer = ngx_burrow_answer,
    };
    ngx_connection_t *c;
    int fd = burrow_loop_open(&ops);

    if (fd == -1) {
        ngx_log_error(NGX_LOG_ALERT, cycle->log, ngx_errno, "burrow: eventfd() failed");
        return NGX_ERROR;
    }
    c = ngx_get_connection(fd, cycle->log);
    if (c == NULL) {
        return NGX_ERROR;
    }
    c->idle = 1;
    c->log = cycle->log;
    c->read->log = cycle->log;
    c->write->log = cycle->log;
    c->read->channel = 1;
    c->write->channel = 1;
    c->read->handler = drain;
    loop_connection = c;
    return ngx_add_event(c->read, NGX_READ_EVENT, 0);
}

static ngx_int_t init_process(ngx_cycle_t *cycle)
{
    ngx_burrow_main_conf_t *conf;
    ngx_core_conf_t *core;
    burrow_server server;

    if (ngx_process != NGX_PROCESS_SINGLE) {
        burrow_manager_detach(); /* the cache manager, too */
    }
    conf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_burrow_module);
    if (conf == NULL || (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)) {
        return NGX_OK;
    }
    ngx_burrow_open_groups(conf, cycle->log);
    if (!conf->embeds) {
        return NGX_OK;
    }
    /* nginx's handler waits for any child, and would take the ends of an application's own. */
    signal(SIGCHLD, SIG_DFL);
    if (watch(cycle) != NGX_OK) {
        return NGX_ERROR;
    }
    core = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);
    ngx_memzero(&server, sizeof(server));
    server.kind = BURROW_NGINX;
    server.software = (burrow_str) { NGINX_VER, sizeof(NGINX_VER) - 1 };
    server.processes = core->master ? (unsigned) core->worker_processes : 1;
    server.multiprocess = server.processes > 1;
    server.log = log_line;
    burrow_process_start(conf->settings, &server);
    return NGX_OK;
}

static void exit_process(ngx_cycle_t *cycle)
{
    if (loop_connection == NULL) {
        return;
    }
    burrow_process_stop(ngx_terminate ? TERMINATE_TIMEOUT_MS : STOP_TIMEOUT_MS);
    burrow_loop_close();
    /* The descriptor stays open: application threads may write to it until the process is gone. */
    ngx_free_connection(loop_connection);
    loop_connection->fd = (ngx_socket_t) -1;
}

static ngx_http_module_t context = {
    .postconfiguration = ngx_burrow_check_configuration,
    .create_main_conf = ngx_burrow_create_main_conf,
    .create_loc_conf = ngx_burrow_create_loc_conf,
    .merge_loc_conf = ngx_burrow_merge_loc_conf,
};

ngx_module_t ngx_http_burrow_module = {
    NGX_MODULE_V1,
    &context,
    ngx_burrow_commands,
    NGX_HTTP_MODULE,
    NULL, /* init master */
    ngx_burrow_init_module,
    init_process,
    NULL, /* init thread */
    NULL, /* exit thread */
    exit_process,
    ngx_burrow_exit_master,
    NGX_MODULE_V1_PADDING
};
