/* What applications and hooks ask of httpd: mod_ssl's variables, request_rec, the scoreboard. */
#include "burrow_apache.h"

#include "scoreboard.h"

static int is_https(void *request)
{
    return wsgi_is_tls(((exchange *)request)->r);
}

static burrow_str ssl_variable(void *request, const char *name)
{
    return wsgi_tls_variable(((exchange *)request)->r, name);
}

static void *passed_request(void *request)
{
    request_rec *r = ((exchange *)request)->r;
    const dir_config *config = ap_get_module_config(r->per_dir_config, &wsgi_module);
    return config->pass_apache_request > 0 ? r : NULL;
}

static int scoreboard_of(burrow_scoreboard *board)
{
    const server_config *config = ap_get_module_config(ap_server_conf->module_config, &wsgi_module);
    const global_score *score;
    if (!config->server_metrics || !ap_exists_scoreboard_image())
        return 0;
    score = ap_get_scoreboard_global();
    *board = (burrow_scoreboard){.processes = score->server_limit,
                                 .threads = score->thread_limit,
                                 .generation = score->running_generation,
                                 .restart_time = score->restart_time};
    return 1;
}

static void process_score_of(int number, burrow_process_score *score)
{
    const process_score *found = ap_get_scoreboard_process(number);
    *score = (burrow_process_score){.pid = found->pid,
                                    .generation = found->generation,
                                    .quiescing = found->quiescing};
}

static char letter(unsigned char status)
{
    static const char letters[SERVER_NUM_STATUS] = {
        [SERVER_DEAD] = '.',       [SERVER_STARTING] = 'S',       [SERVER_READY] = '_',
        [SERVER_BUSY_READ] = 'R',  [SERVER_BUSY_WRITE] = 'W',     [SERVER_BUSY_KEEPALIVE] = 'K',
        [SERVER_BUSY_LOG] = 'L',   [SERVER_BUSY_DNS] = 'D',       [SERVER_CLOSING] = 'C',
        [SERVER_GRACEFUL] = 'G',   [SERVER_IDLE_KILL] = 'I',
    };
    return status < SERVER_NUM_STATUS ? letters[status] : '.';
}

/* Other processes write these while they are read. */
#define TEXT(array) ((burrow_str){array, strnlen(array, sizeof array)})

static void worker_score_of(int process, int thread, burrow_worker_score *score)
{
    const worker_score *found = ap_get_scoreboard_worker_from_indexes(process, thread);
    *score = (burrow_worker_score){.thread = found->thread_num,
                                   .generation = found->generation,
                                   .status = letter(found->status),
                                   .requests = found->access_count,
                                   .bytes = (uint64_t)found->bytes_served,
                                   .start_time = found->start_time,
                                   .stop_time = found->stop_time,
                                   .last_used = found->last_used,
                                   .client = TEXT(found->client),
                                   .request = TEXT(found->request),
                                   .vhost = TEXT(found->vhost)};
}

const burrow_httpd wsgi_httpd = {
    .is_https = is_https,
    .ssl_variable = ssl_variable,
    .request_rec = passed_request,
    .scoreboard = scoreboard_of,
    .process_score = process_score_of,
    .worker_score = worker_score_of,
};
