/* Answers of process groups, on their way through nginx's upstream. */
#include "ngx_http_burrow.h"

#define TAG ((ngx_buf_tag_t) &ngx_http_burrow_module)

static ngx_burrow_relay_t *relay_of(ngx_http_request_t *r)
{
    return r->upstream->peer.data;
}

static void log_why(ngx_burrow_relay_t *relay, burrow_str why)
{
    if (why.len > 0) {
        ngx_log_error(NGX_LOG_ERR, relay->request->connection->log, 0,
                      "burrow: process group \"%V\": %*s", &relay->group->name, why.len, why.data);
    }
}

static void log_bad(ngx_burrow_relay_t *relay, burrow_str why)
{
    ngx_log_error(NGX_LOG_ERR, relay->request->connection->log, 0,
                  "burrow: process group \"%V\": its process has sent %*s", &relay->group->name,
                  why.len, why.data);
}

/* ---- the head -------------------------------------------------------------------------------- */

/* Sees to it that so many bytes can be there in one piece. */
static ngx_int_t make_room(ngx_http_request_t *r, size_t len)
{
    ngx_buf_t *b = &r->upstream->buffer;
    size_t have = (size_t) (b->last - b->pos);
    u_char *start = b->start;

    if ((size_t) (b->end - b->start) < len) {
        start = ngx_palloc(r->pool, len);
        if (start == NULL) {
            return NGX_ERROR;
        }
        b->end = start + len;
    }
    b->start = start;
    b->pos = ngx_movemem(start, b->pos, have) - have;
    b->last = start + have;
    return NGX_AGAIN;
}

static u_char *copy(u_char **to, burrow_str s)
{
    u_char *start = *to;

    *to = ngx_cpymem(start, s.data, s.len);
    *(*to)++ = '\0'; /* nginx looks for it */
    return start;
}

static ngx_int_t add_header(ngx_http_request_t *r, const burrow_pair *header, u_char **text)
{
    ngx_http_upstream_t *u = r->upstream;
    ngx_http_upstream_main_conf_t *umcf;
    ngx_http_upstream_header_t *known;
    ngx_table_elt_t *h = ngx_list_push(&u->headers_in.headers);

    if (h == NULL) {
        return NGX_ERROR;
    }
    ngx_memzero(h, sizeof(ngx_table_elt_t));
    h->key.len = header->name.len;
    h->key.data = copy(text, header->name);
    h->value.len = header->value.len;
    h->value.data = copy(text, header->value);
    h->lowcase_key = *text;
    *text += h->key.len;
    h->hash = ngx_hash_strlow(h->lowcase_key, h->key.data, h->key.len);

    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);
    known = ngx_hash_find(&umcf->headers_in_hash, h->hash, h->lowcase_key, h->key.len);
    return known != NULL ? known->handler(r, h, known->offset) : NGX_OK;
}

static ngx_int_t add_headers(ngx_http_request_t *r, const burrow_head *head)
{
    size_t i, size = 0;
    u_char *text;
    ngx_int_t rc;

    for (i = 0; i < head->n_headers; i++) {
        size += 2 * head->headers[i].name.len + head->headers[i].value.len + 2;
    }
    text = ngx_pnalloc(r->pool, size);
    if (text == NULL) {
        return NGX_ERROR;
    }
    for (i = 0; i < head->n_headers; i++) {
        rc = add_header(r, &head->headers[i], &text);
        if (rc != NGX_OK) {
            return rc;
        }
    }
    return NGX_OK;
}

static ngx_int_t set_head(ngx_http_request_t *r, const burrow_head *head)
{
    ngx_http_upstream_t *u = r->upstream;
    ngx_int_t rc = add_headers(r, head);

    if (rc != NGX_OK) {
        return rc;
    }
    if (ngx_burrow_status_line(r->pool, head, &u->headers_in.status_line) != NGX_OK) {
        return NGX_ERROR;
    }
    u->headers_in.status_n = head->status;
    u->headers_in.content_length_n = head->content_length;
    if (u->state != NULL && u->state->status == 0) {
        u->state->status = head->status;
    }
    return NGX_OK;
}

static ngx_int_t set_answer(ngx_http_request_t *r, const burrow_head *head)
{
    ngx_int_t rc = NGX_OK;

    if (head->status == NGX_HTTP_SWITCHING_PROTOCOLS) {
        rc = ngx_burrow_open_tunnel(relay_of(r));
    }
    return rc == NGX_OK ? set_head(r, head) : rc;
}

static ngx_int_t process_header(ngx_http_request_t *r)
{
    ngx_burrow_relay_t *relay = relay_of(r);
    ngx_buf_t *b = &r->upstream->buffer;
    burrow_str bytes = { (char *) b->pos, (size_t) (b->last - b->pos) };
    burrow_part_kind kind;
    burrow_part part;

    do {
        kind = burrow_relay_read(relay->relay, &bytes, &part);
    } while (kind == BURROW_PART_HEAD && ngx_burrow_is_interim(&part.head)
             && ngx_burrow_send_interim(r, &part.head) == NGX_OK);

    switch (kind) {
    case BURROW_PART_MORE:
        b->pos = b->last - bytes.len;
        return make_room(r, part.len);
    case BURROW_PART_HEAD:
        b->pos = b->last - bytes.len;
        return ngx_burrow_is_interim(&part.head) ? NGX_ERROR : set_answer(r, &part.head);
    case BURROW_PART_ABORT:
        log_why(relay, part.why);
        ngx_burrow_relay_fail(relay, part.outcome);
        break;
    default:
        log_bad(relay, part.why);
        ngx_burrow_relay_fail(relay, BURROW_DIED);
    }
    b->pos = b->last - bytes.len;
    return make_room(r, bytes.len + 1);
}

/* ---- the body -------------------------------------------------------------------------------- */

/* A part of a file; its descriptor is closed with the request. */
static ngx_int_t set_file(ngx_http_request_t *r, ngx_buf_t *b, const burrow_body *body)
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(r->pool, sizeof(ngx_pool_cleanup_file_t));
    ngx_file_t *file = ngx_pcalloc(r->pool, sizeof(ngx_file_t));
    ngx_pool_cleanup_file_t *closing;

    if (cleanup == NULL || file == NULL) {
        ngx_close_file(body->fd);
        return NGX_ERROR;
    }
    ngx_str_set(&file->name, "wsgi.file_wrapper");
    file->fd = body->fd;
    file->log = r->connection->log;

    cleanup->handler = ngx_pool_cleanup_file;
    closing = cleanup->data;
    closing->fd = body->fd;
    closing->name = file->name.data;
    closing->log = r->pool->log;

    b->in_file = 1;
    b->file = file;
    b->file_pos = body->offset;
    b->file_last = body->offset + (off_t) body->len;
    return NGX_OK;
}

/* A buf for a part of the body. */
static ngx_chain_t *wrap(ngx_http_request_t *r, ngx_chain_t **free, const burrow_part *part)
{
    ngx_chain_t *cl = ngx_chain_get_free_buf(r->pool, free);
    ngx_buf_t *b;

    if (cl == NULL) {
        return NULL;
    }
    b = cl->buf;
    ngx_memzero(b, sizeof(ngx_buf_t));
    b->tag = TAG;
    b->flush = part->flush != 0;
    if (part->body.fd != -1) {
        return set_file(r, b, &part->body) == NGX_OK ? cl : NULL;
    }
    b->pos = (u_char *) part->body.data;
    b->last = b->pos + part->body.len;
    b->temporary = 1;
    return cl;
}

burrow_part_kind ngx_burrow_read_part(ngx_burrow_relay_t *relay, burrow_str *bytes,
                                      burrow_part *part)
{
    burrow_part_kind kind = burrow_relay_read(relay->relay, bytes, part);

    if (kind == BURROW_PART_TRAILERS
        && ngx_burrow_set_trailers(relay->request, &part->head) != NGX_OK)
    {
        return BURROW_PART_ABORT;
    }
    if (kind == BURROW_PART_BAD) {
        log_bad(relay, part->why);
    }
    return kind;
}

/* Whether there may be another part. */
static ngx_uint_t goes_on(burrow_part_kind kind)
{
    return kind == BURROW_PART_BODY || kind == BURROW_PART_TRAILERS || kind == BURROW_PART_END;
}

/* The head may have been all there is. `length`: how many bytes are worth a look, 0 at the end. */
static ngx_int_t init_filter(void *data)
{
    ngx_burrow_relay_t *relay = data;
    ngx_http_upstream_t *u = relay->request->upstream;
    burrow_str none = { "", 0 };
    burrow_part part;

    relay->filtering = 1;
    switch (ngx_burrow_read_part(relay, &none, &part)) {
    case BURROW_PART_MORE:
        u->length = (off_t) part.len;
        break;
    case BURROW_PART_END:
        u->length = 0;
        break;
    default:
        return NGX_ERROR;
    }
    if (u->buffering && u->pipe->preread_size == 0) {
        u->buffer.pos = u->buffer.start; /* all of it is free: the head was copied */
        u->buffer.last = u->buffer.start;
    }
    u->pipe->length = u->length;
    u->pipe->busy_size = ngx_max(u->pipe->busy_size, u->buffer.end - u->buffer.start);
    return NGX_OK;
}

/* Bytes of a raw buf: it is free again when all that point into it are. */
static void add_shadow(ngx_buf_t *b, const ngx_buf_t *raw, ngx_buf_t ***shadow)
{
    b->start = raw->start;
    b->end = raw->end;
    b->recycled = 1;
    **shadow = b;
    *shadow = &b->shadow;
}

/* Into memory, where the client is slower than the application. */
static ngx_int_t pipe_filter(ngx_event_pipe_t *p, ngx_buf_t *raw)
{
    ngx_burrow_relay_t *relay = p->input_ctx;
    burrow_str bytes = { (char *) raw->pos, (size_t) (raw->last - raw->pos) };
    ngx_buf_t *last = NULL, **shadow = &raw->shadow;
    burrow_part_kind kind;
    burrow_part part;
    ngx_chain_t *cl;

    if (p->upstream_error || bytes.len == 0) {
        return NGX_OK;
    }
    do {
        kind = ngx_burrow_read_part(relay, &bytes, &part);
        if (kind == BURROW_PART_BODY) {
            cl = wrap(relay->request, &p->free, &part);
            if (cl == NULL) {
                return NGX_ERROR;
            }
            if (part.body.fd == -1) {
                last = cl->buf;
                add_shadow(last, raw, &shadow);
            }
            *(p->in != NULL ? p->last_in : &p->in) = cl;
            p->last_in = &cl->next;
        } else if (kind == BURROW_PART_END) {
            p->length = 0;
        }
    } while (goes_on(kind));

    if (kind != BURROW_PART_MORE) {
        p->upstream_error = 1;
        p->upstream_eof = 0;
    } else if (p->length != 0) {
        p->length = (off_t) part.len;
    }
    if (last == NULL) {
        return ngx_event_pipe_add_free_buf(p, raw);
    }
    last->shadow = raw;
    last->last_shadow = 1;
    return NGX_OK;
}

/* To the client at once. */
static ngx_int_t unbuffered_filter(void *data, ssize_t received)
{
    ngx_burrow_relay_t *relay = data;
    ngx_http_upstream_t *u = relay->request->upstream;
    burrow_str bytes = { (char *) u->buffer.last, (size_t) received };
    ngx_chain_t *cl, **ll = &u->out_bufs;
    burrow_part_kind kind;
    burrow_part part;

    while (*ll != NULL) {
        ll = &(*ll)->next;
    }
    u->buffer.last += received;
    do {
        kind = ngx_burrow_read_part(relay, &bytes, &part);
        if (kind == BURROW_PART_BODY) {
            part.flush = 1;
            cl = wrap(relay->request, &u->free_bufs, &part);
            if (cl == NULL) {
                return NGX_ERROR;
            }
            *ll = cl;
            ll = &cl->next;
        } else if (kind == BURROW_PART_END) {
            u->length = 0;
        }
    } while (goes_on(kind));

    if (kind != BURROW_PART_MORE) {
        u->error = 1;
    }
    return NGX_OK;
}

/* ---- nginx's upstream ------------------------------------------------------------------------ */

/* Nothing is left to undo: a second attempt has an upstream of its own. */
static void abort_request(ngx_http_request_t *r)
{
}

static void finalize_request(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_burrow_relay_leave(relay_of(r));
}

ngx_int_t ngx_burrow_create_upstream(ngx_burrow_relay_t *relay)
{
    ngx_http_request_t *r = relay->request;
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    ngx_http_upstream_t *u;

    if (ngx_http_upstream_create(r) != NGX_OK) {
        return NGX_ERROR;
    }
    u = r->upstream;
    u->conf = &conf->upstream;
    u->peer.data = relay;
    u->output.tag = TAG;
    ngx_str_set(&u->schema, "wsgi://");
    u->uri = r->uri;
    u->create_request = ngx_burrow_create_request;
    u->reinit_request = ngx_burrow_create_request;
    u->process_header = process_header;
    u->abort_request = abort_request;
    u->finalize_request = finalize_request;
    u->buffering = conf->upstream.buffering;
    u->input_filter_init = init_filter;
    u->input_filter = unbuffered_filter;
    u->input_filter_ctx = relay;
    u->pipe = ngx_pcalloc(r->pool, sizeof(ngx_event_pipe_t));
    if (u->pipe == NULL) {
        return NGX_ERROR;
    }
    u->pipe->input_filter = pipe_filter;
    u->pipe->input_ctx = relay;
    relay->filtering = 0;
    return NGX_OK;
}
