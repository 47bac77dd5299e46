/* Trusted proxies: their directives, and their say about a request. src/proxies judges. */
#include "ngx_http_burrow.h"

static void *push(ngx_conf_t *cf, ngx_array_t **array, size_t size)
{
    if (*array == NULL) {
        *array = ngx_array_create(cf->pool, 4, size);
    }
    return *array != NULL ? ngx_array_push(*array) : NULL;
}

char *ngx_burrow_trusted_proxy_headers(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_loc_conf_t *conf = data;
    ngx_burrow_main_conf_t *main =
        ngx_http_conf_get_module_main_conf(cf, ngx_http_burrow_module);
    ngx_str_t *args = cf->args->elts;
    unsigned char *header;
    const char *error;
    ngx_uint_t i;

    for (i = 1; i < cf->args->nelts; i++) {
        header = push(cf, &conf->proxy_headers, 1);
        if (header == NULL) {
            return NGX_CONF_ERROR;
        }
        error = burrow_proxy_header(main->settings, ngx_burrow_str(args[i]), header);
        if (error != NULL) {
            return ngx_burrow_refuse(cf, error);
        }
    }
    return NGX_CONF_OK;
}

char *ngx_burrow_trusted_proxies(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_loc_conf_t *conf = data;
    ngx_str_t *args = cf->args->elts;
    burrow_network *network;
    ngx_uint_t i;

    for (i = 1; i < cf->args->nelts; i++) {
        network = push(cf, &conf->proxies, sizeof(burrow_network));
        if (network == NULL) {
            return NGX_CONF_ERROR;
        }
        if (!burrow_network_parse(ngx_burrow_str(args[i]), network)) {
            return ngx_burrow_refuse(cf, "takes addresses and networks, as 192.0.2.0/24: names are "
                                         "not looked up");
        }
    }
    return NGX_CONF_OK;
}

/* Who is connected: the realip module may have made another of it already. */
static burrow_str peer(ngx_http_request_t *r)
{
    static ngx_str_t name = ngx_string("realip_remote_addr");
    ngx_http_variable_value_t *value =
        ngx_http_get_variable(r, &name, ngx_hash_key(name.data, name.len));

    if (value == NULL || value->not_found || value->len == 0) {
        return ngx_burrow_str(r->connection->addr_text);
    }
    return (burrow_str) { (char *) value->data, value->len };
}

static void *allocate(void *pool, size_t size)
{
    return ngx_palloc(pool, size);
}

ngx_int_t ngx_burrow_apply_proxies(ngx_http_request_t *r, burrow_request *request)
{
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    burrow_str client = request->vars[BURROW_REMOTE_ADDR];
    burrow_proxies proxies;

    if (conf->proxy_headers == NULL) {
        return NGX_OK;
    }
    ngx_memzero(&proxies, sizeof(proxies));
    proxies.headers = conf->proxy_headers->elts;
    proxies.n_headers = conf->proxy_headers->nelts;
    if (conf->proxies != NULL) {
        proxies.networks = conf->proxies->elts;
        proxies.n_networks = conf->proxies->nelts;
    }
    request->vars[BURROW_REMOTE_ADDR] = peer(r);
    if (burrow_proxies_apply(&proxies, request, allocate, r->pool) != 0) {
        return NGX_ERROR;
    }
    request->vars[BURROW_REMOTE_ADDR] = client;
    return NGX_OK;
}
