/* What is known of a request's TLS connection. */
#include "ngx_http_burrow.h"

#if (NGX_HTTP_SSL)

#define LITERAL(s) ((burrow_str) { s, sizeof(s) - 1 })

static void free_text(void *certificate, void *text, CRYPTO_EX_DATA *data, int index, long argl,
                      void *argp)
{
    ngx_free(text);
}

static u_char *make_text(X509 *certificate, ngx_log_t *log)
{
    BIO *bio = BIO_new(BIO_s_mem());
    u_char *text = NULL;
    char *pem;
    long len;

    if (bio != NULL && PEM_write_bio_X509(bio, certificate)) {
        len = BIO_get_mem_data(bio, &pem);
        text = ngx_alloc((size_t) len + 1, log);
        if (text != NULL) {
            *ngx_cpymem(text, pem, len) = '\0';
        }
    }
    BIO_free(bio);
    return text;
}

/* In PEM; made once, and kept with the certificate. */
static burrow_str text_of(X509 *certificate, ngx_log_t *log)
{
    static int index = -1;
    u_char *text;

    if (index == -1) {
        index = X509_get_ex_new_index(0, NULL, NULL, NULL, free_text);
    }
    text = X509_get_ex_data(certificate, index);
    if (text == NULL) {
        text = make_text(certificate, log);
        if (text == NULL || !X509_set_ex_data(certificate, index, text)) {
            ngx_free(text);
            return (burrow_str) { NULL, 0 };
        }
    }
    return (burrow_str) { (char *) text, ngx_strlen(text) };
}

static burrow_str c_str(const char *s)
{
    return (burrow_str) { s, s != NULL ? ngx_strlen(s) : 0 };
}

/* What the client has shown, with the certificates that it sent for whoever does not know its
 * issuer. */
static burrow_pair *add_client(burrow_pair *pair, X509 *certificate, STACK_OF(X509) *chain,
                               ngx_connection_t *c, ngx_pool_t *pool)
{
    ngx_str_t name;
    int i;

    if (ngx_ssl_get_subject_dn(c, pool, &name) != NGX_OK) {
        return NULL;
    }
    *pair++ = (burrow_pair) { LITERAL("SSL_CLIENT_S_DN"), ngx_burrow_str(name) };
    *pair++ = (burrow_pair) { LITERAL("SSL_CLIENT_CERT"), text_of(certificate, c->log) };
    for (i = 0; i < sk_X509_num(chain); i++) {
        *pair++ = (burrow_pair) { LITERAL("SSL_CLIENT_CERT"),
                                  text_of(sk_X509_value(chain, i), c->log) };
    }
    return pair;
}

static burrow_pair *add(burrow_pair *pair, ngx_connection_t *c, X509 *client,
                        STACK_OF(X509) *chain, ngx_pool_t *pool)
{
    SSL *ssl = c->ssl->connection;
    X509 *server = SSL_get_certificate(ssl);
    ngx_str_t verify;

    if (ngx_ssl_get_client_verify(c, pool, &verify) != NGX_OK) {
        return NULL;
    }
    *pair++ = (burrow_pair) { LITERAL("SSL_PROTOCOL"), c_str(SSL_get_version(ssl)) };
    *pair++ = (burrow_pair) { LITERAL("SSL_CIPHER"), c_str(SSL_get_cipher_name(ssl)) };
    *pair++ = (burrow_pair) { LITERAL("SSL_CLIENT_VERIFY"), ngx_burrow_str(verify) };
    if (server != NULL) {
        *pair++ = (burrow_pair) { LITERAL("SSL_SERVER_CERT"), text_of(server, c->log) };
    }
    return client != NULL ? add_client(pair, client, chain, c, pool) : pair;
}

#define MOST 6 /* without the chain */

static ngx_int_t describe(ngx_http_request_t *r, burrow_request *request)
{
    SSL *ssl = r->connection->ssl->connection;
    X509 *client = SSL_get_peer_certificate(ssl); /* the connection keeps it, too */
    STACK_OF(X509) *chain = SSL_get_peer_cert_chain(ssl);
    size_t n = MOST + (chain != NULL ? (size_t) sk_X509_num(chain) : 0);
    burrow_pair *pairs = ngx_palloc(r->pool, n * sizeof(burrow_pair)), *end = NULL;

    if (pairs != NULL) {
        end = add(pairs, r->connection, client, chain, r->pool);
    }
    X509_free(client);
    if (end == NULL) {
        return NGX_ERROR;
    }
    request->tls = pairs;
    request->n_tls = (size_t) (end - pairs);
    return NGX_OK;
}

#endif

ngx_int_t ngx_burrow_describe_tls(ngx_http_request_t *r, burrow_request *request)
{
#if (NGX_HTTP_SSL)
    if (r->connection->ssl != NULL) {
        return describe(r, request);
    }
#endif
    return NGX_OK;
}
