/* What a language module exports, and what it is given. */

#ifndef STANDIN_NXT_APPLICATION_H
#define STANDIN_NXT_APPLICATION_H

#include "nxt_main.h"
#include "nxt_unit.h"

typedef struct nxt_process_s          nxt_process_t;
typedef struct nxt_fs_mount_s         nxt_fs_mount_t;
typedef struct nxt_app_module_s       nxt_app_module_t;
typedef struct nxt_common_app_conf_s  nxt_common_app_conf_t;

typedef struct {
    const char        *component;
    nxt_conf_value_t  *access;
} nxt_wasm_wc_app_conf_t;

typedef struct {
    const char        *module;
    nxt_conf_value_t  *access;
} nxt_wasm_app_conf_t;

struct nxt_common_app_conf_s {
    nxt_str_t         name;
    nxt_str_t         type;

    /* Who application processes run as; the user is never empty as root. */
    nxt_str_t         user;
    nxt_str_t         group;

    char              *working_directory;

    nxt_conf_value_t  *environment;
    nxt_conf_value_t  *isolation;
    nxt_conf_value_t  *limits;

    /* The whole application object. */
    nxt_conf_value_t  *self;

    union {
        nxt_wasm_app_conf_t     wasm;
        nxt_wasm_wc_app_conf_t  wasm_wc;
    } u;
};

typedef union {
    nxt_common_app_conf_t  *app;
} nxt_process_data_t;

typedef nxt_int_t (*nxt_application_setup_t)(nxt_task_t *task,
                                             nxt_process_t *process,
                                             nxt_common_app_conf_t *conf);
typedef nxt_int_t (*nxt_process_start_t)(nxt_task_t *task,
                                         nxt_process_data_t *data);

struct nxt_app_module_s {
    /* { NXT_VERNUM, NXT_DEBUG }, and its size in bytes. */
    size_t                   compat_length;
    uint32_t                 *compat;

    nxt_str_t                type;
    const char               *version;

    const nxt_fs_mount_t     *mounts;
    nxt_uint_t               nmounts;

    /* Runs in the prototype process, once. */
    nxt_application_setup_t  setup;
    /* Runs in every application process, for its life. */
    nxt_process_start_t      start;
};

nxt_int_t nxt_unit_default_init(nxt_task_t *task, nxt_unit_init_t *init,
                                nxt_common_app_conf_t *conf);

#endif
