/* Interim answers, of which nginx itself knows but the one to Expect. */
#include "ngx_http_burrow.h"

/* Over HTTP/2 and 3 they would be frames, which are not a module's to write. */
ngx_uint_t ngx_burrow_takes_interim(ngx_http_request_t *r)
{
    return r == r->main && r->http_version == NGX_HTTP_VERSION_11;
}

ngx_uint_t ngx_burrow_is_interim(const burrow_head *head)
{
    return head->status >= NGX_HTTP_CONTINUE && head->status < NGX_HTTP_OK
           && head->status != NGX_HTTP_SWITCHING_PROTOCOLS;
}

#define LINE "HTTP/1.1 103 " CRLF

ngx_int_t ngx_burrow_send_interim(ngx_http_request_t *r, const burrow_head *head)
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
