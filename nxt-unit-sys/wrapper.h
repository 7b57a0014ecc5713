/* Everything of Unit that the module uses, in Unit's own order. */
#include <nxt_main.h>
#include <nxt_unit.h>
#include <nxt_unit_request.h>
#include <nxt_unit_response.h>
#include <nxt_application.h>
