/*
 * A small language module for testing the host: a poll() loop per context.
 *
 *   /           "hello\n"
 *   /pid        the process id
 *   /thread     the thread id
 *   /request    method, target, path, query, addresses and fields
 *   /env        the environment variable named by the query
 *   /cwd        the working directory
 *   /echo       the request body
 *   /download   as many bytes as the query says; byte i is i % 251
 *   /sleep      answers after as many milliseconds as the query says
 *   /large      a head with a field of as many bytes as the query says
 *   /broken     promises 10 bytes, sends 5, fails
 *   /refuse     fails without an answer
 *
 * The environment variable HELLO may be "setup-fails", "start-fails" or
 * "start-dies".  THREADS is the number of contexts.
 */

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <nxt_main.h>
#include <nxt_application.h>
#include <nxt_unit.h>
#include <nxt_unit_request.h>
#include <nxt_unit_response.h>

#define MAX_JOBS     1024
#define MAX_THREADS  16
#define DRAIN_MS     5000

typedef struct {
    nxt_unit_request_info_t  *req;
    int                      echo;
    size_t                   left;
    size_t                   sent;
    long long                due;
    size_t                   have;
    size_t                   used;
    char                     buf[128 * 1024];
} job_t;

/* The shared port is the same for all contexts; the rest is a context's. */
static nxt_unit_port_t           *shared_port;
static __thread nxt_unit_port_t  *read_port;
static __thread job_t            *jobs[MAX_JOBS];
static __thread int              job_count, shared_open, quitting;

static pthread_t                 threads[MAX_THREADS];
static int                       thread_count;

static long long
now_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static char *
text(nxt_unit_sptr_t *sptr)
{
    return (char *) sptr->base + sptr->offset;
}

static int
head(nxt_unit_request_info_t *req, int status, long long length)
{
    int   size;
    char  value[32];

    size = snprintf(value, sizeof(value), "%lld", length);

    if (nxt_unit_response_init(req, status, 2, 128) != NXT_UNIT_OK
        || nxt_unit_response_add_field(req, "Content-Type", 12,
                                       "text/plain", 10) != NXT_UNIT_OK)
    {
        return NXT_UNIT_ERROR;
    }

    if (length < 0) {
        return NXT_UNIT_OK;
    }

    return nxt_unit_response_add_field(req, "Content-Length", 14, value, size);
}

static void
answer(nxt_unit_request_info_t *req, const char *body, size_t size)
{
    if (head(req, 200, size) != NXT_UNIT_OK
        || nxt_unit_response_send(req) != NXT_UNIT_OK
        || nxt_unit_response_write_nb(req, body, size, size) != (ssize_t) size)
    {
        nxt_unit_request_done(req, NXT_UNIT_ERROR);
        return;
    }

    nxt_unit_request_done(req, NXT_UNIT_OK);
}

static void
answer_text(nxt_unit_request_info_t *req, const char *body)
{
    answer(req, body, strlen(body));
}

static void
describe(nxt_unit_request_info_t *req)
{
    static __thread char  out[256 * 1024];
    size_t                n;
    uint32_t              i;
    nxt_unit_field_t      *f;
    nxt_unit_request_t    *r;

    r = req->request;

    n = snprintf(out, sizeof(out),
                 "method=%.*s\ntarget=%.*s\npath=%.*s\nquery=%.*s\n"
                 "version=%.*s\nserver=%.*s\nremote=%.*s\nlocal=%.*s\n"
                 "length=%llu\nfd=%d\ntls=%d\nlength_field=%d\n",
                 r->method_length, text(&r->method),
                 (int) r->target_length, text(&r->target),
                 (int) r->path_length, text(&r->path),
                 (int) r->query_length, r->query_length ? text(&r->query) : "",
                 r->version_length, text(&r->version),
                 (int) r->server_name_length, text(&r->server_name),
                 r->remote_length, text(&r->remote),
                 r->local_addr_length, text(&r->local_addr),
                 (unsigned long long) req->content_length,
                 req->content_fd != -1, r->tls,
                 (int) r->content_length_field);

    for (i = 0; i < r->fields_count; i++) {
        f = r->fields + i;
        n += snprintf(out + n, sizeof(out) - n, "%.*s: %.*s\n",
                      f->name_length, text(&f->name),
                      (int) f->value_length, text(&f->value));
    }

    answer(req, out, n);
}

static job_t *
new_job(nxt_unit_request_info_t *req)
{
    job_t  *job;

    job = job_count < MAX_JOBS ? malloc(sizeof(job_t)) : NULL;
    if (job == NULL) {
        nxt_unit_request_done(req, NXT_UNIT_ERROR);
        return NULL;
    }

    job->req = req;
    job->echo = 0;
    job->left = job->sent = job->have = job->used = 0;
    job->due = 0;
    jobs[job_count++] = job;

    return job;
}

static void
large(nxt_unit_request_info_t *req, size_t size)
{
    char  *value;

    value = malloc(size);
    memset(value, 'v', size);

    if (nxt_unit_response_init(req, 200, 1, 7 + size) != NXT_UNIT_OK
        || nxt_unit_response_add_field(req, "X-Large", 7, value, size)
           != NXT_UNIT_OK)
    {
        nxt_unit_request_done(req, NXT_UNIT_ERROR);

    } else {
        nxt_unit_request_done(req, NXT_UNIT_OK);
    }

    free(value);
}

static void
request_handler(nxt_unit_request_info_t *req)
{
    char                *path, *query, buf[4096];
    size_t              length;
    job_t               *job;
    nxt_unit_request_t  *r;

    r = req->request;
    path = text(&r->path);
    length = r->path_length;
    query = r->query_length ? text(&r->query) : "";

#define IS(name)  (length == strlen(name) && memcmp(path, name, length) == 0)

    if (IS("/pid")) {
        snprintf(buf, sizeof(buf), "%d\n", (int) getpid());
        answer_text(req, buf);

    } else if (IS("/thread")) {
        snprintf(buf, sizeof(buf), "%d\n", (int) syscall(SYS_gettid));
        usleep(10000);
        answer_text(req, buf);

    } else if (IS("/request")) {
        describe(req);

    } else if (IS("/env")) {
        snprintf(buf, sizeof(buf), "%.*s", (int) r->query_length, query);
        path = getenv(buf);
        answer_text(req, path != NULL ? path : "none");

    } else if (IS("/cwd")) {
        answer_text(req, getcwd(buf, sizeof(buf)) != NULL ? buf : "?");

    } else if (IS("/large")) {
        large(req, strtoul(query, NULL, 10));

    } else if (IS("/refuse")) {
        nxt_unit_request_done(req, NXT_UNIT_ERROR);

    } else if (IS("/broken")) {
        head(req, 200, 10);
        nxt_unit_response_add_content(req, "12345", 5);
        nxt_unit_response_send(req);
        nxt_unit_request_done(req, NXT_UNIT_ERROR);

    } else if (IS("/echo") || IS("/download")) {
        job = new_job(req);
        if (job == NULL) {
            return;
        }

        job->echo = IS("/echo");
        job->left = job->echo ? req->content_length
                              : strtoull(query, NULL, 10);

        if (head(req, 200, job->left) != NXT_UNIT_OK
            || nxt_unit_response_send(req) != NXT_UNIT_OK)
        {
            nxt_unit_request_done(req, NXT_UNIT_ERROR);
            free(jobs[--job_count]);
        }

    } else if (IS("/sleep")) {
        job = new_job(req);
        if (job != NULL) {
            job->due = now_ms() + strtol(query, NULL, 10);
        }

    } else {
        answer_text(req, "hello\n");
    }
}

/* Writes what can be written; 1 when the request is done. */
static int
pump(job_t *job)
{
    size_t   i, size;
    ssize_t  n;

    if (job->due != 0) {
        if (now_ms() < job->due) {
            return 0;
        }

        answer_text(job->req, "slept\n");
        return 1;
    }

    while (job->left > 0) {
        if (job->used == job->have) {
            size = job->left < sizeof(job->buf) ? job->left : sizeof(job->buf);

            if (job->echo) {
                n = nxt_unit_request_read(job->req, job->buf, size);
                if (n <= 0) {
                    nxt_unit_request_done(job->req, NXT_UNIT_ERROR);
                    return 1;
                }

                size = n;

            } else {
                for (i = 0; i < size; i++) {
                    job->buf[i] = (job->sent + i) % 251;
                }
            }

            job->have = size;
            job->used = 0;
        }

        n = nxt_unit_response_write_nb(job->req, job->buf + job->used,
                                       job->have - job->used, 0);
        if (n < 0) {
            nxt_unit_request_done(job->req, NXT_UNIT_ERROR);
            return 1;
        }

        if (n == 0) {
            return 0;
        }

        job->used += n;
        job->sent += n;
        job->left -= n;
    }

    nxt_unit_request_done(job->req, NXT_UNIT_OK);
    return 1;
}

static void
pump_all(void)
{
    int  i;

    for (i = 0; i < job_count; ) {
        if (pump(jobs[i])) {
            free(jobs[i]);
            jobs[i] = jobs[--job_count];

        } else {
            i++;
        }
    }
}

static int
add_port(nxt_unit_ctx_t *ctx, nxt_unit_port_t *port)
{
    (void) ctx;

    if (port->in_fd == -1) {
        return NXT_UNIT_OK;
    }

    if (port->id.id == (uint16_t) NXT_UNIT_SHARED_PORT_ID) {
        shared_port = port;
        shared_open = 1;

    } else {
        fcntl(port->in_fd, F_SETFL,
              fcntl(port->in_fd, F_GETFL) | O_NONBLOCK);
        read_port = port;
    }

    return NXT_UNIT_OK;
}

static void
remove_port(nxt_unit_t *unit, nxt_unit_ctx_t *ctx, nxt_unit_port_t *port)
{
    (void) unit;
    (void) ctx;

    if (port == shared_port) {
        nxt_unit_log(ctx, NXT_UNIT_LOG_NOTICE, "%.*s", 5, "drain");
        shared_open = 0;
    }
}

static void
quit(nxt_unit_ctx_t *ctx)
{
    nxt_unit_log(ctx, NXT_UNIT_LOG_NOTICE, "%.*s", 4, "quit");
    quitting = 1;
}

static void
close_handler(nxt_unit_request_info_t *req)
{
    /* It will be answered before the process ends. */
    (void) req;
}

static void
shm_ack_handler(nxt_unit_ctx_t *ctx)
{
    /* The loop tries all writers anyway. */
    (void) ctx;
}

static int
process(nxt_unit_ctx_t *ctx, nxt_unit_port_t *port)
{
    int  rc;

    do {
        rc = nxt_unit_process_port_msg(ctx, port);
    } while (rc == NXT_UNIT_OK && !quitting);

    return rc == NXT_UNIT_ERROR;
}

/* The life of a context. */
static int
run(nxt_unit_ctx_t *ctx)
{
    int            failed;
    long long      deadline;
    struct pollfd  fds[2];

    failed = 0;
    deadline = 0;

    while (!failed) {
        failed = !quitting && process(ctx, read_port);

        if (shared_open && !quitting && !failed) {
            failed = process(ctx, shared_port);
        }

        pump_all();

        if (quitting) {
            if (deadline == 0) {
                deadline = now_ms() + DRAIN_MS;
            }

            if (job_count == 0 || now_ms() > deadline) {
                break;
            }

            usleep(2000);
            continue;
        }

        fds[0].fd = read_port->in_fd;
        fds[1].fd = shared_open ? shared_port->in_fd : -1;
        fds[0].events = fds[1].events = POLLIN;
        poll(fds, 2, job_count > 0 ? 5 : -1);
    }

    while (job_count > 0) {
        nxt_unit_request_done(jobs[--job_count]->req, NXT_UNIT_ERROR);
    }

    return failed;
}

static void *
thread(void *main_ctx)
{
    nxt_unit_ctx_t  *ctx;

    ctx = nxt_unit_ctx_alloc(main_ctx, NULL);
    if (ctx != NULL) {
        run(ctx);
        nxt_unit_done(ctx);
    }

    return NULL;
}

static int
ready_handler(nxt_unit_ctx_t *ctx)
{
    int   wanted;
    char  *number;

    number = getenv("THREADS");
    wanted = number != NULL ? atoi(number) - 1 : 0;

    while (thread_count < wanted && thread_count < MAX_THREADS) {
        if (pthread_create(&threads[thread_count], NULL, thread, ctx) != 0) {
            return NXT_UNIT_ERROR;
        }

        thread_count++;
    }

    return NXT_UNIT_OK;
}

static nxt_int_t
start(nxt_task_t *task, nxt_process_data_t *data)
{
    int              failed;
    char             *how;
    nxt_unit_ctx_t   *ctx;
    nxt_unit_init_t  init;

    how = getenv("HELLO");

    if (how != NULL && strcmp(how, "start-fails") == 0) {
        task->log->handler(NXT_LOG_ALERT, task->log, "%*s", (size_t) 16,
                           (unsigned char *) "cannot start: no");
        return NXT_ERROR;
    }

    if (how != NULL && strcmp(how, "start-dies") == 0) {
        abort();
    }

    if (nxt_unit_default_init(task, &init, data->app) != NXT_OK) {
        return NXT_ERROR;
    }

    init.callbacks.request_handler = request_handler;
    init.callbacks.ready_handler = ready_handler;
    init.callbacks.add_port = add_port;
    init.callbacks.remove_port = remove_port;
    init.callbacks.quit = quit;
    init.callbacks.close_handler = close_handler;
    init.callbacks.shm_ack_handler = shm_ack_handler;

    ctx = nxt_unit_init(&init);
    if (ctx == NULL) {
        return NXT_ERROR;
    }

    nxt_unit_log(ctx, NXT_UNIT_LOG_NOTICE, "%.*s", 5, "ready");

    failed = run(ctx);

    while (thread_count > 0) {
        pthread_join(threads[--thread_count], NULL);
    }

    nxt_unit_done(ctx);

    exit(failed);
}

static nxt_int_t
setup(nxt_task_t *task, nxt_process_t *process, nxt_common_app_conf_t *conf)
{
    char       *how;
    nxt_str_t  component;

    static nxt_str_t  name = { 9, (unsigned char *) "component" };

    (void) process;

    how = getenv("HELLO");

    if (how != NULL && strcmp(how, "setup-fails") == 0) {
        return NXT_ERROR;
    }

    nxt_conf_get_string(nxt_conf_get_object_member(conf->self, &name, NULL),
                        &component);

    task->log->handler(NXT_LOG_NOTICE, task->log, "%*s", component.length,
                       component.start);

    return NXT_OK;
}

static uint32_t  compat[] = { NXT_VERNUM, NXT_DEBUG };

nxt_app_module_t  nxt_app_module = {
    .compat_length = sizeof(compat),
    .compat = compat,
    .type = { 19, (unsigned char *) "wasm-wasi-component" },
    .version = "0.1",
    .setup = setup,
    .start = start,
};
