/* From a URL to an application, and from what came of it to httpd's status. */
#include "burrow_apache.h"

#include <signal.h>
#include <stdlib.h>

static const burrow_io io = {wsgi_request_read, wsgi_response_send};
static const burrow_client client = {wsgi_client_read, wsgi_client_descriptor,
                                     wsgi_client_suspend};

/* ---- aliases ------------------------------------------------------------------------------ */

/* How much of the URI the alias takes, 0 for none. Runs of slashes match each other. */
static int match_location(const char *uri, const char *location)
{
    const char *u = uri, *l = location;
    while (*l) {
        if (*l != *u)
            return 0;
        if (*l == '/') {
            while (*l == '/')
                l++;
            while (*u == '/')
                u++;
        } else {
            l++;
            u++;
        }
    }
    if (l > location && l[-1] != '/' && *u && *u != '/')
        return 0;
    return (int)(u - uri);
}

static int match_alias(request_rec *r, const script_alias *alias, const char **script)
{
    ap_regmatch_t groups[AP_MAX_REG_MATCH];
    if (!alias->regex) {
        *script = alias->script;
        return match_location(r->uri, alias->location);
    }
    if (ap_regexec(alias->regex, r->uri, AP_MAX_REG_MATCH, groups, 0))
        return 0;
    *script = ap_pregsub(r->pool, alias->script, r->uri, AP_MAX_REG_MATCH, groups);
    return *script ? groups[0].rm_eo : 0;
}

/* The first alias that takes this URI: of the virtual host, then of the main server. */
static const alias_match *find_alias(request_rec *r, int *len)
{
    const server_config *config = ap_get_module_config(r->server->module_config, &wsgi_module);
    int i;

    for (i = 0; i < config->aliases->nelts; i++) {
        const script_alias *alias = &APR_ARRAY_IDX(config->aliases, i, script_alias);
        const char *script;
        if ((*len = match_alias(r, alias, &script)) > 0) {
            alias_match *match = apr_palloc(r->pool, sizeof *match);
            match->alias = alias;
            match->script = script;
            return match;
        }
    }
    return NULL;
}

int wsgi_translate_name(request_rec *r)
{
    const alias_match *match;
    const char *rest;
    int len;

    if (*r->uri != '/' || !(match = find_alias(r, &len)))
        return DECLINED;
    ap_set_module_config(r->request_config, &wsgi_module, (void *)match);
    r->handler = WSGI_HANDLER;
    /* The slash of an alias for "/" belongs to PATH_INFO; there may be several. */
    rest = strspn(r->uri, "/") >= (size_t)len ? r->uri : r->uri + len;
    if (match->alias->is_module) {
        r->filename = apr_pstrdup(r->pool, match->script);
        r->path_info = apr_pstrdup(r->pool, rest);
        ap_no2slash(r->path_info);
    } else {
        r->filename = apr_pstrcat(r->pool, match->script, rest, NULL);
    }
    return OK;
}

/* A module is no file: there are no directories to walk and no .htaccess files. <Location> holds.
 * Of a script and what follows it only the script is walked to: httpd need not find out where it
 * ends. */
int wsgi_map_to_storage(request_rec *r)
{
    const alias_match *match = ap_get_module_config(r->request_config, &wsgi_module);
    char *filename = r->filename;
    size_t len;
    int status;

    if (!match)
        return DECLINED;
    if (match->alias->is_module)
        return OK;
    len = strlen(match->script);
    if (strncmp(filename, match->script, len) || filename[len] != '/')
        return DECLINED;
    r->filename = apr_pstrmemdup(r->pool, filename, len);
    if ((status = ap_directory_walk(r)) || (status = ap_file_walk(r)))
        return status;
    if (r->finfo.filetype == APR_REG) {
        /* As a walk would leave it: where it begins in the URL is found by its slashes. */
        r->path_info = filename + len;
        ap_no2slash(r->path_info);
        return OK;
    }
    r->filename = filename;
    r->finfo.filetype = APR_NOFILE;
    return DECLINED;
}

/* The alias that took this request, or NULL. */
static const alias_match *alias_of(request_rec *r)
{
    const alias_match *match = ap_get_module_config(r->request_config, &wsgi_module);
    int len;
    if (match)
        return match;
    /* Where mod_dir turned a subrequest into the request, all but its request_config was kept. */
    match = find_alias(r, &len);
    return match && !strncmp(r->filename, match->script, strlen(match->script)) ? match : NULL;
}

/* ---- which application --------------------------------------------------------------------- */

/* The value of %{ENV:name}, or NULL. */
static const char *env_value(request_rec *r, const char *s)
{
    const char *name, *value;
    if (!wsgi_is_env(s))
        return NULL;
    name = apr_pstrmemdup(r->pool, s + 6, strlen(s) - 7);
    if ((value = apr_table_get(r->notes, name)))
        return value;
    if ((value = apr_table_get(r->subprocess_env, name)))
        return value;
    return getenv(name);
}

/* "host" or "host:port". The port is the one the client is connected to: taking it from the Host
 * header would let clients make as many interpreters as they like. */
const char *wsgi_with_port(apr_pool_t *p, const char *host, apr_port_t port)
{
    if (port == DEFAULT_HTTP_PORT || port == DEFAULT_HTTPS_PORT)
        return host;
    return apr_pstrcat(p, host, ":", apr_itoa(p, port), NULL);
}

static const char *with_port_of(request_rec *r, const char *host)
{
    return wsgi_with_port(r->pool, host, r->connection->local_addr->port);
}

/* What is not known stays as it is written. */
const char *wsgi_group_name(request_rec *r, const char *s, burrow_str script_name)
{
    const char *value = env_value(r, s);
    if (value)
        s = value;
    if (!strcmp(s, "%{RESOURCE}"))
        return apr_pstrcat(r->pool, with_port_of(r, r->server->server_hostname), "|",
                           apr_pstrmemdup(r->pool, script_name.data, script_name.len), NULL);
    if (!strcmp(s, "%{GLOBAL}"))
        return "";
    if (!strcmp(s, "%{SERVER}"))
        return with_port_of(r, r->server->server_hostname);
    if (!strcmp(s, "%{HOST}"))
        return with_port_of(r, r->hostname && *r->hostname ? r->hostname
                                                           : r->server->server_hostname);
    return s;
}

static const char *callable_object(request_rec *r, const char *s)
{
    const char *value = s ? env_value(r, s) : NULL;
    return value ? value : s;
}

static int is_among(const char *name, const apr_array_header_t *names)
{
    int i;
    for (i = 0; i < names->nelts; i++) {
        if (!strcmp(APR_ARRAY_IDX(names, i, const char *), name))
            return 1;
    }
    return 0;
}

/* May the application run in this process group? OK, or the status. */
static int check_process_group(request_rec *r, const char *name, const dir_config *config)
{
    const char *error = NULL;
    if (config->restrict_process && !is_among(name, config->restrict_process))
        error = apr_psprintf(r->pool, "%s: process group \"%s\" is not among those that are "
                             "allowed here", config->restrict_place, name);
    else if (!*name)
        error = burrow_settings_refuse_embedded(wsgi_settings);
    if (!error)
        return OK;
    ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "%s: %s", error, r->filename);
    return HTTP_INTERNAL_SERVER_ERROR;
}

static int check_path_info(request_rec *r)
{
    if (r->used_path_info == AP_REQ_REJECT_PATH_INFO && r->path_info && *r->path_info) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                      "[script %s] WSGI0137: AcceptPathInfo off disallows user's path.",
                      r->filename);
        return HTTP_NOT_FOUND;
    }
    return OK;
}

/* May this request run the script? OK, or the status that says why not. */
static int check_script(request_rec *r, const alias_match *match)
{
    if (!match && !(ap_allow_options(r) & OPT_EXECCGI)) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                      "[script %s] WSGI0134: Options ExecCGI is off in this directory.",
                      r->filename);
        return HTTP_FORBIDDEN;
    }
    if (r->finfo.filetype == APR_DIR) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                      "[script %s] WSGI0136: Attempt to invoke directory as WSGI application.",
                      r->filename);
        return HTTP_FORBIDDEN;
    }
    if (r->finfo.filetype == APR_NOFILE && !(match && match->alias->is_module)) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                      "[script %s] WSGI0135: Target WSGI script not found or unable to stat.",
                      r->filename);
        return HTTP_NOT_FOUND;
    }
    return check_path_info(r);
}

/* ---- requests ------------------------------------------------------------------------------ */

/* Prefork's only thread has its signals open, and httpd's handler of SIGTERM ends the process then
 * and there: signals wait for the end of the request. Threads that the application starts inherit
 * that. */
void wsgi_block_signals(sigset_t *before)
{
    sigset_t most;

    if (wsgi_multithread)
        return;
    sigfillset(&most);
    sigdelset(&most, SIGSEGV);
    sigdelset(&most, SIGBUS);
    sigdelset(&most, SIGFPE);
    sigdelset(&most, SIGILL);
    sigdelset(&most, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &most, before);
}

void wsgi_restore_signals(const sigset_t *before)
{
    if (!wsgi_multithread)
        pthread_sigmask(SIG_SETMASK, before, NULL);
}

static burrow_outcome serve(burrow_app *app, const burrow_request *request, exchange *x)
{
    conn_rec *c = x->r->connection;
    apr_socket_t *socket = c->master ? NULL : ap_get_conn_socket(c);
    double timeout = burrow_app_write_timeout(app);
    apr_interval_time_t usual;
    burrow_outcome outcome;
    sigset_t before;

    if (timeout > 0 && socket && apr_socket_timeout_get(socket, &usual) == APR_SUCCESS)
        apr_socket_timeout_set(socket, (apr_interval_time_t)(timeout * APR_USEC_PER_SEC));
    else
        socket = NULL;
    wsgi_block_signals(&before);
    outcome = burrow_serve(app, request, &io, &client, x);
    wsgi_restore_signals(&before);
    if (socket)
        apr_socket_timeout_set(socket, usual);
    return outcome;
}

/* The path that an application names with status 200 is asked for in its place. */
static int redirect(exchange *x)
{
    request_rec *r = x->r;
    int status = ap_discard_request_body(r);

    if (status != OK)
        return status;
    r->status = HTTP_OK;
    r->method = "GET";
    r->method_number = M_GET;
    apr_table_unset(r->headers_in, "Content-Length");
    ap_internal_redirect_handler(x->redirect, r);
    return OK;
}

/* What nginx's access log says of a client that did not wait. */
#define CLIENT_CLOSED_REQUEST 499

static int finish(exchange *x, burrow_outcome outcome)
{
    if (x->is_suspended)
        return SUSPENDED;
    if (x->redirect)
        return redirect(x);
    if (x->error_status) {
        x->r->status = HTTP_OK;
        x->r->status_line = NULL;
        return x->error_status;
    }
    if (outcome == BURROW_DONE)
        return OK;
    if (x->is_upgraded)
        return OK;
    if (x->head_sent) {
        wsgi_response_cut(x);
        return OK;
    }
    if (x->body_error)
        return x->body_error;
    switch (outcome) {
    case BURROW_UNAVAILABLE:
        return HTTP_SERVICE_UNAVAILABLE;
    case BURROW_DIED:
        return HTTP_BAD_GATEWAY;
    case BURROW_TIMEOUT:
        return HTTP_GATEWAY_TIME_OUT;
    case BURROW_GONE:
        x->r->connection->aborted = 1;
        x->r->status = CLIENT_CLOSED_REQUEST;
        return DONE;
    default:
        return HTTP_INTERNAL_SERVER_ERROR;
    }
}

/* What the directives say about a request, before anything is expanded. */
typedef struct {
    const char *script;
    script_options options; /* NULL: httpd's own processes, %{RESOURCE}, the default */
} application;

/* What a line says wins over the directory. */
static void override(script_options *options, const script_options *line)
{
    if (line->process_group) {
        options->process_group = line->process_group;
        options->group_place = line->group_place;
    }
    if (line->application_group)
        options->application_group = line->application_group;
    if (line->callable)
        options->callable = line->callable;
    if (line->pass_authorization >= 0)
        options->pass_authorization = line->pass_authorization;
    options->interpreters = line->interpreters;
}

/* OK, or the status that says why the request cannot be had. */
static int find_application(request_rec *r, const dir_config *config, application *app)
{
    const handler_script *handler;
    const alias_match *match;
    int status;

    app->options = (script_options){config->process_group, config->application_group,
                                    config->callable, config->pass_authorization,
                                    config->group_place, 0};
    if (!strcmp(r->handler, WSGI_HANDLER)) {
        match = alias_of(r);
        if ((status = check_script(r, match)) != OK)
            return status;
        app->script = r->finfo.filetype == APR_NOFILE ? match->script : r->filename;
        if (match)
            override(&app->options, &match->alias->options);
        return OK;
    }
    if (!(handler = wsgi_find_handler(config, r->handler)))
        return DECLINED;
    app->script = handler->path;
    app->options.callable = "handle_request";
    override(&app->options, &handler->options);
    apr_table_setn(r->subprocess_env, "mod_wsgi.handler_script", handler->path);
    return check_path_info(r);
}

/* The host's record of an application. SCRIPT_NAME is that of the URL still. OK or a status. */
static int find_record(request_rec *r, const dir_config *config, const application *found,
                       burrow_str script_name, burrow_app **app)
{
    const script_options *options = &found->options;
    const char *process_group = "", *application_group = "%{RESOURCE}", *error;
    burrow_app_key key;
    int status;

    if (options->process_group)
        process_group = wsgi_group_name(r, options->process_group, script_name);
    if ((status = check_process_group(r, process_group, config)) != OK)
        return status;
    if (options->application_group)
        application_group = options->application_group;
    application_group = wsgi_group_name(r, application_group, script_name);
    key = (burrow_app_key){.target = wsgi_str(found->script),
                           .callable = wsgi_str(callable_object(r, options->callable)),
                           .application_group = wsgi_str(application_group),
                           .process_group = wsgi_str(process_group),
                           .interpreters = options->interpreters,
                           .server_name = wsgi_str(r->server->server_hostname)};
    if ((*app = burrow_app_find(wsgi_settings, &key, &error)))
        return OK;
    ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "%s%s%s", *process_group ? options->group_place : "",
                  *process_group ? ": " : "", error);
    return HTTP_INTERNAL_SERVER_ERROR;
}

int wsgi_handler(request_rec *r)
{
    const dir_config *config = ap_get_module_config(r->per_dir_config, &wsgi_module);
    application found;
    burrow_request *request;
    burrow_app *app;
    exchange *x;
    int status;

    if ((status = find_application(r, config, &found)) != OK)
        return status;
    wsgi_request_prepare(r);
    status = ap_setup_client_block(r, config->chunked_request ? REQUEST_CHUNKED_DECHUNK
                                                              : REQUEST_CHUNKED_ERROR);
    if (status != OK)
        return status;
    request = apr_palloc(r->pool, sizeof *request); /* these two may outlive the call */
    x = apr_pcalloc(r->pool, sizeof *x);
    x->r = r;
    wsgi_request_build(request, r, found.options.pass_authorization > 0);
    if (found.script == r->filename) /* what httpd has looked at */
        request->script_modified = r->finfo.mtime;
    if (config->script_reloading)
        request->flags |= BURROW_RELOADING;
    if ((status = wsgi_dispatch(r, request, &found.options)) != OK
        || (status = find_record(r, config, &found, request->vars[BURROW_SCRIPT_NAME], &app)) != OK)
        return status;
    if (request->vars[BURROW_REQUEST_SCHEME].len == sizeof "https" - 1)
        wsgi_describe_tls(request, r);
    if (config->proxy_headers)
        wsgi_apply_proxies(request, r, config);
    x->is_daemon = burrow_app_is_daemon(app);
    x->is_handshake = (request->flags & BURROW_UPGRADE) != 0;
    return finish(x, serve(app, request, x));
}
