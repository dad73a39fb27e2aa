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

const mrp_plugin MRP_PLUGIN_SYMBOL = {
    MRP_MAGIC, MRP_ABI_MAJOR, MRP_ABI_MINOR, sizeof(mrp_plugin), 0, 0, 0, 0,
    MRP_STR("unresolved"), MRP_STR("1"), create, on_request, 0, 0, 0,
};
