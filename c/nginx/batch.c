/* Requests for process groups that one turn of the event loop brings, where the worker is on the
 * same processor: those that are one frame are sent when the turn is over, by one system call. The
 * worker wakes up once for all of them; to wake it for each, with nginx preempted, costs more than
 * to send them. */
#include "ngx_http_burrow.h"

#include <linux/aio_abi.h>
#include <sys/syscall.h>

/* So many are sent at once. */
#define MOST 64

/* For connections, too, Linux's AIO carries out what it is given before it returns. */
static aio_context_t aio;

static ngx_connection_t *connection_of(ngx_burrow_relay_t *relay)
{
    return relay->request->upstream->peer.connection;
}

/* The first ones of them that still want to be sent. */
static ngx_uint_t take(ngx_queue_t *batch, ngx_burrow_relay_t **relays)
{
    ngx_burrow_relay_t *relay;
    ngx_uint_t n = 0;

    while (!ngx_queue_empty(batch) && n < MOST) {
        relay = ngx_queue_data(ngx_queue_head(batch), ngx_burrow_relay_t, batch);
        ngx_burrow_batch_leave(relay);
        if (!relay->next.posted) {
            relays[n++] = relay;
        }
    }
    return n;
}

/* How many of them were sent, from the first on: none where the system has no AIO, or no more. */
static long submit(ngx_burrow_relay_t **relays, ngx_uint_t n)
{
    static ngx_uint_t is_missing;
    struct iocb requests[MOST], *list[MOST];
    burrow_str frame;
    ngx_uint_t i;

    if (aio == 0 && !is_missing) {
        is_missing = syscall(SYS_io_setup, MOST, &aio) == -1;
    }
    if (aio == 0) {
        return 0;
    }
    ngx_memzero(requests, n * sizeof(struct iocb));
    for (i = 0; i < n; i++) {
        frame = burrow_relay_frame(relays[i]->relay);
        requests[i].aio_data = i;
        requests[i].aio_lio_opcode = IOCB_CMD_PWRITE;
        requests[i].aio_fildes = (uint32_t) connection_of(relays[i])->fd;
        requests[i].aio_buf = (uintptr_t) frame.data;
        requests[i].aio_nbytes = frame.len;
        list[i] = &requests[i];
    }
    return syscall(SYS_io_submit, aio, n, list);
}

/* 0 in `sent`: not by this. */
static void send_together(ngx_burrow_relay_t **relays, ngx_uint_t n, ssize_t *sent)
{
    struct io_event results[MOST];
    long i, submitted = submit(relays, n), done;

    if (submitted <= 0) {
        return;
    }
    done = syscall(SYS_io_getevents, aio, submitted, submitted, results, NULL);
    for (i = 0; i < submitted; i++) {
        sent[i] = NGX_ERROR;
    }
    for (i = 0; i < done; i++) {
        sent[results[i].data] = (ssize_t) results[i].res;
        connection_of(relays[results[i].data])->sent += ngx_max(results[i].res, 0);
    }
}

static void send_batch(ngx_event_t *event)
{
    ngx_queue_t *batch = event->data;
    ngx_burrow_relay_t *relays[MOST];
    ssize_t sent[MOST];
    ngx_uint_t i, n = take(batch, relays);
    ngx_connection_t *c;
    burrow_str frame;

    ngx_memzero(sent, sizeof(sent));
    if (n > 1) {
        send_together(relays, n, sent);
    }
    for (i = 0; i < n; i++) {
        c = connection_of(relays[i]);
        frame = burrow_relay_frame(relays[i]->relay);
        if (sent[i] == 0) {
            sent[i] = c->send(c, (u_char *) frame.data, frame.len);
        }
        if (sent[i] != (ssize_t) frame.len) {
            relays[i]->is_single = 0; /* another attempt can wait for room */
            c->write->error = 1;
            ngx_burrow_relay_lost(relays[i]);
        }
    }
    if (!ngx_queue_empty(batch)) {
        ngx_post_event(event, &ngx_posted_events);
    }
}

/* It is sent at the end of this turn. */
void ngx_burrow_batch_join(ngx_burrow_relay_t *relay)
{
    static ngx_queue_t batch;
    static ngx_event_t end = { .handler = send_batch, .data = &batch };

    if (batch.next == NULL) {
        ngx_queue_init(&batch);
    }
    ngx_queue_insert_tail(&batch, &relay->batch);
    relay->is_batched = 1;
    end.log = ngx_cycle->log;
    if (!end.posted) {
        ngx_post_event(&end, &ngx_posted_events);
    }
}

void ngx_burrow_batch_leave(ngx_burrow_relay_t *relay)
{
    if (relay->is_batched) {
        relay->is_batched = 0;
        ngx_queue_remove(&relay->batch);
    }
}
