/* The answer's head. A header means to nginx what it does when it comes from an upstream server. */
#include "ngx_http_burrow.h"

typedef struct header_s header_t;

struct header_s {
    ngx_str_t name;
    ngx_int_t (*set)(ngx_http_request_t *r, const header_t *header, ngx_table_elt_t *value);
    size_t offset;        /* of the pointer in headers_out */
    unsigned kept; /* where another location answers */
};

/* Which headers of the application's stay. */
enum { ALL, ON_REDIRECT = 1, ON_ERROR_PAGE = 2 };

static ngx_table_elt_t *push(ngx_http_request_t *r, const ngx_table_elt_t *value)
{
    ngx_table_elt_t *h = ngx_list_push(&r->headers_out.headers);

    if (h != NULL) {
        *h = *value;
    }
    return h;
}

static ngx_int_t set_plain(ngx_http_request_t *r, const header_t *header, ngx_table_elt_t *value)
{
    return push(r, value) != NULL ? NGX_OK : NGX_ERROR;
}

/* nginx's filters look at it, too. */
static ngx_int_t set_known(ngx_http_request_t *r, const header_t *header, ngx_table_elt_t *value)
{
    ngx_table_elt_t *h = push(r, value);

    *(ngx_table_elt_t **) ((u_char *) &r->headers_out + header->offset) = h;
    return h != NULL ? NGX_OK : NGX_ERROR;
}

static ngx_int_t set_last_modified(ngx_http_request_t *r, const header_t *header,
                                   ngx_table_elt_t *value)
{
    r->headers_out.last_modified_time = ngx_parse_http_time(value->value.data, value->value.len);
    return set_known(r, header, value);
}

/* A path is left as it is: nginx would put its own idea of the host before it. */
static ngx_int_t set_location(ngx_http_request_t *r, const header_t *header,
                              ngx_table_elt_t *value)
{
    if (value->value.len > 0 && value->value.data[0] == '/') {
        return set_plain(r, header, value);
    }
    return set_known(r, header, value);
}

static ngx_int_t set_cache_control(ngx_http_request_t *r, const header_t *header,
                                   ngx_table_elt_t *value)
{
    ngx_table_elt_t *h = push(r, value);
#if (nginx_version >= 1023000)
    ngx_table_elt_t **last = &r->headers_out.cache_control;

    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = h;
#else
    ngx_array_t *all = &r->headers_out.cache_control;
    ngx_table_elt_t **last;

    if (all->elts == NULL
        && ngx_array_init(all, r->pool, 1, sizeof(ngx_table_elt_t *)) != NGX_OK)
    {
        return NGX_ERROR;
    }
    last = ngx_array_push(all);
    if (last == NULL) {
        return NGX_ERROR;
    }
    *last = h;
#endif
    return h != NULL ? NGX_OK : NGX_ERROR;
}

/* "text/html; charset=utf-8": nginx keeps the two apart. */
static ngx_int_t set_content_type(ngx_http_request_t *r, const header_t *header,
                                  ngx_table_elt_t *value)
{
    ngx_str_t type = value->value, charset;
    u_char *end = type.data + type.len;
    u_char *p = ngx_strlcasestrn(type.data, end, (u_char *) "charset=", 8 - 1);

    r->headers_out.content_type = type;
    r->headers_out.content_type_len = type.len;
    r->headers_out.content_type_lowcase = NULL;
    if (p == NULL || p == type.data || (p[-1] != ' ' && p[-1] != ';')) {
        return NGX_OK;
    }
    charset.data = p + 8;
    charset.len = (size_t) (end - charset.data);
    if (charset.len >= 2 && charset.data[0] == '"' && end[-1] == '"') {
        charset.data++;
        charset.len -= 2;
    }
    while (p > type.data && (p[-1] == ' ' || p[-1] == ';')) {
        p--;
    }
    r->headers_out.content_type_len = (size_t) (p - type.data);
    r->headers_out.charset = charset;
    return NGX_OK;
}

static ngx_int_t set_limit_rate(ngx_http_request_t *r, const header_t *header,
                                ngx_table_elt_t *value)
{
    ngx_int_t rate = ngx_atoi(value->value.data, value->value.len);

    if (rate != NGX_ERROR) {
        r->limit_rate = (size_t) rate;
        r->limit_rate_set = 1;
    }
    return NGX_OK;
}

static ngx_int_t set_charset(ngx_http_request_t *r, const header_t *header,
                             ngx_table_elt_t *value)
{
    ngx_str_t *charset = ngx_palloc(r->pool, sizeof(ngx_str_t));

    if (charset == NULL) {
        return NGX_ERROR;
    }
    *charset = value->value;
    r->headers_out.override_charset = charset;
    return NGX_OK;
}

static ngx_int_t hide(ngx_http_request_t *r, const header_t *header, ngx_table_elt_t *value)
{
    return NGX_OK;
}

#define KNOWN(field) offsetof(ngx_http_headers_out_t, field)

static const header_t headers[] = {
    { ngx_string("Content-Type"), set_content_type, 0, ON_REDIRECT },
    { ngx_string("Set-Cookie"), set_plain, 0, ON_REDIRECT },
    { ngx_string("Content-Disposition"), set_plain, 0, ON_REDIRECT },
    { ngx_string("Cache-Control"), set_cache_control, 0, ON_REDIRECT },
    { ngx_string("Expires"), set_known, KNOWN(expires), ON_REDIRECT },
    { ngx_string("Accept-Ranges"), set_known, KNOWN(accept_ranges), ON_REDIRECT },
    { ngx_string("Date"), set_known, KNOWN(date), 0 },
    { ngx_string("Server"), set_known, KNOWN(server), 0 },
    { ngx_string("ETag"), set_known, KNOWN(etag), 0 },
    { ngx_string("Last-Modified"), set_last_modified, KNOWN(last_modified), 0 },
    { ngx_string("Location"), set_location, KNOWN(location), 0 },
    { ngx_string("Content-Range"), set_known, KNOWN(content_range), 0 },
    { ngx_string("Content-Encoding"), set_known, KNOWN(content_encoding), 0 },
    { ngx_string("WWW-Authenticate"), set_known, KNOWN(www_authenticate), ON_ERROR_PAGE },
    { ngx_string("X-Accel-Redirect"), hide, 0, 0 },
    { ngx_string("X-Accel-Limit-Rate"), set_limit_rate, 0, 0 },
    { ngx_string("X-Accel-Charset"), set_charset, 0, 0 },
    { ngx_string("X-Accel-Buffering"), hide, 0, 0 },
    { ngx_string("X-Accel-Expires"), hide, 0, 0 },
};

static const header_t *find(burrow_str name)
{
    static const header_t other = { ngx_null_string, set_plain, 0, 0 };
    ngx_uint_t i;

    for (i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        if (headers[i].name.len == name.len
            && (ngx_memcmp(headers[i].name.data, name.data, name.len) == 0
                || ngx_strncasecmp(headers[i].name.data, (u_char *) name.data, name.len) == 0))
        {
            return &headers[i];
        }
    }
    return &other;
}

static ngx_str_t copy(u_char **p, burrow_str s)
{
    ngx_str_t to = { s.len, *p };

    *p = ngx_cpymem(*p, s.data, s.len);
    return to;
}

/* Memory of the request's for copies of the headers. */
static u_char *make_room(ngx_http_request_t *r, const burrow_head *head)
{
    size_t i, size = 0;

    for (i = 0; i < head->n_headers; i++) {
        size += head->headers[i].name.len + head->headers[i].value.len;
    }
    return ngx_pnalloc(r->pool, size);
}

static ngx_int_t set_headers(ngx_http_request_t *r, const burrow_head *head, unsigned kept)
{
    ngx_table_elt_t value;
    const header_t *header;
    size_t i;
    u_char *p = make_room(r, head);

    if (p == NULL) {
        return NGX_ERROR;
    }
    ngx_memzero(&value, sizeof(value));
    value.hash = 1;
    for (i = 0; i < head->n_headers; i++) {
        header = find(head->headers[i].name);
        if (kept != ALL && !(header->kept & kept)) {
            continue;
        }
        value.key = copy(&p, head->headers[i].name);
        value.value = copy(&p, head->headers[i].value);
        if (header->set(r, header, &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }
    return NGX_OK;
}

/* Whether they can be sent to the client: nginx has a place for them in chunks and in frames. */
ngx_uint_t ngx_burrow_takes_trailers(ngx_http_request_t *r)
{
    ngx_http_core_loc_conf_t *clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    return r == r->main
           && (r->http_version > NGX_HTTP_VERSION_11
               || (r->http_version == NGX_HTTP_VERSION_11 && clcf->chunked_transfer_encoding));
}

/* They leave with the end of the answer. */
ngx_int_t ngx_burrow_set_trailers(ngx_http_request_t *r, const burrow_head *trailers)
{
    u_char *p = make_room(r, trailers);
    ngx_table_elt_t *h;
    size_t i;

    if (p == NULL) {
        return NGX_ERROR;
    }
    for (i = 0; i < trailers->n_headers; i++) {
        h = ngx_list_push(&r->headers_out.trailers);
        if (h == NULL) {
            return NGX_ERROR;
        }
        ngx_memzero(h, sizeof(ngx_table_elt_t));
        h->hash = 1;
        h->key = copy(&p, trailers->headers[i].name);
        h->value = copy(&p, trailers->headers[i].value);
    }
    return NGX_OK;
}

/* Empty where nginx knows the words for the status. */
ngx_int_t ngx_burrow_status_line(ngx_pool_t *pool, const burrow_head *head, ngx_str_t *line)
{
    u_char *p;

    line->len = 0;
    if (head->reason.len == 0) {
        return NGX_OK;
    }
    line->data = ngx_pnalloc(pool, NGX_INT64_LEN + 1 + head->reason.len);
    if (line->data == NULL) {
        return NGX_ERROR;
    }
    p = ngx_burrow_decimal(line->data, head->status);
    *p++ = ' ';
    p = ngx_cpymem(p, head->reason.data, head->reason.len);
    line->len = (size_t) (p - line->data);
    return NGX_OK;
}

static ngx_int_t set_status(ngx_http_request_t *r, const burrow_head *head)
{
    r->headers_out.status = head->status;
    r->headers_out.content_length_n = head->content_length;
    return ngx_burrow_status_line(r->pool, head, &r->headers_out.status_line);
}

static const burrow_str *x_accel_redirect(const burrow_head *head)
{
    static const ngx_str_t name = ngx_string("X-Accel-Redirect");
    size_t i;

    for (i = 0; i < head->n_headers; i++) {
        if (head->headers[i].name.len == name.len && head->headers[i].value.len > 0
            && ngx_strncasecmp(name.data, (u_char *) head->headers[i].name.data, name.len) == 0)
        {
            return &head->headers[i].value;
        }
    }
    return NULL;
}

/* Another location answers. */
static void redirect(ngx_burrow_ctx_t *ctx, const burrow_head *head, const burrow_str *to)
{
    ngx_http_request_t *r = ctx->request;
    ngx_str_t uri = { to->len, (u_char *) to->data }, args = ngx_null_string;
    ngx_uint_t flags = NGX_HTTP_LOG_UNSAFE;

    uri.data = ngx_pstrdup(r->pool, &uri);
    if (uri.data == NULL || set_headers(r, head, ON_REDIRECT) != NGX_OK) {
        ngx_burrow_finalize(ctx, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }
    ngx_burrow_release(ctx);
    if (uri.data[0] == '@') {
        ngx_http_named_location(r, &uri);
    } else if (ngx_http_parse_unsafe_uri(r, &uri, &args, &flags) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_NOT_FOUND);
        return;
    } else {
        if (r->method != NGX_HTTP_HEAD) {
            r->method = NGX_HTTP_GET;
            r->method_name = ngx_http_core_get_method;
        }
        ngx_http_internal_redirect(r, &uri, &args);
    }
    ngx_http_finalize_request(r, NGX_DONE);
}

/* Whether the configuration has a page of its own for the status. */
static ngx_uint_t intercepts(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    ngx_http_core_loc_conf_t *clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);
    ngx_http_err_page_t *page;
    ngx_uint_t i;

    if (!conf->intercept_errors || status < NGX_HTTP_SPECIAL_RESPONSE || clcf->error_pages == NULL)
    {
        return 0;
    }
    page = clcf->error_pages->elts;
    for (i = 0; i < clcf->error_pages->nelts; i++) {
        if (page[i].status == (ngx_int_t) status) {
            return 1;
        }
    }
    return 0;
}

/* NGX_DONE: the request has been dealt with, no body is wanted. It may be gone. */
ngx_int_t ngx_burrow_send_head(ngx_burrow_ctx_t *ctx, const burrow_head *head)
{
    ngx_http_request_t *r = ctx->request;
    const burrow_str *to = x_accel_redirect(head);
    ngx_int_t rc;

    if (to != NULL) {
        redirect(ctx, head, to);
        return NGX_DONE;
    }
    if (intercepts(r, head->status)) {
        rc = set_headers(r, head, ON_ERROR_PAGE);
        ngx_burrow_finalize(ctx, rc == NGX_OK ? (ngx_int_t) head->status : rc);
        return NGX_DONE;
    }
    if (set_headers(r, head, ALL) != NGX_OK || set_status(r, head) != NGX_OK) {
        ngx_burrow_finalize(ctx, NGX_ERROR);
        return NGX_DONE;
    }
    /* A 412 from nginx would come after the application has done its work. */
    r->disable_not_modified = !(r->method & (NGX_HTTP_GET | NGX_HTTP_HEAD));
    ctx->answered = 1;
    rc = ngx_http_send_header(r);
    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        ngx_burrow_finalize(ctx, rc);
        return NGX_DONE;
    }
    return NGX_OK;
}
