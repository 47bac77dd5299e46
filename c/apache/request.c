/* A request_rec as the runtime wants it, and the request's body. */
#include "burrow_apache.h"

#include <stdlib.h>

#include "apr_poll.h"
#include "util_script.h"

/* The names of r->subprocess_env that are httpd's own business or that the request itself sets, in
 * strcmp's order. Another module, before us, can have put them there with ap_add_common_vars. */
static const char *const reserved[] = {
    "AUTH_TYPE",       "CONTENT_LENGTH",   "CONTENT_TYPE",    "CONTEXT_DOCUMENT_ROOT",
    "CONTEXT_PREFIX",  "DOCUMENT_ROOT",    "GATEWAY_INTERFACE", "HTTPS",
    "LD_LIBRARY_PATH", "PATH",             "PATH_INFO",       "PATH_TRANSLATED",
    "QUERY_STRING",    "REMOTE_ADDR",      "REMOTE_HOST",     "REMOTE_IDENT",
    "REMOTE_PORT",     "REMOTE_USER",      "REQUEST_METHOD",  "REQUEST_SCHEME",
    "REQUEST_URI",     "SCRIPT_FILENAME",  "SCRIPT_NAME",     "SERVER_ADDR",
    "SERVER_ADMIN",    "SERVER_NAME",      "SERVER_PORT",     "SERVER_PROTOCOL",
    "SERVER_SIGNATURE", "SERVER_SOFTWARE",
};

static int compare_name(const void *name, const void *entry)
{
    return strcmp(name, *(const char *const *)entry);
}

static int is_reserved(const char *name)
{
    return bsearch(name, reserved, sizeof reserved / sizeof *reserved, sizeof *reserved,
                   compare_name) != NULL;
}

/* REQUEST_URI: the target in the request line, also after an internal redirect. */
static burrow_str request_target(request_rec *r)
{
    const char *start, *end;
    if (!r->the_request)
        return wsgi_str("");
    for (start = r->the_request; *start && *start != ' '; start++)
        ;
    while (*start == ' ')
        start++;
    for (end = start; *end && *end != ' '; end++)
        ;
    return (burrow_str){start, (size_t)(end - start)};
}

/* With runs of slashes made one, as mod_wsgi gives it. */
static burrow_str collapsed(request_rec *r, burrow_str path)
{
    char *copy;
    if (!ap_strstr_c(path.data, "//"))
        return path;
    copy = apr_pstrmemdup(r->pool, path.data, path.len);
    ap_no2slash(copy);
    return wsgi_str(copy);
}

static void set_paths(burrow_str *vars, request_rec *r)
{
    burrow_str script_name = wsgi_str(r->uri);
    burrow_str path_info = wsgi_str(r->path_info ? r->path_info : "");

    if (path_info.len && strcmp(r->protocol, "INCLUDED"))
        script_name.len = (size_t)ap_find_path_info(r->uri, r->path_info);
    vars[BURROW_SCRIPT_NAME] = collapsed(r, script_name);
    vars[BURROW_PATH_INFO] = collapsed(r, path_info);
}

/* Unless the directory says otherwise, a HEAD request is a GET for the application where a filter
 * must see the whole answer to know the right headers. */
static const char *method(request_rec *r)
{
    const dir_config *config = ap_get_module_config(r->per_dir_config, &wsgi_module);

    if (!r->header_only || r->method_number != M_GET)
        return r->method;
    switch (config->map_head_to_get) {
    case WSGI_MAP_HEAD_ON:
        return "GET";
    case WSGI_MAP_HEAD_OFF:
        return r->method;
    default:
        return r->output_filters->frec->ftype < AP_FTYPE_PROTOCOL ? "GET" : r->method;
    }
}

static const char *scheme(request_rec *r)
{
    const char *https = apr_table_get(r->subprocess_env, "HTTPS");
    if (https && (!ap_cstr_casecmp(https, "on") || !strcmp(https, "1")))
        return "https";
    return ap_http_scheme(r);
}

static void set_vars(burrow_str *vars, request_rec *r)
{
    conn_rec *c = r->connection;
    const char *name = ap_get_server_name_for_url(r);
    const char *host = c->local_addr->hostname;

    set_paths(vars, r);
    vars[BURROW_REQUEST_METHOD] = wsgi_str(method(r));
    vars[BURROW_REQUEST_URI] = request_target(r);
    vars[BURROW_QUERY_STRING] = wsgi_str(r->args ? r->args : "");
    vars[BURROW_SERVER_PROTOCOL] = wsgi_str(r->protocol);
    vars[BURROW_REQUEST_SCHEME] = wsgi_str(scheme(r));
    if (strpbrk(name, "<>&\""))
        name = ap_escape_html(r->pool, name);
    vars[BURROW_SERVER_NAME] = wsgi_str(name);
    vars[BURROW_SERVER_PORT] = wsgi_str(apr_itoa(r->pool, ap_get_server_port(r)));
    vars[BURROW_SERVER_ADDR] = wsgi_str(c->local_ip);
    vars[BURROW_REMOTE_ADDR] = wsgi_str(r->useragent_ip);
    vars[BURROW_REMOTE_PORT] = wsgi_str(apr_itoa(r->pool, c->client_addr->port));
    vars[BURROW_REMOTE_USER] = wsgi_str(r->user);
    vars[BURROW_AUTH_TYPE] = wsgi_str(r->ap_auth_type);
    vars[BURROW_DOCUMENT_ROOT] = wsgi_str(ap_document_root(r));
    vars[BURROW_SCRIPT_FILENAME] = wsgi_str(r->filename);
    vars[BURROW_SERVER_SOFTWARE] = wsgi_str(ap_get_server_banner());
    vars[BURROW_REQUEST_HANDLER] = wsgi_str(r->handler);
    vars[BURROW_LISTENER_HOST] = wsgi_str(host ? host : "");
    vars[BURROW_LISTENER_PORT] = wsgi_str(apr_itoa(r->pool, c->local_addr->port));
    /* httpd makes them when they are asked for; the access log's %L is the same. */
    if (!r->log_id)
        ap_run_generate_log_id(c, r, &r->log_id);
    if (!c->log_id)
        ap_run_generate_log_id(c, NULL, &c->log_id);
    vars[BURROW_REQUEST_ID] = wsgi_str(r->log_id);
    vars[BURROW_CONNECTION_ID] = wsgi_str(c->log_id);
}

static void set_headers(burrow_request *request, request_rec *r, int pass_authorization)
{
    const apr_array_header_t *fields = apr_table_elts(r->headers_in);
    const apr_table_entry_t *field = (const apr_table_entry_t *)fields->elts;
    const apr_table_entry_t *end = field + fields->nelts;
    burrow_pair *headers = apr_palloc(r->pool, (size_t)fields->nelts * sizeof *headers);
    core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    int cgi_pass_auth = core->cgi_pass_auth == AP_CGI_PASS_AUTH_ON;

    request->headers = headers;
    for (; field < end; field++) {
        if ((!ap_cstr_casecmp(field->key, "Authorization") && !pass_authorization && !cgi_pass_auth)
            || (!ap_cstr_casecmp(field->key, "Proxy-Authorization") && !cgi_pass_auth))
            continue;
        *headers++ = (burrow_pair){wsgi_str(field->key), wsgi_str(field->val)};
    }
    request->n_headers = (size_t)(headers - request->headers);
}

/* What an internal redirect leaves of the request before it. */
static burrow_pair *add_redirect(burrow_pair *param, request_rec *r)
{
    request_rec *prev = r->prev;
    *param++ = (burrow_pair){wsgi_str("REDIRECT_URL"), wsgi_str(prev->uri)};
    if (prev->args)
        *param++ = (burrow_pair){wsgi_str("REDIRECT_QUERY_STRING"), wsgi_str(prev->args)};
    while (prev && !prev->user)
        prev = prev->prev;
    if (!r->user && prev)
        *param++ = (burrow_pair){wsgi_str("REDIRECT_REMOTE_USER"), wsgi_str(prev->user)};
    return param;
}

static void set_params(burrow_request *request, request_rec *r)
{
    const apr_array_header_t *env = apr_table_elts(r->subprocess_env);
    const apr_table_entry_t *entry = (const apr_table_entry_t *)env->elts;
    const apr_table_entry_t *end = entry + env->nelts;
    const char *root = ap_context_document_root(r);
    burrow_pair *param = apr_palloc(r->pool, ((size_t)env->nelts + 6) * sizeof *param);

    request->params = param;
    *param++ = (burrow_pair){wsgi_str("CONTEXT_PREFIX"), wsgi_str(ap_context_prefix(r))};
    *param++ = (burrow_pair){wsgi_str("CONTEXT_DOCUMENT_ROOT"), wsgi_str(root)};
    *param++ = (burrow_pair){wsgi_str("SERVER_ADMIN"), wsgi_str(r->server->server_admin)};
    for (; entry < end; entry++) {
        if (!is_reserved(entry->key))
            *param++ = (burrow_pair){wsgi_str(entry->key), wsgi_str(entry->val)};
    }
    if (r->prev)
        param = add_redirect(param, r);
    request->n_params = (size_t)(param - request->params);
}

static int has_token(request_rec *r, const char *header, const char *token)
{
    const char *value = apr_table_get(r->headers_in, header);
    return value && ap_find_token(r->pool, value, token);
}

/* A WebSocket's, on a connection that is the request's alone: mod_http2 makes one of an extended
 * CONNECT (RFC 8441), whose stream that connection is. */
static int is_handshake(request_rec *r)
{
    return !r->main && r->method_number == M_GET && !r->header_only
           && r->proto_num >= HTTP_VERSION(1, 1) && has_token(r, "Upgrade", "websocket")
           && has_token(r, "Connection", "upgrade");
}

/* To such a handshake mod_http2 adds a body in chunks, of which the stream has none. */
void wsgi_request_prepare(request_rec *r)
{
    if (r->connection->master && is_handshake(r))
        apr_table_unset(r->headers_in, "Transfer-Encoding");
}

void wsgi_request_build(burrow_request *request, request_rec *r, int pass_authorization)
{
    memset(request, 0, sizeof *request);
    set_vars(request->vars, r);
    set_headers(request, r, pass_authorization);
    set_params(request, r);
    request->content_length = r->read_chunked ? -1 : r->remaining;
    request->request_start = r->request_time;
    if (!ap_should_client_block(r) || r->main)
        request->flags |= BURROW_NO_BODY | (is_handshake(r) ? BURROW_UPGRADE : 0);
    if (r->header_only)
        request->flags |= BURROW_HEADER_ONLY;
    if (!r->main && r->proto_num >= HTTP_VERSION(1, 1))
        request->flags |= BURROW_EARLY_HINTS;
    if (wsgi_takes_trailers(r))
        request->flags |= BURROW_TRAILERS;
}

static apr_bucket_brigade *brigade(exchange *x)
{
    if (!x->in)
        x->in = apr_brigade_create(x->r->pool, x->r->connection->bucket_alloc);
    return x->in;
}

/* As burrow_io's read; NOTHING_YET where it may not wait. */
static ssize_t read_body(exchange *x, char *buf, size_t len, apr_read_type_e block)
{
    request_rec *r = x->r;
    apr_size_t n;
    apr_status_t rv;

    if (x->body_error)
        return -1;
    for (n = 0; !n && !x->body_ended && len;) {
        rv = ap_get_brigade(r->input_filters, brigade(x), AP_MODE_READBYTES, block, (apr_off_t)len);
        if (rv == APR_SUCCESS && APR_BRIGADE_EMPTY(x->in))
            rv = block == APR_BLOCK_READ ? APR_EGENERAL : APR_EAGAIN;
        if (rv == APR_SUCCESS) {
            x->body_ended = APR_BUCKET_IS_EOS(APR_BRIGADE_LAST(x->in));
            n = len;
            rv = apr_brigade_flatten(x->in, buf, &n);
        }
        apr_brigade_cleanup(x->in);
        if (block == APR_NONBLOCK_READ && APR_STATUS_IS_EAGAIN(rv))
            return NOTHING_YET;
        if (rv != APR_SUCCESS) {
            x->body_error = ap_map_http_request_error(rv, HTTP_BAD_REQUEST);
            r->connection->keepalive = AP_CONN_CLOSE;
            return -1;
        }
    }
    return (ssize_t)n;
}

ssize_t wsgi_request_read(void *arg, char *buf, size_t len)
{
    return read_body(arg, buf, len, APR_BLOCK_READ);
}

/* The input filter does so itself where it may wait for what the client sends then. */
static void send_continue(request_rec *r)
{
    int status = r->status;
    const char *status_line = r->status_line;

    r->status = HTTP_CONTINUE;
    r->status_line = NULL;
    ap_send_interim_response(r, 0);
    r->status = status;
    r->status_line = status_line;
}

/* What the client sends behind a 101. It may be silent for as long as the application likes. */
static ssize_t read_connection(exchange *x, char *buf, size_t len)
{
    apr_size_t n = len;
    apr_status_t rv = ap_get_brigade(x->r->connection->input_filters, brigade(x),
                                     AP_MODE_READBYTES, APR_NONBLOCK_READ, (apr_off_t)len);

    /* Nothing, without an error: of an end the next call tells. */
    if (APR_STATUS_IS_EAGAIN(rv) || (rv == APR_SUCCESS && APR_BRIGADE_EMPTY(x->in)))
        return NOTHING_YET;
    if (rv == APR_SUCCESS)
        rv = apr_brigade_flatten(x->in, buf, &n);
    apr_brigade_cleanup(x->in);
    if (APR_STATUS_IS_EOF(rv))
        return 0;
    if (rv == APR_SUCCESS && !n && x->r->connection->master && !x->body_ended) {
        x->body_ended = 1; /* mod_http2 ends the handshake's body first */
        return read_connection(x, buf, len);
    }
    return rv == APR_SUCCESS ? (ssize_t)n : -1;
}

/* A client is waited for as long as httpd does where it waits itself. */
ssize_t wsgi_client_read(void *arg, char *buf, size_t len)
{
    exchange *x = arg;
    request_rec *r = x->r;
    ssize_t n;

    if (x->is_upgraded)
        return read_connection(x, buf, len);
    if (r->expecting_100 && r->proto_num >= HTTP_VERSION(1, 1) && !x->head_sent)
        send_continue(r);
    n = read_body(x, buf, len, APR_NONBLOCK_READ);
    if (n != NOTHING_YET) {
        x->body_awaited = 0;
        return n;
    }
    if (!x->body_looked_for) {
        x->body_looked_for = 1; /* maybe before the application asks for it */
    } else if (!x->body_awaited) {
        x->body_awaited = apr_time_now();
    } else if (apr_time_now() - x->body_awaited > r->server->timeout) {
        x->body_error = HTTP_REQUEST_TIME_OUT;
        r->connection->keepalive = AP_CONN_CLOSE;
        return -1;
    }
    return NOTHING_YET;
}

int wsgi_client_descriptor(void *arg)
{
    conn_rec *c = ((exchange *)arg)->r->connection;
    int fd = -1;

    if (c->aborted)
        return -2;
#if AP_MODULE_MAGIC_AT_LEAST(20120211, 129)
    {
        apr_pollfd_t pollfd = {.desc_type = APR_NO_DESC};
        ap_get_pollfd_from_conn(c, &pollfd, NULL);
        if (pollfd.desc_type == APR_POLL_SOCKET)
            apr_os_sock_get(&fd, pollfd.desc.s);
        else if (pollfd.desc_type == APR_POLL_FILE) /* HTTP/2: a pipe of mod_http2's */
            apr_os_file_get(&fd, pollfd.desc.f);
    }
#else
    if (!c->master)
        apr_os_sock_get(&fd, ap_get_conn_socket(c));
#endif
    return fd;
}
