/* One header field of a request. */

#ifndef STANDIN_NXT_UNIT_FIELD_H
#define STANDIN_NXT_UNIT_FIELD_H

#include <stdint.h>

#include "nxt_unit_sptr.h"

struct nxt_unit_field_s {
    uint8_t          skip : 1;
    uint8_t          name_length;
    uint32_t         value_length;
    nxt_unit_sptr_t  name;
    nxt_unit_sptr_t  value;
};

#endif
