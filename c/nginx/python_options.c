/* The directives for Python and its interpreters; src/settings judges them. */
#include "ngx_http_burrow.h"

char *ngx_burrow_interpreters(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_main_conf_t *main = ngx_http_conf_get_module_main_conf(cf, ngx_http_burrow_module);
    ngx_burrow_loc_conf_t *conf = data;
    ngx_str_t *args = cf->args->elts;
    burrow_place place = ngx_burrow_here(cf);
    unsigned interpreters = 0;
    const char *error;

    if (conf->interpreters != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }
    error = burrow_settings_interpreters(main->settings, &place, ngx_burrow_str(args[1]),
                                         &interpreters);
    conf->interpreters = interpreters;
    return error == NULL ? NGX_CONF_OK : ngx_burrow_refuse(cf, error);
}

static char *set_option(ngx_conf_t *cf, const ngx_command_t *cmd, ngx_burrow_main_conf_t *main,
                        const burrow_scope *scope)
{
    ngx_str_t *args = cf->args->elts;
    burrow_place place = ngx_burrow_here(cf);
    burrow_str option = { cmd->post, strlen(cmd->post) };
    const char *error = burrow_settings_option(main->settings, &place, scope, option,
                                               ngx_burrow_str(args[1]));

    return error == NULL ? NGX_CONF_OK : ngx_burrow_refuse(cf, error);
}

char *ngx_burrow_set_python_option(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return set_option(cf, cmd, conf, NULL);
}

char *ngx_burrow_set_interpreter_option(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return ngx_burrow_set_python_option(cf, cmd, conf);
}

/* The block that is being read. */
typedef struct {
    ngx_burrow_main_conf_t *main;
    burrow_scope scope;
} section_t;

static char *set_in_section(ngx_conf_t *cf, ngx_command_t *unused, void *data)
{
    section_t *section = data;
    ngx_str_t *args = cf->args->elts;
    const ngx_command_t *cmd;

    for (cmd = ngx_burrow_commands; cmd->name.len > 0; cmd++) {
        if (cmd->set != ngx_burrow_set_interpreter_option || cmd->name.len != args[0].len
            || ngx_memcmp(cmd->name.data, args[0].data, args[0].len) != 0)
        {
            continue;
        }
        if (cf->args->nelts != 2) {
            return ngx_burrow_refuse(cf, "takes one argument");
        }
        return set_option(cf, cmd, section->main, &section->scope);
    }
    return ngx_burrow_refuse(cf, "may not stand in wsgi_interpreter_options");
}

char *ngx_burrow_interpreter_options(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    section_t section = { .main = conf };
    ngx_str_t *args = cf->args->elts, value;
    ngx_conf_t outer = *cf;
    burrow_str *group;
    ngx_uint_t i;
    char *rc;

    for (i = 1; i < cf->args->nelts; i++) {
        if (ngx_burrow_take_option(args[i], "process-group=", &value)) {
            group = &section.scope.process_group;
        } else if (ngx_burrow_take_option(args[i], "application-group=", &value)) {
            group = &section.scope.application_group;
        } else {
            return ngx_burrow_refuse(cf, "takes process-group= and application-group=");
        }
        if (group->data != NULL) {
            return ngx_burrow_refuse(cf, "a group is there twice");
        }
        if (ngx_strcmp(value.data, "%{GLOBAL}") == 0) {
            value.len = 0;
        } else if (value.len == 0 || value.data[0] == '%') {
            return ngx_burrow_refuse(cf, "write the name of a group, or %{GLOBAL}");
        }
        *group = ngx_burrow_str(value);
    }
    cf->handler = set_in_section;
    cf->handler_conf = (void *) &section;
    rc = ngx_conf_parse(cf, NULL);
    *cf = outer;
    return rc;
}
