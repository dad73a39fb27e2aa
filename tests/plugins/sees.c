/*
 * A plugin that tells all that it sees: in each hook one line of the log with every attribute that is there, as NUMBER=VALUE.
 * It also does what else can be seen of a plugin: a pair in the access line, a counter and a gauge.
 * config: {pair: VALUE}
 */
#include "mini_rproxy_plugin.h"

#include <stdio.h>
#include <string.h>

static const mrp_host *host;
static mrp_ctx *the_ctx;
static mrp_str pair;
static uint32_t requests, level;

static mrp_str str(const char *text)
{
    mrp_str s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

static mrp_status create(const mrp_host *h, mrp_ctx *ctx, mrp_str config, void **self)
{
    (void)config;
    *self = NULL;
    host = h;
    the_ctx = ctx;
    if (host->config_get(ctx, str("/pair"), &pair) != MRP_OK)
        return MRP_INVALID;
    if (host->metric_define(ctx, MRP_METRIC_COUNTER, str("requests_total"), str("What it saw."), &requests) != MRP_OK)
        return MRP_INVALID;
    return host->metric_define(ctx, MRP_METRIC_GAUGE, str("level"), str("Goes down."), &level);
}

static void tell(mrp_exchange *x, const char *hook)
{
    char text[4000];
    mrp_str value;
    uint32_t attr;
    size_t len = (size_t)sprintf(text, "%s", hook);
    for (attr = 1; attr < 64; attr++) {
        if (host->attr_get(x, attr, &value) != MRP_OK || value.len > 100 || len > 3800)
            continue;
        len += (size_t)sprintf(text + len, " %u=%.*s", (unsigned)attr, (int)value.len, value.ptr);
    }
    host->log_exchange(x, MRP_LOG_INFO, str(text));
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    (void)self;
    tell(x, "request");
    return host->access_add(x, str("seen"), pair) == MRP_OK ? MRP_CONTINUE : MRP_FAIL;
}

static mrp_verdict on_response(void *self, mrp_exchange *x)
{
    (void)self;
    tell(x, "response");
    return MRP_CONTINUE;
}

static void on_done(void *self, mrp_exchange *x)
{
    (void)self;
    tell(x, "done");
    host->metric_add(the_ctx, requests, 1);
    host->metric_add(the_ctx, level, -2);
}

const mrp_plugin MRP_PLUGIN_SYMBOL =
    MRP_PLUGIN_INIT("sees", "1", .create = create, .on_request = on_request, .on_response = on_response, .on_done = on_done);
