/* A pointer stored as the distance from the place where it is stored. */

#ifndef STANDIN_NXT_UNIT_SPTR_H
#define STANDIN_NXT_UNIT_SPTR_H

#include <stdint.h>

#include "nxt_unit_typedefs.h"

union nxt_unit_sptr_u {
    uint8_t   base[1];
    uint32_t  offset;
};

#endif
