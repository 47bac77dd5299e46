/* The manager, from the master process. */
#include "ngx_http_burrow.h"

#include <pwd.h>

#define STOP_TIMEOUT_MS 10000
/* For one read or write between nginx and a process of a group. */
#define SOCKET_TIMEOUT 60

static int log_descriptor(ngx_log_t *log)
{
    ngx_log_t *file_log = ngx_log_get_file_log(log);

    return file_log != NULL ? file_log->file->fd : STDERR_FILENO;
}

/* nginx counts as syslog does, from "stderr" instead of from "emerg"; debug has many kinds. */
static unsigned log_level(ngx_log_t *log)
{
    ngx_uint_t level = ngx_min(log->log_level, NGX_LOG_DEBUG);

    return level > NGX_LOG_EMERG ? (unsigned) level - 1 : 1;
}

/* The folder of the file with the pid, and a name in it. */
static ngx_int_t default_prefix(ngx_cycle_t *cycle, ngx_str_t pid, ngx_str_t *prefix)
{
    static const char name[] = "wsgi";

    if (pid.len == 0) {
        ngx_str_set(&pid, NGX_PID_PATH);
    }
    if (ngx_conf_full_name(cycle, &pid, 0) != NGX_OK) {
        return NGX_ERROR;
    }
    while (pid.len > 0 && pid.data[pid.len - 1] != '/') {
        pid.len--;
    }
    prefix->len = pid.len + sizeof(name) - 1;
    prefix->data = ngx_pnalloc(cycle->pool, prefix->len);
    if (prefix->data == NULL) {
        return NGX_ERROR;
    }
    ngx_memcpy(ngx_cpymem(prefix->data, pid.data, pid.len), name, sizeof(name) - 1);
    return NGX_OK;
}

/* When the configuration of http is judged, "user" and "pid" have been read if they stand before
 * it. Where "user" does not, init_module knows it; the log, too. */
ngx_int_t ngx_burrow_set_instance(ngx_cycle_t *cycle, ngx_burrow_main_conf_t *conf)
{
    ngx_core_conf_t *core = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);
    uid_t user = geteuid();
    gid_t group = getegid();
    struct passwd *account;

    if (user == 0 && core->user != (ngx_uid_t) NGX_CONF_UNSET_UINT) {
        user = core->user;
        group = core->group;
    } else if (user == 0 && (account = getpwnam(NGX_USER)) != NULL) {
        user = account->pw_uid;
        group = account->pw_gid;
    }
    if (conf->socket_prefix.data == NULL
        && default_prefix(cycle, core->pid, &conf->socket_prefix) != NGX_OK)
    {
        return NGX_ERROR;
    }
    if (ngx_conf_full_name(cycle, &conf->socket_prefix, 0) != NGX_OK) {
        return NGX_ERROR;
    }
    burrow_settings_instance(conf->settings, user, group, ngx_burrow_str(conf->socket_prefix),
                             SOCKET_TIMEOUT, log_level(cycle->log));
    return NGX_OK;
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
    if (ngx_burrow_set_instance(cycle, conf) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0, "burrow: no memory for the manager");
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
