/* A plugin that turns both bodies into capital letters, and tells their lengths. */
#include "mini_rproxy_plugin.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const mrp_host *host;

static mrp_status create(const mrp_host *h, mrp_ctx *ctx, mrp_str config, void **self)
{
    (void)ctx, (void)config, (void)self;
    host = h;
    return MRP_OK;
}

static mrp_verdict shout(mrp_exchange *x, uint32_t side)
{
    static const mrp_str name = MRP_STR("X-Body");
    mrp_str body, loud, value;
    char *copy, text[32];
    size_t i;
    mrp_status status = host->body_get(x, side, &body);
    if (status == MRP_NOT_FOUND)
        return MRP_CONTINUE;
    if (status != MRP_OK)
        return MRP_FAIL;
    copy = malloc(body.len + 1);
    if (copy == NULL)
        return MRP_FAIL;
    for (i = 0; i < body.len; i++)
        copy[i] = (char)toupper((unsigned char)body.ptr[i]);
    loud.ptr = copy;
    loud.len = body.len;
    value.ptr = text;
    value.len = (size_t)sprintf(text, "%lu", (unsigned long)body.len);
    status = host->body_set(x, side, loud);
    free(copy);
    return status == MRP_OK && host->field_set(x, side, name, value) == MRP_OK ? MRP_CONTINUE : MRP_FAIL;
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    (void)self;
    return shout(x, MRP_REQUEST);
}

static mrp_verdict on_response(void *self, mrp_exchange *x)
{
    (void)self;
    return shout(x, MRP_RESPONSE);
}

const mrp_plugin MRP_PLUGIN_SYMBOL =
    MRP_PLUGIN_INIT("bodies", "1", .flags = MRP_WANT_REQUEST_BODY | MRP_WANT_RESPONSE_BODY,
                    .create = create, .on_request = on_request, .on_response = on_response);
