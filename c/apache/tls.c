/* What is known of a request's TLS connection, by mod_ssl or whoever takes its place. */
#include "burrow_apache.h"

#include "apr_optional.h"
#include "mod_ssl.h"

/* Optional functions are looked up each time: a restart loads mod_ssl anew. */
int wsgi_is_tls(request_rec *r)
{
    APR_OPTIONAL_FN_TYPE(ssl_is_https) *of_ssl = APR_RETRIEVE_OPTIONAL_FN(ssl_is_https);
    return of_ssl && of_ssl(r->connection);
}

burrow_str wsgi_tls_variable(request_rec *r, const char *name)
{
    APR_OPTIONAL_FN_TYPE(ssl_var_lookup) *of_ssl = APR_RETRIEVE_OPTIONAL_FN(ssl_var_lookup);
    return wsgi_str(of_ssl ? of_ssl(r->pool, r->server, r->connection, r, (char *)name) : NULL);
}

/* Of all that mod_ssl tells this is what takes time: once for each connection. */
static burrow_str server_certificate(request_rec *r)
{
    static const char key[] = "burrow-server-certificate";
    conn_rec *c = r->connection;
    const char *pem = apr_table_get(c->notes, key);
    burrow_str made;

    if (pem)
        return wsgi_str(pem);
    made = wsgi_tls_variable(r, "SSL_SERVER_CERT");
    pem = apr_pstrmemdup(c->pool, made.len ? made.data : "", made.len);
    apr_table_setn(c->notes, key, pem);
    return wsgi_str(pem);
}

static void add(apr_array_header_t *pairs, const char *name, burrow_str value)
{
    if (value.len)
        APR_ARRAY_PUSH(pairs, burrow_pair) = (burrow_pair){wsgi_str(name), value};
}

static void add_client(apr_array_header_t *pairs, request_rec *r)
{
    burrow_str certificate = wsgi_tls_variable(r, "SSL_CLIENT_CERT");
    int i;

    if (!certificate.len)
        return;
    add(pairs, "SSL_CLIENT_S_DN", wsgi_tls_variable(r, "SSL_CLIENT_S_DN"));
    for (i = 0; certificate.len; i++) {
        add(pairs, "SSL_CLIENT_CERT", certificate);
        certificate =
            wsgi_tls_variable(r, apr_psprintf(r->pool, "SSL_CLIENT_CERT_CHAIN_%d", i));
    }
}

void wsgi_describe_tls(burrow_request *request, request_rec *r)
{
    burrow_str verify;
    apr_array_header_t *pairs;

    if (!wsgi_is_tls(r))
        return;
    pairs = apr_array_make(r->pool, 6, sizeof(burrow_pair));
    verify = wsgi_tls_variable(r, "SSL_CLIENT_VERIFY");
    add(pairs, "SSL_PROTOCOL", wsgi_tls_variable(r, "SSL_PROTOCOL"));
    add(pairs, "SSL_CIPHER", wsgi_tls_variable(r, "SSL_CIPHER"));
    add(pairs, "SSL_CLIENT_VERIFY", verify);
    add(pairs, "SSL_SERVER_CERT", server_certificate(r));
    if (verify.len && strcmp(verify.data, "NONE"))
        add_client(pairs, r);
    request->tls = (burrow_pair *)pairs->elts;
    request->n_tls = (size_t)pairs->nelts;
}
