/* The application's answer as httpd's status, headers and buckets. */
#include "burrow_apache.h"

#include <unistd.h>

static const char *copy(request_rec *r, burrow_str s)
{
    return apr_pstrmemdup(r->pool, s.data, s.len);
}

static void set_status(request_rec *r, const burrow_head *head)
{
    const char *line = ap_get_status_line((int)head->status);
    r->status = (int)head->status;
    /* httpd's own line when there is none or it says the same, as it does nearly always. */
    if (atoi(line) == r->status
        && (!head->reason.len
            || (strlen(line) == 4 + head->reason.len
                && !memcmp(line + 4, head->reason.data, head->reason.len))))
        r->status_line = line;
    else
        r->status_line = apr_psprintf(r->pool, "%03u %.*s", head->status, (int)head->reason.len,
                                      head->reason.data);
}

static void add_headers(request_rec *r, const burrow_head *head)
{
    const burrow_pair *header = head->headers, *end = header + head->n_headers;
    static const char content_type[] = "Content-Type";

    for (; header < end; header++) {
        const char *value = copy(r, header->value);
        if (header->name.len == sizeof content_type - 1
            && !ap_cstr_casecmpn(header->name.data, content_type, header->name.len))
            ap_set_content_type(r, value);
        else
            apr_table_addn(r->headers_out, copy(r, header->name), value);
    }
}

static void set_head(request_rec *r, const burrow_head *head)
{
    set_status(r, head);
    r->content_type = NULL; /* until here that of the script */
    add_headers(r, head);
    if (head->content_length >= 0)
        ap_set_content_length(r, head->content_length);
}

/* Does httpd itself answer, in the place of a process group? As in mod_wsgi. */
static int takes_over(exchange *x)
{
    request_rec *r = x->r;
    const dir_config *config = ap_get_module_config(r->per_dir_config, &wsgi_module);
    const char *location = apr_table_get(r->headers_out, "Location"), *challenge;

    if (r->status == HTTP_OK && location && *location == '/') {
        x->redirect = location;
    } else if (config->error_override > 0 && ap_is_HTTP_ERROR(r->status)) {
        x->error_status = r->status;
        if ((challenge = apr_table_get(r->headers_out, "WWW-Authenticate")))
            apr_table_setn(r->err_headers_out, "WWW-Authenticate", challenge);
    }
    return x->redirect || x->error_status;
}

static apr_status_t close_fd(void *fd)
{
    close((int)(intptr_t)fd);
    return APR_SUCCESS;
}

/* The descriptor is open until the last byte has left: the request's pool dies only then. */
static apr_status_t add_file(exchange *x, const burrow_body *body)
{
    request_rec *r = x->r;
    const dir_config *config = ap_get_module_config(r->per_dir_config, &wsgi_module);
    core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    apr_int32_t flags = APR_FOPEN_READ | APR_FOPEN_BINARY;
    apr_os_file_t fd = body->fd;
    apr_file_t *file;
    apr_status_t rv;

    if (config->enable_sendfile >= 0 ? config->enable_sendfile
                                     : core->enable_sendfile != ENABLE_SENDFILE_OFF)
        flags |= APR_FOPEN_SENDFILE_ENABLED;
    apr_pool_cleanup_register(r->pool, (void *)(intptr_t)fd, close_fd, apr_pool_cleanup_null);
    if ((rv = apr_os_file_put(&file, &fd, flags, r->pool)) != APR_SUCCESS)
        return rv;
    /* Never mapped: who truncates the file must not kill the process. */
    apr_bucket_file_enable_mmap(
        apr_brigade_insert_file(x->out, file, body->offset, (apr_off_t)body->len, r->pool), 0);
    return APR_SUCCESS;
}

static int has_unread_body(const exchange *x)
{
    return (x->r->read_chunked || x->r->remaining > 0) && !x->body_ended;
}

/* An interim answer, such as 103 with its links; what other modules have set is the answer's. */
static int send_interim(request_rec *r, const burrow_head *head)
{
    apr_table_t *headers_out = r->headers_out;
    int expecting_100 = r->expecting_100;

    r->headers_out = apr_table_make(r->pool, (int)head->n_headers);
    set_status(r, head);
    add_headers(r, head);
    ap_send_interim_response(r, 1);
    r->headers_out = headers_out;
    r->expecting_100 = expecting_100; /* httpd takes any interim answer for that to it */
    r->status = HTTP_OK;
    r->status_line = NULL;
    return r->connection->aborted ? -1 : 0;
}

/* The 101, and whatever follows it, are the connection's: no filter of the request's sees them. */
static void switch_protocols(exchange *x, const burrow_head *head)
{
    request_rec *r = x->r;
    const burrow_pair *header = head->headers, *end = header + head->n_headers;
    request_rec *redirected;

    x->is_upgraded = 1;
    r->output_filters = r->proto_output_filters = r->connection->output_filters;
    r->input_filters = r->proto_input_filters = r->connection->input_filters;
    ap_remove_input_filter_byhandle(r->input_filters, "reqtimeout");
    r->connection->keepalive = AP_CONN_CLOSE;
    r->sent_bodyct = 1; /* the access log says how much is sent behind the head */
    for (redirected = r; redirected; redirected = redirected->prev)
        redirected->eos_sent = 1; /* they all are answered */
    set_status(r, head);
    ap_fputstrs(r->output_filters, x->out, "HTTP/1.1 ", r->status_line, CRLF
                "Connection: Upgrade" CRLF, NULL);
    for (; header < end; header++)
        ap_fputstrs(r->output_filters, x->out, copy(r, header->name), ": ",
                    copy(r, header->value), CRLF, NULL);
    ap_fputs(r->output_filters, x->out, CRLF);
}

int wsgi_response_send(void *arg, const burrow_head *head, const burrow_body *body, unsigned flags)
{
    exchange *x = arg;
    request_rec *r = x->r;
    conn_rec *c = r->connection;
    apr_status_t rv = APR_SUCCESS;

    if (!x->out)
        x->out = apr_brigade_create(r->pool, c->bucket_alloc);
    if (head && head->status == HTTP_SWITCHING_PROTOCOLS && x->is_handshake) {
        switch_protocols(x, head);
    } else if (head && head->status == BURROW_STATUS_TRAILERS) {
        wsgi_set_trailers(r, head);
        /* Of a body whose end it has seen httpd says the length: there are no chunks then. */
        if (!r->sent_bodyct)
            rv = ap_fflush(r->output_filters, x->out);
    } else if (head && head->status < HTTP_OK) {
        return send_interim(r, head);
    } else if (head) {
        set_head(r, head);
        if (x->is_daemon && takes_over(x))
            return 1;
    }
    if (head)
        x->head_sent = 1;
    if (body->fd >= 0)
        rv = add_file(x, body);
    else if (body->len)
        APR_BRIGADE_INSERT_TAIL(
            x->out, apr_bucket_transient_create(body->data, body->len, c->bucket_alloc));
    if (x->is_upgraded)
        r->bytes_sent += (apr_off_t)body->len;
    /* httpd reads what is left of the request before it sends what is left of the answer. */
    if (flags & BURROW_FLUSH || (flags & BURROW_LAST && has_unread_body(x)))
        APR_BRIGADE_INSERT_TAIL(x->out, apr_bucket_flush_create(c->bucket_alloc));
    if (flags & BURROW_LAST && (!x->is_upgraded || c->master))
        APR_BRIGADE_INSERT_TAIL(x->out, apr_bucket_eos_create(c->bucket_alloc));
    if (rv == APR_SUCCESS && !APR_BRIGADE_EMPTY(x->out))
        rv = ap_pass_brigade(r->output_filters, x->out);
    apr_brigade_cleanup(x->out);
    return rv == APR_SUCCESS && !c->aborted ? 0 : -1;
}

/* An error bucket before the end is what HTTP/1.1 (no last chunk), HTTP/2 (RST_STREAM) and filters
 * such as mod_deflate all understand; a status or an aborted flag they turn into a clean end. The
 * flush has a filter that waits for more let go of the head: else the error becomes a page. */
void wsgi_response_cut(exchange *x)
{
    request_rec *r = x->r;
    apr_bucket_alloc_t *alloc = r->connection->bucket_alloc;
    APR_BRIGADE_INSERT_TAIL(x->out, apr_bucket_flush_create(alloc));
    APR_BRIGADE_INSERT_TAIL(x->out,
                            ap_bucket_error_create(HTTP_BAD_GATEWAY, NULL, r->pool, alloc));
    APR_BRIGADE_INSERT_TAIL(x->out, apr_bucket_eos_create(alloc));
    ap_pass_brigade(r->output_filters, x->out);
}
