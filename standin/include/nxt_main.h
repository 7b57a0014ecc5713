/* Basic types, the log and the configuration values of the host. */

#ifndef STANDIN_NXT_MAIN_H
#define STANDIN_NXT_MAIN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * A module is bound to the version of its host.  1 is no version of Unit:
 * neither takes a module that was built for the other.
 */
#define NXT_VERNUM  1
#define NXT_DEBUG   0

#define NXT_OK     0
#define NXT_ERROR  (-1)

typedef int            nxt_int_t;
typedef unsigned int   nxt_uint_t;

typedef struct {
    size_t         length;
    unsigned char  *start;
} nxt_str_t;

/* The head of a message of a port; the stand-in's own have none. */
typedef enum {
    _NXT_PORT_MSG_QUIT = 0,
    _NXT_PORT_MSG_READ_QUEUE = 1
} nxt_port_msg_type_t;

typedef struct {
    uint32_t  stream;
    pid_t     pid;
    uint16_t  reply_port;
    uint8_t   type;
    uint8_t   last;
    uint8_t   mmap;
    uint8_t   nf;
    uint8_t   mf;
} nxt_port_msg_t;

/* Levels of the log. */
#define NXT_LOG_ALERT   0
#define NXT_LOG_ERR     1
#define NXT_LOG_WARN    2
#define NXT_LOG_NOTICE  3
#define NXT_LOG_INFO    4
#define NXT_LOG_DEBUG   5

typedef struct nxt_log_s   nxt_log_t;
typedef struct nxt_task_s  nxt_task_t;

/* Understands the format "%*s" with (size_t, unsigned char *) only. */
typedef void (*nxt_log_handler_t)(nxt_uint_t level, nxt_log_t *log,
                                  const char *fmt, ...);

struct nxt_log_s {
    nxt_log_handler_t  handler;
};

struct nxt_task_s {
    nxt_log_t  *log;
};

typedef enum {
    NXT_CONF_NULL = 0,
    NXT_CONF_BOOLEAN,
    NXT_CONF_INTEGER,
    NXT_CONF_NUMBER,
    NXT_CONF_STRING,
    NXT_CONF_ARRAY,
    NXT_CONF_OBJECT
} nxt_conf_type_t;

typedef struct nxt_conf_value_s  nxt_conf_value_t;

nxt_uint_t nxt_conf_type(const nxt_conf_value_t *value);
void nxt_conf_get_string(const nxt_conf_value_t *value, nxt_str_t *str);
double nxt_conf_get_number(nxt_conf_value_t *value);
uint8_t nxt_conf_get_boolean(nxt_conf_value_t *value);

/* index may be NULL; it receives the position of the member. */
nxt_conf_value_t *nxt_conf_get_object_member(const nxt_conf_value_t *value,
                                             const nxt_str_t *name,
                                             uint32_t *index);
nxt_uint_t nxt_conf_object_members_count(const nxt_conf_value_t *value);

/* Start with *next = 0; returns NULL past the last member. */
nxt_conf_value_t *nxt_conf_next_object_member(const nxt_conf_value_t *value,
                                              nxt_str_t *name, uint32_t *next);

nxt_uint_t nxt_conf_array_elements_count(const nxt_conf_value_t *value);
nxt_conf_value_t *nxt_conf_get_array_element(const nxt_conf_value_t *value,
                                             uint32_t index);

#endif
