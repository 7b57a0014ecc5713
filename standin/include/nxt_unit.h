/* The part of libunit that the module uses. */

#ifndef STANDIN_NXT_UNIT_H
#define STANDIN_NXT_UNIT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "nxt_unit_request.h"
#include "nxt_unit_response.h"
#include "nxt_unit_typedefs.h"

/* What the functions below return. */
enum {
    NXT_UNIT_OK = 0,
    NXT_UNIT_ERROR = 1,
    NXT_UNIT_AGAIN = 2
};

/* Levels of nxt_unit_log(). */
enum {
    NXT_UNIT_LOG_ALERT = 0,
    NXT_UNIT_LOG_ERR = 1,
    NXT_UNIT_LOG_WARN = 2,
    NXT_UNIT_LOG_NOTICE = 3,
    NXT_UNIT_LOG_INFO = 4,
    NXT_UNIT_LOG_DEBUG = 5
};

/* The id of the port from which all contexts of a process take requests. */
#define NXT_UNIT_SHARED_PORT_ID  0xFFFFu

struct nxt_unit_port_id_s {
    pid_t     pid;
    uint16_t  id;
};

struct nxt_unit_port_s {
    nxt_unit_port_id_t  id;
    int                 in_fd;
    void                *data;
};

struct nxt_unit_s {
    void  *data;
};

struct nxt_unit_ctx_s {
    nxt_unit_t  *unit;
    void        *data;
};

struct nxt_unit_request_info_s {
    nxt_unit_ctx_t      *ctx;
    nxt_unit_request_t  *request;
    uint64_t            content_length;
    int                 content_fd;
    void                *data;
};

struct nxt_unit_callbacks_s {
    void  (*request_handler)(nxt_unit_request_info_t *req);
    void  (*close_handler)(nxt_unit_request_info_t *req);
    int   (*ready_handler)(nxt_unit_ctx_t *ctx);
    void  (*quit)(nxt_unit_ctx_t *ctx);
    void  (*shm_ack_handler)(nxt_unit_ctx_t *ctx);
    int   (*add_port)(nxt_unit_ctx_t *ctx, nxt_unit_port_t *port);
    void  (*remove_port)(nxt_unit_t *unit, nxt_unit_ctx_t *ctx,
                         nxt_unit_port_t *port);
    /* Receives from in_fd of a port in place of recvmsg(): -1 for nothing. */
    ssize_t  (*port_recv)(nxt_unit_ctx_t *ctx, nxt_unit_port_t *port,
                          void *buf, size_t size, void *oob,
                          size_t *oob_size);
};

struct nxt_unit_init_s {
    void                  *data;
    void                  *ctx_data;
    nxt_unit_callbacks_t  callbacks;
};

/* A process has one main context, and as many more as it allocates. */
nxt_unit_ctx_t *nxt_unit_init(nxt_unit_init_t *init);
nxt_unit_ctx_t *nxt_unit_ctx_alloc(nxt_unit_ctx_t *ctx, void *data);
int nxt_unit_process_port_msg(nxt_unit_ctx_t *ctx, nxt_unit_port_t *port);
void nxt_unit_done(nxt_unit_ctx_t *ctx);

int nxt_unit_response_init(nxt_unit_request_info_t *req, uint16_t status,
                           uint32_t max_fields_count,
                           uint32_t max_fields_size);
int nxt_unit_response_add_field(nxt_unit_request_info_t *req,
                                const char *name, uint8_t name_length,
                                const char *value, uint32_t value_length);
int nxt_unit_response_add_content(nxt_unit_request_info_t *req,
                                  const void *src, uint32_t size);
int nxt_unit_response_send(nxt_unit_request_info_t *req);
ssize_t nxt_unit_response_write_nb(nxt_unit_request_info_t *req,
                                   const void *start, size_t size,
                                   size_t min_size);
ssize_t nxt_unit_request_read(nxt_unit_request_info_t *req, void *dst,
                              size_t size);
void nxt_unit_request_done(nxt_unit_request_info_t *req, int rc);

/* The stand-in understands the format "%.*s" with (int, const char *) only. */
void nxt_unit_log(nxt_unit_ctx_t *ctx, int level, const char *fmt, ...);

#endif
