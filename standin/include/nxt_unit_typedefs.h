/* Names of the libunit types; each is defined in the header it belongs to. */

#ifndef STANDIN_NXT_UNIT_TYPEDEFS_H
#define STANDIN_NXT_UNIT_TYPEDEFS_H

typedef struct nxt_unit_s               nxt_unit_t;
typedef struct nxt_unit_ctx_s           nxt_unit_ctx_t;
typedef struct nxt_unit_port_id_s       nxt_unit_port_id_t;
typedef struct nxt_unit_port_s          nxt_unit_port_t;
typedef struct nxt_unit_init_s          nxt_unit_init_t;
typedef struct nxt_unit_callbacks_s     nxt_unit_callbacks_t;
typedef struct nxt_unit_request_info_s  nxt_unit_request_info_t;
typedef struct nxt_unit_request_s       nxt_unit_request_t;
typedef struct nxt_unit_field_s         nxt_unit_field_t;
typedef union  nxt_unit_sptr_u          nxt_unit_sptr_t;

#endif
