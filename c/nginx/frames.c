/* The request as a worker gets it: the REQUEST, then its body in frames, without a copy. */
#include "ngx_http_burrow.h"

/* Bytes of a body that are framed at once: more than a socket takes. */
#define BATCH (4 * BURROW_FRAME_MAX)

#define TAG ((ngx_buf_tag_t) &ngx_burrow_send_frames)
#define REQUEST_TAG ((ngx_buf_tag_t) &ngx_burrow_create_request)

/* A buf with room for a frame's header. */
static ngx_chain_t *get_buf(ngx_burrow_relay_t *relay)
{
    ngx_pool_t *pool = relay->request->pool;
    ngx_chain_t *cl = relay->free;
    u_char *header;

    if (cl != NULL) {
        relay->free = cl->next;
    } else {
        cl = ngx_alloc_chain_link(pool);
        if (cl == NULL) {
            return NULL;
        }
        cl->buf = ngx_create_temp_buf(pool, BURROW_FRAME_HEADER);
        if (cl->buf == NULL) {
            return NULL;
        }
    }
    header = cl->buf->start;
    ngx_memzero(cl->buf, sizeof(ngx_buf_t));
    cl->buf->start = header;
    cl->buf->pos = header;
    cl->buf->last = header;
    cl->buf->end = header + BURROW_FRAME_HEADER;
    cl->buf->temporary = 1;
    cl->buf->tag = TAG;
    cl->next = NULL;
    return cl;
}

/* Appends a frame's header. */
static ngx_chain_t **add_header(ngx_burrow_relay_t *relay, ngx_chain_t **ll, size_t len,
                                ngx_uint_t last)
{
    ngx_chain_t *cl = get_buf(relay);

    if (cl == NULL) {
        return NULL;
    }
    burrow_frame_header(len, last != 0, cl->buf->start);
    cl->buf->last = cl->buf->end;
    *ll = cl;
    return &cl->next;
}

/* Appends the next len bytes of buf; `whole`: all that it has. */
static ngx_chain_t **add_piece(ngx_burrow_relay_t *relay, ngx_chain_t **ll, ngx_buf_t *buf,
                               size_t len, ngx_uint_t whole)
{
    ngx_chain_t *cl = get_buf(relay);
    ngx_buf_t own;

    if (cl == NULL) {
        return NULL;
    }
    own = *cl->buf;
    *cl->buf = *buf;
    cl->buf->start = own.start;
    cl->buf->end = own.end;
    cl->buf->tag = own.tag;
    cl->buf->last_buf = 0;
    cl->buf->last_in_chain = 0;
    /* What is in use does not look as if it were sent before it is. */
    cl->buf->shadow = whole ? buf : NULL;
    if (buf->in_file) {
        cl->buf->file_last = buf->file_pos + (off_t) len;
        buf->file_pos += whole ? 0 : (off_t) len;
    } else {
        cl->buf->last = buf->pos + len;
        buf->pos += whole ? 0 : len;
    }
    *ll = cl;
    return &cl->next;
}

/* Puts the next bufs of the body into frames. */
static ngx_chain_t **add_frames(ngx_burrow_relay_t *relay, ngx_chain_t **ll)
{
    size_t len, batch = 0;
    ngx_buf_t *buf;
    off_t size;

    while (relay->in != NULL && batch < BATCH && ll != NULL) {
        buf = relay->in->buf;
        size = ngx_buf_special(buf) ? 0 : ngx_buf_size(buf);
        len = (size_t) ngx_min(size, BURROW_FRAME_MAX);
        if (size > 0 || buf->last_buf) {
            ll = add_header(relay, ll, len, buf->last_buf && (off_t) len == size);
        }
        if (size > 0 && ll != NULL) {
            ll = add_piece(relay, ll, buf, len, (off_t) len == size);
        }
        if ((off_t) len == size) {
            relay->in = relay->in->next;
        }
        batch += len;
    }
    return ll;
}

/* A buf of the body that looks as if it were sent: its memory is nginx's again. */
static void give_back(ngx_buf_t *buf)
{
    buf->pos = buf->last;
    buf->file_pos = buf->file_last;
}

/* Those of the body's own bufs whose frames were sent. */
static void give_back_framed(ngx_chain_t *cl)
{
    for (; cl != NULL; cl = cl->next) {
        if (cl->buf->shadow != NULL) {
            give_back(cl->buf->shadow);
            cl->buf->shadow = NULL;
        }
    }
}

/* What another attempt has left. */
static void forget(ngx_burrow_relay_t *relay)
{
    give_back_framed(relay->busy);
    for (; relay->in != NULL; relay->in = relay->in->next) {
        give_back(relay->in->buf);
    }
    relay->busy = NULL;
    relay->begun = 0;
}

static ngx_int_t take(ngx_burrow_relay_t *relay, ngx_chain_t *in)
{
    ngx_http_request_t *r = relay->request;
    ngx_chain_t *cl;

    /* A body that is not buffered is not there for a second attempt. */
    for (cl = r->request_body_no_buffering ? in : NULL; cl != NULL; cl = cl->next) {
        if (cl->buf->tag != REQUEST_TAG && !ngx_buf_special(cl->buf)) {
            burrow_relay_keep(relay->relay,
                              (burrow_str) { (char *) cl->buf->pos,
                                             (size_t) (cl->buf->last - cl->buf->pos) });
        }
    }
    return ngx_chain_add_copy(r->pool, &relay->in, in);
}

static ngx_int_t write_frames(ngx_burrow_relay_t *relay)
{
    ngx_http_upstream_t *u = relay->request->upstream;
    ngx_chain_t *out = NULL, **ll = &out;
    ngx_int_t rc;

    if (!relay->begun && relay->in != NULL) {
        relay->begun = 1;
        out = relay->in;
        relay->in = out->next;
        out->next = NULL;
        ll = &out->next;
    }
    if (add_frames(relay, ll) == NULL) {
        return NGX_ERROR;
    }
    rc = ngx_chain_writer(&u->writer, out);
    ngx_chain_update_chains(relay->request->pool, &relay->free, &relay->busy, &out, TAG);
    give_back_framed(relay->free);
    return rc;
}

/* An output filter of nginx's upstream. */
ngx_int_t ngx_burrow_send_frames(void *data, ngx_chain_t *in)
{
    ngx_burrow_relay_t *relay = data;
    ngx_http_upstream_t *u = relay->request->upstream;
    ngx_int_t rc;

    ngx_burrow_watch_peer(relay);
    if (take(relay, in) != NGX_OK) {
        return NGX_ERROR;
    }
    if (relay->next.posted) {
        return NGX_AGAIN; /* the request leaves this connection */
    }
    do {
        rc = write_frames(relay);
    } while (rc == NGX_OK && relay->in != NULL);

    if (rc == NGX_ERROR && !u->header_sent) {
        u->peer.connection->write->error = 1;
        ngx_burrow_relay_lost(relay);
        return NGX_AGAIN;
    }
    return rc;
}

/* A buf more at the end of what is to be sent. */
static ngx_buf_t *append(ngx_pool_t *pool, ngx_chain_t ***ll)
{
    ngx_chain_t *cl = ngx_alloc_chain_link(pool);

    if (cl == NULL) {
        return NULL;
    }
    cl->buf = ngx_calloc_buf(pool);
    cl->next = NULL;
    **ll = cl;
    *ll = &cl->next;
    return cl->buf;
}

static ngx_int_t append_bytes(ngx_pool_t *pool, ngx_chain_t ***ll, burrow_str bytes,
                              ngx_buf_tag_t tag)
{
    ngx_buf_t *b = append(pool, ll);

    if (b == NULL) {
        return NGX_ERROR;
    }
    b->pos = (u_char *) bytes.data;
    b->last = b->pos + bytes.len;
    b->memory = 1;
    b->tag = tag;
    return NGX_OK;
}

/* Copies of the bufs of a body that is buffered: the bufs themselves stay for a second attempt. */
static ngx_int_t append_body(ngx_pool_t *pool, ngx_chain_t ***ll, ngx_chain_t *body)
{
    ngx_buf_t *b;

    for (; body != NULL; body = body->next) {
        b = append(pool, ll);
        if (b == NULL) {
            return NGX_ERROR;
        }
        *b = *body->buf;
        b->last_buf = body->next == NULL;
    }
    return NGX_OK;
}

/* What was kept of one that is not. nginx adds what it reads. */
static ngx_int_t append_kept(ngx_http_request_t *r, ngx_chain_t ***ll, burrow_str kept)
{
    ngx_buf_t *b;

    if (kept.len > 0 && append_bytes(r->pool, ll, kept, NULL) != NGX_OK) {
        return NGX_ERROR;
    }
    if (r->reading_body || r->request_body->bufs != NULL) {
        return NGX_OK;
    }
    b = append(r->pool, ll);
    if (b == NULL) {
        return NGX_ERROR;
    }
    b->last_buf = 1;
    return NGX_OK;
}

ngx_int_t ngx_burrow_create_request(ngx_http_request_t *r)
{
    ngx_http_upstream_t *u = r->upstream;
    ngx_burrow_relay_t *relay = u->peer.data;
    ngx_chain_t *out = NULL, **ll = &out, *body = u->request_bufs;

    forget(relay);
    u->output.output_filter = ngx_burrow_send_frames;
    u->output.filter_ctx = relay;
    if (append_bytes(r->pool, &ll, burrow_relay_frame(relay->relay), REQUEST_TAG) != NGX_OK) {
        return NGX_ERROR;
    }
    u->request_bufs = out;
    if (r->request_body_no_buffering) {
        return append_kept(r, &ll, burrow_relay_kept(relay->relay));
    }
    return append_body(r->pool, &ll, body);
}
