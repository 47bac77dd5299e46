/* The manager process, as httpd's master sees it. */
#include "burrow_apache.h"

#include <sys/wait.h>
#include <unistd.h>

#include "ap_mpm.h"
#include "apr_thread_proc.h"

#define STOP_TIMEOUT_MS 5000
/* Where two in a row live shorter than this, the next starts at the MPM's next round, not now. */
#define SHORT_LIFE apr_time_from_sec(10)

/* They survive reloads, since the module is linked with -z nodelete. */
static pid_t master;
static apr_proc_t manager;
static apr_time_t started;
static int short_lives;
static int is_due;

static void died(int reason, void *data, int status);

static void start(server_rec *s)
{
    pid_t pid = 0;
    const char *error = burrow_manager_configure(wsgi_settings, STDERR_FILENO, &pid);
    is_due = 0;
    if (error)
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, s, "%s", error);
    if (pid > 0) {
        manager.pid = pid;
        started = apr_time_now();
        apr_proc_other_child_register(&manager, died, &manager, NULL, s->process->pool);
    }
}

static void died(int reason, void *data, int status)
{
    int state = 0;
    if (reason == APR_OC_REASON_RESTART) /* never at a graceful restart */
        burrow_manager_restarts();
    if (reason != APR_OC_REASON_DEATH && reason != APR_OC_REASON_LOST)
        return;
    apr_proc_other_child_unregister(data);
    burrow_manager_died();
    ap_mpm_query(AP_MPMQ_MPM_STATE, &state);
    if (state == AP_MPMQ_STOPPING || !wsgi_settings)
        return;
    ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                 "the manager process %" APR_PID_T_FMT " has died (%s %d); starting another",
                 manager.pid, WIFSIGNALED(status) ? "signal" : "exit status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    short_lives = apr_time_now() - started > SHORT_LIFE ? 0 : short_lives + 1;
    if (short_lives < 2)
        start(ap_server_conf);
    else
        is_due = 1;
}

int wsgi_manager_monitor(apr_pool_t *p, server_rec *s)
{
    if (is_due)
        start(s);
    return DECLINED;
}

static apr_status_t stop(void *data)
{
    if (getpid() == master)
        burrow_manager_stop(STOP_TIMEOUT_MS);
    return APR_SUCCESS;
}

void wsgi_manager_configure(server_rec *s)
{
    if (master != getpid()) {
        master = getpid();
        apr_pool_cleanup_register(s->process->pool, NULL, stop, apr_pool_cleanup_null);
    }
    start(s);
}

void wsgi_manager_detach(void)
{
    if (getpid() != master) /* the same process under -X */
        burrow_manager_detach();
}
