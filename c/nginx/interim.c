/* Interim answers. Over HTTP/2 and 3 they are frames, which are nginx's to write: from 1.29 on it
 * can, where its early_hints says so. */
#include "ngx_http_burrow.h"

#if (nginx_version >= 1029000)

static ngx_uint_t takes_frames(ngx_http_request_t *r)
{
    ngx_http_core_loc_conf_t *clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    return ngx_http_test_predicates(r, clcf->early_hints) == NGX_DECLINED;
}

static ngx_int_t push_headers(ngx_http_request_t *r, const burrow_head *head)
{
    const burrow_pair *header = head->headers, *end = header + head->n_headers;
    ngx_table_elt_t *h;

    if (ngx_list_init(&r->headers_out.headers, r->pool, head->n_headers + 1,
                      sizeof(ngx_table_elt_t)) != NGX_OK)
    {
        return NGX_ERROR;
    }
    for (; header < end; header++) {
        h = ngx_list_push(&r->headers_out.headers);
        if (h == NULL) {
            return NGX_ERROR;
        }
        ngx_memzero(h, sizeof(ngx_table_elt_t));
        h->hash = 1;
        h->key.data = (u_char *) header->name.data;
        h->key.len = header->name.len;
        h->value.data = (u_char *) header->value.data;
        h->value.len = header->value.len;
    }
    return NGX_OK;
}

/* What other modules have set is the answer's. */
static ngx_int_t send_frame(ngx_http_request_t *r, const burrow_head *head)
{
    ngx_list_t headers = r->headers_out.headers;
    ngx_int_t rc = push_headers(r, head);

    if (rc == NGX_OK) {
        rc = ngx_http_top_early_hints_filter(r) == NGX_ERROR ? NGX_ERROR : NGX_OK;
    }
    r->headers_out.headers = headers;
    return rc;
}

#else

static ngx_uint_t takes_frames(ngx_http_request_t *r)
{
    return 0;
}

static ngx_int_t send_frame(ngx_http_request_t *r, const burrow_head *head)
{
    return NGX_OK;
}

#endif

ngx_uint_t ngx_burrow_takes_interim(ngx_http_request_t *r)
{
    if (r->http_version > NGX_HTTP_VERSION_11) {
        return r == r->main && takes_frames(r);
    }
    return r == r->main && r->http_version == NGX_HTTP_VERSION_11;
}

ngx_uint_t ngx_burrow_is_interim(const burrow_head *head)
{
    return head->status >= NGX_HTTP_CONTINUE && head->status < NGX_HTTP_OK
           && head->status != NGX_HTTP_SWITCHING_PROTOCOLS;
}

#define LINE "HTTP/1.1 103 " CRLF

static ngx_int_t send_lines(ngx_http_request_t *r, const burrow_head *head)
{
    size_t size = sizeof(LINE CRLF) + head->reason.len, i;
    const burrow_pair *header = head->headers;
    ngx_chain_t out;
    ngx_buf_t *b;

    for (i = 0; i < head->n_headers; i++) {
        size += header[i].name.len + header[i].value.len + sizeof(": " CRLF);
    }
    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NGX_ERROR;
    }
    b->last = ngx_sprintf(b->last, "HTTP/1.1 %03ud %*s" CRLF, head->status, head->reason.len,
                          head->reason.data);
    for (i = 0; i < head->n_headers; i++) {
        b->last = ngx_sprintf(b->last, "%*s: %*s" CRLF, header[i].name.len, header[i].name.data,
                              header[i].value.len, header[i].value.data);
    }
    *b->last++ = CR;
    *b->last++ = LF;
    b->flush = 1;
    out.buf = b;
    out.next = NULL;
    /* What does not leave now does so before the answer. */
    return ngx_http_write_filter(r, &out) == NGX_ERROR ? NGX_ERROR : NGX_OK;
}

ngx_int_t ngx_burrow_send_interim(ngx_http_request_t *r, const burrow_head *head)
{
    return r->http_version > NGX_HTTP_VERSION_11 ? send_frame(r, head) : send_lines(r, head);
}
