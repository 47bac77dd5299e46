/* The manager, from the master process. */
#include "ngx_http_burrow.h"

#define STOP_TIMEOUT_MS 10000

static int log_descriptor(ngx_log_t *log)
{
    ngx_log_t *file_log = ngx_log_get_file_log(log);

    return file_log != NULL ? file_log->file->fd : STDERR_FILENO;
}

ngx_int_t ngx_burrow_init_module(ngx_cycle_t *cycle)
{
    ngx_burrow_main_conf_t *conf;
    const char *error;
    pid_t started;

    conf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_burrow_module);
    if (conf == NULL || ngx_test_config) {
        return NGX_OK;
    }
    error = burrow_manager_configure(conf->settings, log_descriptor(cycle->log), &started);
    if (error != NULL) {
        /* What is embedded works without it; at a reload NGX_ERROR would end the running master. */
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0, "burrow: %s", error);
    }
    return NGX_OK;
}

void ngx_burrow_exit_master(ngx_cycle_t *cycle)
{
    burrow_manager_stop(STOP_TIMEOUT_MS);
}
