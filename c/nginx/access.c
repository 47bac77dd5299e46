/* Scripts that say who may have a request: asked in the access phase, on an application thread. */
#include "ngx_http_burrow.h"

/* ---- the directives -------------------------------------------------------------------------- */

ngx_uint_t ngx_burrow_take_option(ngx_str_t arg, const char *option, ngx_str_t *value)
{
    size_t len = strlen(option);

    if (arg.len < len || ngx_memcmp(arg.data, option, len) != 0) {
        return 0;
    }
    value->data = arg.data + len;
    value->len = arg.len - len;
    return 1;
}

/* "realm" stands in a quoted string of a header. */
static ngx_uint_t is_realm(ngx_str_t realm)
{
    size_t i;

    for (i = 0; i < realm.len; i++) {
        if (realm.data[i] < ' ' || realm.data[i] == '"' || realm.data[i] == '\\'
            || realm.data[i] == 0x7f)
        {
            return 0;
        }
    }
    return 1;
}

char *ngx_burrow_set_script(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_script_t *script = (void *) ((u_char *) data + cmd->offset);
    ngx_str_t *args = cf->args->elts, value;
    ngx_uint_t i;

    if (script->target.data != NULL) {
        return "is duplicate";
    }
    script->target = args[1];
    script->off = args[1].len == 3 && ngx_strncmp(args[1].data, "off", 3) == 0;
    if (script->off) {
        return cf->args->nelts == 2 ? NGX_CONF_OK : ngx_burrow_refuse(cf, "off has no options");
    }
    ngx_str_set(&script->realm, "restricted");
    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_burrow_take_option(args[i], "application-group=", &script->group)) {
            if (ngx_burrow_take_group(&script->group) != NGX_OK) {
                return ngx_burrow_refuse(cf, "application-group takes a name or %{GLOBAL}");
            }
        } else if (cmd->offset == offsetof(ngx_burrow_loc_conf_t, auth_user)
                   && ngx_burrow_take_option(args[i], "realm=", &value))
        {
            if (!is_realm(value)) {
                return ngx_burrow_refuse(cf, "a realm has no quotes, backslashes or control "
                                             "characters");
            }
            script->realm = value;
        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "%V: unknown option \"%V\"", &args[0],
                               &args[i]);
            return NGX_CONF_ERROR;
        }
    }
    script->place.data =
        ngx_pnalloc(cf->pool, args[0].len + cf->conf_file->file.name.len + NGX_INT_T_LEN + 5);
    if (script->place.data == NULL) {
        return NGX_CONF_ERROR;
    }
    script->place.len = (size_t) (ngx_sprintf(script->place.data, "%V in %V:%ui", &args[0],
                                              &cf->conf_file->file.name, cf->conf_file->line)
                                  - script->place.data);
    return NGX_CONF_OK;
}

char *ngx_burrow_merge_script(ngx_conf_t *cf, ngx_burrow_script_t *script,
                              const ngx_burrow_script_t *outer, ngx_int_t threads)
{
    ngx_burrow_main_conf_t *main;
    const char *error = NULL;

    if (script->target.data == NULL) {
        *script = *outer;
    }
    if (script->target.data == NULL || script->off) {
        return NGX_CONF_OK;
    }
    main = ngx_http_conf_get_module_main_conf(cf, ngx_http_burrow_module);
    main->embeds = 1;
    script->script = burrow_script_find(main->settings, ngx_burrow_str(script->target),
                                        ngx_burrow_str(script->group), (unsigned) threads, &error);
    if (script->script == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "%V: %s", &script->place, error);
        return NGX_CONF_ERROR;
    }
    return NGX_CONF_OK;
}

/* ---- one question ---------------------------------------------------------------------------- */

static void leave(void *data)
{
    ngx_burrow_ask_t *ask = data;

    if (ask->exchange != NULL) {
        burrow_exchange_release(ask->exchange);
        ask->exchange = NULL;
        ngx_burrow_let_go();
    }
}

/* Without what wsgi_param adds. */
static ngx_int_t describe(ngx_http_request_t *r, burrow_request *request)
{
    if (ngx_burrow_describe_request(r, request) != NGX_OK) {
        return NGX_ERROR;
    }
    request->n_params = 0;
    request->flags |= BURROW_NO_BODY;
    return NGX_OK;
}

static ngx_int_t start(ngx_http_request_t *r, const ngx_burrow_script_t *script, burrow_hook hook,
                       ngx_str_t first, ngx_str_t second, ngx_burrow_ask_t *ask)
{
    burrow_question question = {
        .hook = hook,
        .arguments = { ngx_burrow_str(first), ngx_burrow_str(second) },
        .place = ngx_burrow_str(script->place),
    };
    ngx_http_cleanup_t *at_end = ngx_http_cleanup_add(r, 0);
    burrow_request request;

    if (at_end == NULL || describe(r, &request) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    at_end->handler = leave;
    at_end->data = ask;
    ask->request = r;
    /* A client that leaves ends the request. */
    r->read_event_handler = ngx_http_test_reading;
    if (ngx_burrow_watch_client(r->connection) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    ask->exchange = burrow_exchange_ask(script->script, &question, &request, ask);
    ngx_burrow_hold();
    ngx_burrow_submit(ask->exchange);
    return NGX_AGAIN;
}

void ngx_burrow_answer(void *request, burrow_verdict verdict, burrow_str text)
{
    ngx_burrow_ask_t *ask = request;
    ngx_http_request_t *r = ask->request;
    ngx_connection_t *c = r->connection;

    leave(ask);
    ask->verdict = verdict;
    ask->done = 1;
    if (verdict == BURROW_TEXT) {
        ask->text.len = text.len;
        ask->text.data = ngx_pnalloc(r->pool, text.len);
        if (ask->text.data == NULL) {
            ask->verdict = BURROW_FAILURE;
        } else {
            ngx_memcpy(ask->text.data, text.data, text.len);
        }
    }
    ngx_http_set_log_request(c->log, r);
    r->read_event_handler = ngx_http_block_reading;
    ngx_http_core_run_phases(r);
    ngx_http_run_posted_requests(c);
}

/* What is being asked for a request, or NULL when there is no memory. */
static ngx_burrow_asked_t *asked(ngx_http_request_t *r)
{
    ngx_burrow_asked_t *asked = ngx_http_get_module_ctx(r, ngx_http_burrow_module);

    if (asked == NULL) {
        asked = ngx_pcalloc(r->pool, sizeof(ngx_burrow_asked_t));
        ngx_http_set_ctx(r, asked, ngx_http_burrow_module);
    }
    return asked;
}

/* ---- access ---------------------------------------------------------------------------------- */

static ngx_int_t check_access(ngx_http_request_t *r)
{
    static const ngx_str_t none = ngx_null_string;
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    ngx_burrow_asked_t *all;
    ngx_burrow_ask_t *ask;

    if (conf->access.script == NULL) {
        return NGX_DECLINED;
    }
    all = asked(r);
    if (all == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    ask = &all->access;
    if (ask->exchange != NULL) {
        return NGX_AGAIN;
    }
    if (!ask->done) {
        return start(r, &conf->access, BURROW_ALLOW_ACCESS, r->connection->addr_text, none, ask);
    }
    ask->done = 0;
    switch (ask->verdict) {
    case BURROW_TRUE:
        return NGX_OK;
    case BURROW_NONE:
        return NGX_DECLINED;
    case BURROW_FALSE:
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0, "access forbidden by \"%V\"",
                      &conf->access.target);
        return NGX_HTTP_FORBIDDEN;
    default:
        return NGX_HTTP_FORBIDDEN;
    }
}

/* ---- authentication -------------------------------------------------------------------------- */

static ngx_int_t demand(ngx_http_request_t *r, const ngx_str_t *realm)
{
    static const char start[] = "Basic realm=\"";
    ngx_table_elt_t *header = ngx_list_push(&r->headers_out.headers);

    if (header == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    ngx_memzero(header, sizeof(ngx_table_elt_t));
    r->headers_out.www_authenticate = header;
    header->value.data = ngx_pnalloc(r->pool, sizeof(start) + realm->len);
    if (header->value.data == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    header->value.len = (size_t) (ngx_sprintf(header->value.data, "%s%V\"", start, realm)
                                  - header->value.data);
    header->hash = 1;
    ngx_str_set(&header->key, "WWW-Authenticate");
    return NGX_HTTP_UNAUTHORIZED;
}

/* From here on the request has no user: nobody takes a wrong one for the right one. */
static void forget_user(ngx_http_request_t *r)
{
    ngx_str_set(&r->headers_in.user, "");
}

/* $remote_user is read from the header that the client has sent, each time: it gets another. */
static ngx_int_t rename_user(ngx_http_request_t *r, ngx_str_t name)
{
    ngx_table_elt_t *header = ngx_pcalloc(r->pool, sizeof(ngx_table_elt_t));
    ngx_str_t plain = { name.len + 1, NULL }, encoded;
    size_t len = sizeof("Basic ") - 1;

    if (header == NULL || ngx_strlchr(name.data, name.data + name.len, ':') != NULL) {
        return NGX_ERROR;
    }
    plain.data = ngx_pnalloc(r->pool, plain.len);
    header->value.data = ngx_pnalloc(r->pool, len + ngx_base64_encoded_length(plain.len));
    if (plain.data == NULL || header->value.data == NULL) {
        return NGX_ERROR;
    }
    ngx_sprintf(plain.data, "%V:", &name);
    encoded.data = ngx_cpymem(header->value.data, "Basic ", len);
    ngx_encode_base64(&encoded, &plain);
    header->hash = 1;
    ngx_str_set(&header->key, "Authorization");
    header->value.len = len + encoded.len;
    r->headers_in.authorization = header;
    ngx_str_null(&r->headers_in.user);
    return ngx_http_auth_basic_user(r);
}

/* What nginx's own auth_basic logs: people's monitors look for it. */
static void log_mismatch(ngx_http_request_t *r, const ngx_burrow_script_t *script,
                         burrow_verdict verdict)
{
    (void) ngx_http_auth_basic_user(r); /* it was forgotten until there is an answer */
    if (verdict == BURROW_FALSE) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0, "user \"%V\": password mismatch",
                      &r->headers_in.user);
    } else {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0, "user \"%V\" was not found in \"%V\"",
                      &r->headers_in.user, &script->target);
    }
}

static ngx_int_t judge_user(ngx_http_request_t *r, const ngx_burrow_script_t *script,
                            const ngx_burrow_ask_t *ask)
{
    switch (ask->verdict) {
    case BURROW_TRUE:
        return ngx_http_auth_basic_user(r);
    case BURROW_TEXT:
        if (rename_user(r, ask->text) == NGX_OK) {
            return NGX_OK;
        }
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "burrow: the user name \"%V\" cannot be used", &ask->text);
        break;
    case BURROW_FALSE:
    case BURROW_NONE:
        log_mismatch(r, script, ask->verdict);
        forget_user(r);
        return demand(r, &script->realm);
    default:
        break;
    }
    forget_user(r);
    return NGX_HTTP_INTERNAL_SERVER_ERROR;
}

static ngx_int_t check_user(ngx_http_request_t *r)
{
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    ngx_burrow_asked_t *all;
    ngx_burrow_ask_t *ask;
    ngx_str_t user;
    ngx_int_t rc;

    if (conf->auth_user.script == NULL) {
        return NGX_DECLINED;
    }
    all = asked(r);
    if (all == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    ask = &all->user;
    if (ask->exchange != NULL) {
        return NGX_AGAIN;
    }
    if (ask->done) {
        ask->done = 0;
        return judge_user(r, &conf->auth_user, ask);
    }
    rc = ngx_http_auth_basic_user(r);
    if (rc == NGX_DECLINED) {
        return demand(r, &conf->auth_user.realm);
    }
    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    user = r->headers_in.user;
    ngx_str_null(&r->headers_in.user);
    return start(r, &conf->auth_user, BURROW_CHECK_PASSWORD, user, r->headers_in.passwd, ask);
}

/* A variable that was looked at before this phase has set the user whatever the password. */
static ngx_int_t forget_early_user(ngx_http_request_t *r)
{
    ngx_str_null(&r->headers_in.user);
    return NGX_DECLINED;
}

ngx_int_t ngx_burrow_add_access_handlers(ngx_conf_t *cf)
{
    ngx_http_core_main_conf_t *core = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    ngx_array_t *handlers = &core->phases[NGX_HTTP_ACCESS_PHASE].handlers;
    ngx_http_handler_pt *handler = ngx_array_push_n(handlers, 3);

    if (handler == NULL) {
        return NGX_ERROR;
    }
    /* nginx runs the last one first. */
    handler[0] = check_user;
    handler[1] = check_access;
    handler[2] = forget_early_user;
    return NGX_OK;
}
