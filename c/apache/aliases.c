/* The directives that name applications: aliases, scripts imported at the start, process groups. */
#include "burrow_apache.h"

const char *wsgi_next_option(cmd_parms *cmd, const char **args, const char **name,
                             const char **value)
{
    size_t len = strcspn(*args, "= \t");
    if (!len || (*args)[len] != '=')
        return apr_psprintf(cmd->pool, "%s: \"%s\" is not an option of the form name=value",
                            cmd->cmd->name, *args);
    *name = apr_pstrmemdup(cmd->pool, *args, len);
    *args += len + 1;
    *value = ap_getword_conf(cmd->pool, args);
    if (!**value)
        return apr_psprintf(cmd->pool, "%s: option %s has no value", cmd->cmd->name, *name);
    return NULL;
}

int wsgi_is_env(const char *value)
{
    return !strncmp(value, "%{ENV:", 6) && value[strlen(value) - 1] == '}';
}

static int is_expansion(const char *value)
{
    return wsgi_is_env(value) || !strcmp(value, "%{RESOURCE}") || !strcmp(value, "%{SERVER}")
           || !strcmp(value, "%{HOST}");
}

const char *wsgi_check_process_group(cmd_parms *cmd, const char **value)
{
    burrow_place place = wsgi_place(cmd);
    if (!strcmp(*value, "%{GLOBAL}")) {
        *value = "";
        return NULL;
    }
    if (is_expansion(*value))
        return NULL;
    if (**value == '%')
        return apr_psprintf(cmd->pool,
                            "process group \"%s\": write a name, %%{GLOBAL} or %%{ENV:variable}",
                            *value);
    burrow_settings_use_process_group(wsgi_settings, &place, wsgi_str(*value));
    return NULL;
}

const char *wsgi_check_application_group(cmd_parms *cmd, const char **value)
{
    if (!strcmp(*value, "%{GLOBAL}")) {
        *value = "";
        return NULL;
    }
    if (**value != '%' || is_expansion(*value))
        return NULL;
    return apr_psprintf(cmd->pool,
                        "application group \"%s\": write a name, %%{GLOBAL}, %%{SERVER}, %%{HOST}, "
                        "%%{RESOURCE} or %%{ENV:variable}",
                        *value);
}

static int is_among(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name))
        names++;
    return *names != NULL;
}

static const char *unknown_option(cmd_parms *cmd, const char *name, const char *const *names)
{
    const char *known = *names;
    while (*++names)
        known = apr_pstrcat(cmd->pool, known, ", ", *names, NULL);
    return apr_psprintf(cmd->pool, "%s: unknown option %s; there is %s", cmd->cmd->name, name,
                        known);
}

static const char *set_option(cmd_parms *cmd, const char *name, const char *value,
                              script_options *options)
{
    if (!strcmp(name, "process-group")) {
        options->group_place = wsgi_place_text(cmd);
        options->process_group = value;
        return wsgi_check_process_group(cmd, &options->process_group);
    }
    if (!strcmp(name, "application-group")) {
        options->application_group = value;
        return wsgi_check_application_group(cmd, &options->application_group);
    }
    if (!strcmp(name, "callable-object")) {
        options->callable = value;
        return NULL;
    }
    if (!strcmp(name, "interpreters")) {
        burrow_place place = wsgi_place(cmd);
        const char *error = burrow_settings_interpreters(wsgi_settings, &place, wsgi_str(value),
                                                         &options->interpreters);
        return error ? apr_psprintf(cmd->pool, "interpreters=%s: %s", value, error) : NULL;
    }
    options->pass_authorization = !ap_cstr_casecmp(value, "On");
    return options->pass_authorization || !ap_cstr_casecmp(value, "Off")
               ? NULL
               : "pass-authorization must be On or Off";
}

const char *wsgi_read_options(cmd_parms *cmd, const char *args, const char *const *names,
                              script_options *options)
{
    const char *error, *name, *value;

    *options = (script_options){.pass_authorization = -1};
    while (*args) {
        if ((error = wsgi_next_option(cmd, &args, &name, &value)))
            return error;
        error = is_among(name, names) ? set_option(cmd, name, value, options)
                                      : unknown_option(cmd, name, names);
        if (error)
            return error;
    }
    return NULL;
}

const char *wsgi_check_script(cmd_parms *cmd, const char *path)
{
    if (*path == '/')
        return NULL;
    return apr_psprintf(cmd->pool, "%s: write the whole path of %s, beginning with a slash",
                        cmd->cmd->name, path);
}

/* "package.module:callable" and no file. */
static int is_module(const char *target)
{
    return ap_strchr_c(target, ':') && !strpbrk(target, "/$");
}

static const char *check_target(cmd_parms *cmd, const char *target)
{
    if (*target == '/' || is_module(target))
        return NULL;
    return apr_psprintf(cmd->pool,
                        "%s: write the whole path of %s, beginning with a slash, or a module as "
                        "package.module:callable",
                        cmd->cmd->name, target);
}

/* Has a fully known application imported when a process starts. */
static const char *preload(const burrow_app_key *key)
{
    const char *error = NULL;
    burrow_app *app = burrow_app_find(wsgi_settings, key, &error);
    if (app)
        burrow_app_preload(app);
    return error;
}

/* Can the application be named already, before there is a request? */
static int is_known(const script_alias *alias)
{
    const script_options *options = &alias->options;
    return options->process_group && *options->process_group != '%' && options->application_group
           && *options->application_group != '%'
           && !(options->callable && *options->callable == '%')
           && !(alias->regex && ap_strchr_c(alias->script, '$'));
}

const char *wsgi_add_script_alias(cmd_parms *cmd, void *dir, const char *args)
{
    static const char *const names[] = {"process-group", "application-group", "callable-object",
                                        "pass-authorization", "interpreters", NULL};
    server_config *config = ap_get_module_config(cmd->server->module_config, &wsgi_module);
    script_alias alias = {0};
    int is_match = cmd->info != NULL;
    const char *error;

    alias.location = ap_getword_conf(cmd->pool, &args);
    alias.script = ap_getword_conf(cmd->pool, &args);
    if (!*alias.location || !*alias.script)
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " takes at least two arguments, ",
                           cmd->cmd->errmsg, NULL);
    if (!(is_match && *alias.script == '$') && (error = check_target(cmd, alias.script)))
        return error;
    alias.is_module = is_module(alias.script);
    alias.server = cmd->server;
    if ((error = wsgi_read_options(cmd, args, names, &alias.options)))
        return error;
    if (alias.options.interpreters && alias.options.process_group && *alias.options.process_group)
        return apr_psprintf(cmd->pool,
                            "%s: interpreters= is for httpd's own processes: write it at the "
                            "process group's WSGIDaemonProcess",
                            cmd->cmd->name);
    if (is_match && !(alias.regex = ap_pregcomp(cmd->pool, alias.location, AP_REG_EXTENDED)))
        return apr_psprintf(cmd->pool, "%s: \"%s\" is not a regular expression", cmd->cmd->name,
                            alias.location);
    APR_ARRAY_PUSH(config->aliases, script_alias) = alias;
    if (is_known(&alias)) {
        burrow_app_key key = {.target = wsgi_str(alias.script),
                              .callable = wsgi_str(alias.options.callable),
                              .application_group = wsgi_str(alias.options.application_group),
                              .interpreters = alias.options.interpreters,
                              .process_group = wsgi_str(alias.options.process_group)};
        return preload(&key);
    }
    if (!alias.options.process_group || !*alias.options.process_group
        || *alias.options.process_group == '%')
        burrow_settings_expect_embedded(wsgi_settings);
    return NULL;
}

const char *wsgi_add_import_script(cmd_parms *cmd, void *dir, const char *args)
{
    static const char *const names[] = {"process-group", "application-group", NULL};
    const char *script = ap_getword_conf(cmd->pool, &args);
    const char *process_group, *group, *error;
    script_options options;
    burrow_app_key key;

    if ((error = wsgi_read_options(cmd, args, names, &options)))
        return error;
    process_group = options.process_group;
    group = options.application_group;
    if (!*script || !process_group || !group)
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " takes ", cmd->cmd->errmsg, NULL);
    if ((error = check_target(cmd, script)))
        return error;
    if (*group == '%' || *process_group == '%')
        return apr_psprintf(cmd->pool, "%s: there is no request yet that could tell what %s is; "
                            "write a name or %%{GLOBAL}", cmd->cmd->name,
                            *group == '%' ? group : process_group);
    key = (burrow_app_key){.target = wsgi_str(script),
                           .application_group = wsgi_str(group),
                           .process_group = wsgi_str(process_group),
                           .is_whole = 1};
    return preload(&key);
}

const char *wsgi_add_daemon_process(cmd_parms *cmd, void *dir, const char *args)
{
    const char *name = ap_getword_conf(cmd->pool, &args), *error, *option, *value;
    apr_array_header_t *options = apr_array_make(cmd->pool, 8, sizeof(burrow_pair));
    burrow_place place = wsgi_place(cmd);

    while (*args) {
        if ((error = wsgi_next_option(cmd, &args, &option, &value)))
            return error;
        APR_ARRAY_PUSH(options, burrow_pair) = (burrow_pair){wsgi_str(option), wsgi_str(value)};
    }
    return burrow_settings_daemon_process(wsgi_settings, &place, wsgi_str(name),
                                          (const burrow_pair *)options->elts,
                                          (size_t)options->nelts);
}

const char *wsgi_set_socket_prefix(cmd_parms *cmd, void *dir, const char *value)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);

    if (error)
        return error;
    wsgi_socket_prefix = ap_server_root_relative(cmd->pool, value);
    return wsgi_socket_prefix ? NULL : apr_psprintf(cmd->pool, "%s: \"%s\" is no path",
                                                    cmd->cmd->name, value);
}
