/* The table of directives, and those for a directory. Configuration is read more than once, also by
 * short-lived commands: directives only fill records. */
#include "burrow_apache.h"

burrow_place wsgi_place(const cmd_parms *cmd)
{
    return (burrow_place){
        .directive = wsgi_str(cmd->cmd->name),
        .file = wsgi_str(cmd->directive->filename),
        .line = (unsigned)cmd->directive->line_num,
        .server_name = cmd->server->is_virtual
                           ? (const char *const *)&cmd->server->server_hostname
                           : NULL,
    };
}

const char *wsgi_place_text(cmd_parms *cmd)
{
    return apr_psprintf(cmd->pool, "%s in %s:%d", cmd->cmd->name, cmd->directive->filename,
                        cmd->directive->line_num);
}

static const char *set_process_group(cmd_parms *cmd, void *dir, const char *value)
{
    ((dir_config *)dir)->group_place = wsgi_place_text(cmd);
    ((dir_config *)dir)->process_group = value;
    return wsgi_check_process_group(cmd, &((dir_config *)dir)->process_group);
}

static const char *set_application_group(cmd_parms *cmd, void *dir, const char *value)
{
    ((dir_config *)dir)->application_group = value;
    return wsgi_check_application_group(cmd, &((dir_config *)dir)->application_group);
}

static const char *set_restrict_process(cmd_parms *cmd, void *dir, const char *args)
{
    dir_config *config = dir;
    config->restrict_process = apr_array_make(cmd->pool, 4, sizeof(const char *));
    config->restrict_place = wsgi_place_text(cmd);
    while (*args) {
        const char *name = ap_getword_conf(cmd->pool, &args);
        APR_ARRAY_PUSH(config->restrict_process, const char *)
            = strcmp(name, "%{GLOBAL}") ? name : "";
    }
    return NULL;
}

static const char *set_map_head_to_get(cmd_parms *cmd, void *dir, const char *value)
{
    dir_config *config = dir;
    if (!ap_cstr_casecmp(value, "On"))
        config->map_head_to_get = WSGI_MAP_HEAD_ON;
    else if (!ap_cstr_casecmp(value, "Off"))
        config->map_head_to_get = WSGI_MAP_HEAD_OFF;
    else if (!ap_cstr_casecmp(value, "Auto"))
        config->map_head_to_get = WSGI_MAP_HEAD_AUTO;
    else
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " must be On, Off or Auto", NULL);
    return NULL;
}

static const char *set_server_metrics(cmd_parms *cmd, void *dir, int on)
{
    server_config *config = ap_get_module_config(cmd->server->module_config, &wsgi_module);
    config->server_metrics = on;
    return ap_check_cmd_context(cmd, GLOBAL_ONLY);
}

#define HOOK_ARGUMENTS "the path of a script and, if wanted, application-group=name"
#define DIR_SLOT(field) (void *)APR_OFFSETOF(dir_config, field)
#define OPTION(name) (void *)name
#define DIR_FLAG(name, field, help) \
    AP_INIT_FLAG(name, ap_set_flag_slot, DIR_SLOT(field), OR_FILEINFO, "On or Off: " help)
#define HOOK_SCRIPT(name, field, where) \
    AP_INIT_RAW_ARGS(name, wsgi_set_hook_script, DIR_SLOT(field), where, HOOK_ARGUMENTS)
/* Judged by src/settings: for all of httpd, or for some interpreters. */
#define GLOBAL_OPTION(name, option, help) \
    AP_INIT_TAKE1(name, wsgi_set_global, OPTION(option), RSRC_CONF, help)
#define INTERPRETER_OPTION(name, option, help) \
    AP_INIT_TAKE1(name, wsgi_set_for_interpreters, OPTION(option), RSRC_CONF, help)

const command_rec wsgi_directives[] = {
    /* applications */
    AP_INIT_RAW_ARGS("WSGIScriptAlias", wsgi_add_script_alias, NULL, RSRC_CONF,
                     "a URL path and the path of a script"),
    AP_INIT_RAW_ARGS("WSGIScriptAliasMatch", wsgi_add_script_alias, (void *)"match", RSRC_CONF,
                     "a regular expression for URL paths and the path of a script"),
    AP_INIT_RAW_ARGS("WSGIImportScript", wsgi_add_import_script, NULL, RSRC_CONF,
                     "the path of a script, process-group=%{GLOBAL} and application-group=name"),
    AP_INIT_RAW_ARGS("WSGIDaemonProcess", wsgi_add_daemon_process, NULL, RSRC_CONF,
                     "a name and options such as processes=2 threads=15"),
    AP_INIT_TAKE1("WSGISocketPrefix", wsgi_set_socket_prefix, NULL, RSRC_CONF,
                  "where the sockets of process groups are"),
    AP_INIT_TAKE1("WSGIProcessGroup", set_process_group, NULL, RSRC_CONF | ACCESS_CONF,
                  "%{GLOBAL}"),
    AP_INIT_TAKE1("WSGIApplicationGroup", set_application_group, NULL, RSRC_CONF | ACCESS_CONF,
                  "the name of a sub-interpreter, or %{GLOBAL} for the main one"),
    AP_INIT_RAW_ARGS("WSGIRestrictProcess", set_restrict_process, NULL, RSRC_CONF | ACCESS_CONF,
                     "the process groups that may be chosen"),
    AP_INIT_TAKE1("WSGICallableObject", ap_set_string_slot, DIR_SLOT(callable), OR_FILEINFO,
                  "the name of the application in its script"),

    /* requests */
    DIR_FLAG("WSGIScriptReloading", script_reloading, "load a script again when it changes"),
    DIR_FLAG("WSGIPassAuthorization", pass_authorization,
             "give the Authorization header to the application"),
    DIR_FLAG("WSGIChunkedRequest", chunked_request,
             "take request bodies whose length is not known"),
    AP_INIT_TAKE1("WSGIMapHEADToGET", set_map_head_to_get, NULL, OR_FILEINFO,
                  "On, Off or Auto: HEAD requests reach the application as GET"),
    DIR_FLAG("WSGIEnableSendfile", enable_sendfile, "send files by sendfile"),
    AP_INIT_RAW_ARGS("WSGITrustedProxyHeaders", wsgi_add_proxy_headers, NULL, OR_FILEINFO,
                     "the headers of trusted proxies, such as X-Forwarded-For"),
    AP_INIT_RAW_ARGS("WSGITrustedProxies", wsgi_add_trusted_proxies, NULL, OR_FILEINFO,
                     "the addresses or networks of trusted proxies"),
    AP_INIT_FLAG("WSGIErrorOverride", ap_set_flag_slot, DIR_SLOT(error_override), OR_FILEINFO,
                 "On or Off: a process group's error pages become httpd's"),
    AP_INIT_TAKE1("WSGIIgnoreActivity", wsgi_set_anywhere, OPTION("ignore-activity"), OR_FILEINFO,
                  "On or Off"),
    AP_INIT_FLAG("WSGIPassApacheRequest", ap_set_flag_slot, DIR_SLOT(pass_apache_request),
                 RSRC_CONF | ACCESS_CONF, "On or Off: give httpd's request_rec to the application"),
    AP_INIT_FLAG("WSGIServerMetrics", set_server_metrics, NULL, RSRC_CONF,
                 "On or Off: let applications see httpd's scoreboard"),

    /* hooks */
    HOOK_SCRIPT("WSGIAccessScript", access, OR_AUTHCFG),
    HOOK_SCRIPT("WSGIAuthUserScript", auth_user, OR_AUTHCFG),
    HOOK_SCRIPT("WSGIAuthGroupScript", auth_group, OR_AUTHCFG),
    AP_INIT_TAKE1("WSGIGroupAuthoritative", wsgi_set_anywhere, OPTION("group-authoritative"),
                  OR_AUTHCFG, "On or Off"),
    HOOK_SCRIPT("WSGIDispatchScript", dispatch, RSRC_CONF | ACCESS_CONF),
    AP_INIT_RAW_ARGS("WSGIHandlerScript", wsgi_add_handler_script, NULL, RSRC_CONF | ACCESS_CONF,
                     "a name for SetHandler and the like, and the path of a script"),

    /* Python, in all processes */
    AP_INIT_TAKE1("WSGIPythonHome", wsgi_set_python_home, NULL, RSRC_CONF,
                  "the folder of a virtual environment or of a Python installation"),
    GLOBAL_OPTION("WSGIPythonOptimize", "python-optimize", "0, 1 or 2"),
    GLOBAL_OPTION("WSGIPythonHashSeed", "python-hash-seed", "random or a number"),
    GLOBAL_OPTION("WSGIPythonWarnings", "python-warnings", "a filter as for python -W"),
    GLOBAL_OPTION("WSGIPythonEggs", "python-eggs", "a folder"),
    GLOBAL_OPTION("WSGIDontWriteBytecode", "dont-write-bytecode", "On or Off"),
    GLOBAL_OPTION("WSGIDestroyInterpreter", "destroy-interpreter",
                  "On or Off: run exit functions when a process ends"),
    GLOBAL_OPTION("WSGIRestrictEmbedded", "restrict-embedded",
                  "On or Off: run no application in httpd's own processes"),

    /* … or in some interpreters */
    AP_INIT_RAW_ARGS("<WSGIInterpreterOptions", wsgi_interpreter_options, NULL, RSRC_CONF,
                     "process-group=name and application-group=name"),
    INTERPRETER_OPTION("WSGIPythonPath", "python-path",
                       "folders for sys.path, separated by colons"),
    INTERPRETER_OPTION("WSGISwitchInterval", "switch-interval", "seconds"),
    INTERPRETER_OPTION("WSGIRestrictStdin", "restrict-stdin", "On or Off"),
    INTERPRETER_OPTION("WSGIRestrictStdout", "restrict-stdout", "On or Off"),
    INTERPRETER_OPTION("WSGIRestrictSignal", "restrict-signal", "On or Off"),
    INTERPRETER_OPTION("WSGIInterface", "interface", "auto, wsgi or asgi"),
    INTERPRETER_OPTION("WSGILoop", "loop", "auto, asyncio or uvloop"),
    INTERPRETER_OPTION("WSGIWebSocketMaxMessage", "websocket-max-message", "bytes"),
    INTERPRETER_OPTION("WSGIWebSocketPingInterval", "websocket-ping-interval", "seconds"),
    INTERPRETER_OPTION("WSGIWebSocketIdleTimeout", "websocket-idle-timeout", "seconds"),
    INTERPRETER_OPTION("WSGIPerInterpreterGIL", "per-interpreter-gil", "On or Off"),
    INTERPRETER_OPTION("WSGIFreeThreading", "free-threading", "On or Off"),

    /* without an effect; the log says why */
    GLOBAL_OPTION("WSGISocketRotation", "socket-rotation", "On or Off"),
    GLOBAL_OPTION("WSGIAcceptMutex", "accept-mutex", "a kind of lock"),
    GLOBAL_OPTION("WSGICaseSensitivity", "case-sensitivity", "On or Off"),
    GLOBAL_OPTION("WSGIVerboseDebugging", "verbose-debugging", "On or Off"),
    AP_INIT_TAKE12("WSGITelemetryService", wsgi_set_two_words, OPTION("telemetry-service"),
                   RSRC_CONF, "unix:/path and interval=seconds"),
    GLOBAL_OPTION("WSGISlowRequests", "slow-requests", "seconds"),
    AP_INIT_RAW_ARGS("WSGITelemetryOptions", wsgi_set_global, OPTION("telemetry-options"),
                     RSRC_CONF, "None, All or names"),
    {NULL}};
