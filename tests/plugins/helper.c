/* A library with the function that unresolved.c needs; the test links it and then takes it away. */
#include "mini_rproxy_plugin.h"

mrp_verdict nobody_has_this_function(void *self, mrp_exchange *x);
mrp_verdict nobody_has_this_function(void *self, mrp_exchange *x)
{
    (void)self, (void)x;
    return MRP_CONTINUE;
}
