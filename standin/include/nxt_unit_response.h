/*
 * Responses are built through the functions in nxt_unit.h only; their layout
 * is private to the stand-in.  The header exists because builds include it.
 */

#ifndef STANDIN_NXT_UNIT_RESPONSE_H
#define STANDIN_NXT_UNIT_RESPONSE_H

#include "nxt_unit_typedefs.h"

#endif
