/* Connections of WebSockets on mpm_event, which no thread of httpd's has. */
#include "burrow_apache.h"

#include "ap_mpm.h"
#include "http_connection.h"
#include "mpm_common.h"

static int can_suspend;
/* mod_logio's. */
static APR_OPTIONAL_FN_TYPE(ap_logio_add_bytes_in) *count_in;
static APR_OPTIONAL_FN_TYPE(ap_logio_add_bytes_out) *count_out;

/* ---- what the host calls ------------------------------------------------------------------- */

static ssize_t receive(exchange *x, char *buf, size_t len)
{
    ssize_t n;

    do {
        n = recv(x->plain_fd, buf, len, MSG_DONTWAIT);
    } while (n == -1 && errno == EINTR);
    if (n > 0 && count_in)
        count_in(x->r->connection, n);
    return n == -1 && errno == EAGAIN ? NOTHING_YET : n;
}

/* What the core has received before the connection was suspended comes first. */
static ssize_t read_suspended(void *arg, char *buf, size_t len)
{
    exchange *x = arg;
    ssize_t n;

    if (x->is_drained)
        return receive(x, buf, len);
    n = wsgi_client_read(x, buf, len);
    x->is_drained = n < (ssize_t)len && x->plain_fd != -1;
    return n;
}

/* Without a flush bucket, which would have the core wait. An EOS is what mod_ssl passes on all that
 * it keeps for, and the core drops. */
static apr_status_t pass(exchange *x, conn_rec *c, const char *data, size_t len)
{
    apr_status_t rv;

    x->r->bytes_sent += (apr_off_t)len;
    APR_BRIGADE_INSERT_TAIL(x->out, apr_bucket_transient_create(data, len, c->bucket_alloc));
    APR_BRIGADE_INSERT_TAIL(x->out, apr_bucket_eos_create(c->bucket_alloc));
    rv = ap_pass_brigade(c->output_filters, x->out);
    apr_brigade_cleanup(x->out);
    return rv;
}

/* As the MPM does it: the core's filter, which is the last one, sends what it can. */
static apr_status_t send_pending(conn_rec *c)
{
    ap_filter_t *filter = c->output_filters;

    while (filter->next)
        filter = filter->next;
    return filter->frec->filter_func.out_func(filter, NULL);
}

static int send_suspended(void *arg, const char *data, size_t len)
{
    exchange *x = arg;
    conn_rec *c = x->r->connection;
    apr_status_t rv = APR_SUCCESS;
    ssize_t n;

    if (len && x->plain_fd != -1 && !c->data_in_output_filters) {
        n = send(x->plain_fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) { /* an error is met again by the core */
            if (count_out)
                count_out(c, n);
            x->r->bytes_sent += n;
            data += n;
            len -= (size_t)n;
        }
    }
    if (len)
        rv = pass(x, c, data, len);
    if (rv == APR_SUCCESS && c->data_in_output_filters)
        rv = send_pending(c);
    if (rv != APR_SUCCESS || c->aborted)
        return -1;
    return c->data_in_output_filters;
}

static void *finish_suspended(void *arg)
{
    request_rec *r = ((exchange *)arg)->r;
    conn_rec *c = r->connection;

    /* What cannot be sent now, such as mod_ssl's last words, is not waited for. */
    apr_socket_timeout_set(ap_get_conn_socket(c), 0);
    ap_process_request_after_handler(r);
    c->cs->state = CONN_STATE_SUSPENDED; /* the MPM counts those when they end */
    ap_start_lingering_close(c);
    return c->pool;
}

/* All that there is in memory ends, the socket with it; the memory is kept. */
static void close_suspended(void *pool)
{
    apr_allocator_max_free_set(apr_pool_allocator_get(pool), APR_ALLOCATOR_MAX_FREE_UNLIMITED);
    apr_pool_clear(pool);
}

static void release_suspended(void *pool)
{
    apr_pool_destroy(pool);
}

/* ---- the thread that the request came on ---------------------------------------------------- */

/* Whether a connection can do without its filters: httpd's own, which here move bytes and count
 * them. */
static int are_plain(const ap_filter_t *filter)
{
    static const char *const plain[] = {"core_in", "core", "log_input_output", "reqtimeout"};
    size_t i;

    for (; filter; filter = filter->next) {
        for (i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
            if (!strcmp(filter->frec->name, plain[i]))
                break;
        }
        if (i == sizeof(plain) / sizeof(*plain))
            return 0;
    }
    return 1;
}

/* With a small FlushMaxThreshold the core waits for a slow client; TLS adds to what it is given. */
static int core_waits(conn_rec *c)
{
    core_server_config *core = ap_get_core_module_config(c->base_server->module_config);

    return core->flush_max_threshold < 2 * BURROW_SUSPENDED_MAX;
}

int wsgi_client_suspend(void *arg, void *websocket, burrow_suspension *suspension)
{
    exchange *x = arg;
    request_rec *r = x->r;
    conn_rec *c = r->connection;
    apr_interval_time_t timeout = r->server->timeout;

    /* An internal redirect takes what its handler returns for a status. */
    if (!can_suspend || r->prev || r->main || c->master || !c->cs || c->aborted
        || core_waits(c))
        return -1;
    if (!websocket)
        return 0;
    apr_socket_timeout_get(ap_get_conn_socket(c), &timeout);
    x->plain_fd = -1;
    if (are_plain(c->input_filters) && are_plain(c->output_filters))
        apr_os_sock_get(&x->plain_fd, ap_get_conn_socket(c));
    *suspension = (burrow_suspension){.read = read_suspended,
                                      .drains = x->plain_fd != -1,
                                      .send = send_suspended,
                                      .finish = finish_suspended,
                                      .close = close_suspended,
                                      .release = release_suspended,
                                      .timeout = timeout};
    x->is_suspended = 1;
    ap_set_module_config(c->conn_config, &wsgi_module, websocket);
    return 0;
}

/* The last hook of mpm_event's process_socket(). Behind it the MPM's thread does no more with the
 * connection than c->sbh = NULL and cs->suspended = 1 (notify_suspend of 2.4.10 to 2.4.71). The
 * first changes nothing here; the second is read by the MPM's cleanup of the connection alone, for
 * which either value will do. So the host may drive the connection, and end it, at once. What the
 * two need is memory that is still theirs: it is kept until this hook runs on the same thread
 * again, or the thread ends. */
static void suspend_connection(conn_rec *c, request_rec *r)
{
    void *websocket = ap_get_module_config(c->conn_config, &wsgi_module);

    if (!websocket)
        return;
    ap_set_module_config(c->conn_config, &wsgi_module, NULL);
    c->sbh = NULL;
    burrow_suspended(websocket);
}

/* ---- the process ---------------------------------------------------------------------------- */

/* AsyncRequestWorkerFactor, which mpm_event tells nobody. */
static unsigned worker_factor(apr_pool_t *p)
{
    const ap_directive_t *directive;
    unsigned factor = 2;

    for (directive = ap_conftree; directive; directive = directive->next) {
        const char *args = directive->args;
        if (!ap_cstr_casecmp(directive->directive, "AsyncRequestWorkerFactor"))
            factor = (unsigned)atof(ap_getword_conf(p, &args));
    }
    return factor > 1 ? factor : 1;
}

/* How many connections mpm_event has in a process while its threads are idle; 0 where none can do
 * without a thread, or nothing tells when the process is to end. */
unsigned wsgi_suspended_init(apr_pool_t *p, unsigned threads)
{
#if AP_MODULE_MAGIC_AT_LEAST(20120211, 110)
    can_suspend = !strcmp(ap_show_mpm(), "event");
    count_in = APR_RETRIEVE_OPTIONAL_FN(ap_logio_add_bytes_in);
    count_out = APR_RETRIEVE_OPTIONAL_FN(ap_logio_add_bytes_out);
#endif
    return can_suspend ? threads * (1 + worker_factor(p)) : 0;
}

void wsgi_register_suspended(apr_pool_t *p)
{
    ap_hook_suspend_connection(suspend_connection, NULL, NULL, APR_HOOK_REALLY_LAST);
}
