/* The module record, its configuration records, and the life of the settings and of Python. */
#include "burrow_apache.h"

#include <unistd.h>

#include "ap_mpm.h"
#include "mpm_common.h"
#include "unixd.h"

/* How long the applications' exit functions may take. */
#define STOP_TIMEOUT_MS 5000

burrow_settings *wsgi_settings;
int wsgi_multithread;
const char *wsgi_socket_prefix;

static void *create_server_config(apr_pool_t *p, server_rec *s)
{
    server_config *config = apr_pcalloc(p, sizeof *config);
    config->aliases = apr_array_make(p, 4, sizeof(script_alias));
    return config;
}

static void *merge_server_config(apr_pool_t *p, void *base, void *add)
{
    server_config *config = apr_pcalloc(p, sizeof *config);
    config->aliases = apr_array_append(p, ((server_config *)add)->aliases,
                                       ((server_config *)base)->aliases);
    return config;
}

static void *create_dir_config(apr_pool_t *p, char *dir)
{
    dir_config *config = apr_pcalloc(p, sizeof *config);
    config->script_reloading = -1;
    config->pass_authorization = -1;
    config->chunked_request = -1;
    config->enable_sendfile = -1;
    config->pass_apache_request = -1;
    config->error_override = -1;
    return config;
}

#define INHERIT(field, is_unset) \
    if (is_unset(config->field)) \
    config->field = base->field
#define IS_NULL(value) (!(value))
#define IS_NEGATIVE(value) ((value) < 0)

static void *merge_dir_config(apr_pool_t *p, void *base_conf, void *add_conf)
{
    const dir_config *base = base_conf, *add = add_conf;
    dir_config *config = apr_pmemdup(p, add, sizeof *add);
    INHERIT(access, IS_NULL);
    INHERIT(auth_user, IS_NULL);
    INHERIT(auth_group, IS_NULL);
    INHERIT(dispatch, IS_NULL);
    if (config->handlers && base->handlers)
        config->handlers = apr_array_append(p, base->handlers, add->handlers);
    INHERIT(handlers, IS_NULL);
    INHERIT(process_group, IS_NULL);
    INHERIT(group_place, IS_NULL);
    INHERIT(application_group, IS_NULL);
    INHERIT(callable, IS_NULL);
    INHERIT(restrict_process, IS_NULL);
    INHERIT(restrict_place, IS_NULL);
    INHERIT(proxy_headers, IS_NULL);
    INHERIT(proxies, IS_NULL);
    INHERIT(map_head_to_get, IS_NULL);
    INHERIT(script_reloading, IS_NEGATIVE);
    INHERIT(pass_authorization, IS_NEGATIVE);
    INHERIT(chunked_request, IS_NEGATIVE);
    INHERIT(enable_sendfile, IS_NEGATIVE);
    INHERIT(pass_apache_request, IS_NEGATIVE);
    INHERIT(error_override, IS_NEGATIVE);
    return config;
}

static apr_status_t destroy_settings(void *data)
{
    burrow_settings_destroy(wsgi_settings);
    wsgi_settings = NULL;
    return APR_SUCCESS;
}

static int pre_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp)
{
    wsgi_settings = burrow_settings_create(BURROW_APACHE);
    wsgi_socket_prefix = NULL;
    apr_pool_cleanup_register(pconf, NULL, destroy_settings, apr_pool_cleanup_null);
    return OK;
}

static int check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    const char *prefix = wsgi_socket_prefix ? wsgi_socket_prefix
                                            : ap_runtime_dir_relative(pconf, "wsgi");
    int is_root = geteuid() == 0;
    const char *error;

    burrow_settings_instance(wsgi_settings, is_root ? ap_unixd_config.user_id : geteuid(),
                             is_root ? ap_unixd_config.group_id : getegid(), wsgi_str(prefix),
                             (double)s->timeout / APR_USEC_PER_SEC,
                             (unsigned)ap_get_server_module_loglevel(s, APLOG_MODULE_INDEX));
    error = burrow_settings_check(wsgi_settings);
    if (!error)
        return OK;
    ap_log_error(APLOG_MARK, APLOG_ERR, 0, s, "%s", error);
    return HTTP_INTERNAL_SERVER_ERROR;
}

/* What the module `apache` says. */
static burrow_apache describe(void)
{
    ap_version_t version;
    ap_get_server_revision(&version);
    return (burrow_apache){
        .version = {(unsigned)version.major, (unsigned)version.minor, (unsigned)version.patch},
        .description = wsgi_str(ap_get_server_description()),
        .mpm_name = wsgi_str(ap_show_mpm()),
        .build_date = wsgi_str(ap_get_server_built()),
        .httpd = &wsgi_httpd,
    };
}

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    const char *note;
    burrow_apache apache;
    size_t i;

    /* The first of the two rounds at start-up runs before httpd becomes a daemon. */
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG)
        return OK;
    for (i = 0; (note = burrow_settings_note(wsgi_settings, i)); i++)
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, s, "%s", note);
    apache = describe();
    burrow_settings_apache(wsgi_settings, &apache);
    wsgi_preload_aliases(ptemp, s);
    wsgi_manager_configure(s);
    return OK;
}

static void log_line(void *request, burrow_level level, burrow_str line)
{
    int len = (int)line.len;
    if (request)
        ap_log_rerror(APLOG_MARK, (int)level, 0, ((exchange *)request)->r, "%.*s", len, line.data);
    else
        ap_log_error(APLOG_MARK, (int)level, 0, ap_server_conf, "%.*s", len, line.data);
}

static apr_status_t stop_process(void *data)
{
    burrow_process_stop(STOP_TIMEOUT_MS);
    return APR_SUCCESS;
}

/* What the MPM says about itself, at least 1. */
static int mpm_query(int what)
{
    int value = 0;
    return ap_mpm_query(what, &value) == APR_SUCCESS && value > 0 ? value : 1;
}

static void child_init(apr_pool_t *pchild, server_rec *s)
{
    int threads = mpm_query(AP_MPMQ_MAX_THREADS), processes = mpm_query(AP_MPMQ_MAX_DAEMONS);
    static burrow_apache apache;
    burrow_server server = {
        .kind = BURROW_APACHE,
        .apache = &apache,
        .software = wsgi_str(ap_get_server_banner()),
        .multiprocess = processes > 1,
        .multithread = threads > 1,
        .processes = (unsigned)processes,
        .threads = (unsigned)threads,
        .connections = wsgi_suspended_init(pchild, (unsigned)threads),
        .log = log_line,
    };
    apache = describe();
    wsgi_multithread = server.multithread;
    wsgi_manager_detach();
    burrow_process_start(wsgi_settings, &server);
    /* Before the pools of requests and connections go. */
    apr_pool_pre_cleanup_register(pchild, NULL, stop_process);
}

#if AP_MODULE_MAGIC_AT_LEAST(20120211, 110)
static void child_stopping(apr_pool_t *pchild, int graceful)
{
    if (graceful) /* else the process ends at once, prefork in a signal's handler */
        burrow_process_retire(wsgi_settings);
}
#endif

static void register_hooks(apr_pool_t *p)
{
    /* Alias /static must win over WSGIScriptAlias /. */
    static const char *const after[] = {"mod_alias.c", NULL};
    static const char *const before[] = {"mod_userdir.c", "mod_vhost_alias.c", NULL};
    ap_hook_pre_config(pre_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_check_config(check_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_monitor(wsgi_manager_monitor, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
#if AP_MODULE_MAGIC_AT_LEAST(20120211, 110)
    ap_hook_child_stopping(child_stopping, NULL, NULL, APR_HOOK_MIDDLE);
#endif
    ap_hook_translate_name(wsgi_translate_name, after, before, APR_HOOK_MIDDLE);
    ap_hook_map_to_storage(wsgi_map_to_storage, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(wsgi_handler, NULL, NULL, APR_HOOK_MIDDLE);
    wsgi_register_hooks(p);
    wsgi_register_trailers();
    wsgi_register_suspended(p);
}

/* STANDARD20_MODULE_STUFF spelled out, for the name that <IfModule mod_wsgi.c> looks for. */
module AP_MODULE_DECLARE_DATA wsgi_module = {
    MODULE_MAGIC_NUMBER_MAJOR,
    MODULE_MAGIC_NUMBER_MINOR,
    -1,
    "mod_wsgi.c",
    NULL,
    NULL,
    MODULE_MAGIC_COOKIE,
    NULL,
    create_dir_config,
    merge_dir_config,
    create_server_config,
    merge_server_config,
    wsgi_directives,
    register_hooks,
    0,
};
