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

static const char *set_process_group(cmd_parms *cmd, void *dir, const char *value)
{
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

#define HOOK_ARGUMENTS "the path of a script and, if wanted, application-group=name"
#define DIR_SLOT(field) (void *)APR_OFFSETOF(dir_config, field)
#define OPTION(name) (void *)name

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
    AP_INIT_TAKE1("WSGIProcessGroup", set_process_group, NULL, RSRC_CONF | ACCESS_CONF,
                  "%{GLOBAL}"),
    AP_INIT_TAKE1("WSGIApplicationGroup", set_application_group, NULL, RSRC_CONF | ACCESS_CONF,
                  "the name of a sub-interpreter, or %{GLOBAL} for the main one"),
    AP_INIT_RAW_ARGS("WSGIRestrictProcess", set_restrict_process, NULL, RSRC_CONF | ACCESS_CONF,
                     "the process groups that may be chosen"),
    AP_INIT_TAKE1("WSGICallableObject", ap_set_string_slot, DIR_SLOT(callable), OR_FILEINFO,
                  "the name of the application in its script"),

    /* requests */
    AP_INIT_FLAG("WSGIScriptReloading", ap_set_flag_slot, DIR_SLOT(script_reloading), OR_FILEINFO,
                 "On or Off: load a script again when it changes"),
    AP_INIT_FLAG("WSGIPassAuthorization", ap_set_flag_slot, DIR_SLOT(pass_authorization),
                 OR_FILEINFO, "On or Off: give the Authorization header to the application"),
    AP_INIT_FLAG("WSGIChunkedRequest", ap_set_flag_slot, DIR_SLOT(chunked_request), OR_FILEINFO,
                 "On or Off: take request bodies whose length is not known"),
    AP_INIT_TAKE1("WSGIMapHEADToGET", set_map_head_to_get, NULL, OR_FILEINFO,
                  "On, Off or Auto: HEAD requests reach the application as GET"),
    AP_INIT_FLAG("WSGIEnableSendfile", ap_set_flag_slot, DIR_SLOT(enable_sendfile), OR_FILEINFO,
                 "On or Off: send files by sendfile"),
    AP_INIT_RAW_ARGS("WSGITrustedProxyHeaders", wsgi_add_proxy_headers, NULL, OR_FILEINFO,
                     "the headers of trusted proxies, such as X-Forwarded-For"),
    AP_INIT_RAW_ARGS("WSGITrustedProxies", wsgi_add_trusted_proxies, NULL, OR_FILEINFO,
                     "the addresses or networks of trusted proxies"),
    AP_INIT_TAKE1("WSGIErrorOverride", wsgi_set_anywhere, OPTION("error-override"), OR_FILEINFO,
                  "On or Off"),
    AP_INIT_TAKE1("WSGIIgnoreActivity", wsgi_set_anywhere, OPTION("ignore-activity"), OR_FILEINFO,
                  "On or Off"),
    AP_INIT_TAKE1("WSGIPassApacheRequest", wsgi_set_anywhere, OPTION("pass-apache-request"),
                  RSRC_CONF | ACCESS_CONF, "On or Off"),

    /* hooks */
    AP_INIT_RAW_ARGS("WSGIAccessScript", wsgi_set_hook_script, DIR_SLOT(access), OR_AUTHCFG,
                     HOOK_ARGUMENTS),
    AP_INIT_RAW_ARGS("WSGIAuthUserScript", wsgi_set_hook_script, DIR_SLOT(auth_user), OR_AUTHCFG,
                     HOOK_ARGUMENTS),
    AP_INIT_RAW_ARGS("WSGIAuthGroupScript", wsgi_set_hook_script, DIR_SLOT(auth_group), OR_AUTHCFG,
                     HOOK_ARGUMENTS),
    AP_INIT_TAKE1("WSGIGroupAuthoritative", wsgi_set_anywhere, OPTION("group-authoritative"),
                  OR_AUTHCFG, "On or Off"),
    AP_INIT_RAW_ARGS("WSGIDispatchScript", wsgi_set_hook_script, DIR_SLOT(dispatch),
                     RSRC_CONF | ACCESS_CONF, HOOK_ARGUMENTS),
    AP_INIT_RAW_ARGS("WSGIHandlerScript", wsgi_add_handler_script, NULL, RSRC_CONF | ACCESS_CONF,
                     "a name for SetHandler and the like, and the path of a script"),

    /* Python, in all processes */
    AP_INIT_TAKE1("WSGIPythonHome", wsgi_set_python_home, NULL, RSRC_CONF,
                  "the folder of a virtual environment or of a Python installation"),
    AP_INIT_TAKE1("WSGIPythonOptimize", wsgi_set_global, OPTION("python-optimize"), RSRC_CONF,
                  "0, 1 or 2"),
    AP_INIT_TAKE1("WSGIPythonHashSeed", wsgi_set_global, OPTION("python-hash-seed"), RSRC_CONF,
                  "random or a number"),
    AP_INIT_TAKE1("WSGIPythonWarnings", wsgi_set_global, OPTION("python-warnings"), RSRC_CONF,
                  "a filter as for python -W"),
    AP_INIT_TAKE1("WSGIPythonEggs", wsgi_set_global, OPTION("python-eggs"), RSRC_CONF, "a folder"),
    AP_INIT_TAKE1("WSGIDontWriteBytecode", wsgi_set_global, OPTION("dont-write-bytecode"),
                  RSRC_CONF, "On or Off"),
    AP_INIT_TAKE1("WSGIDestroyInterpreter", wsgi_set_global, OPTION("destroy-interpreter"),
                  RSRC_CONF, "On or Off: run exit functions when a process ends"),
    AP_INIT_TAKE1("WSGIRestrictEmbedded", wsgi_set_global, OPTION("restrict-embedded"), RSRC_CONF,
                  "On or Off: run no application in httpd's own processes"),

    /* … or in some interpreters */
    AP_INIT_RAW_ARGS("<WSGIInterpreterOptions", wsgi_interpreter_options, NULL, RSRC_CONF,
                     "process-group=name and application-group=name"),
    AP_INIT_TAKE1("WSGIPythonPath", wsgi_set_for_interpreters, OPTION("python-path"), RSRC_CONF,
                  "folders for sys.path, separated by colons"),
    AP_INIT_TAKE1("WSGISwitchInterval", wsgi_set_for_interpreters, OPTION("switch-interval"),
                  RSRC_CONF, "seconds"),
    AP_INIT_TAKE1("WSGIRestrictStdin", wsgi_set_for_interpreters, OPTION("restrict-stdin"),
                  RSRC_CONF, "On or Off"),
    AP_INIT_TAKE1("WSGIRestrictStdout", wsgi_set_for_interpreters, OPTION("restrict-stdout"),
                  RSRC_CONF, "On or Off"),
    AP_INIT_TAKE1("WSGIRestrictSignal", wsgi_set_for_interpreters, OPTION("restrict-signal"),
                  RSRC_CONF, "On or Off"),
    AP_INIT_TAKE1("WSGIPerInterpreterGIL", wsgi_set_for_interpreters, OPTION("per-interpreter-gil"),
                  RSRC_CONF, "On or Off"),
    AP_INIT_TAKE1("WSGIFreeThreading", wsgi_set_for_interpreters, OPTION("free-threading"),
                  RSRC_CONF, "On or Off"),

    /* without an effect; the log says why */
    AP_INIT_TAKE1("WSGISocketPrefix", wsgi_set_global, OPTION("socket-prefix"), RSRC_CONF,
                  "a path"),
    AP_INIT_TAKE1("WSGISocketRotation", wsgi_set_global, OPTION("socket-rotation"), RSRC_CONF,
                  "On or Off"),
    AP_INIT_TAKE1("WSGIAcceptMutex", wsgi_set_global, OPTION("accept-mutex"), RSRC_CONF,
                  "a kind of lock"),
    AP_INIT_TAKE1("WSGICaseSensitivity", wsgi_set_global, OPTION("case-sensitivity"), RSRC_CONF,
                  "On or Off"),
    AP_INIT_TAKE1("WSGIVerboseDebugging", wsgi_set_global, OPTION("verbose-debugging"), RSRC_CONF,
                  "On or Off"),
    AP_INIT_TAKE1("WSGIServerMetrics", wsgi_set_global, OPTION("server-metrics"), RSRC_CONF,
                  "On or Off"),
    AP_INIT_TAKE12("WSGITelemetryService", wsgi_set_two_words, OPTION("telemetry-service"),
                   RSRC_CONF, "unix:/path and interval=seconds"),
    AP_INIT_TAKE1("WSGISlowRequests", wsgi_set_global, OPTION("slow-requests"), RSRC_CONF,
                  "seconds"),
    AP_INIT_RAW_ARGS("WSGITelemetryOptions", wsgi_set_global, OPTION("telemetry-options"),
                     RSRC_CONF, "None, All or names"),
    {NULL}};
