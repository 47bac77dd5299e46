/* The directives. */
#include "ngx_http_burrow.h"

#define DEFAULT_THREADS 8
#define MOST_THREADS 512

#define EVERYWHERE \
    (NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_HTTP_LIF_CONF)

char *ngx_burrow_refuse(ngx_conf_t *cf, const char *message)
{
    ngx_str_t *args = cf->args->elts;

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "%V: %s", &args[0], message);
    return NGX_CONF_ERROR;
}

burrow_place ngx_burrow_here(ngx_conf_t *cf)
{
    ngx_str_t *args = cf->args->elts;

    return (burrow_place) {
        .directive = ngx_burrow_str(args[0]),
        .file = ngx_burrow_str(cf->conf_file->file.name),
        .line = (unsigned) cf->conf_file->line,
    };
}

static char *python_home(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_main_conf_t *conf = data;
    ngx_str_t *args = cf->args->elts;
    burrow_place place = ngx_burrow_here(cf);
    const char *error = burrow_settings_python_home(conf->settings, &place,
                                                    ngx_burrow_str(args[1]));

    return error == NULL ? NGX_CONF_OK : ngx_burrow_refuse(cf, error);
}

static char *pass(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_loc_conf_t *conf = data;
    ngx_str_t *args = cf->args->elts;
    ngx_http_core_loc_conf_t *clcf;

    if (conf->target.data != NULL) {
        return "is duplicate";
    }
    conf->target = args[1];
    conf->place.file = cf->conf_file->file.name;
    conf->place.line = cf->conf_file->line;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_burrow_handler;
    if (clcf->name.len > 0 && clcf->name.data[clcf->name.len - 1] == '/') {
        clcf->auto_redirect = 1;
    }
    return NGX_CONF_OK;
}

static char *param(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_loc_conf_t *conf = data;
    ngx_str_t *args = cf->args->elts;
    ngx_http_compile_complex_value_t compile;
    ngx_burrow_param_t *new;

    if (cf->args->nelts == 4 && ngx_strcmp(args[3].data, "if_not_empty") != 0) {
        return ngx_burrow_refuse(cf, "the third parameter can be \"if_not_empty\" only");
    }
    if (args[1].len == 0) {
        return ngx_burrow_refuse(cf, "a variable needs a name");
    }
    if (conf->params == NULL) {
        conf->params = ngx_array_create(cf->pool, 4, sizeof(ngx_burrow_param_t));
        if (conf->params == NULL) {
            return NGX_CONF_ERROR;
        }
    }
    new = ngx_array_push(conf->params);
    if (new == NULL) {
        return NGX_CONF_ERROR;
    }
    ngx_memzero(new, sizeof(ngx_burrow_param_t));
    new->name = args[1];
    new->if_not_empty = cf->args->nelts == 4;

    ngx_memzero(&compile, sizeof(compile));
    compile.cf = cf;
    compile.value = &args[2];
    compile.complex_value = &new->value;
    return ngx_http_compile_complex_value(&compile) == NGX_OK ? NGX_CONF_OK : NGX_CONF_ERROR;
}

static char *check_group(ngx_conf_t *cf, void *post, void *data)
{
    ngx_str_t *group = data;

    if (ngx_strncmp(group->data, "%{", 2) == 0 && ngx_strcmp(group->data, "%{GLOBAL}") != 0
        && ngx_strcmp(group->data, "%{RESOURCE}") != 0
        && ngx_strcmp(group->data, "%{SERVER}") != 0)
    {
        return ngx_burrow_refuse(cf, "say a name, %{GLOBAL}, %{RESOURCE} or %{SERVER}");
    }
    return NGX_CONF_OK;
}

static ngx_conf_post_t group_post = { check_group };
static ngx_conf_num_bounds_t threads_bounds = { ngx_conf_check_num_bounds, 0, MOST_THREADS };

/* An option of src/settings/options.rs, for all interpreters or, the second, for some. */
#define PYTHON_OPTION(directive, option) \
    { ngx_string(directive), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1, ngx_burrow_set_python_option, \
      NGX_HTTP_MAIN_CONF_OFFSET, 0, option }
#define INTERPRETER_OPTION(directive, option) \
    { ngx_string(directive), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1, \
      ngx_burrow_set_interpreter_option, NGX_HTTP_MAIN_CONF_OFFSET, 0, option }

ngx_command_t ngx_burrow_commands[] = {
    { ngx_string("wsgi_pass"),
      NGX_HTTP_LOC_CONF | NGX_HTTP_LIF_CONF | NGX_HTTP_LMT_CONF | NGX_CONF_TAKE1,
      pass, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_daemon_process"), NGX_HTTP_MAIN_CONF | NGX_CONF_1MORE,
      ngx_burrow_daemon_process, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_process_group"), EVERYWHERE | NGX_CONF_TAKE1,
      ngx_burrow_process_group, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_callable_object"), EVERYWHERE | NGX_CONF_TAKE1,
      ngx_conf_set_str_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, callable), NULL },

    { ngx_string("wsgi_application_group"), EVERYWHERE | NGX_CONF_TAKE1,
      ngx_conf_set_str_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, application_group), &group_post },

    { ngx_string("wsgi_param"), EVERYWHERE | NGX_CONF_TAKE23,
      param, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_threads"), EVERYWHERE | NGX_CONF_TAKE1,
      ngx_conf_set_num_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, threads), &threads_bounds },

    { ngx_string("wsgi_interpreters"), EVERYWHERE | NGX_CONF_TAKE1,
      ngx_burrow_interpreters, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_script_reloading"), EVERYWHERE | NGX_CONF_FLAG,
      ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, script_reloading), NULL },

    { ngx_string("wsgi_request_buffering"), EVERYWHERE | NGX_CONF_FLAG,
      ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, request_buffering), NULL },

    { ngx_string("wsgi_buffering"), EVERYWHERE | NGX_CONF_FLAG,
      ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, upstream.buffering), NULL },

    { ngx_string("wsgi_buffer_size"), EVERYWHERE | NGX_CONF_TAKE1,
      ngx_conf_set_size_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, upstream.buffer_size), NULL },

    { ngx_string("wsgi_buffers"), EVERYWHERE | NGX_CONF_TAKE2,
      ngx_conf_set_bufs_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, upstream.bufs), NULL },

    { ngx_string("wsgi_read_timeout"), EVERYWHERE | NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, upstream.read_timeout), NULL },

    { ngx_string("wsgi_intercept_errors"), EVERYWHERE | NGX_CONF_FLAG,
      ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, intercept_errors), NULL },

    { ngx_string("wsgi_pass_authorization"), EVERYWHERE | NGX_CONF_FLAG,
      ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, pass_authorization), NULL },

    { ngx_string("wsgi_chunked_request"), EVERYWHERE | NGX_CONF_FLAG,
      ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, chunked_request), NULL },

    { ngx_string("wsgi_map_head_to_get"), EVERYWHERE | NGX_CONF_FLAG,
      ngx_conf_set_flag_slot, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, map_head_to_get), NULL },

    { ngx_string("wsgi_trusted_proxy_headers"), EVERYWHERE | NGX_CONF_1MORE,
      ngx_burrow_trusted_proxy_headers, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_trusted_proxies"), EVERYWHERE | NGX_CONF_1MORE,
      ngx_burrow_trusted_proxies, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_access_script"), EVERYWHERE | NGX_HTTP_LMT_CONF | NGX_CONF_TAKE12,
      ngx_burrow_set_script, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, access), NULL },

    { ngx_string("wsgi_auth_user_script"), EVERYWHERE | NGX_HTTP_LMT_CONF | NGX_CONF_TAKE123,
      ngx_burrow_set_script, NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_burrow_loc_conf_t, auth_user), NULL },

    { ngx_string("wsgi_python_home"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1,
      python_home, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL },

    PYTHON_OPTION("wsgi_python_optimize", "python-optimize"),
    PYTHON_OPTION("wsgi_python_hash_seed", "python-hash-seed"),
    PYTHON_OPTION("wsgi_python_warnings", "python-warnings"),
    PYTHON_OPTION("wsgi_dont_write_bytecode", "dont-write-bytecode"),
    PYTHON_OPTION("wsgi_destroy_interpreter", "destroy-interpreter"),
    PYTHON_OPTION("wsgi_restrict_embedded", "restrict-embedded"),
    INTERPRETER_OPTION("wsgi_python_path", "python-path"),
    INTERPRETER_OPTION("wsgi_switch_interval", "switch-interval"),
    INTERPRETER_OPTION("wsgi_restrict_stdin", "restrict-stdin"),
    INTERPRETER_OPTION("wsgi_restrict_stdout", "restrict-stdout"),
    INTERPRETER_OPTION("wsgi_restrict_signal", "restrict-signal"),
    INTERPRETER_OPTION("wsgi_interface", "interface"),
    INTERPRETER_OPTION("wsgi_loop", "loop"),
    INTERPRETER_OPTION("wsgi_websocket_max_message", "websocket-max-message"),
    INTERPRETER_OPTION("wsgi_websocket_ping_interval", "websocket-ping-interval"),
    INTERPRETER_OPTION("wsgi_websocket_idle_timeout", "websocket-idle-timeout"),
    INTERPRETER_OPTION("wsgi_per_interpreter_gil", "per-interpreter-gil"),
    INTERPRETER_OPTION("wsgi_free_threading", "free-threading"),

    { ngx_string("wsgi_interpreter_options"),
      NGX_HTTP_MAIN_CONF | NGX_CONF_BLOCK | NGX_CONF_NOARGS | NGX_CONF_TAKE12,
      ngx_burrow_interpreter_options, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL },

    { ngx_string("wsgi_socket_prefix"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1,
      ngx_conf_set_str_slot, NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_burrow_main_conf_t, socket_prefix), NULL },

    { ngx_string("wsgi_import_script"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE123,
      ngx_burrow_import_script, NGX_HTTP_MAIN_CONF_OFFSET, 0, NULL },

    ngx_null_command
};

static void destroy_settings(void *settings)
{
    burrow_settings_destroy(settings);
}

void *ngx_burrow_create_main_conf(ngx_conf_t *cf)
{
    ngx_burrow_main_conf_t *conf = ngx_pcalloc(cf->pool, sizeof(ngx_burrow_main_conf_t));
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(cf->pool, 0);

    if (conf == NULL || cleanup == NULL
        || ngx_array_init(&conf->applications, cf->pool, 4, sizeof(ngx_burrow_application_t))
               != NGX_OK
        || ngx_array_init(&conf->imports, cf->pool, 1, sizeof(ngx_burrow_import_t)) != NGX_OK
        || ngx_array_init(&conf->groups, cf->pool, 1, sizeof(ngx_burrow_group_t *)) != NGX_OK
        || ngx_array_init(&conf->daemons, cf->pool, 1, sizeof(ngx_burrow_loc_conf_t *)) != NGX_OK)
    {
        return NULL;
    }
    conf->settings = burrow_settings_create(BURROW_NGINX);
    cleanup->handler = destroy_settings;
    cleanup->data = conf->settings;
    return conf;
}

void *ngx_burrow_create_loc_conf(ngx_conf_t *cf)
{
    ngx_burrow_loc_conf_t *conf = ngx_pcalloc(cf->pool, sizeof(ngx_burrow_loc_conf_t));

    if (conf == NULL) {
        return NULL;
    }
    ngx_burrow_create_upstream_conf(&conf->upstream);
    conf->threads = NGX_CONF_UNSET;
    conf->interpreters = NGX_CONF_UNSET_UINT;
    conf->script_reloading = NGX_CONF_UNSET;
    conf->request_buffering = NGX_CONF_UNSET;
    conf->intercept_errors = NGX_CONF_UNSET;
    conf->pass_authorization = NGX_CONF_UNSET;
    conf->chunked_request = NGX_CONF_UNSET;
    conf->map_head_to_get = NGX_CONF_UNSET;
    return conf;
}

/* SCRIPT_NAME of a location: its prefix without the trailing slash. */
static ngx_str_t location_prefix(const ngx_http_core_loc_conf_t *clcf)
{
    ngx_str_t prefix = clcf->name;

#if (NGX_PCRE)
    if (clcf->regex != NULL) {
        prefix.len = 0;
    }
#endif
    if (clcf->named) {
        prefix.len = 0;
    }
    if (prefix.len > 0 && prefix.data[prefix.len - 1] == '/') {
        prefix.len--;
    }
    return prefix;
}

char *ngx_burrow_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_burrow_loc_conf_t *prev = parent;
    ngx_burrow_loc_conf_t *conf = child;
    ngx_http_core_loc_conf_t *clcf;

    ngx_conf_merge_str_value(conf->callable, prev->callable, "");
    ngx_conf_merge_str_value(conf->application_group, prev->application_group, "%{RESOURCE}");
    ngx_conf_merge_value(conf->threads, prev->threads, DEFAULT_THREADS);
    ngx_conf_merge_uint_value(conf->interpreters, prev->interpreters, 0);
    ngx_conf_merge_value(conf->script_reloading, prev->script_reloading, 1);
    ngx_conf_merge_value(conf->request_buffering, prev->request_buffering, 1);
    ngx_conf_merge_value(conf->intercept_errors, prev->intercept_errors, 0);
    ngx_conf_merge_value(conf->pass_authorization, prev->pass_authorization, 1);
    ngx_conf_merge_value(conf->chunked_request, prev->chunked_request, 1);
    ngx_conf_merge_value(conf->map_head_to_get, prev->map_head_to_get, 0);
    if (conf->process_group.data == NULL) {
        conf->process_group = prev->process_group;
        conf->process_group_place = prev->process_group_place;
    }
    if (conf->params == NULL) {
        conf->params = prev->params;
    }
    if (conf->proxy_headers == NULL) {
        conf->proxy_headers = prev->proxy_headers;
    }
    if (conf->proxies == NULL) {
        conf->proxies = prev->proxies;
    }
    if (ngx_burrow_merge_upstream_conf(cf, conf, prev) != NGX_CONF_OK
        || ngx_burrow_merge_script(cf, &conf->access, &prev->access, conf->threads) != NGX_CONF_OK
        || ngx_burrow_merge_script(cf, &conf->auth_user, &prev->auth_user, conf->threads)
               != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    /* "if" and "limit_except" are parts of the location around them. */
    conf->script_name = clcf->noname ? prev->script_name : location_prefix(clcf);
    if (clcf->noname && conf->target.data == NULL) {
        conf->target = prev->target;
        conf->place = prev->place;
    }
    if (conf->target.data == NULL) {
        return NGX_CONF_OK;
    }
    if (clcf->lmt_excpt && clcf->handler == NULL) {
        clcf->handler = ngx_burrow_handler;
    }
    return ngx_burrow_find_application(cf, conf);
}
