/* A request's way to an application and its end. */
#include "ngx_http_burrow.h"

#define HOLD_MS 60000

/* Requests that applications or scripts work on. While there are any a timer runs: it keeps a
 * worker that quits gracefully from ending under them: the event loop may know of nothing else of
 * theirs. */
static ngx_uint_t in_flight;
static ngx_event_t hold;

static void extend_hold(ngx_event_t *event)
{
    ngx_add_timer(event, HOLD_MS);
}

void ngx_burrow_hold(void)
{
    static ngx_connection_t unused = { .fd = (ngx_socket_t) -1 }; /* the debug log looks at it */

    if (in_flight++ == 0) {
        hold.handler = extend_hold;
        hold.data = &unused;
        hold.log = ngx_cycle->log;
        ngx_add_timer(&hold, HOLD_MS);
    }
}

void ngx_burrow_let_go(void)
{
    if (--in_flight == 0) {
        ngx_del_timer(&hold);
    }
}

static void land(ngx_burrow_ctx_t *ctx)
{
    if (ctx->in_flight) {
        ctx->in_flight = 0;
        ngx_burrow_let_go();
    }
}

/* Nothing more is exchanged. At the request's end at the latest. */
void ngx_burrow_release(void *data)
{
    ngx_burrow_ctx_t *ctx = data;

    land(ctx);
    ctx->request->read_event_handler = ngx_http_block_reading;
    if (ctx->exchange != NULL) {
        burrow_exchange_release(ctx->exchange);
        ctx->exchange = NULL;
    }
}

/* Ends the request's dealings with the application, then the request. */
void ngx_burrow_finalize(ngx_burrow_ctx_t *ctx, ngx_int_t rc)
{
    ngx_burrow_release(ctx);
    ngx_http_finalize_request(ctx->request, rc);
}

/* The whole answer is with nginx, which sends what is left. The exchange stays for log lines. */
void ngx_burrow_complete(ngx_burrow_ctx_t *ctx, ngx_int_t rc)
{
    land(ctx);
    ctx->request->read_event_handler = ngx_http_block_reading;
    ngx_http_finalize_request(ctx->request, rc);
}

/* Cuts the connection behind what is already queued, so that the client can tell. */
static void abort_answer(ngx_burrow_ctx_t *ctx)
{
    ctx->request->keepalive = 0;
    ngx_burrow_finalize(ctx, ngx_http_send_special(ctx->request, NGX_HTTP_FLUSH));
}

ngx_int_t ngx_burrow_status_of(burrow_outcome outcome)
{
    switch (outcome) {
    case BURROW_UNAVAILABLE:
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    case BURROW_GONE:
        return NGX_HTTP_CLIENT_CLOSED_REQUEST;
    case BURROW_DIED:
        return NGX_HTTP_BAD_GATEWAY;
    case BURROW_TIMEOUT:
        return NGX_HTTP_GATEWAY_TIME_OUT;
    default:
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}

void ngx_burrow_finish(void *request, burrow_outcome outcome)
{
    ngx_burrow_ctx_t *ctx = request;
    ngx_connection_t *c = ctx->request->connection;

    ngx_http_set_log_request(c->log, ctx->request);
    if (ctx->upgraded) {
        ngx_burrow_upgraded_end(ctx);
    } else if (ctx->answered) {
        abort_answer(ctx);
    } else {
        ngx_burrow_finalize(ctx, ngx_burrow_status_of(outcome));
    }
    ngx_http_run_posted_requests(c);
}

static ngx_burrow_ctx_t *create_ctx(ngx_http_request_t *r)
{
    ngx_burrow_ctx_t *ctx = ngx_pcalloc(r->pool, sizeof(ngx_burrow_ctx_t));
    ngx_http_cleanup_t *at_end = ngx_http_cleanup_add(r, 0);
    ngx_pool_cleanup_t *with_pool = ngx_pool_cleanup_add(r->pool, 0);

    if (ctx == NULL || at_end == NULL || with_pool == NULL) {
        return NULL;
    }
    ctx->request = r;
    at_end->handler = ngx_burrow_release;
    at_end->data = ctx;
    /* Not at the request's end: frames of HTTP/2 may still point at them. */
    with_pool->handler = ngx_burrow_free_chunks;
    with_pool->data = ctx;
    ngx_http_set_ctx(r, ctx, ngx_http_burrow_module);
    return ctx;
}

/* A client that left before its socket is looked at again: no further event will tell. */
ngx_int_t ngx_burrow_watch_client(ngx_connection_t *c)
{
    if (c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_events);
        return NGX_OK;
    }
    return ngx_handle_read_event(c->read, 0);
}

static void hand_over(ngx_event_t *event)
{
    burrow_loop_hand_over();
}

/* All that this turn of the event loop brings is handed over when it is over. */
void ngx_burrow_submit(burrow_exchange *exchange)
{
    static ngx_event_t end = { .handler = hand_over };

    burrow_exchange_submit(exchange);
    end.log = ngx_cycle->log;
    if (!end.posted) {
        ngx_post_event(&end, &ngx_posted_events);
    }
}

static ngx_int_t start(ngx_burrow_ctx_t *ctx)
{
    ngx_http_request_t *r = ctx->request;
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    burrow_request request;
    ngx_int_t rc;

    if (ngx_burrow_describe_request(r, &request) != NGX_OK
        || ngx_burrow_describe_tls(r, &request) != NGX_OK
        || ngx_burrow_describe_body(r, &request) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    ctx->exchange = burrow_exchange_create(conf->app, &request, ctx);
    r->write_event_handler = ngx_burrow_write_handler;
    rc = ngx_burrow_pass_body(ctx, &request);
    if (rc != NGX_OK) {
        return rc;
    }
    if (ngx_burrow_watch_client(r->connection) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    ctx->in_flight = 1;
    ngx_burrow_hold();
    ngx_burrow_submit(ctx->exchange);
    return NGX_OK;
}

/* The body is there, or will follow. */
static void on_body(ngx_http_request_t *r)
{
    ngx_burrow_ctx_t *ctx = create_ctx(r);
    ngx_int_t rc;

    if (ctx == NULL) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }
    rc = start(ctx);
    if (rc != NGX_OK) {
        ngx_burrow_finalize(ctx, rc);
    }
}

ngx_int_t ngx_burrow_handler(ngx_http_request_t *r)
{
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    ngx_int_t rc;

    if (r->headers_in.chunked && !conf->chunked_request) {
        return NGX_HTTP_LENGTH_REQUIRED;
    }
    r->request_body_no_buffering = !conf->request_buffering;
    rc = ngx_http_read_client_request_body(r, conf->group != NULL ? ngx_burrow_relay : on_body);
    return rc >= NGX_HTTP_SPECIAL_RESPONSE ? rc : NGX_DONE;
}
