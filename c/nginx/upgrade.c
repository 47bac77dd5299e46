/* A connection that an application has taken over by status 101: its bytes, both ways. Only the
 * application watches the time; a client that takes nothing is cut as any other. */
#include "ngx_http_burrow.h"

/* Whether one of the request's Connection headers says so; nginx keeps nothing else of them. */
static ngx_uint_t wants_upgrade(ngx_list_part_t *part)
{
    static const ngx_str_t name = ngx_string("connection");
    ngx_table_elt_t *h;
    ngx_uint_t i;

    for ( ; part != NULL; part = part->next) {
        h = part->elts;
        for (i = 0; i < part->nelts; i++) {
            if (h[i].key.len == name.len
                && ngx_strncmp(h[i].lowcase_key, name.data, name.len) == 0
                && ngx_strcasestrn(h[i].value.data, "upgrade", 7 - 1) != NULL)
            {
                return 1;
            }
        }
    }
    return 0;
}

/* A WebSocket's, on a connection that is the request's alone. */
ngx_uint_t ngx_burrow_is_handshake(ngx_http_request_t *r)
{
    ngx_table_elt_t *upgrade = r->headers_in.upgrade;

    return upgrade != NULL && r == r->main && r->method == NGX_HTTP_GET
           && r->http_version == NGX_HTTP_VERSION_11
           && ngx_strcasestrn(upgrade->value.data, "websocket", 9 - 1) != NULL
           && wants_upgrade(&r->headers_in.headers.part);
}

/* ---- to the client --------------------------------------------------------------------------- */

/* Sends what there is. NGX_AGAIN: the client does not take all of it now. */
static ngx_int_t flush(ngx_burrow_ctx_t *ctx)
{
    ngx_http_request_t *r = ctx->request;
    ngx_connection_t *c = r->connection;
    ngx_chain_t *unsent, *cl;

    if (r->out != NULL && ngx_http_output_filter(r, NULL) == NGX_ERROR) {
        return NGX_ERROR;
    }
    if (r->out != NULL) {
        return NGX_AGAIN; /* of the head */
    }
    unsent = c->send_chain(c, ctx->busy, 0);
    if (unsent == NGX_CHAIN_ERROR) {
        return NGX_ERROR;
    }
    while (ctx->busy != unsent) {
        cl = ctx->busy;
        ctx->busy = cl->next;
        cl->next = ctx->free;
        ctx->free = cl;
    }
    ngx_burrow_reclaim(ctx);
    if (unsent != NULL || c->buffered) {
        return NGX_AGAIN;
    }
#if (NGX_HTTP_SSL)
    if (c->ssl != NULL) {
        ngx_ssl_free_buffer(c); /* a silent connection should be a small one */
    }
#endif
    return NGX_OK;
}

/* The request may be gone afterwards. */
static void send_more(ngx_burrow_ctx_t *ctx)
{
    ngx_http_request_t *r = ctx->request;
    ngx_int_t rc = flush(ctx);

    if (rc == NGX_ERROR) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
    } else if (rc == NGX_OK && ctx->ending) {
        r->lingering_close = 1; /* what the client is sending must not undo the last bytes */
        ngx_burrow_finalize(ctx, NGX_OK);
    } else if (ngx_burrow_watch_write(r) != NGX_OK) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
    }
}

static void write_handler(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    ngx_burrow_ctx_t *ctx = ngx_http_get_module_ctx(r, ngx_http_burrow_module);

    if (c->write->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT, "client timed out");
        c->timedout = 1;
        ngx_burrow_finalize(ctx, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }
    send_more(ctx);
}

void ngx_burrow_upgraded_send(ngx_burrow_ctx_t *ctx, burrow_chunk *chunk, const burrow_body *body,
                              unsigned flags)
{
    ngx_chain_t *cl, **last = &ctx->busy;

    if (chunk != NULL) {
        cl = ngx_burrow_wrap(ctx, chunk, body, flags | BURROW_FLUSH);
        if (cl == NULL) {
            ngx_burrow_finalize(ctx, NGX_ERROR);
            return;
        }
        while (*last != NULL) {
            last = &(*last)->next;
        }
        *last = cl;
    }
    ctx->ending |= (flags & BURROW_LAST) != 0;
    send_more(ctx);
}

/* The application is done with it; what it has sent still leaves. */
void ngx_burrow_upgraded_end(ngx_burrow_ctx_t *ctx)
{
    ctx->ending = 1;
    send_more(ctx);
}

/* ---- from the client ------------------------------------------------------------------------- */

/* Reads once, lest a fast client keep the event loop. Where there is more, its turn comes after
 * everybody else's, unless the application has enough for now. */
static void read_handler(ngx_http_request_t *r)
{
    static u_char buffer[65536];
    ngx_burrow_ctx_t *ctx = ngx_http_get_module_ctx(r, ngx_http_burrow_module);
    ngx_connection_t *c = r->connection;
    ssize_t n = c->recv(c, buffer, sizeof(buffer));
    burrow_str bytes = { (char *) buffer, (size_t) n };

    if (n == NGX_ERROR) {
        c->error = 1;
        ngx_burrow_finalize(ctx, NGX_HTTP_CLIENT_CLOSED_REQUEST);
        return;
    }
    if (n == 0) {
        burrow_exchange_body_end(ctx->exchange, 1);
        r->read_event_handler = ngx_http_block_reading;
    } else if (n > 0 && burrow_exchange_body(ctx->exchange, bytes) >= BURROW_BODY_HIGH) {
        r->read_event_handler = ngx_http_block_reading;
    } else if (c->read->ready) {
        ngx_post_event(c->read, &ngx_posted_next_events);
    }
    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
    }
}

/* The application has read enough. */
void ngx_burrow_upgraded_read_more(ngx_burrow_ctx_t *ctx)
{
    ctx->request->read_event_handler = read_handler;
    read_handler(ctx->request);
}

/* ---- the change ------------------------------------------------------------------------------ */

/* What the client has sent right behind its handshake was read with that. */
static void pass_early_bytes(ngx_burrow_ctx_t *ctx)
{
    ngx_buf_t *b = ctx->request->header_in;

    burrow_exchange_body(ctx->exchange,
                         (burrow_str) { (char *) b->pos, (size_t) (b->last - b->pos) });
    b->pos = b->last;
}

/* The head is sent: whatever follows is the application's. */
static ngx_int_t take_over(ngx_burrow_ctx_t *ctx)
{
    ngx_http_request_t *r = ctx->request;
    ngx_connection_t *c = r->connection;
    ngx_http_core_loc_conf_t *clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (ngx_http_send_special(r, NGX_HTTP_FLUSH) == NGX_ERROR
        || (clcf->tcp_nodelay && ngx_tcp_nodelay(c) != NGX_OK))
    {
        return NGX_ERROR;
    }
    c->log->action = "serving an upgraded connection";
    ctx->upgraded = 1;
    r->read_event_handler = read_handler;
    r->write_event_handler = write_handler;
    pass_early_bytes(ctx);
    return ngx_burrow_watch_client(c);
}

/* The request may be gone afterwards. */
void ngx_burrow_upgrade(ngx_burrow_ctx_t *ctx, const burrow_head *head, burrow_chunk *chunk,
                        const burrow_body *body, unsigned flags)
{
    burrow_head worded = *head;

    if (head->reason.len == 0) { /* nginx does not know the words */
        worded.reason = ngx_burrow_str((ngx_str_t) ngx_string("Switching Protocols"));
    }
    ctx->request->keepalive = 0; /* the core says Connection: upgrade where the status is 101 */
    if (ngx_burrow_send_head(ctx, &worded) != NGX_OK) {
        burrow_chunk_free(chunk);
    } else if (take_over(ctx) != NGX_OK) {
        burrow_chunk_free(chunk);
        ngx_burrow_finalize(ctx, NGX_ERROR);
    } else {
        ngx_burrow_upgraded_send(ctx, chunk, body, flags);
    }
}
