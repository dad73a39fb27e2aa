/*
 * A plugin whose request hook never ends, or with the configuration "destroy" its destruction; without one it does not
 * start, and says why in two lines.
 */
#include "mini_rproxy_plugin.h"

#include <string.h>
#include <unistd.h>

static mrp_str str(const char *text)
{
    mrp_str s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

static const mrp_host *the_host;
static mrp_ctx *the_ctx;
static int holds_destroy;

static mrp_status create(const mrp_host *host, mrp_ctx *ctx, mrp_str config, void **self)
{
    *self = NULL;
    the_host = host;
    the_ctx = ctx;
    if (config.len == 0) {
        host->log(ctx, MRP_LOG_ERROR, str("nothing to hold:\nwrite\tconfig"));
        return MRP_INVALID;
    }
    holds_destroy = config.len == 7 && memcmp(config.ptr, "destroy", 7) == 0;
    return MRP_OK;
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    (void)self;
    (void)x;
    if (holds_destroy)
        return MRP_CONTINUE;
    the_host->log(the_ctx, MRP_LOG_INFO, str("holding"));
    for (;;)
        pause();
}

static void destroy(void *self)
{
    (void)self;
    while (holds_destroy)
        pause();
}

const mrp_plugin MRP_PLUGIN_SYMBOL =
    MRP_PLUGIN_INIT("held", "1", .create = create, .on_request = on_request, .destroy = destroy);
