/* A request's way to a process group: a connection to one of its workers, for which it may have to
 * wait, then nginx's upstream. */
#include "ngx_http_burrow.h"

/* How often those that wait try to connect. */
#define RETRY_MS 10

static ngx_burrow_relay_t *waiting_first(ngx_burrow_group_t *group)
{
    return ngx_queue_data(ngx_queue_head(&group->waiting), ngx_burrow_relay_t, waiting);
}

static void stop_waiting(ngx_burrow_relay_t *relay)
{
    if (relay->is_waiting) {
        relay->is_waiting = 0;
        ngx_queue_remove(&relay->waiting);
    }
}

/* The answer has ended, or the request has. */
void ngx_burrow_relay_leave(ngx_burrow_relay_t *relay)
{
    stop_waiting(relay);
    ngx_burrow_batch_leave(relay);
    if (relay->overdue.timer_set) {
        ngx_del_timer(&relay->overdue);
    }
    if (relay->next.posted) {
        ngx_delete_posted_event(&relay->next);
    }
}

static void destroy(void *data)
{
    ngx_burrow_relay_t *relay = data;

    ngx_burrow_relay_leave(relay);
    ngx_burrow_close_peer(relay);
    burrow_relay_destroy(relay->relay);
}

/* Ends what nginx's upstream has begun for the request, but not the request. */
static void abandon_upstream(ngx_http_request_t *r)
{
    if (r->upstream != NULL && r->upstream->cleanup != NULL) {
        r->main->count++; /* which the clean-up takes back */
        (*r->upstream->cleanup)(r);
    }
}

static void finish(ngx_burrow_relay_t *relay, ngx_int_t status)
{
    ngx_http_request_t *r = relay->request;

    if (r->upstream != NULL && r->upstream->state != NULL) {
        r->upstream->state->status = (ngx_uint_t) status;
    }
    abandon_upstream(r);
    ngx_burrow_relay_leave(relay);
    ngx_http_finalize_request(r, status);
}

static burrow_next judge(ngx_burrow_relay_t *relay, burrow_cause cause, ngx_socket_t fd)
{
    burrow_next next = burrow_relay_end(relay->relay, cause, fd);
    ngx_uint_t level = next.repeat ? NGX_LOG_INFO : NGX_LOG_ERR;

    ngx_log_error(level, relay->request->connection->log, 0,
                  "burrow: process group \"%V\": %*s", &relay->group->name, next.why.len,
                  next.why.data);
    return next;
}

/* ---- waiting for a connection ---------------------------------------------------------------- */

static void enqueue(ngx_burrow_relay_t *relay)
{
    ngx_burrow_group_t *group = relay->group;

    relay->is_waiting = 1;
    ngx_queue_insert_tail(&group->waiting, &relay->waiting);
    if (!group->retry.timer_set) {
        ngx_add_timer(&group->retry, RETRY_MS);
    }
    relay->request->read_event_handler = ngx_http_test_reading;
    relay->request->write_event_handler = ngx_http_request_empty_handler;
    if (ngx_burrow_watch_client(relay->request->connection) != NGX_OK) {
        finish(relay, NGX_HTTP_INTERNAL_SERVER_ERROR);
    }
}

static void fail_unreached(ngx_burrow_relay_t *relay)
{
    finish(relay, ngx_burrow_status_of(judge(relay, relay->obstacle, -1).outcome));
}

/* The first of those that wait tries; whether the next one may. */
static ngx_uint_t serve_first(ngx_burrow_relay_t *relay)
{
    ngx_connection_t *c = relay->request->connection;
    ngx_int_t rc = ngx_burrow_reach(relay);

    if (rc == NGX_AGAIN && (ngx_msec_int_t) (relay->give_up - ngx_current_msec) > 0) {
        return 0;
    }
    stop_waiting(relay);
    ngx_http_set_log_request(c->log, relay->request);
    if (rc == NGX_OK) {
        ngx_http_upstream_init(relay->request);
    } else {
        fail_unreached(relay);
    }
    ngx_http_run_posted_requests(c);
    return 1;
}

static void retry(ngx_event_t *event)
{
    ngx_burrow_group_t *group = ngx_queue_data(event, ngx_burrow_group_t, retry);

    while (!ngx_queue_empty(&group->waiting)) {
        if (!serve_first(waiting_first(group))) {
            if (!event->timer_set) {
                ngx_add_timer(event, RETRY_MS);
            }
            return;
        }
    }
}

/* A connection is idle now. */
void ngx_burrow_serve_waiting(ngx_burrow_group_t *group)
{
    if (!ngx_queue_empty(&group->waiting) && !group->retry.posted) {
        ngx_post_event(&group->retry, &ngx_posted_events);
    }
}

void ngx_burrow_open_group(ngx_burrow_group_t *group, ngx_log_t *log)
{
    static ngx_connection_t unused = { .fd = (ngx_socket_t) -1 }; /* the debug log looks at it */
    burrow_str socket;

    group->workers = burrow_group_open(group->app, &group->options);
    socket = group->options.socket;
    group->address.sun_family = AF_UNIX;
    ngx_memcpy(group->address.sun_path, socket.data,
               ngx_min(socket.len, sizeof(group->address.sun_path) - 1));
    ngx_queue_init(&group->waiting);
    group->retry.handler = retry;
    group->retry.data = &unused;
    group->retry.log = log;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* For all attempts together: that on_overdue be called in time. */
static void limit_queueing(ngx_burrow_relay_t *relay)
{
    ngx_msec_t timeout = (ngx_msec_t) relay->group->options.queue_timeout;
    ngx_msec_t gone = ngx_current_msec - relay->begun_at;

    if (timeout > 0) {
        ngx_add_timer(&relay->overdue, gone < timeout ? timeout - gone : 0);
    }
}

/* On a connection of its own; also again, where the first one was of no use. */
static void start(ngx_burrow_relay_t *relay)
{
    ngx_http_request_t *r = relay->request;
    ngx_int_t rc;

    if (ngx_burrow_create_upstream(relay) != NGX_OK) {
        finish(relay, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }
    limit_queueing(relay); /* again: the end of an upstream ends that, too */
    relay->lost = 0;
    relay->give_up = ngx_current_msec + (ngx_msec_t) relay->group->options.connect_timeout;
    rc = ngx_queue_empty(&relay->group->waiting) ? ngx_burrow_reach(relay) : NGX_AGAIN;
    if (rc == NGX_OK) {
        ngx_http_upstream_init(r);
    } else if (rc == NGX_AGAIN) {
        enqueue(relay);
    } else {
        fail_unreached(relay);
    }
}

/* What had to wait until nginx's upstream is through with an event of the connection. */
static void go_on(ngx_event_t *event)
{
    ngx_burrow_relay_t *relay = ngx_queue_data(event, ngx_burrow_relay_t, next);
    ngx_http_request_t *r = relay->request;
    ngx_connection_t *c = r->connection;
    burrow_next next = { .outcome = relay->outcome };

    ngx_http_set_log_request(c->log, r);
    if (relay->lost) {
        next = judge(relay, BURROW_CLOSED, r->upstream->peer.connection->fd);
    }
    if (next.repeat) {
        start(relay);
    } else {
        finish(relay, ngx_burrow_status_of(next.outcome));
    }
    ngx_http_run_posted_requests(c);
}

/* There is no answer, says the worker, or it has sent what is none. */
void ngx_burrow_relay_fail(ngx_burrow_relay_t *relay, burrow_outcome outcome)
{
    relay->outcome = outcome;
    ngx_post_event(&relay->next, &ngx_posted_events);
}

/* The connection has ended without an answer. Idle ones of the same worker are closed first. */
void ngx_burrow_relay_lost(ngx_burrow_relay_t *relay)
{
    relay->lost = 1;
    ngx_post_event(&relay->next, &ngx_posted_next_events);
}

/* No thread has taken the request, for as long as it may wait. */
static void on_overdue(ngx_event_t *event)
{
    ngx_burrow_relay_t *relay = ngx_queue_data(event, ngx_burrow_relay_t, overdue);
    ngx_connection_t *c = relay->request->connection;

    if (burrow_relay_taken(relay->relay) >= 0 || relay->request->upstream->header_sent) {
        return;
    }
    ngx_http_set_log_request(c->log, relay->request);
    finish(relay, ngx_burrow_status_of(judge(relay, BURROW_OVERDUE, -1).outcome));
    ngx_http_run_posted_requests(c);
}

static void set_event(ngx_burrow_relay_t *relay, ngx_event_t *event, ngx_event_handler_pt handler)
{
    event->handler = handler;
    event->data = relay->request->connection; /* the debug log looks at it */
    event->log = relay->request->connection->log;
}

/* What is known of the body. */
static void describe_body(ngx_http_request_t *r, burrow_request *request)
{
    ngx_chain_t *cl = r->request_body != NULL ? r->request_body->bufs : NULL;

    if (r->reading_body) {
        /* of chunks nginx counts what has arrived */
        request->content_length = r->headers_in.chunked ? -1 : r->headers_in.content_length_n;
        return;
    }
    for (; cl != NULL; cl = cl->next) {
        request->content_length += ngx_buf_size(cl->buf);
    }
    if (request->content_length == 0) {
        request->flags |= BURROW_NO_BODY | (ngx_burrow_is_handshake(r) ? BURROW_UPGRADE : 0);
    }
}

static ngx_burrow_relay_t *create(ngx_http_request_t *r)
{
    ngx_burrow_loc_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_burrow_module);
    ngx_burrow_relay_t *relay = ngx_pcalloc(r->pool, sizeof(ngx_burrow_relay_t));
    ngx_http_cleanup_t *at_end = ngx_http_cleanup_add(r, 0);
    burrow_request request;

    if (relay == NULL || at_end == NULL || ngx_burrow_describe_request(r, &request) != NGX_OK
        || ngx_burrow_describe_tls(r, &request) != NGX_OK)
    {
        return NULL;
    }
    describe_body(r, &request);
    relay->request = r;
    relay->group = conf->group;
    relay->is_single = (request.flags & BURROW_NO_BODY) && !(request.flags & BURROW_UPGRADE);
    relay->relay = burrow_relay_create(conf->group->workers, conf->app, &request);
    if (relay->relay == NULL) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "burrow: the head of this request is longer than a process group takes");
        return NULL;
    }
    at_end->handler = destroy;
    at_end->data = relay;
    set_event(relay, &relay->next, go_on);
    set_event(relay, &relay->overdue, on_overdue);
    return relay;
}

void ngx_burrow_relay(ngx_http_request_t *r)
{
    ngx_burrow_relay_t *relay = create(r);

    if (relay == NULL) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }
    relay->begun_at = ngx_current_msec;
    start(relay);
}
