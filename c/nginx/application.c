/* Which application a location means, and in which application group. */
#include "ngx_http_burrow.h"

static char *refuse_at(ngx_conf_t *cf, const ngx_burrow_place_t *place, const char *directive,
                       const char *message)
{
    ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "%s: %s in %V:%ui", directive, message, &place->file,
                  place->line);
    return NGX_CONF_ERROR;
}

static ngx_int_t same(ngx_str_t a, ngx_str_t b)
{
    return a.len == b.len && ngx_memcmp(a.data, b.data, a.len) == 0;
}

static ngx_int_t is(ngx_str_t string, const char *literal)
{
    return string.len == strlen(literal) && ngx_memcmp(string.data, literal, string.len) == 0;
}

ngx_int_t ngx_burrow_take_group(ngx_str_t *group)
{
    if (is(*group, "%{GLOBAL}")) {
        group->len = 0;
    }
    return group->len >= 2 && ngx_strncmp(group->data, "%{", 2) == 0 ? NGX_ERROR : NGX_OK;
}

/* "first|second", NULL data when there is no memory. */
static ngx_str_t join(ngx_pool_t *pool, ngx_str_t first, ngx_str_t second)
{
    ngx_str_t joined = { first.len + 1 + second.len, NULL };

    joined.data = ngx_pnalloc(pool, joined.len);
    if (joined.data != NULL) {
        ngx_sprintf(joined.data, "%V|%V", &first, &second);
    }
    return joined;
}

static ngx_burrow_application_t *find_group(ngx_burrow_main_conf_t *main, ngx_str_t group)
{
    ngx_burrow_application_t *application = main->applications.elts;
    ngx_uint_t i;

    for (i = 0; i < main->applications.nelts; i++) {
        if (application[i].resource && same(application[i].group, group)) {
            return &application[i];
        }
    }
    return NULL;
}

/* The group of %{RESOURCE}: the server's name and the location's. Where two applications have both
 * in common (an "if", servers of one name on two ports), the later adds what tells them apart. */
static ngx_str_t resource_group(ngx_conf_t *cf, ngx_burrow_loc_conf_t *conf)
{
    ngx_burrow_main_conf_t *main;
    ngx_burrow_application_t *other;
    ngx_http_core_srv_conf_t *cscf;
    ngx_http_core_loc_conf_t *clcf;
    ngx_str_t group;

    main = ngx_http_conf_get_module_main_conf(cf, ngx_http_burrow_module);
    cscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_core_module);
    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    group = join(cf->pool, cscf->server_name, clcf->name);
    if (group.data == NULL) {
        return group;
    }
    other = find_group(main, group);
    if (other == NULL
        || (same(other->target, conf->target) && same(other->callable, conf->callable)))
    {
        return group;
    }
    group = join(cf->pool, group, conf->target);
    if (group.data == NULL || conf->callable.len == 0) {
        return group;
    }
    return join(cf->pool, group, conf->callable);
}

/* Resolves the application of a location whose settings are merged. */
char *ngx_burrow_find_application(ngx_conf_t *cf, ngx_burrow_loc_conf_t *conf)
{
    ngx_burrow_application_t *application;
    ngx_burrow_main_conf_t *main;
    ngx_http_core_srv_conf_t *cscf;
    ngx_str_t group = conf->application_group;
    ngx_uint_t resource = is(group, "%{RESOURCE}");
    const char *error = NULL;
    burrow_app_key key;

    if (resource) {
        group = resource_group(cf, conf);
        if (group.data == NULL) {
            return NGX_CONF_ERROR;
        }
    } else if (is(group, "%{SERVER}")) {
        cscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_core_module);
        group = cscf->server_name;
    } else if (is(group, "%{GLOBAL}")) {
        group.len = 0;
    }

    main = ngx_http_conf_get_module_main_conf(cf, ngx_http_burrow_module);
    ngx_memzero(&key, sizeof(key));
    key.target = ngx_burrow_str(conf->target);
    key.callable = ngx_burrow_str(conf->callable);
    key.application_group = ngx_burrow_str(group);
    key.process_group = ngx_burrow_str(conf->process_group);
    key.threads = (unsigned) conf->threads;
    key.interpreters = (unsigned) conf->interpreters;
    conf->app = burrow_app_find(main->settings, &key, &error);
    if (conf->app != NULL && !burrow_app_is_daemon(conf->app)) {
        main->embeds = 1;
        error = burrow_settings_refuse_embedded(main->settings);
        if (error == NULL && conf->threads == 0 && !conf->request_buffering) {
            error = "with wsgi_threads 0 nginx cannot wait for a body while the application runs: "
                    "set wsgi_request_buffering on, or give it threads";
        }
    }
    if (error != NULL) {
        return refuse_at(cf, &conf->place, "wsgi_pass", error);
    }
    if (burrow_app_is_daemon(conf->app) && ngx_burrow_join_group(main, conf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }
    application = ngx_array_push(&main->applications);
    if (application == NULL) {
        return NGX_CONF_ERROR;
    }
    application->group = group;
    application->target = conf->target;
    application->callable = conf->callable;
    application->app = conf->app;
    application->process_group = conf->process_group;
    application->resource = resource;
    return NGX_CONF_OK;
}

char *ngx_burrow_import_script(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_burrow_main_conf_t *main = conf;
    ngx_str_t *args = cf->args->elts, *group, value;
    ngx_burrow_import_t *import = ngx_array_push(&main->imports);
    ngx_uint_t i;

    if (import == NULL) {
        return NGX_CONF_ERROR;
    }
    import->target = args[1];
    import->place.file = cf->conf_file->file.name;
    import->place.line = cf->conf_file->line;
    ngx_str_null(&import->group);
    ngx_str_null(&import->process_group);
    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_burrow_take_option(args[i], "application-group=", &value)) {
            group = &import->group;
        } else if (ngx_burrow_take_option(args[i], "process-group=", &value)) {
            group = &import->process_group;
        } else {
            return "takes a script or module and, if wanted, application-group=NAME and "
                   "process-group=NAME";
        }
        if (group->data != NULL || ngx_burrow_take_group(&value) != NGX_OK) {
            return "needs the name of a group, or %{GLOBAL}, once of each kind";
        }
        *group = value;
    }
    return NGX_CONF_OK;
}

/* Wherever some location has the script as its application, in this process group or, where none is
 * said, in any. */
static ngx_uint_t preload_everywhere(ngx_burrow_main_conf_t *main,
                                     const ngx_burrow_import_t *import)
{
    ngx_burrow_application_t *application = main->applications.elts;
    ngx_str_t group = import->process_group;
    ngx_uint_t i, found = 0;

    for (i = 0; i < main->applications.nelts; i++) {
        if (same(application[i].target, import->target)
            && (group.data == NULL || same(application[i].process_group, group)))
        {
            burrow_app_preload(application[i].app);
            found = 1;
        }
    }
    return found;
}

static char *preload(ngx_conf_t *cf, ngx_burrow_main_conf_t *main,
                     const ngx_burrow_import_t *import)
{
    const char *error = NULL;
    burrow_app_key key;
    burrow_app *app;

    ngx_burrow_use_group(main, "wsgi_import_script", &import->place, import->process_group);
    if (import->group.data == NULL && preload_everywhere(main, import)) {
        return NGX_CONF_OK;
    }
    ngx_memzero(&key, sizeof(key));
    key.target = ngx_burrow_str(import->target);
    key.application_group = ngx_burrow_str(import->group);
    key.process_group = ngx_burrow_str(import->process_group);
    key.threads = 1;
    key.is_whole = 1;
    app = burrow_app_find(main->settings, &key, &error);
    if (app == NULL) {
        return refuse_at(cf, &import->place, "wsgi_import_script", error);
    }
    if (!burrow_app_is_daemon(app)) {
        main->embeds = 1;
    }
    burrow_app_preload(app);
    return NGX_CONF_OK;
}

ngx_int_t ngx_burrow_check_configuration(ngx_conf_t *cf)
{
    ngx_burrow_main_conf_t *main;
    ngx_burrow_import_t *import;
    const char *error;
    ngx_uint_t i;

    main = ngx_http_conf_get_module_main_conf(cf, ngx_http_burrow_module);
    import = main->imports.elts;
    for (i = 0; i < main->imports.nelts; i++) {
        if (preload(cf, main, &import[i]) != NGX_CONF_OK) {
            return NGX_ERROR;
        }
    }
    if (ngx_burrow_set_instance(cf->cycle, main) != NGX_OK) {
        return NGX_ERROR;
    }
    error = burrow_settings_check(main->settings);
    if (error == NULL) {
        return ngx_burrow_add_access_handlers(cf);
    }
    ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "%s", error);
    return NGX_ERROR;
}
