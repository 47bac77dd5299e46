/* The answer's body: pieces that the host owns travel through nginx's filters without a copy. */
#include "ngx_http_burrow.h"

typedef struct {
    ngx_buf_t buf; /* first: a chain link points at it */
    ngx_file_t file;
    burrow_chunk *chunk;
    size_t len;
} chunk_buf_t;

#define TAG ((ngx_buf_tag_t) &ngx_http_burrow_module)

void ngx_burrow_reclaim(ngx_burrow_ctx_t *ctx)
{
    ngx_chain_t *cl;
    chunk_buf_t *piece;
    size_t chunks = 0, bytes = 0;

    for (cl = ctx->free; cl != NULL; cl = cl->next) {
        piece = (chunk_buf_t *) cl->buf;
        if (piece->chunk == NULL) {
            break;
        }
        burrow_chunk_free(piece->chunk);
        piece->chunk = NULL;
        chunks++;
        bytes += piece->len;
    }
    if (chunks > 0 && ctx->exchange != NULL) {
        burrow_exchange_sent(ctx->exchange, chunks, bytes);
    }
}

void ngx_burrow_free_chunks(void *data)
{
    ngx_burrow_ctx_t *ctx = data;
    ngx_chain_t *cl;

    for (cl = ctx->busy; cl != NULL; cl = cl->next) {
        burrow_chunk_free(((chunk_buf_t *) cl->buf)->chunk);
    }
}

ngx_chain_t *ngx_burrow_wrap(ngx_burrow_ctx_t *ctx, burrow_chunk *chunk, const burrow_body *body,
                             unsigned flags)
{
    ngx_http_request_t *r = ctx->request;
    ngx_chain_t *cl = ctx->free;
    chunk_buf_t *piece;
    ngx_buf_t *b;

    if (cl != NULL) {
        ctx->free = cl->next;
        piece = (chunk_buf_t *) cl->buf;
    } else {
        cl = ngx_alloc_chain_link(r->pool);
        piece = ngx_palloc(r->pool, sizeof(chunk_buf_t));
        if (cl == NULL || piece == NULL) {
            burrow_chunk_free(chunk);
            return NULL;
        }
    }
    ngx_memzero(piece, sizeof(chunk_buf_t));
    piece->chunk = chunk;
    piece->len = body->len;
    b = &piece->buf;
    cl->buf = b;
    cl->next = NULL;

    b->tag = TAG;
    b->flush = (flags & BURROW_FLUSH) != 0;
    b->last_in_chain = (flags & BURROW_LAST) != 0;
    b->last_buf = b->last_in_chain && r == r->main;
    if (body->fd == -1) {
        b->memory = 1;
        b->start = (u_char *) body->data;
        b->pos = b->start;
        b->end = b->start + body->len;
        b->last = b->end;
    } else {
        ngx_str_set(&piece->file.name, "wsgi.file_wrapper");
        piece->file.fd = body->fd;
        piece->file.log = r->connection->log;
        b->in_file = 1;
        b->file = &piece->file;
        b->file_pos = body->offset;
        b->file_last = body->offset + (off_t) body->len;
    }
    return cl;
}

/* Passes pieces, or NULL for those that are waiting, down the filters. */
static ngx_int_t output(ngx_burrow_ctx_t *ctx, ngx_chain_t *out)
{
    ngx_int_t rc = ngx_http_output_filter(ctx->request, out);

    ngx_chain_update_chains(ctx->request->pool, &ctx->free, &ctx->busy, &out, TAG);
    ngx_burrow_reclaim(ctx);
    return rc;
}

ngx_int_t ngx_burrow_watch_write(ngx_http_request_t *r)
{
    ngx_http_core_loc_conf_t *clcf = ngx_http_get_module_loc_conf(r->main, ngx_http_core_module);
    ngx_connection_t *c = r->connection;

    if (c->data == r && ngx_handle_write_event(c->write, clcf->send_lowat) != NGX_OK) {
        return NGX_ERROR;
    }
    if (c->write->delayed) {
        return NGX_OK; /* limit_rate has set the timer */
    }
    if (c->write->active && !c->write->ready) {
        ngx_add_timer(c->write, clcf->send_timeout);
    } else if (c->write->timer_set) {
        ngx_del_timer(c->write);
    }
    return NGX_OK;
}

void ngx_burrow_write_handler(ngx_http_request_t *r)
{
    ngx_burrow_ctx_t *ctx = ngx_http_get_module_ctx(r, ngx_http_burrow_module);
    ngx_connection_t *c = r->connection;

    if (c->write->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT, "client timed out");
        c->timedout = 1;
        ngx_burrow_finalize(ctx, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }
    if (ctx->answered && !c->write->delayed && !r->aio && output(ctx, NULL) == NGX_ERROR) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
        return;
    }
    if (ngx_burrow_watch_write(r) != NGX_OK) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
    }
}

static ngx_int_t send_piece(ngx_burrow_ctx_t *ctx, burrow_chunk *chunk, const burrow_body *body,
                            unsigned flags)
{
    ngx_chain_t *out;
    ngx_int_t rc;

    if (chunk != NULL) {
        out = ngx_burrow_wrap(ctx, chunk, body, flags);
        return out != NULL ? output(ctx, out) : NGX_ERROR;
    }
    if (flags & BURROW_LAST) {
        return ngx_http_send_special(ctx->request, NGX_HTTP_LAST);
    }
    if (flags & BURROW_FLUSH) {
        rc = ngx_http_send_special(ctx->request, NGX_HTTP_FLUSH);
        return rc == NGX_ERROR ? NGX_ERROR : output(ctx, NULL);
    }
    return NGX_OK;
}

/* The request may be gone afterwards. */
static void respond(ngx_burrow_ctx_t *ctx, burrow_chunk *chunk, const burrow_body *body,
                    unsigned flags)
{
    ngx_int_t rc = send_piece(ctx, chunk, body, flags);

    if (rc == NGX_ERROR) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
    } else if (flags & BURROW_LAST) {
        ngx_burrow_complete(ctx, rc);
    } else if (ngx_burrow_watch_write(ctx->request) != NGX_OK) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
    }
}

/* NGX_OK: the piece of the answer that it came with is to follow. Else the request may be gone. */
static ngx_int_t pass_head(ngx_burrow_ctx_t *ctx, const burrow_head *head)
{
    ngx_int_t rc;

    if (ngx_burrow_is_interim(head)) {
        rc = ngx_burrow_send_interim(ctx->request, head) == NGX_OK ? NGX_DONE : NGX_ERROR;
    } else if (head->status == BURROW_STATUS_TRAILERS) {
        rc = ngx_burrow_set_trailers(ctx->request, head);
    } else {
        return ngx_burrow_send_head(ctx, head);
    }
    if (rc == NGX_ERROR) {
        ngx_burrow_finalize(ctx, rc);
    }
    return rc;
}

void ngx_burrow_respond(void *request, const burrow_head *head, burrow_chunk *chunk,
                        const burrow_body *body, unsigned flags)
{
    ngx_burrow_ctx_t *ctx = request;
    ngx_connection_t *c = ctx->request->connection;

    ngx_http_set_log_request(c->log, ctx->request);
    if (head != NULL && head->status == NGX_HTTP_SWITCHING_PROTOCOLS
        && ngx_burrow_is_handshake(ctx->request))
    {
        ngx_burrow_upgrade(ctx, head, chunk, body, flags);
    } else if (ctx->upgraded) {
        ngx_burrow_upgraded_send(ctx, chunk, body, flags);
    } else if (head != NULL && pass_head(ctx, head) != NGX_OK) {
        burrow_chunk_free(chunk); /* no body is wanted */
    } else {
        respond(ctx, chunk, body, flags);
    }
    ngx_http_run_posted_requests(c);
}
