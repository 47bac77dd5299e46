/* Trailers: fields behind the answer's body. mod_http2 sends those of r->trailers_out; over
 * HTTP/1.1 httpd itself has no place for them. */
#include "burrow_apache.h"

#define LAST_CHUNK "0" CRLF

static ap_filter_rec_t *filter;

int wsgi_takes_trailers(request_rec *r)
{
    return !r->main && r->proto_num >= HTTP_VERSION(1, 1);
}

static int add_line(void *arg, const char *name, const char *value)
{
    return apr_brigade_printf(arg, NULL, NULL, "%s: %s" CRLF, name, value) == APR_SUCCESS;
}

/* Whether these are the bytes that httpd's chunk filter ends a body with: a bucket of their own.
 * Where there is no such filter the application's body may look alike. */
static int is_end_of_chunks(apr_bucket *b)
{
    static const char end[] = LAST_CHUNK CRLF;
    const char *data;
    apr_size_t len;

    return !APR_BUCKET_IS_METADATA(b) && b->length == sizeof end - 1
           && apr_bucket_read(b, &data, &len, APR_BLOCK_READ) == APR_SUCCESS
           && !memcmp(data, end, len);
}

/* Right behind the chunk filter. */
static apr_status_t add_trailers(ap_filter_t *f, apr_bucket_brigade *out)
{
    apr_bucket *eos = APR_BRIGADE_LAST(out), *end;
    apr_bucket_brigade *rest;

    while (eos != APR_BRIGADE_SENTINEL(out) && !APR_BUCKET_IS_EOS(eos))
        eos = APR_BUCKET_PREV(eos);
    if (eos == APR_BRIGADE_SENTINEL(out))
        return ap_pass_brigade(f->next, out);
    ap_remove_output_filter(f);
    end = APR_BUCKET_PREV(eos);
    if (f->r->chunked && end != APR_BRIGADE_SENTINEL(out) && is_end_of_chunks(end)) {
        apr_bucket_split(end, sizeof LAST_CHUNK - 1);
        rest = apr_brigade_split(out, APR_BUCKET_NEXT(end));
        apr_table_do(add_line, out, f->r->trailers_out, NULL);
        APR_BRIGADE_CONCAT(out, rest);
    }
    return ap_pass_brigade(f->next, out);
}

void wsgi_set_trailers(request_rec *r, const burrow_head *trailers)
{
    const burrow_pair *header = trailers->headers, *end = header + trailers->n_headers;

    for (; header < end; header++)
        apr_table_addn(r->trailers_out,
                       apr_pstrmemdup(r->pool, header->name.data, header->name.len),
                       apr_pstrmemdup(r->pool, header->value.data, header->value.len));
    if (!r->connection->master)
        ap_add_output_filter_handle(filter, NULL, r, r->connection);
}

void wsgi_register_trailers(void)
{
    filter = ap_register_output_filter("WSGI_TRAILERS", add_trailers, NULL,
                                       AP_FTYPE_TRANSCODE + 1);
}
