/* The request's body, from nginx to the host. */
#include "ngx_http_burrow.h"

/* Bytes of the body in memory, -1 where some of it is in a file. */
static off_t size_in_memory(ngx_chain_t *cl)
{
    off_t size = 0;

    for (; cl != NULL; cl = cl->next) {
        if (cl->buf->in_file) {
            return -1;
        }
        size += cl->buf->last - cl->buf->pos;
    }
    return size;
}

/* One piece of memory for all of a body that is in memory: mostly it is that already. */
static ngx_int_t join(ngx_pool_t *pool, ngx_chain_t *cl, size_t size, burrow_str *body)
{
    u_char *p;

    if (cl->next == NULL) {
        *body = (burrow_str) { (char *) cl->buf->pos, size };
        return NGX_OK;
    }
    p = ngx_pnalloc(pool, size);
    if (p == NULL) {
        return NGX_ERROR;
    }
    *body = (burrow_str) { (char *) p, size };
    for (; cl != NULL; cl = cl->next) {
        p = ngx_cpymem(p, cl->buf->pos, cl->buf->last - cl->buf->pos);
    }
    return NGX_OK;
}

/* What is known of the body before the exchange exists. */
ngx_int_t ngx_burrow_describe_body(ngx_http_request_t *r, burrow_request *request)
{
    ngx_chain_t *bufs = r->request_body != NULL ? r->request_body->bufs : NULL;
    off_t size;

    if (r->reading_body) {
        /* of chunks nginx counts what has arrived */
        request->content_length = r->headers_in.chunked ? -1 : r->headers_in.content_length_n;
        return NGX_OK;
    }
    size = size_in_memory(bufs);
    if (size > 0) {
        request->content_length = size;
        return join(r->pool, bufs, (size_t) size, &request->body);
    }
    if (size == 0) {
        request->flags |= BURROW_NO_BODY | (ngx_burrow_is_handshake(r) ? BURROW_UPGRADE : 0);
        return NGX_OK;
    }
    request->content_length = r->headers_in.content_length_n;
    return NGX_OK;
}

/* Passes on what nginx holds. *queued gets the bytes that the application has not read. */
static ngx_int_t pass_bufs(ngx_burrow_ctx_t *ctx, size_t *queued)
{
    ngx_chain_t *cl;
    ngx_buf_t *b;

    for (cl = ctx->request->request_body->bufs; cl != NULL; cl = cl->next) {
        b = cl->buf;
        if (!b->in_file) {
            *queued = burrow_exchange_body(
                ctx->exchange, (burrow_str) { (char *) b->pos, (size_t) (b->last - b->pos) });
            continue;
        }
        if (burrow_exchange_body_file(ctx->exchange, b->file->fd, b->file_pos,
                                      (size_t) (b->file_last - b->file_pos)) != 0)
        {
            ngx_log_error(NGX_LOG_ALERT, ctx->request->connection->log, ngx_errno,
                          "burrow: cannot duplicate the descriptor of the request's body");
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }
    return NGX_OK;
}

/* As pass_bufs, and lets nginx use the memory again. */
static size_t consume_bufs(ngx_burrow_ctx_t *ctx)
{
    ngx_http_request_body_t *rb = ctx->request->request_body;
    size_t queued = 0;
    ngx_chain_t *cl;

    (void) pass_bufs(ctx, &queued); /* an unbuffered body is never in a file */
    for (cl = rb->bufs; cl != NULL; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
    }
    rb->bufs = NULL;
    return queued;
}

static void read_handler(ngx_http_request_t *r);

/* Reads until there is no more, or the application has enough for now. */
static ngx_int_t read_unbuffered(ngx_burrow_ctx_t *ctx)
{
    ngx_http_request_t *r = ctx->request;
    ngx_connection_t *c = r->connection;
    ngx_int_t rc;

    for (;;) {
        if (consume_bufs(ctx) >= BURROW_BODY_HIGH && r->reading_body) {
            if (c->read->timer_set) {
                ngx_del_timer(c->read);
            }
            r->read_event_handler = ngx_http_test_reading;
            return NGX_OK;
        }
        if (!r->reading_body) {
            burrow_exchange_body_end(ctx->exchange, 1);
            r->read_event_handler = ngx_http_test_reading;
            return NGX_OK;
        }
        rc = ngx_http_read_unbuffered_request_body(r);
        if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
            burrow_exchange_body_end(ctx->exchange, 0);
            return rc;
        }
        if (r->reading_body && r->request_body->bufs == NULL) {
            r->read_event_handler = read_handler;
            return NGX_OK;
        }
    }
}

static void go_on(ngx_burrow_ctx_t *ctx)
{
    ngx_int_t rc = read_unbuffered(ctx);

    if (rc != NGX_OK) {
        ngx_burrow_finalize(ctx, ctx->answered ? NGX_ERROR : rc);
    }
}

static void read_handler(ngx_http_request_t *r)
{
    go_on(ngx_http_get_module_ctx(r, ngx_http_burrow_module));
}

void ngx_burrow_read_more(void *request)
{
    ngx_burrow_ctx_t *ctx = request;
    ngx_connection_t *c = ctx->request->connection;

    if (ctx->upgraded || ctx->request->reading_body) {
        ngx_http_set_log_request(c->log, ctx->request);
        if (ctx->upgraded) {
            ngx_burrow_upgraded_read_more(ctx);
        } else {
            go_on(ctx);
        }
        ngx_http_run_posted_requests(c);
    }
}

/* What the description of the request did not hold: now, or as it arrives. */
ngx_int_t ngx_burrow_pass_body(ngx_burrow_ctx_t *ctx, const burrow_request *request)
{
    size_t queued;
    ngx_int_t rc;

    if (ctx->request->reading_body) {
        return read_unbuffered(ctx);
    }
    ctx->request->read_event_handler = ngx_http_test_reading;
    if (request->body.data == NULL && !(request->flags & BURROW_NO_BODY)) {
        rc = pass_bufs(ctx, &queued);
        if (rc != NGX_OK) {
            return rc;
        }
    }
    /* Behind a handshake there may come what the client sends then. */
    if (!(request->flags & BURROW_UPGRADE)) {
        burrow_exchange_body_end(ctx->exchange, 1);
    }
    return NGX_OK;
}
