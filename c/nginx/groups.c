/* Process groups: the directives, and what nginx's upstream has to know for each location. */
#include "ngx_http_burrow.h"

/* For the head of an answer and, mostly, all of it. */
#define HEAD_BUFFER_SIZE 16384
/* For what the client is slow to take. */
#define BUFFER_SIZE 32768

/* Splits "name=value". */
static ngx_int_t split(ngx_str_t arg, burrow_pair *pair)
{
    u_char *equals = ngx_strlchr(arg.data, arg.data + arg.len, '=');

    if (equals == NULL) {
        return NGX_ERROR;
    }
    pair->name = (burrow_str) { (char *) arg.data, (size_t) (equals - arg.data) };
    pair->value = (burrow_str) {
        (char *) equals + 1, (size_t) (arg.data + arg.len - equals) - 1
    };
    return NGX_OK;
}

char *ngx_burrow_daemon_process(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_burrow_main_conf_t *main = conf;
    ngx_str_t *args = cf->args->elts;
    burrow_place place = ngx_burrow_here(cf);
    ngx_uint_t i, n = cf->args->nelts - 2;
    burrow_pair *options = ngx_palloc(cf->temp_pool, (n + 1) * sizeof(burrow_pair));
    const char *error;

    if (options == NULL) {
        return NGX_CONF_ERROR;
    }
    for (i = 0; i < n; i++) {
        if (split(args[2 + i], &options[i]) != NGX_OK) {
            return ngx_burrow_refuse(cf, "write its options as name=value");
        }
    }
    error = burrow_settings_daemon_process(main->settings, &place, ngx_burrow_str(args[1]), options,
                                           n);
    return error == NULL ? NGX_CONF_OK : ngx_burrow_refuse(cf, error);
}

char *ngx_burrow_process_group(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_burrow_loc_conf_t *conf = data;
    ngx_str_t *args = cf->args->elts;

    if (conf->process_group.data != NULL) {
        return "is duplicate";
    }
    conf->process_group = args[1];
    if (ngx_burrow_take_group(&conf->process_group) != NGX_OK) {
        return ngx_burrow_refuse(cf, "write the name of a process group, or %{GLOBAL}");
    }
    conf->process_group_place.file = cf->conf_file->file.name;
    conf->process_group_place.line = cf->conf_file->line;
    return NGX_CONF_OK;
}

void ngx_burrow_use_group(ngx_burrow_main_conf_t *main, const char *directive,
                          const ngx_burrow_place_t *place, ngx_str_t name)
{
    burrow_place where = {
        .directive = { directive, strlen(directive) },
        .file = ngx_burrow_str(place->file),
        .line = (unsigned) place->line,
    };

    if (name.len > 0) {
        burrow_settings_use_process_group(main->settings, &where, ngx_burrow_str(name));
    }
}

static ngx_burrow_group_t *find(ngx_burrow_main_conf_t *main, ngx_str_t name)
{
    ngx_burrow_group_t **group = main->groups.elts;
    ngx_uint_t i;

    for (i = 0; i < main->groups.nelts; i++) {
        if (group[i]->name.len == name.len
            && ngx_memcmp(group[i]->name.data, name.data, name.len) == 0)
        {
            return group[i];
        }
    }
    return NULL;
}

/* For a location whose application runs in a process group. */
ngx_int_t ngx_burrow_join_group(ngx_burrow_main_conf_t *main, ngx_burrow_loc_conf_t *conf)
{
    ngx_burrow_loc_conf_t **daemon = ngx_array_push(&main->daemons);
    ngx_burrow_group_t **group;

    if (daemon == NULL) {
        return NGX_ERROR;
    }
    *daemon = conf;
    ngx_burrow_use_group(main, "wsgi_process_group", &conf->process_group_place,
                         conf->process_group);
    conf->group = find(main, conf->process_group);
    if (conf->group != NULL) {
        return NGX_OK;
    }
    group = ngx_array_push(&main->groups);
    conf->group = ngx_pcalloc(main->groups.pool, sizeof(ngx_burrow_group_t));
    if (group == NULL || conf->group == NULL) {
        return NGX_ERROR;
    }
    *group = conf->group;
    conf->group->name = conf->process_group;
    conf->group->app = conf->app;
    return NGX_OK;
}

/* ---- nginx's upstream ------------------------------------------------------------------------ */

void ngx_burrow_create_upstream_conf(ngx_http_upstream_conf_t *conf)
{
    conf->buffering = NGX_CONF_UNSET;
    conf->buffer_size = NGX_CONF_UNSET_SIZE;
    conf->read_timeout = NGX_CONF_UNSET_MSEC;
    conf->hide_headers = NGX_CONF_UNSET_PTR;
    conf->pass_headers = NGX_CONF_UNSET_PTR;
}

char *ngx_burrow_merge_upstream_conf(ngx_conf_t *cf, ngx_burrow_loc_conf_t *loc_conf,
                                     ngx_burrow_loc_conf_t *loc_prev)
{
    static ngx_str_t hidden[] = {
        ngx_string("X-Accel-Expires"), ngx_string("X-Accel-Redirect"),
        ngx_string("X-Accel-Limit-Rate"), ngx_string("X-Accel-Buffering"),
        ngx_string("X-Accel-Charset"), ngx_null_string,
    };
    static ngx_http_upstream_srv_conf_t peers = { .peer.init = ngx_burrow_init_peer };
    ngx_http_upstream_conf_t *conf = &loc_conf->upstream, *prev = &loc_prev->upstream;
    ngx_hash_init_t hash = {
        .max_size = 512,
        .bucket_size = ngx_align(64, ngx_cacheline_size),
        .name = "wsgi_headers_hash",
    };

    ngx_conf_merge_value(conf->buffering, prev->buffering, 1);
    ngx_conf_merge_size_value(conf->buffer_size, prev->buffer_size, HEAD_BUFFER_SIZE);
    ngx_conf_merge_msec_value(conf->read_timeout, prev->read_timeout, NGX_CONF_UNSET_MSEC);
    if (conf->bufs.num == 0) {
        conf->bufs = prev->bufs;
    }
    if (conf->bufs.num == 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "wsgi_buffers: there have to be at least 2");
        return NGX_CONF_ERROR;
    }
    conf->upstream = &peers;
    conf->intercept_errors = loc_conf->intercept_errors;
    conf->change_buffering = 1;
    conf->preserve_output = 1; /* an answer may begin before the request's body has ended */
    ngx_str_set(&conf->module, "wsgi");
    return ngx_http_upstream_hide_headers_hash(cf, conf, prev, hidden, &hash) == NGX_OK
               ? NGX_CONF_OK
               : NGX_CONF_ERROR;
}

/* What the process group says where the location does not. */
static void complete(ngx_burrow_loc_conf_t *loc_conf)
{
    const burrow_group_options *options = &loc_conf->group->options;
    ngx_http_upstream_conf_t *conf = &loc_conf->upstream;

    conf->send_timeout = (ngx_msec_t) options->socket_timeout;
    if (conf->read_timeout == NGX_CONF_UNSET_MSEC) {
        conf->read_timeout = (ngx_msec_t) options->socket_timeout;
    }
    if (conf->bufs.num == 0) {
        conf->bufs.size = BUFFER_SIZE;
        conf->bufs.num = (ngx_int_t) ngx_max(options->response_buffer_size / BUFFER_SIZE, 2);
    }
    conf->busy_buffers_size = 2 * ngx_max(conf->buffer_size, conf->bufs.size);
}

void ngx_burrow_open_groups(ngx_burrow_main_conf_t *main, ngx_log_t *log)
{
    ngx_burrow_loc_conf_t **daemon = main->daemons.elts;
    ngx_burrow_group_t **group = main->groups.elts;
    ngx_uint_t i;

    for (i = 0; i < main->groups.nelts; i++) {
        ngx_burrow_open_group(group[i], log);
    }
    for (i = 0; i < main->daemons.nelts; i++) {
        complete(daemon[i]);
    }
}
