/* Connections to the workers of process groups, as peers of nginx's upstream: idle ones are kept,
 * and descriptors are received with the bytes. */
#include "ngx_http_burrow.h"

static void close_connection(ngx_connection_t *c)
{
    if (c->pool != NULL) {
        ngx_destroy_pool(c->pool);
    }
    ngx_close_connection(c);
}

/* ---- idle connections ------------------------------------------------------------------------ */

static void ignore(ngx_event_t *event)
{
}

/* nginx closes it where it has none left for a client. It takes such a one for a client's that
 * waits, which stub_status would show. */
static void set_reusable(ngx_connection_t *c, ngx_uint_t reusable)
{
    ngx_reusable_connection(c, reusable);
#if (NGX_STAT_STUB)
    (void) ngx_atomic_fetch_add(ngx_stat_waiting, reusable ? -1 : 1);
#endif
}

/* Whatever a worker sends here means that it wants the connection closed. */
static void on_idle(ngx_event_t *event)
{
    ngx_connection_t *c = event->data;
    ngx_burrow_group_t *group = c->data;
    char byte;

    if (!c->close && recv(c->fd, &byte, 1, MSG_PEEK) == -1 && ngx_socket_errno == NGX_EAGAIN) {
        event->ready = 0;
        return;
    }
    burrow_group_forget(group->workers, c);
    set_reusable(c, 0);
    close_connection(c);
}

static void set_log(ngx_connection_t *c, ngx_log_t *log)
{
    c->log = log;
    c->read->log = log;
    c->write->log = log;
    if (c->pool != NULL) {
        c->pool->log = log;
    }
}

static void rest(ngx_connection_t *c, ngx_burrow_group_t *group)
{
    if (c->read->timer_set) {
        ngx_del_timer(c->read);
    }
    if (c->write->timer_set) {
        ngx_del_timer(c->write);
    }
    c->read->handler = on_idle;
    c->write->handler = ignore;
    c->data = group;
    c->idle = 1;
    set_reusable(c, 1);
    set_log(c, ngx_cycle->log);
    if (c->read->ready) {
        on_idle(c->read);
    }
}

/* ---- a connection of a request --------------------------------------------------------------- */

/* The rest of what nginx does by itself it does with the head. */
static ngx_uint_t has_head(ngx_http_request_t *r)
{
    return r->upstream->header_sent;
}

ssize_t ngx_burrow_receive(ngx_connection_t *c, u_char *buf, size_t size)
{
    ngx_http_request_t *r = c->data;
    ngx_burrow_relay_t *relay = r->upstream->peer.data;
    ngx_event_t *event = c->read;
    int more = 0;
    ssize_t n;

    if (relay->next.posted) {
        return NGX_AGAIN; /* the request leaves this connection */
    }
    do {
        n = burrow_relay_receive(relay->relay, c->fd, buf, size, &more);
    } while (n == -1 && ngx_socket_errno == NGX_EINTR);

    if (n > 0) {
        if ((size_t) n < size && !more && !event->pending_eof) {
            event->ready = 0;
        }
        return n;
    }
    event->ready = 0;
    if (n == -1 && ngx_socket_errno == NGX_EAGAIN) {
        return NGX_AGAIN;
    }
    event->eof = 1;
    if (has_head(r)) {
        return 0;
    }
    ngx_burrow_relay_lost(relay);
    return NGX_AGAIN;
}

static ssize_t receive_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    return ngx_burrow_receive(c, in->buf->last, (size_t) (in->buf->end - in->buf->last));
}

/* A REQUEST that is all that is to be sent leaves together with others, unless its worker can begin
 * meanwhile, on another processor. */
static ngx_uint_t can_wait(ngx_burrow_relay_t *relay, ngx_buf_t *b)
{
    return relay->is_single && b->pos == (u_char *) burrow_relay_frame(relay->relay).data
           && burrow_relay_is_near(relay->relay);
}

/* A request without a body is one piece, which costs the system less than a vector of one. */
static ngx_chain_t *send_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    ngx_http_request_t *r = c->data;
    ngx_burrow_relay_t *relay = r->upstream->peer.data;
    ssize_t n;

    if (in == NULL || in->next != NULL || !ngx_buf_in_memory(in->buf) || !c->write->ready) {
        return ngx_send_chain(c, in, limit);
    }
    if (can_wait(relay, in->buf)) {
        ngx_burrow_batch_join(relay);
        return ngx_chain_update_sent(in, ngx_buf_size(in->buf));
    }
    n = ngx_send(c, in->buf->pos, (size_t) (in->buf->last - in->buf->pos));
    if (n == NGX_ERROR) {
        return NGX_CHAIN_ERROR;
    }
    return ngx_chain_update_sent(in, n == NGX_AGAIN ? 0 : n);
}

/* What nginx's upstream takes for a time limit counts from when a thread has the request; before
 * that, others count. */
static void on_event(ngx_event_t *event)
{
    ngx_connection_t *c = event->data;
    ngx_http_request_t *r = c->data;
    ngx_burrow_relay_t *relay = r->upstream->peer.data;
    ngx_msec_t timeout = r->upstream->conf->read_timeout;
    int64_t taken;

    if (c->close && r->upstream->upgrade) {
        c->close = 0;
        ngx_burrow_retire_tunnel(relay);
        return;
    }
    if (event->timedout && r->upstream->upgrade && !event->write) {
        event->timedout = 0; /* the application watches the time */
        return;
    }
    if (event->timedout && !has_head(r)) {
        taken = burrow_relay_taken(relay->relay);
        if (taken < (int64_t) timeout) {
            event->timedout = 0;
            ngx_add_timer(event, taken < 0 ? timeout : timeout - (ngx_msec_t) taken);
            return;
        }
    }
    relay->upstream_handler(event);
}

/* Once nginx's upstream has put its handlers there. */
void ngx_burrow_watch_peer(ngx_burrow_relay_t *relay)
{
    ngx_connection_t *c = relay->request->upstream->peer.connection;

    if (c->read->handler != on_event) {
        relay->upstream_handler = c->read->handler;
        c->read->handler = on_event;
        c->write->handler = on_event;
    }
}

static ngx_int_t get(ngx_peer_connection_t *pc, void *data)
{
    ngx_burrow_relay_t *relay = data;

    pc->connection = relay->connection;
    relay->connection = NULL;
    pc->sockaddr = (struct sockaddr *) &relay->group->address;
    pc->socklen = sizeof(struct sockaddr_un);
    pc->name = &relay->group->name;
    return NGX_DONE;
}

static void let_go(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
    ngx_burrow_relay_t *relay = data;
    ngx_http_upstream_t *u = relay->request->upstream;
    ngx_connection_t *c = pc->connection;
    burrow_str unread = { NULL, 0 };
    ngx_uint_t sent;

    if (c == NULL) {
        return;
    }
    if (!relay->filtering) {
        unread.data = (char *) u->buffer.pos;
        unread.len = (size_t) (u->buffer.last - u->buffer.pos);
    }
    sent = u->request_body_sent && !c->read->eof && !c->read->error && !c->write->error
           && !ngx_exiting && !ngx_terminate;
    if (burrow_relay_release(relay->relay, sent, unread)) {
        pc->connection = NULL;
        rest(c, relay->group);
        ngx_burrow_serve_waiting(relay->group);
    }
}

ngx_int_t ngx_burrow_init_peer(ngx_http_request_t *r, ngx_http_upstream_srv_conf_t *conf)
{
    ngx_peer_connection_t *pc = &r->upstream->peer;

    pc->get = get;
    pc->free = let_go;
    return NGX_OK;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static ngx_int_t set_buffers(ngx_socket_t fd, const burrow_group_options *options)
{
    int size = (int) options->send_buffer_size;

    if (size > 0 && setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == -1) {
        return NGX_ERROR;
    }
    size = (int) options->receive_buffer_size;
    if (size > 0 && setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) == -1) {
        return NGX_ERROR;
    }
    return NGX_OK;
}

/* Where the group's backlog is full, or its socket not there yet, it is to be tried again. Without
 * a manager it has no name: connect() would take that for one that anybody may listen at. */
static ngx_int_t connect_socket(ngx_socket_t fd, ngx_burrow_relay_t *relay)
{
    ngx_burrow_group_t *group = relay->group;
    ngx_err_t error;

    relay->obstacle = BURROW_ABSENT;
    if (group->address.sun_path[0] == '\0') {
        return NGX_ERROR;
    }
    if (fd == (ngx_socket_t) -1 || set_buffers(fd, &group->options) != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, relay->request->connection->log, ngx_socket_errno,
                      "burrow: socket() failed");
        return NGX_ERROR;
    }
    if (connect(fd, (struct sockaddr *) &group->address, sizeof(struct sockaddr_un)) == 0) {
        return NGX_OK;
    }
    error = ngx_socket_errno;
    relay->obstacle = error == NGX_EAGAIN ? BURROW_FULL : BURROW_ABSENT;
    if (error == NGX_EAGAIN || error == NGX_ENOENT || error == NGX_ECONNREFUSED) {
        return burrow_manager_is_gone() ? NGX_ERROR : NGX_AGAIN;
    }
    ngx_log_error(NGX_LOG_CRIT, relay->request->connection->log, error,
                  "burrow: process group \"%V\": connect() to %s failed", &group->name,
                  group->address.sun_path);
    return NGX_ERROR;
}

static ngx_connection_t *make_connection(ngx_socket_t fd, ngx_log_t *log)
{
    ngx_connection_t *c = ngx_get_connection(fd, log);

    if (c == NULL) {
        return NULL;
    }
    c->type = SOCK_STREAM;
    c->recv = ngx_burrow_receive;
    c->send = ngx_send;
    c->recv_chain = receive_chain;
    c->send_chain = send_chain;
    c->sendfile = 1;
    c->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;
    c->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    c->log_error = NGX_ERROR_INFO; /* what it means for the request is logged */
    c->start_time = ngx_current_msec;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);
    set_log(c, log);
    /* Not ngx_add_conn: that there is room again is of interest only where there was none. */
    c->write->ready = 1;
    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_free_connection(c);
        c->fd = (ngx_socket_t) -1;
        return NULL;
    }
    return c;
}

/* An idle connection or a new one. NGX_AGAIN: none now. */
ngx_int_t ngx_burrow_reach(ngx_burrow_relay_t *relay)
{
    ngx_log_t *log = relay->request->connection->log;
    ngx_connection_t *c = burrow_relay_take(relay->relay);
    ngx_socket_t fd;
    ngx_int_t rc;

    if (c != NULL) {
        c->idle = 0;
        set_reusable(c, 0);
        c->sent = 0;
        set_log(c, log);
        relay->connection = c;
        return NGX_OK;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    rc = connect_socket(fd, relay);
    if (rc == NGX_OK) {
        c = make_connection(fd, log);
        rc = c != NULL ? NGX_OK : NGX_ERROR;
    }
    if (rc != NGX_OK) {
        if (fd != (ngx_socket_t) -1) {
            ngx_close_socket(fd);
        }
        return rc;
    }
    burrow_relay_connect(relay->relay, c);
    relay->connection = c;
    return NGX_OK;
}

/* A connection that nginx's upstream has not got. */
void ngx_burrow_close_peer(ngx_burrow_relay_t *relay)
{
    if (relay->connection != NULL) {
        close_connection(relay->connection);
        relay->connection = NULL;
    }
}
