/* Hooks: scripts that are asked whether a request may go on, and where. Whatever goes wrong in one
 * refuses the request. */
#include "burrow_apache.h"

#include "ap_provider.h"
#include "mod_auth.h"

/* ---- directives ---------------------------------------------------------------------------- */

const char *wsgi_set_hook_script(cmd_parms *cmd, void *dir, const char *args)
{
    static const char *const names[] = {"application-group", NULL};
    hook_script *hook = apr_pcalloc(cmd->pool, sizeof *hook);
    script_options options;
    const char *error;

    hook->path = ap_getword_conf(cmd->pool, &args);
    if (!*hook->path)
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " takes ", cmd->cmd->errmsg, NULL);
    if ((error = wsgi_check_script(cmd, hook->path))
        || (error = wsgi_read_options(cmd, args, names, &options)))
        return error;
    hook->application_group = options.application_group ? options.application_group : "";
    hook->place = wsgi_place_text(cmd);
    *(const hook_script **)((char *)dir + (apr_size_t)cmd->info) = hook;
    return NULL;
}

const char *wsgi_add_handler_script(cmd_parms *cmd, void *dir, const char *args)
{
    static const char *const names[] = {"process-group", "application-group",
                                        "pass-authorization", NULL};
    dir_config *config = dir;
    handler_script handler;
    const char *error;

    handler.name = ap_getword_conf(cmd->pool, &args);
    handler.path = ap_getword_conf(cmd->pool, &args);
    if (!*handler.name || !*handler.path)
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " takes ", cmd->cmd->errmsg, NULL);
    if ((error = wsgi_check_script(cmd, handler.path))
        || (error = wsgi_read_options(cmd, args, names, &handler.options)))
        return error;
    if (!config->handlers)
        config->handlers = apr_array_make(cmd->pool, 1, sizeof handler);
    APR_ARRAY_PUSH(config->handlers, handler_script) = handler;
    return NULL;
}

const handler_script *wsgi_find_handler(const dir_config *config, const char *name)
{
    int i;

    /* The last one counts: those of the inner section follow those of the outer. */
    for (i = config->handlers ? config->handlers->nelts : 0; i > 0; i--) {
        const handler_script *handler = &APR_ARRAY_IDX(config->handlers, i - 1, handler_script);
        if (!strcmp(handler->name, name))
            return handler;
    }
    return NULL;
}

/* ---- questions ----------------------------------------------------------------------------- */

static const dir_config *config_of(request_rec *r)
{
    return ap_get_module_config(r->per_dir_config, &wsgi_module);
}

/* Without what SetEnv and other modules add. */
static void cut_down(burrow_request *request, request_rec *r, burrow_pair *params)
{
    const char *host = ap_get_remote_host(r->connection, r->per_dir_config, REMOTE_HOST, NULL);

    params[0] = (burrow_pair){wsgi_str("SERVER_ADMIN"), wsgi_str(r->server->server_admin)};
    params[1] = (burrow_pair){wsgi_str("REMOTE_HOST"), wsgi_str(host)};
    request->params = params;
    request->n_params = host ? 2 : 1;
}

static burrow_verdict ask(request_rec *r, const hook_script *hook, burrow_question *question,
                          const burrow_request *request)
{
    exchange x = {.r = r};
    burrow_app *script;
    burrow_verdict verdict;
    const char *group, *error;
    sigset_t before;

    group = wsgi_group_name(r, hook->application_group, request->vars[BURROW_SCRIPT_NAME]);
    script = burrow_script_find(wsgi_settings, wsgi_str(hook->path), wsgi_str(group), 0, &error);
    if (!script) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "%s: %s", hook->place, error);
        return BURROW_FAILURE;
    }
    question->place = wsgi_str(hook->place);
    wsgi_block_signals(&before);
    verdict = burrow_ask(script, question, request, &x);
    wsgi_restore_signals(&before);
    return verdict;
}

/* A question before the request has its user; `text` as in burrow_question. */
static burrow_verdict ask_early(request_rec *r, const hook_script *hook, burrow_hook function,
                                const char *first, const char *second,
                                void (*text)(void *to, burrow_str text), void *to)
{
    burrow_question question = {
        .hook = function, .arguments = {wsgi_str(first), wsgi_str(second)}, .text = text, .to = to};
    burrow_request request;
    burrow_pair params[2];

    wsgi_request_build(&request, r, 0);
    request.flags |= BURROW_NO_BODY;
    if (config_of(r)->script_reloading)
        request.flags |= BURROW_RELOADING;
    cut_down(&request, r, params);
    return ask(r, hook, &question, &request);
}

/* A text to keep as long as the request. */
typedef struct {
    apr_pool_t *pool;
    char *value;
} kept_text;

static void keep(void *to, burrow_str text)
{
    kept_text *kept = to;
    kept->value = apr_pstrmemdup(kept->pool, text.data, text.len);
}

/* ---- access -------------------------------------------------------------------------------- */

static int check_access(request_rec *r)
{
    const hook_script *hook = config_of(r)->access;
    const char *host;

    if (!hook)
        return DECLINED;
    host = ap_get_remote_host(r->connection, r->per_dir_config, REMOTE_HOST, NULL);
    if (!host)
        host = r->useragent_ip;
    switch (ask_early(r, hook, BURROW_ALLOW_ACCESS, host, NULL, NULL, NULL)) {
    case BURROW_TRUE:
        return OK;
    case BURROW_NONE:
        return DECLINED;
    default:
        if (ap_satisfies(r) != SATISFY_ANY || !ap_some_auth_required(r))
            ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                          "WSGI0057: Client denied by server configuration: '%s'.", r->filename);
        return HTTP_FORBIDDEN;
    }
}

/* ---- authentication ------------------------------------------------------------------------ */

/* NULL, and a line in the log, where there is none. */
static const hook_script *user_script(request_rec *r)
{
    const hook_script *hook = config_of(r)->auth_user;
    if (!hook)
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                      "The authentication provider \"wsgi\" has no script: "
                      "say WSGIAuthUserScript.");
    return hook;
}

static authn_status check_password(request_rec *r, const char *user, const char *password)
{
    const hook_script *hook = user_script(r);
    kept_text name = {.pool = r->pool};

    if (!hook)
        return AUTH_GENERAL_ERROR;
    switch (ask_early(r, hook, BURROW_CHECK_PASSWORD, user, password, keep, &name)) {
    case BURROW_TEXT:
        r->user = name.value;
        return AUTH_GRANTED;
    case BURROW_TRUE:
        return AUTH_GRANTED;
    case BURROW_FALSE:
        return AUTH_DENIED;
    case BURROW_NONE:
        return AUTH_USER_NOT_FOUND;
    default:
        return AUTH_GENERAL_ERROR;
    }
}

static authn_status get_realm_hash(request_rec *r, const char *user, const char *realm, char **hash)
{
    const hook_script *hook = user_script(r);
    kept_text found = {.pool = r->pool};

    if (!hook)
        return AUTH_GENERAL_ERROR;
    switch (ask_early(r, hook, BURROW_GET_REALM_HASH, user, realm, keep, &found)) {
    case BURROW_TEXT:
        *hash = found.value;
        return AUTH_USER_FOUND;
    case BURROW_NONE:
        return AUTH_USER_NOT_FOUND;
    default:
        return AUTH_GENERAL_ERROR;
    }
}

static const authn_provider authentication = {check_password, get_realm_hash};

/* ---- groups -------------------------------------------------------------------------------- */

/* The groups that a Require line names, and whether the user is in one of them. */
typedef struct {
    request_rec *r;
    const char *wanted;
    int found;
} membership;

static void compare(void *to, burrow_str group)
{
    membership *member = to;
    const char *wanted = member->wanted, *name;

    while (*(name = ap_getword_conf(member->r->pool, &wanted)))
        member->found |= strlen(name) == group.len && !memcmp(name, group.data, group.len);
}

static authz_status check_groups(request_rec *r, const char *wanted, const void *parsed)
{
    const hook_script *hook = config_of(r)->auth_group;
    membership member = {.r = r, .wanted = wanted};

    if (!r->user)
        return AUTHZ_DENIED_NO_USER;
    if (!hook) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                      "\"Require wsgi-group\" has no script: say WSGIAuthGroupScript.");
        return AUTHZ_GENERAL_ERROR;
    }
    /* Not merely "denied" for a failure: that would grant access in "Require not wsgi-group". */
    if (ask_early(r, hook, BURROW_GROUPS_FOR_USER, r->user, NULL, compare, &member) != BURROW_TEXT)
        return AUTHZ_GENERAL_ERROR;
    if (member.found)
        return AUTHZ_GRANTED;
    ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r,
                  "WSGI0060: Authorization of user '%s' to access '%s' failed. User is not a "
                  "member of designated groups.",
                  r->user, r->uri);
    return AUTHZ_DENIED;
}

static const authz_provider authorization = {check_groups, NULL};

void wsgi_register_hooks(apr_pool_t *p)
{
    static const char *const before[] = {"mod_authz_host.c", NULL};

    ap_register_auth_provider(p, AUTHN_PROVIDER_GROUP, "wsgi", AUTHN_PROVIDER_VERSION,
                              &authentication, AP_AUTH_INTERNAL_PER_CONF);
    ap_register_auth_provider(p, AUTHZ_PROVIDER_GROUP, "wsgi-group", AUTHZ_PROVIDER_VERSION,
                              &authorization, AP_AUTH_INTERNAL_PER_CONF);
    /* A script can look at the URL: it is asked about subrequests as well. */
    ap_hook_check_access(check_access, NULL, before, APR_HOOK_MIDDLE, AP_AUTH_INTERNAL_PER_URI);
}

/* ---- dispatch ------------------------------------------------------------------------------ */

/* OK, and *value if the script gives one. */
static int dispatch(request_rec *r, const hook_script *hook, burrow_hook function,
                    const burrow_request *request, const char **value)
{
    kept_text kept = {.pool = r->pool};
    burrow_question question = {.hook = function, .text = keep, .to = &kept};

    switch (ask(r, hook, &question, request)) {
    case BURROW_TEXT:
        *value = kept.value;
        return OK;
    case BURROW_NONE:
        return OK;
    default:
        return HTTP_INTERNAL_SERVER_ERROR;
    }
}

int wsgi_dispatch(request_rec *r, const burrow_request *described, script_options *options)
{
    const hook_script *hook = config_of(r)->dispatch;
    burrow_request request = *described;
    const char *process_group = NULL;
    int status;

    if (!hook)
        return OK;
    request.flags |= BURROW_NO_BODY;
    status = dispatch(r, hook, BURROW_PROCESS_GROUP, &request, &process_group);
    if (process_group) {
        options->process_group = process_group;
        options->group_place = hook->place;
    }
    if (status == OK)
        status = dispatch(r, hook, BURROW_APPLICATION_GROUP, &request,
                          &options->application_group);
    if (status == OK)
        status = dispatch(r, hook, BURROW_CALLABLE_OBJECT, &request, &options->callable);
    return status;
}
