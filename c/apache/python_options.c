/* The directives for Python and its interpreters; src/settings judges them. */
#include "burrow_apache.h"

/* The section that is being read. */
static const burrow_scope *section;

const char *wsgi_set_python_home(cmd_parms *cmd, void *dir, const char *value)
{
    burrow_place place = wsgi_place(cmd);
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : burrow_settings_python_home(wsgi_settings, &place, wsgi_str(value));
}

/* Where the directive may stand anywhere: it is not read again in .htaccess files, which every
 * request reads. */
const char *wsgi_set_anywhere(cmd_parms *cmd, void *dir, const char *value)
{
    burrow_place place = wsgi_place(cmd);
    const char *error;

    if (!(cmd->override & (RSRC_CONF | ACCESS_CONF)))
        return NULL;
    error = burrow_settings_option(wsgi_settings, &place, section, wsgi_str(cmd->info),
                                   wsgi_str(value));
    return error ? apr_psprintf(cmd->pool, "%s: %s", cmd->cmd->name, error) : NULL;
}

const char *wsgi_set_global(cmd_parms *cmd, void *dir, const char *value)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : wsgi_set_anywhere(cmd, dir, value);
}

const char *wsgi_set_two_words(cmd_parms *cmd, void *dir, const char *one, const char *other)
{
    return wsgi_set_global(cmd, dir, other ? apr_pstrcat(cmd->pool, one, " ", other, NULL) : one);
}

/* May stand in <WSGIInterpreterOptions>, too. */
const char *wsgi_set_for_interpreters(cmd_parms *cmd, void *dir, const char *value)
{
    return wsgi_set_global(cmd, dir, value);
}

static int may_stand_in_section(const char *name)
{
    const command_rec *command;
    for (command = wsgi_directives; command->name; command++) {
        if (!ap_cstr_casecmp(command->name, name))
            return command->AP_TAKE1 == wsgi_set_for_interpreters;
    }
    return 0;
}

static const char *read_scope(cmd_parms *cmd, burrow_scope *scope, const char *args)
{
    const char *error, *name, *value;

    while (*args) {
        burrow_str *group;
        if ((error = wsgi_next_option(cmd, &args, &name, &value)))
            return error;
        if (!strcmp(name, "process-group"))
            group = &scope->process_group;
        else if (!strcmp(name, "application-group"))
            group = &scope->application_group;
        else
            return apr_psprintf(cmd->pool, "%s takes process-group= and application-group=, not "
                                "%s=", cmd->cmd->name, name);
        if (group->data)
            return apr_psprintf(cmd->pool, "%s: %s= is there twice", cmd->cmd->name, name);
        if (!strcmp(value, "%{GLOBAL}"))
            value = "";
        else if (*value == '%')
            return apr_psprintf(cmd->pool, "%s: write a name or %%{GLOBAL}, not %s",
                                cmd->cmd->name, value);
        *group = wsgi_str(value);
    }
    return NULL;
}

const char *wsgi_interpreter_options(cmd_parms *cmd, void *dir, const char *args)
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    const char *end = ap_strrchr_c(args, '>');
    const ap_directive_t *inside;
    burrow_scope scope = {{NULL, 0}, {NULL, 0}};

    if (error)
        return error;
    if (!end)
        return apr_pstrcat(cmd->pool, cmd->cmd->name, "> has no closing \">\"", NULL);
    if ((error = read_scope(cmd, &scope, apr_pstrmemdup(cmd->pool, args, (size_t)(end - args)))))
        return error;
    for (inside = cmd->directive->first_child; inside; inside = inside->next) {
        if (!may_stand_in_section(inside->directive))
            return apr_psprintf(cmd->pool, "%s may not stand in %s> (line %d)", inside->directive,
                                cmd->cmd->name, inside->line_num);
    }
    section = &scope;
    error = ap_walk_config(cmd->directive->first_child, cmd, cmd->context);
    section = NULL;
    return error;
}
