/* A connection to a worker whose answer is a 101: nginx's upstream passes bytes on, both ways,
 * which are in frames here. */
#include "ngx_http_burrow.h"

static ngx_burrow_relay_t *relay_of(ngx_connection_t *c)
{
    ngx_http_request_t *r = c->data;

    return r->upstream->peer.data;
}

/* Leaves what was in frames. How much that is; less than 0 where they are none. */
static ssize_t unframe(ngx_burrow_relay_t *relay, u_char *buf, size_t len)
{
    burrow_str bytes = { (char *) buf, len };
    u_char *last = buf;
    burrow_part part;

    for (;;) {
        switch (ngx_burrow_read_part(relay, &bytes, &part)) {
        case BURROW_PART_MORE:
            return last - buf;
        case BURROW_PART_END:
            relay->ended = 1;
            break;
        case BURROW_PART_BODY:
            if (part.body.fd != -1) {
                ngx_close_file(part.body.fd);
                return NGX_ERROR;
            }
            last = ngx_movemem(last, part.body.data, part.body.len);
            break;
        default:
            return NGX_ERROR;
        }
    }
}

static ssize_t receive(ngx_connection_t *c, u_char *buf, size_t size)
{
    ngx_burrow_relay_t *relay = relay_of(c);
    ssize_t n = 0;

    while (!relay->ended && n == 0) {
        n = ngx_burrow_receive(c, buf, size);
        if (n <= 0) {
            return n;
        }
        n = unframe(relay, buf, (size_t) n);
        if (n == 0 && !relay->ended && !c->read->ready) {
            return NGX_AGAIN;
        }
    }
    if (relay->ended) {
        c->read->eof = 1;
    }
    return n;
}

/* Begins a frame of what is to be sent, where there is none. */
static void begin_frame(ngx_burrow_relay_t *relay, size_t size)
{
    if (relay->frame_left == 0) {
        relay->frame_left = ngx_min(size, BURROW_FRAME_MAX);
        relay->header_left = BURROW_FRAME_HEADER;
        burrow_frame_header(relay->frame_left, 0, relay->header);
    }
}

/* Between two frames. */
static void tell(ngx_burrow_relay_t *relay, ngx_connection_t *c)
{
    u_char header[BURROW_FRAME_HEADER];

    if (relay->retired && relay->frame_left == 0) {
        relay->retired = 0;
        burrow_frame_retired(header);
        (void) send(c->fd, header, sizeof(header), 0); /* one that does not read is not told */
    }
}

/* What is not taken comes again the next time, maybe with more behind it. */
static ssize_t transmit(ngx_connection_t *c, u_char *buf, size_t size)
{
    ngx_burrow_relay_t *relay = relay_of(c);
    struct iovec iov[2];
    size_t taken;
    ssize_t n;

    begin_frame(relay, size);
    iov[0].iov_base = relay->header + BURROW_FRAME_HEADER - relay->header_left;
    iov[0].iov_len = relay->header_left;
    iov[1].iov_base = buf;
    iov[1].iov_len = relay->frame_left;
    do {
        n = writev(c->fd, iov, 2);
    } while (n == -1 && ngx_socket_errno == NGX_EINTR);

    if (n == -1 && ngx_socket_errno != NGX_EAGAIN) {
        c->write->error = 1;
        return NGX_ERROR;
    }
    n = ngx_max(n, 0);
    taken = ngx_min((size_t) n, relay->header_left);
    relay->header_left -= taken;
    relay->frame_left -= (size_t) n - taken;
    c->sent += n;
    if (relay->frame_left > 0) {
        c->write->ready = 0;
    }
    tell(relay, c);
    return (size_t) n > taken ? n - (ssize_t) taken : NGX_AGAIN;
}

/* The head of the answer is a 101; what has come behind it is in nginx's buffer. */
ngx_int_t ngx_burrow_open_tunnel(ngx_burrow_relay_t *relay)
{
    ngx_http_upstream_t *u = relay->request->upstream;
    ngx_buf_t *b = &u->buffer;
    ssize_t n = unframe(relay, b->pos, (size_t) (b->last - b->pos));

    if (n < 0) {
        return NGX_ERROR;
    }
    b->last = b->pos + n;
    u->peer.connection->recv = receive;
    u->peer.connection->send = transmit;
    u->peer.connection->idle = 1; /* nginx closes those when it is about to end: see peer.c */
    u->upgrade = 1;
    if (ngx_exiting) {
        ngx_burrow_retire_tunnel(relay);
    }
    return NGX_OK;
}

/* This process is about to end, but not before its clients have gone. */
void ngx_burrow_retire_tunnel(ngx_burrow_relay_t *relay)
{
    relay->retired = 1;
    tell(relay, relay->request->upstream->peer.connection);
}
