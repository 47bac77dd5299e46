/* Applications of process groups that the configuration alone tells: they are imported when a
 * process starts. What depends on a request, or on .htaccess files, is left to the request. */
#include "burrow_apache.h"

#include "ap_listen.h"
#include "apr_fnmatch.h"

/* What the sections around an alias say. */
typedef struct {
    const char *process_group;
    const char *application_group;
    const char *callable;
    overrides_t overrides;
    int is_dispatched;
} surroundings;

static void read_section(surroundings *found, ap_conf_vector_t *section)
{
    const dir_config *config = ap_get_module_config(section, &wsgi_module);
    const core_dir_config *core = ap_get_core_module_config(section);

    if (core && !(core->override & OR_UNSET))
        found->overrides = core->override;
    if (!config)
        return;
    if (config->process_group)
        found->process_group = config->process_group;
    if (config->application_group)
        found->application_group = config->application_group;
    if (config->callable)
        found->callable = config->callable;
    found->is_dispatched |= config->dispatch != NULL;
}

static int is_prefix(const char *prefix, const char *path)
{
    size_t len = strlen(prefix);
    return !strncmp(prefix, path, len)
           && (!len || prefix[len - 1] == '/' || !path[len] || path[len] == '/');
}

/* <Directory> is asked about each folder that a script is in, with a slash at its end. */
static int holds_script(apr_pool_t *p, const core_dir_config *core, const char *script)
{
    const char *end = script;

    if (!core->r && !core->d_is_fnmatch)
        return is_prefix(core->d, script);
    while ((end = strchr(end, '/'))) {
        const char *folder = apr_pstrmemdup(p, script, (size_t)(++end - script));
        if (core->r ? !ap_regexec(core->r, folder, 0, NULL, 0)
                    : !apr_fnmatch(core->d, folder, APR_FNM_PATHNAME))
            return 1;
    }
    return 0;
}

static int holds_location(apr_pool_t *p, const core_dir_config *core, const char *location)
{
    if (core->r)
        return !ap_regexec(core->r, location, 0, NULL, 0);
    return core->d_is_fnmatch ? !apr_fnmatch(core->d, location, APR_FNM_PATHNAME)
                              : is_prefix(core->d, location);
}

static void walk(apr_pool_t *p, surroundings *found, const apr_array_header_t *sections,
                 const char *path,
                 int (*holds)(apr_pool_t *, const core_dir_config *, const char *))
{
    int i;
    for (i = 0; i < sections->nelts; i++) {
        ap_conf_vector_t *section = APR_ARRAY_IDX(sections, i, ap_conf_vector_t *);
        if (holds(p, ap_get_core_module_config(section), path))
            read_section(found, section);
    }
}

/* Whether nothing of it has to be asked of a request. */
static int is_settled(const surroundings *found)
{
    return found->process_group && *found->process_group && *found->process_group != '%'
           && !(found->callable && *found->callable == '%') && !found->is_dispatched
           && !(found->overrides & OR_FILEINFO);
}

/* The name of an application group, or NULL where a request tells it. */
static const char *group_name(apr_pool_t *p, const char *name, const server_rec *s, apr_port_t port,
                              const char *location)
{
    const char *host = wsgi_with_port(p, s->server_hostname, port);
    size_t len = strlen(location);

    if (!strcmp(name, "%{SERVER}"))
        return host;
    if (strcmp(name, "%{RESOURCE}"))
        return *name == '%' ? NULL : name;
    while (len && location[len - 1] == '/')
        len--;
    return apr_pstrcat(p, host, "|", apr_pstrmemdup(p, location, len), NULL);
}

static void preload(apr_pool_t *p, server_rec *s, const script_alias *alias,
                    const surroundings *found, apr_port_t port)
{
    const char *application_group = found->application_group ? found->application_group
                                                             : "%{RESOURCE}";
    const char *error;
    burrow_app_key key = {.target = wsgi_str(alias->script),
                          .callable = wsgi_str(found->callable),
                          .process_group = wsgi_str(found->process_group),
                          .server_name = wsgi_str(s->server_hostname)};
    burrow_app *app;

    application_group = group_name(p, application_group, s, port, alias->location);
    key.application_group = wsgi_str(application_group);
    /* What is refused here is refused to requests, which say so. */
    if (application_group && (app = burrow_app_find(wsgi_settings, &key, &error)))
        burrow_app_preload(app);
}

/* For each port at which the server can be asked for it. */
static void preload_alias(apr_pool_t *p, server_rec *s, const script_alias *alias)
{
    const core_server_config *core = ap_get_core_module_config(s->module_config);
    surroundings found = {0};
    const server_addr_rec *address;
    const ap_listen_rec *listener;

    read_section(&found, s->lookup_defaults);
    if (!alias->is_module)
        walk(p, &found, core->sec_dir, alias->script, holds_script);
    walk(p, &found, core->sec_url, alias->location, holds_location);
    if (alias->options.process_group)
        found.process_group = alias->options.process_group;
    if (alias->options.application_group)
        found.application_group = alias->options.application_group;
    if (alias->options.callable)
        found.callable = alias->options.callable;
    if (!is_settled(&found))
        return;
    for (address = s->addrs; address; address = address->next) {
        if (address->host_port)
            preload(p, s, alias, &found, address->host_port);
    }
    for (listener = ap_listeners; listener && !s->addrs; listener = listener->next)
        preload(p, s, alias, &found, listener->bind_addr->port);
}

void wsgi_preload_aliases(apr_pool_t *p, server_rec *main_server)
{
    server_rec *s;
    int i;

    for (s = main_server; s; s = s->next) {
        const server_config *config = ap_get_module_config(s->module_config, &wsgi_module);
        for (i = 0; i < config->aliases->nelts; i++) {
            const script_alias *alias = &APR_ARRAY_IDX(config->aliases, i, script_alias);
            /* Those of the main server are in all virtual hosts, most of which need none. */
            if (alias->server == s && !alias->regex && (s->is_virtual || !s->next))
                preload_alias(p, s, alias);
        }
    }
}
