/*
 * A plugin that leaves its letter wherever it passes, and misbehaves as its configuration says.
 * config: the letter, then nothing, or ':' and an order:
 *   f fail in on_request       F fail in on_response
 *   r respond 403 in request   R respond 418 in response
 *   v verdict 7                w verdict "respond" without an answer
 *   sNNN respond with that status
 */
#include "mini_rproxy_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const mrp_host *host;
    mrp_ctx *ctx;
    char letter, order;
    uint32_t status;
} letters;

static mrp_str str(const char *text)
{
    mrp_str s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

static mrp_status create(const mrp_host *host, mrp_ctx *ctx, mrp_str config, void **self)
{
    letters *l;
    size_t i;
    if (config.len == 0 || (config.len > 1 && (config.ptr[1] != ':' || config.len < 3))) {
        host->log(ctx, MRP_LOG_ERROR, str("config must begin with a letter"));
        return MRP_INVALID;
    }
    l = calloc(1, sizeof *l);
    if (l == NULL)
        return MRP_INVALID;
    l->host = host;
    l->ctx = ctx;
    l->letter = config.ptr[0];
    l->order = config.len > 2 ? config.ptr[2] : 0;
    for (i = 3; i < config.len; i++)
        l->status = l->status * 10 + (uint32_t)(config.ptr[i] - '0');
    *self = l;
    return MRP_OK;
}

/* Appends the letter to field X-Letters. The old value is the host's memory, and so is what is passed back to it. */
static mrp_status leave_letter(letters *l, mrp_exchange *x, uint32_t side)
{
    char all[64];
    mrp_str old, all_str;
    size_t n = 0;
    if (l->host->field_get(x, side, str("x-letters"), 0, &old) == MRP_OK && old.len < sizeof all - 1) {
        memcpy(all, old.ptr, old.len);
        n = old.len;
        /* From the host's own memory straight back into it. */
        if (l->host->field_set(x, side, str("X-Before"), old) != MRP_OK)
            return MRP_INVALID;
    }
    all[n++] = l->letter;
    all_str.ptr = all;
    all_str.len = n;
    return l->host->field_set(x, side, str("X-Letters"), all_str);
}

static mrp_verdict answer(letters *l, mrp_exchange *x, uint32_t status)
{
    mrp_field field;
    field.name = str("X-Answer");
    field.value.ptr = &l->letter;
    field.value.len = 1;
    /* Whether the host takes it or not: then there is a verdict without an answer, which is a failure. */
    l->host->respond(x, status, &field, 1, str("letters\n"));
    return MRP_RESPOND;
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    letters *l = self;
    mrp_str seen;
    if (l->host->log_enabled(l->ctx, MRP_LOG_DEBUG))
        l->host->log(l->ctx, MRP_LOG_DEBUG, str("passing by"));
    if (leave_letter(l, x, MRP_REQUEST) != MRP_OK)
        return MRP_FAIL;
    /* Values: a leaves one, b finds it. */
    if (l->host->value_get(x, str("letters.first"), &seen) == MRP_NOT_FOUND) {
        mrp_str letter;
        letter.ptr = &l->letter;
        letter.len = 1;
        l->host->value_set(x, str("letters.first"), letter);
    }
    switch (l->order) {
    case 'f': return MRP_FAIL;
    case 'r': return answer(l, x, 403);
    case 's': return answer(l, x, l->status);
    case 'v': return 7;
    case 'w': return MRP_RESPOND;
    default: return MRP_CONTINUE;
    }
}

static mrp_verdict on_response(void *self, mrp_exchange *x)
{
    letters *l = self;
    mrp_str first;
    if (leave_letter(l, x, MRP_RESPONSE) != MRP_OK)
        return MRP_FAIL;
    if (l->host->value_get(x, str("letters.first"), &first) == MRP_OK)
        l->host->field_set(x, MRP_RESPONSE, str("X-First"), first);
    /* The request has been sent. */
    if (l->host->field_set(x, MRP_REQUEST, str("X-Late"), str("1")) != MRP_WRONG_PHASE)
        return MRP_FAIL;
    switch (l->order) {
    case 'F': return MRP_FAIL;
    case 'R': return answer(l, x, 418);
    default: return MRP_CONTINUE;
    }
}

static void on_done(void *self, mrp_exchange *x)
{
    letters *l = self;
    char text[16];
    (void)x;
    sprintf(text, "done %c", l->letter);
    l->host->log(l->ctx, MRP_LOG_INFO, str(text));
}

static void destroy(void *self)
{
    letters *l = self;
    l->host->log(l->ctx, MRP_LOG_INFO, str("destroyed"));
    free(l);
}

const mrp_plugin MRP_PLUGIN_SYMBOL =
    MRP_PLUGIN_INIT("letters", "1", .create = create, .on_request = on_request, .on_response = on_response,
                    .on_done = on_done, .destroy = destroy);
