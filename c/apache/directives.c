/* The configuration directives. They are read more than once and by short-lived commands, so they
 * only fill configuration records. */
#include "burrow_apache.h"

static burrow_str str(const char *s)
{
    return (burrow_str){s, s ? strlen(s) : 0};
}

/* "name=value", the value quoted or not. */
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

const char *wsgi_unknown_option(cmd_parms *cmd, const char *name, const char *known)
{
    return apr_psprintf(cmd->pool, "%s: unknown option %s; there are %s", cmd->cmd->name, name,
                        known);
}

const char *wsgi_check_process_group(cmd_parms *cmd, const char *value)
{
    if (!strcmp(value, "%{GLOBAL}"))
        return NULL;
    return apr_psprintf(cmd->pool,
                        "process group \"%s\": daemon mode is not available yet; leave the process "
                        "group out or write %%{GLOBAL}, and the application runs in httpd's own "
                        "processes",
                        value);
}

const char *wsgi_check_application_group(cmd_parms *cmd, const char **value)
{
    const char *v = *value;
    if (!strcmp(v, "%{GLOBAL}")) {
        *value = "";
        return NULL;
    }
    if (*v != '%' || !strcmp(v, "%{RESOURCE}") || !strcmp(v, "%{SERVER}") || !strcmp(v, "%{HOST}")
        || (!strncmp(v, "%{ENV:", 6) && v[strlen(v) - 1] == '}'))
        return NULL;
    return apr_psprintf(cmd->pool,
                        "application group \"%s\": write a name, %%{GLOBAL}, %%{SERVER}, %%{HOST}, "
                        "%%{RESOURCE} or %%{ENV:variable}",
                        v);
}

const char *wsgi_check_script(cmd_parms *cmd, const char *path)
{
    if (*path == '/')
        return NULL;
    return apr_psprintf(cmd->pool, "%s: write the whole path of %s, beginning with a slash",
                        cmd->cmd->name, path);
}

/* Has a fully known application imported when a process starts. */
static const char *preload(const char *script, const char *callable, const char *group)
{
    burrow_app_key key = {
        .target = str(script), .callable = str(callable), .application_group = str(group)};
    const char *error = NULL;
    burrow_app *app = burrow_app_find(wsgi_settings, &key, &error);
    if (app)
        burrow_app_preload(app);
    return error;
}

static const char *add_script_alias(cmd_parms *cmd, void *dir, const char *args)
{
    server_config *config = ap_get_module_config(cmd->server->module_config, &wsgi_module);
    script_alias alias = {.pass_authorization = -1};
    const char *error, *name, *value;
    int is_match = cmd->info != NULL, has_process_group = 0;

    alias.location = ap_getword_conf(cmd->pool, &args);
    alias.script = ap_getword_conf(cmd->pool, &args);
    if (!*alias.location || !*alias.script)
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " takes at least two arguments, ",
                           cmd->cmd->errmsg, NULL);
    if (!(is_match && *alias.script == '$') && (error = wsgi_check_script(cmd, alias.script)))
        return error;
    while (*args) {
        if ((error = wsgi_next_option(cmd, &args, &name, &value)))
            return error;
        if (!strcmp(name, "process-group")) {
            error = wsgi_check_process_group(cmd, value);
            has_process_group = 1;
        } else if (!strcmp(name, "application-group")) {
            error = wsgi_check_application_group(cmd, &value);
            alias.application_group = value;
        } else if (!strcmp(name, "callable-object")) {
            alias.callable = value;
        } else if (!strcmp(name, "pass-authorization")) {
            alias.pass_authorization = !ap_cstr_casecmp(value, "On");
            if (!alias.pass_authorization && ap_cstr_casecmp(value, "Off"))
                error = "pass-authorization must be On or Off";
        } else {
            error = wsgi_unknown_option(cmd, name, "process-group, application-group, callable-object "
                                              "and pass-authorization");
        }
        if (error)
            return error;
    }
    if (is_match && !(alias.regex = ap_pregcomp(cmd->pool, alias.location, AP_REG_EXTENDED)))
        return apr_psprintf(cmd->pool, "%s: \"%s\" is not a regular expression", cmd->cmd->name,
                            alias.location);
    APR_ARRAY_PUSH(config->aliases, script_alias) = alias;

    if (has_process_group && alias.application_group && *alias.application_group != '%'
        && !(is_match && ap_strchr_c(alias.script, '$'))
        && !(alias.callable && *alias.callable == '%'))
        return preload(alias.script, alias.callable, alias.application_group);
    return NULL;
}

static const char *add_import_script(cmd_parms *cmd, void *dir, const char *args)
{
    const char *script = ap_getword_conf(cmd->pool, &args);
    const char *group = NULL, *error, *name, *value;
    int has_process_group = 0;

    while (*args) {
        if ((error = wsgi_next_option(cmd, &args, &name, &value)))
            return error;
        if (!strcmp(name, "process-group")) {
            error = wsgi_check_process_group(cmd, value);
            has_process_group = 1;
        } else if (!strcmp(name, "application-group")) {
            error = wsgi_check_application_group(cmd, &value);
            group = value;
        } else {
            error = wsgi_unknown_option(cmd, name, "process-group and application-group");
        }
        if (error)
            return error;
    }
    if (!*script || !has_process_group || !group)
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " takes ", cmd->cmd->errmsg, NULL);
    if ((error = wsgi_check_script(cmd, script)))
        return error;
    if (*group == '%')
        return apr_psprintf(cmd->pool, "%s: there is no request yet that could tell what %s is; "
                            "write a name or %%{GLOBAL}", cmd->cmd->name, group);
    return preload(script, NULL, group);
}

static const char *set_process_group(cmd_parms *cmd, void *dir, const char *value)
{
    return wsgi_check_process_group(cmd, value);
}

static const char *set_application_group(cmd_parms *cmd, void *dir, const char *value)
{
    ((dir_config *)dir)->application_group = value;
    return wsgi_check_application_group(cmd, &((dir_config *)dir)->application_group);
}

static const char *set_python_home(cmd_parms *cmd, void *dir, const char *value)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : burrow_settings_python_home(wsgi_settings, str(value));
}

static const char *set_python_path(cmd_parms *cmd, void *dir, const char *value)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : burrow_settings_python_path(wsgi_settings, str(value));
}

static const char *ignore_flag(cmd_parms *cmd, void *dir, int value)
{
    return NULL;
}

#define HOOK_ARGUMENTS "the path of a script and, if wanted, application-group=name"
#define DIR_SLOT(field) (void *)APR_OFFSETOF(dir_config, field)

const command_rec wsgi_directives[] = {
    AP_INIT_RAW_ARGS("WSGIScriptAlias", add_script_alias, NULL, RSRC_CONF,
                     "a URL path and the path of a script"),
    AP_INIT_RAW_ARGS("WSGIScriptAliasMatch", add_script_alias, (void *)"match", RSRC_CONF,
                     "a regular expression for URL paths and the path of a script"),
    AP_INIT_RAW_ARGS("WSGIImportScript", add_import_script, NULL, RSRC_CONF,
                     "the path of a script, process-group=%{GLOBAL} and application-group=name"),
    AP_INIT_TAKE1("WSGIProcessGroup", set_process_group, NULL, RSRC_CONF | ACCESS_CONF,
                  "%{GLOBAL}"),
    AP_INIT_TAKE1("WSGIApplicationGroup", set_application_group, NULL, RSRC_CONF | ACCESS_CONF,
                  "the name of a sub-interpreter, or %{GLOBAL} for the main one"),
    AP_INIT_TAKE1("WSGICallableObject", ap_set_string_slot, DIR_SLOT(callable), OR_FILEINFO,
                  "the name of the application in its script"),
    AP_INIT_FLAG("WSGIScriptReloading", ap_set_flag_slot, DIR_SLOT(script_reloading), OR_FILEINFO,
                 "On or Off: load a script again when it changes"),
    AP_INIT_FLAG("WSGIPassAuthorization", ap_set_flag_slot, DIR_SLOT(pass_authorization),
                 OR_FILEINFO, "On or Off: give the Authorization header to the application"),
    AP_INIT_TAKE1("WSGIPythonHome", set_python_home, NULL, RSRC_CONF,
                  "the folder of a virtual environment or of a Python installation"),
    AP_INIT_TAKE1("WSGIPythonPath", set_python_path, NULL, RSRC_CONF,
                  "folders for sys.path, separated by colons"),
    AP_INIT_RAW_ARGS("WSGIAccessScript", wsgi_set_hook_script, DIR_SLOT(access), OR_AUTHCFG,
                     HOOK_ARGUMENTS),
    AP_INIT_RAW_ARGS("WSGIAuthUserScript", wsgi_set_hook_script, DIR_SLOT(auth_user), OR_AUTHCFG,
                     HOOK_ARGUMENTS),
    AP_INIT_RAW_ARGS("WSGIAuthGroupScript", wsgi_set_hook_script, DIR_SLOT(auth_group), OR_AUTHCFG,
                     HOOK_ARGUMENTS),
    AP_INIT_FLAG("WSGIGroupAuthoritative", ignore_flag, NULL, OR_AUTHCFG,
                 "On or Off; has no effect: Require says what is needed"),
    AP_INIT_RAW_ARGS("WSGIDispatchScript", wsgi_set_hook_script, DIR_SLOT(dispatch),
                     RSRC_CONF | ACCESS_CONF, HOOK_ARGUMENTS),
    AP_INIT_RAW_ARGS("WSGIHandlerScript", wsgi_add_handler_script, NULL, RSRC_CONF | ACCESS_CONF,
                     "a name for SetHandler and the like, and the path of a script"),
    {NULL}};
