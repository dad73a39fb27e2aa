/* A plugin that needs a function which nobody has. */
#include "mini_rproxy_plugin.h"

extern mrp_verdict nobody_has_this_function(void *self, mrp_exchange *x);

static mrp_status create(const mrp_host *host, mrp_ctx *ctx, mrp_str config, void **self)
{
    (void)host, (void)ctx, (void)config, (void)self;
    return MRP_OK;
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    return nobody_has_this_function(self, x);
}

const mrp_plugin MRP_PLUGIN_SYMBOL =
    MRP_PLUGIN_INIT("unresolved", "1", .create = create, .on_request = on_request);
