/* Trusted proxies: their directives, and their say about a request. src/proxies judges. */
#include "burrow_apache.h"

const char *wsgi_add_proxy_headers(cmd_parms *cmd, void *dir, const char *args)
{
    dir_config *config = dir;
    if (!config->proxy_headers)
        config->proxy_headers = apr_array_make(cmd->pool, 4, 1);
    while (*args) {
        const char *name = ap_getword_conf(cmd->pool, &args);
        unsigned char header;
        const char *error = burrow_proxy_header(wsgi_settings, wsgi_str(name), &header);
        if (error)
            return apr_psprintf(cmd->pool, "%s: %s", cmd->cmd->name, error);
        APR_ARRAY_PUSH(config->proxy_headers, unsigned char) = header;
    }
    return NULL;
}

const char *wsgi_add_trusted_proxies(cmd_parms *cmd, void *dir, const char *args)
{
    dir_config *config = dir;
    if (!config->proxies)
        config->proxies = apr_array_make(cmd->pool, 4, sizeof(burrow_network));
    while (*args) {
        const char *text = ap_getword_conf(cmd->pool, &args);
        burrow_network network;
        if (!burrow_network_parse(wsgi_str(text), &network))
            return apr_psprintf(cmd->pool, "%s: \"%s\" is neither an address nor a network: names "
                                "are not looked up, write 192.0.2.1 or 192.0.2.0/24",
                                cmd->cmd->name, text);
        APR_ARRAY_PUSH(config->proxies, burrow_network) = network;
    }
    return NULL;
}

static void *alloc(void *pool, size_t size)
{
    return apr_palloc(pool, size);
}

void wsgi_apply_proxies(burrow_request *request, request_rec *r, const dir_config *config)
{
    const apr_array_header_t *networks = config->proxies;
    burrow_proxies proxies = {
        .headers = (const unsigned char *)config->proxy_headers->elts,
        .n_headers = (size_t)config->proxy_headers->nelts,
        .networks = networks ? (const burrow_network *)networks->elts : NULL,
        .n_networks = networks ? (size_t)networks->nelts : 0,
    };
    /* httpd ends where there is no memory. */
    (void)burrow_proxies_apply(&proxies, request, alloc, r->pool);
}
