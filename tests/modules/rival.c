/*
 * A language module that serves nothing: it stands for the one that Unit ships
 * for the same type.  TYPE and VERSION are given by the test that builds it.
 */

#include <nxt_main.h>
#include <nxt_application.h>

static uint32_t  compat[] = { NXT_VERNUM, NXT_DEBUG };

static nxt_int_t
rival_start(nxt_task_t *task, nxt_process_data_t *data)
{
    (void) data;

    task->log->handler(NXT_LOG_ALERT, task->log, "the rival was started");

    return NXT_ERROR;
}

__attribute__((visibility("default")))
nxt_app_module_t  nxt_app_module = {
    .compat_length = sizeof(compat),
    .compat = compat,
    .type = { sizeof(TYPE) - 1, (u_char *) TYPE },
    .version = VERSION,
    .start = rival_start,
};
