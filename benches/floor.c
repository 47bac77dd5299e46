/* The floor of the comparison on httpd: the same answers from a content handler in C. */
#include "httpd.h"
#include "http_config.h"
#include "http_protocol.h"

enum { ECHO_MAX = 65536 };

static char body10k[10240];

static int answer(request_rec *r, const char *body, int length)
{
    ap_set_content_type(r, "text/plain");
    ap_set_content_length(r, length);
    ap_rwrite(body, length, r);
    return OK;
}

static int echo(request_rec *r)
{
    int length = 0, status = ap_setup_client_block(r, REQUEST_CHUNKED_DECHUNK);
    long n;
    char *body = apr_palloc(r->pool, ECHO_MAX);

    if (status != OK || !ap_should_client_block(r))
        return status != OK ? status : HTTP_BAD_REQUEST;
    while (length < ECHO_MAX
           && (n = ap_get_client_block(r, body + length, ECHO_MAX - length)) > 0)
        length += n;
    return answer(r, body, length);
}

static int handle(request_rec *r)
{
    if (!strcmp(r->uri, "/hello"))
        return answer(r, "Hello, World!\n", 14);
    if (!strcmp(r->uri, "/body10k"))
        return answer(r, body10k, sizeof body10k);
    if (!strcmp(r->uri, "/echo"))
        return echo(r);
    return DECLINED;
}

static void register_hooks(apr_pool_t *pool)
{
    memset(body10k, 'x', sizeof body10k);
    ap_hook_handler(handle, NULL, NULL, APR_HOOK_MIDDLE);
}

module AP_MODULE_DECLARE_DATA floor_module = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, register_hooks
};
