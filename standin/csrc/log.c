/*
 * The two variadic functions of the API.  Each understands exactly the one
 * format that it is called with; anything else is logged as it stands.
 */

#include <stdarg.h>
#include <string.h>

#include "nxt_main.h"
#include "nxt_unit.h"

/* Both are defined in Rust. */
void standin_unit_log(int level, const char *text, size_t length);
void standin_task_log(nxt_uint_t level, const char *text, size_t length);

void standin_log_handler(nxt_uint_t level, nxt_log_t *log,
                         const char *fmt, ...);

void
nxt_unit_log(nxt_unit_ctx_t *ctx, int level, const char *fmt, ...)
{
    int         length;
    va_list     args;
    const char  *text;

    (void) ctx;

    if (strcmp(fmt, "%.*s") != 0) {
        standin_unit_log(level, fmt, strlen(fmt));
        return;
    }

    va_start(args, fmt);
    length = va_arg(args, int);
    text = va_arg(args, const char *);
    va_end(args);

    standin_unit_log(level, text, length < 0 ? 0 : (size_t) length);
}

void
standin_log_handler(nxt_uint_t level, nxt_log_t *log, const char *fmt, ...)
{
    size_t      length;
    va_list     args;
    const char  *text;

    (void) log;

    if (strcmp(fmt, "%*s") != 0) {
        standin_task_log(level, fmt, strlen(fmt));
        return;
    }

    va_start(args, fmt);
    length = va_arg(args, size_t);
    text = va_arg(args, const char *);
    va_end(args);

    standin_task_log(level, text, length);
}
