/* The request as the host wants it described. */
#include "ngx_http_burrow.h"

#define LITERAL(s) ((burrow_str) { s, sizeof(s) - 1 })

static ngx_uint_t starts_with(ngx_str_t path, ngx_str_t prefix)
{
    return path.len >= prefix.len && ngx_memcmp(path.data, prefix.data, prefix.len) == 0
           && (path.len == prefix.len || path.data[prefix.len] == '/');
}

/* Splits the path behind the prefix; all of it is PATH_INFO where it does not start with that. */
static void set_path(ngx_http_request_t *r, ngx_str_t prefix, burrow_str *vars)
{
    ngx_str_t path = r->uri;

    if (!starts_with(path, prefix)) {
        prefix.len = 0;
    }
    path.data += prefix.len;
    path.len -= prefix.len;
    vars[BURROW_SCRIPT_NAME] = LITERAL("");
    if (prefix.len > 0) {
        vars[BURROW_SCRIPT_NAME] = ngx_burrow_str(prefix);
    }
    vars[BURROW_PATH_INFO] = ngx_burrow_str(path);
}

/* A server's name that can stand in a URL; else the client's, else the address. */
static burrow_str server_name(ngx_http_request_t *r, burrow_str address)
{
    ngx_http_core_srv_conf_t *cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);
    ngx_str_t name = cscf->server_name;

    if (name.len > 0 && name.data[0] != '_' && name.data[0] != '~' && name.data[0] != '.'
        && ngx_strlchr(name.data, name.data + name.len, '*') == NULL)
    {
        return ngx_burrow_str(name);
    }
    if (r->headers_in.server.len > 0) {
        return ngx_burrow_str(r->headers_in.server);
    }
    return address.len > 0 ? address : LITERAL("localhost");
}

/* Several times faster than ngx_sprintf, and every request has half a dozen numbers. */
u_char *ngx_burrow_decimal(u_char *to, uint64_t n)
{
    u_char digits[NGX_INT64_LEN], *end = digits + sizeof(digits), *p = end;

    do {
        *--p = (u_char) ('0' + n % 10);
        n /= 10;
    } while (n > 0);
    return ngx_cpymem(to, p, end - p);
}

static burrow_str number(ngx_pool_t *pool, ngx_uint_t n)
{
    u_char *text = ngx_pnalloc(pool, NGX_INT64_LEN);

    if (text == NULL) {
        return (burrow_str) { NULL, 0 };
    }
    return (burrow_str) { (char *) text, (size_t) (ngx_burrow_decimal(text, n) - text) };
}

static u_char *inet_text(u_char *to, const struct sockaddr_in *address)
{
    const u_char *byte = (const u_char *) &address->sin_addr;
    ngx_uint_t i;

    for (i = 0; i < 4; i++) {
        to = ngx_burrow_decimal(to, byte[i]);
        *to++ = '.';
    }
    return to - 1;
}

static burrow_str address(ngx_connection_t *c, ngx_pool_t *pool)
{
    u_char text[NGX_SOCKADDR_STRLEN];
    ngx_str_t address = { sizeof(text), text };

    if (ngx_connection_local_sockaddr(c, NULL, 0) != NGX_OK) {
        return (burrow_str) { NULL, 0 };
    }
    if (c->local_sockaddr->sa_family == AF_INET) {
        address.len = (size_t) (inet_text(text, (struct sockaddr_in *) c->local_sockaddr) - text);
    } else {
        address.len = ngx_sock_ntop(c->local_sockaddr, c->local_socklen, text, sizeof(text), 0);
    }
    address.data = ngx_pstrdup(pool, &address);
    return ngx_burrow_str(address);
}

static void set_connection(ngx_http_request_t *r, burrow_str *vars)
{
    ngx_connection_t *c = r->connection;
    ngx_uint_t secure = 0, port;

#if (NGX_HTTP_SSL)
    secure = c->ssl != NULL;
#endif
    vars[BURROW_REQUEST_SCHEME] = secure ? LITERAL("https") : LITERAL("http");
    vars[BURROW_SERVER_ADDR] = address(c, r->pool);
    vars[BURROW_SERVER_NAME] = server_name(r, vars[BURROW_SERVER_ADDR]);
    /* A UNIX socket has no ports; WSGI wants one. */
    port = c->local_sockaddr != NULL ? ngx_inet_get_port(c->local_sockaddr) : 0;
    if (port == 0) {
        port = secure ? 443 : 80;
    }
    vars[BURROW_SERVER_PORT] = number(r->pool, port);
    vars[BURROW_REMOTE_ADDR] = ngx_burrow_str(c->addr_text);
    port = ngx_inet_get_port(c->sockaddr);
    if (port > 0) {
        vars[BURROW_REMOTE_PORT] = number(r->pool, port);
    }
}

/* The numbers that nginx's error log and $connection give, with that of the request on it:
 * formatted at once, as every environ holds both. */
static ngx_int_t set_ids(ngx_http_request_t *r, burrow_str *vars)
{
    ngx_connection_t *c = r->connection;
    u_char *start = ngx_pnalloc(r->pool, 2 * NGX_INT64_LEN + 1), *p;

    if (start == NULL) {
        return NGX_ERROR;
    }
    p = ngx_burrow_decimal(start, c->number);
    vars[BURROW_CONNECTION_ID] = (burrow_str) { (char *) start, (size_t) (p - start) };
    *p++ = '-';
    p = ngx_burrow_decimal(p, c->requests);
    vars[BURROW_REQUEST_ID] = (burrow_str) { (char *) start, (size_t) (p - start) };
    return NGX_OK;
}

/* "127.0.0.1:80", "[::1]:80", "*:80" or "unix:/…", in its two parts. */
static void set_listener(ngx_connection_t *c, burrow_str *vars)
{
    ngx_str_t text = c->listening->addr_text;
    u_char *colon = text.data + text.len;

    vars[BURROW_LISTENER_HOST] = vars[BURROW_LISTENER_PORT] = LITERAL("");
    if (ngx_inet_get_port(c->listening->sockaddr) == 0) {
        return;
    }
    while (colon > text.data && colon[-1] != ':') {
        colon--;
    }
    vars[BURROW_LISTENER_PORT] = (burrow_str) {
        (char *) colon, (size_t) (text.data + text.len - colon)
    };
    if (!c->listening->wildcard) {
        vars[BURROW_LISTENER_HOST] = (burrow_str) {
            (char *) text.data, (size_t) (colon - text.data) - 1
        };
    }
}

static ngx_int_t set_files(ngx_http_request_t *r, ngx_str_t target, burrow_str *vars)
{
    ngx_http_core_loc_conf_t *clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);
    ngx_str_t root = clcf->root;

    if (clcf->root_lengths != NULL) {
        if (ngx_http_script_run(r, &root, clcf->root_lengths->elts, 0, clcf->root_values->elts)
                == NULL
            || ngx_get_full_name(r->pool, (ngx_str_t *) &ngx_cycle->prefix, &root) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }
    vars[BURROW_DOCUMENT_ROOT] = ngx_burrow_str(root);
    if (target.len > 0 && target.data[0] == '/') {
        vars[BURROW_SCRIPT_FILENAME] = ngx_burrow_str(target);
    }
    return NGX_OK;
}

static ngx_uint_t has_body(ngx_http_request_t *r)
{
    return r->reading_body || (r->request_body != NULL && r->request_body->bufs != NULL);
}

/* What the server has judged already, where it keeps that to itself. */
static ngx_uint_t is_credential(ngx_str_t name)
{
    return (name.len == 13 && ngx_strncasecmp(name.data, (u_char *) "Authorization", 13) == 0)
           || (name.len == 19
               && ngx_strncasecmp(name.data, (u_char *) "Proxy-Authorization", 19) == 0);
}

/* As they came, but for Host, which nginx keeps elsewhere over HTTP/3, and for Content-Length where
 * its idea of the body is another: a subrequest has none, and the length of chunks is known once
 * they are there. */
static ngx_int_t set_headers(ngx_http_request_t *r, ngx_flag_t pass_authorization,
                             burrow_request *request)
{
    ngx_uint_t body = has_body(r), i;
    ngx_list_part_t *part;
    ngx_table_elt_t *header;
    burrow_pair *pair;
    size_t n = 2;

    for (part = &r->headers_in.headers.part; part != NULL; part = part->next) {
        n += part->nelts;
    }
    pair = ngx_palloc(r->pool, n * sizeof(burrow_pair));
    if (pair == NULL) {
        return NGX_ERROR;
    }
    request->headers = pair;
    if (r->headers_in.host == NULL && r->http_version > NGX_HTTP_VERSION_11
        && r->main->host_end != NULL)
    {
        pair->name = LITERAL("Host");
        pair->value = (burrow_str) { (char *) r->main->host_start,
                                     (size_t) (r->main->host_end - r->main->host_start) };
        pair++;
    }
    for (part = &r->headers_in.headers.part; part != NULL; part = part->next) {
        header = part->elts;
        for (i = 0; i < part->nelts; i++) {
            if (&header[i] == r->headers_in.content_length && !body && r != r->main) {
                continue;
            }
            if (!pass_authorization && is_credential(header[i].key)) {
                continue;
            }
            pair->name = ngx_burrow_str(header[i].key);
            pair->value = ngx_burrow_str(header[i].value);
            pair++;
        }
    }
    if (r->headers_in.content_length == NULL && body && !r->reading_body) {
        pair->name = LITERAL("Content-Length");
        pair->value = number(r->pool, (ngx_uint_t) r->headers_in.content_length_n);
        pair++;
    }
    request->n_headers = (size_t) (pair - request->headers);
    return NGX_OK;
}

static ngx_int_t set_params(ngx_http_request_t *r, ngx_array_t *params, burrow_request *request)
{
    ngx_burrow_param_t *param;
    burrow_pair *pair;
    ngx_str_t value;
    ngx_uint_t i;

    if (params == NULL) {
        return NGX_OK;
    }
    param = params->elts;
    pair = ngx_palloc(r->pool, params->nelts * sizeof(burrow_pair));
    if (pair == NULL) {
        return NGX_ERROR;
    }
    request->params = pair;
    for (i = 0; i < params->nelts; i++) {
        if (ngx_http_complex_value(r, &param[i].value, &value) != NGX_OK) {
            return NGX_ERROR;
        }
        if (value.len == 0 && param[i].if_not_empty) {
            continue;
        }
        if (ngx_strcmp(param[i].name.data, "SCRIPT_NAME") == 0) {
            set_path(r, value, request->vars);
            request->vars[BURROW_SCRIPT_NAME] = ngx_burrow_str(value);
            continue;
        }
        pair[request->n_params].name = ngx_burrow_str(param[i].name);
        pair[request->n_params].value = value.len > 0 ? ngx_burrow_str(value) : LITERAL("");
        request->n_params++;
    }
    return NGX_OK;
}

/* Everything but the body. What is not in the request's memory already goes to its pool. */
ngx_int_t ngx_burrow_describe_request(ngx_http_request_t *r, burrow_request *request)
{
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    burrow_str *vars = request->vars;

    ngx_memzero(request, sizeof(burrow_request));
    if (conf->script_reloading) {
        request->flags |= BURROW_RELOADING;
    }
    if (ngx_burrow_takes_interim(r)) {
        request->flags |= BURROW_EARLY_HINTS;
    }
    if (ngx_burrow_takes_trailers(r)) {
        request->flags |= BURROW_TRAILERS;
    }
    vars[BURROW_REQUEST_METHOD] = ngx_burrow_str(r->method_name);
    if (r->method == NGX_HTTP_HEAD && conf->map_head_to_get) {
        vars[BURROW_REQUEST_METHOD] = LITERAL("GET");
        request->flags |= BURROW_HEADER_ONLY;
    }
    vars[BURROW_REQUEST_URI] = ngx_burrow_str(r->unparsed_uri);
    vars[BURROW_QUERY_STRING] = r->args.len > 0 ? ngx_burrow_str(r->args) : LITERAL("");
    vars[BURROW_SERVER_PROTOCOL] =
        r->http_protocol.len > 0 ? ngx_burrow_str(r->http_protocol) : LITERAL("HTTP/0.9");
    vars[BURROW_SERVER_SOFTWARE] = LITERAL(NGINX_VER);
    vars[BURROW_REQUEST_HANDLER] = LITERAL("wsgi-script");
    request->request_start = (int64_t) r->start_sec * 1000000 + (int64_t) r->start_msec * 1000;
    set_path(r, conf->script_name, vars);
    set_connection(r, vars);
    set_listener(r->connection, vars);
    /* Set by auth_basic. Where it has asked for a password, "satisfy any" has let in a stranger. */
    if (r->headers_in.user.len > 0 && r->headers_out.www_authenticate == NULL) {
        vars[BURROW_REMOTE_USER] = ngx_burrow_str(r->headers_in.user);
        vars[BURROW_AUTH_TYPE] = LITERAL("Basic");
    }
    if (set_ids(r, vars) != NGX_OK || set_files(r, conf->target, vars) != NGX_OK
        || set_headers(r, conf->pass_authorization, request) != NGX_OK
        || set_params(r, conf->params, request) != NGX_OK)
    {
        return NGX_ERROR;
    }
    return ngx_burrow_apply_proxies(r, request);
}
