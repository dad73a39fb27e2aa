/*
 * The smallest useful plugin, in C99: a field on every request, and one on every response.
 *
 * Lesson: a plugin is one exported record with pointers to its functions. Nothing else is exported.
 *
 *   cc -std=c99 -O2 -shared -fPIC -I plugin-api/include -o header_demo_c.so header_demo.c
 *
 * As part of a static binary: add -DMRP_PLUGIN_SYMBOL=header_demo_c, so that every plugin has a symbol of its own.
 */
#include "mini_rproxy_plugin.h"

#include <stdlib.h>
#include <string.h>

/* One instance: made by create, then only read, since all threads share it. */
typedef struct {
    const mrp_host *host;
    mrp_ctx *ctx;
    mrp_str value;
} demo;

static mrp_str str(const char *text)
{
    mrp_str s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

static mrp_status create(const mrp_host *host, mrp_ctx *ctx, mrp_str config, void **self)
{
    demo *d = malloc(sizeof *d);
    if (d == NULL)
        return MRP_INVALID;
    d->host = host;
    d->ctx = ctx;
    /* "config: {value: hello}", else "config: hello", else none. What config_get gives stays; config itself is only lent. */
    if (host->config_get(ctx, str("/value"), &d->value) != MRP_OK) {
        if (config.len > 0 && (config.ptr[0] == '{' || config.ptr[0] == '[')) {
            host->log(ctx, MRP_LOG_ERROR, str("config must be a text, or a mapping with value"));
            free(d);
            return MRP_INVALID;
        }
        if (host->config_get(ctx, str(""), &d->value) != MRP_OK || d->value.len == 0)
            d->value = str("true");
    }
    host->log(ctx, MRP_LOG_DEBUG, str("header_demo_c is there"));
    *self = d;
    return MRP_OK;
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    demo *d = self;
    if (d->host->field_set(x, MRP_REQUEST, str("X-Demo-Request"), d->value) != MRP_OK)
        return MRP_FAIL;
    return MRP_CONTINUE;
}

static mrp_verdict on_response(void *self, mrp_exchange *x)
{
    demo *d = self;
    if (d->host->field_set(x, MRP_RESPONSE, str("X-Demo-Response"), d->value) != MRP_OK)
        return MRP_FAIL;
    return MRP_CONTINUE;
}

static void destroy(void *self)
{
    free(self);
}

const mrp_plugin MRP_PLUGIN_SYMBOL = MRP_PLUGIN_INIT("header_demo_c", "1.0.0",
    .create = create, .on_request = on_request, .on_response = on_response, .destroy = destroy);
