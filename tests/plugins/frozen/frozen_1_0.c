/*
 * A plugin that uses every hook and every function of version 1.0. frozen_1_0_c.so was built from it, once, by
 *     cc -std=c99 -O2 -s -shared -fPIC -I plugin-api/include -o frozen_1_0_c.so frozen_1_0.c
 * and is loaded by every later version of the proxy: what was built for 1.0 works in every 1.x.
 */
#include "mini_rproxy_plugin.h"

#include <stdlib.h>

typedef struct frozen {
    mrp_ctx *ctx;
    uint32_t requests, open;
} frozen;

static const mrp_host *host;

#define CHECK(call)          \
    do {                     \
        if ((call) != MRP_OK) \
            return MRP_FAIL; \
    } while (0)

static mrp_status create(const mrp_host *h, mrp_ctx *ctx, mrp_str config, void **self)
{
    mrp_str mode;
    frozen *f = calloc(1, sizeof *f);
    host = h;
    if (f == NULL || config.len == 0 || host->config_get(ctx, mrp_text("/mode"), &mode) != MRP_OK) {
        host->log(ctx, MRP_LOG_ERROR, mrp_text("config: expected {mode: ...}"));
        free(f);
        return MRP_INVALID;
    }
    f->ctx = ctx;
    if (host->want(ctx, MRP_BODY_OPTIONAL) != MRP_OK
        || host->metric_define(ctx, MRP_METRIC_COUNTER, mrp_text("requests_total"), mrp_text("Requests seen."), &f->requests) != MRP_OK
        || host->metric_define(ctx, MRP_METRIC_GAUGE, mrp_text("open"), mrp_text("Requests under way."), &f->open) != MRP_OK)
        return MRP_INVALID;
    if (host->log_enabled(ctx, MRP_LOG_INFO))
        host->log(ctx, MRP_LOG_INFO, mode);
    *self = f;
    return MRP_OK;
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    frozen *f = self;
    mrp_str target, value;
    mrp_field line;
    uint64_t ticket;
    host->metric_add(f->ctx, f->requests, 1);
    host->metric_add(f->ctx, f->open, 1);
    CHECK(host->attr_get(x, MRP_TARGET, &target));
    CHECK(host->value_set(x, mrp_text("frozen.target"), target));
    CHECK(host->value_get(x, mrp_text("frozen.target"), &value));
    CHECK(host->field_set(x, MRP_REQUEST, mrp_text("x-frozen"), value));
    CHECK(host->field_add(x, MRP_REQUEST, mrp_text("x-frozen-too"), mrp_text("1")));
    CHECK(host->field_remove(x, MRP_REQUEST, mrp_text("x-frozen-too")));
    if (host->field_count(x, MRP_REQUEST) == 0)
        return MRP_FAIL;
    CHECK(host->field_at(x, MRP_REQUEST, 0, &line));
    CHECK(host->field_get(x, MRP_REQUEST, line.name, 0, &value));
    CHECK(host->attr_set(x, MRP_AUTHORITY, mrp_text("frozen.example")));
    CHECK(host->access_add(x, mrp_text("frozen"), mrp_text("c")));
    CHECK(host->want_body(x, MRP_REQUEST, 0));
    CHECK(host->want_body(x, MRP_RESPONSE, MRP_BODY_OPTIONAL));
    CHECK(host->attr_get(x, MRP_ORIGINAL_TARGET, &target));
    if (target.len >= 7 && !memcmp(target.ptr, "/answer", 7)) {
        line.name = mrp_text("x-frozen-answer");
        line.value = mrp_text("yes");
        CHECK(host->respond(x, 403, &line, 1, mrp_text("frozen\n")));
        return MRP_RESPOND;
    }
    /* Nothing to wait for: resumed at once, before the hook has returned. */
    CHECK(host->pause(x, &ticket));
    CHECK(host->resume(f->ctx, ticket, MRP_CONTINUE));
    return MRP_PAUSE;
}

static mrp_verdict on_resume(void *self, mrp_exchange *x, uint64_t ticket)
{
    (void)self, (void)ticket;
    CHECK(host->field_set(x, MRP_REQUEST, mrp_text("x-frozen-resumed"), mrp_text("1")));
    return MRP_CONTINUE;
}

static mrp_verdict on_request_body(void *self, mrp_exchange *x)
{
    mrp_str body;
    (void)self;
    if (host->body_get(x, MRP_REQUEST, &body) == MRP_OK && body.len > 0)
        CHECK(host->body_set(x, MRP_REQUEST, mrp_text("a body of frozen")));
    return MRP_CONTINUE;
}

static mrp_verdict on_response(void *self, mrp_exchange *x)
{
    mrp_str source;
    (void)self;
    CHECK(host->attr_get(x, MRP_RESPONSE_SOURCE, &source));
    CHECK(host->field_set(x, MRP_RESPONSE, mrp_text("x-frozen-source"), source));
    return MRP_CONTINUE;
}

static mrp_verdict on_response_body(void *self, mrp_exchange *x)
{
    mrp_str body;
    (void)self;
    CHECK(host->body_get(x, MRP_RESPONSE, &body));
    CHECK(host->field_set(x, MRP_RESPONSE, mrp_text("x-frozen-body"), mrp_text(body.len > 0 ? "some" : "none")));
    return MRP_CONTINUE;
}

static void on_done(void *self, mrp_exchange *x)
{
    frozen *f = self;
    mrp_str status;
    host->metric_add(f->ctx, f->open, -1);
    if (host->attr_get(x, MRP_FINAL_STATUS, &status) == MRP_OK)
        host->log_exchange(x, MRP_LOG_INFO, status);
}

static void destroy(void *self)
{
    frozen *f = self;
    host->log(f->ctx, MRP_LOG_INFO, mrp_text("destroyed"));
    free(f);
}

const mrp_plugin MRP_PLUGIN_SYMBOL = MRP_PLUGIN_INIT("frozen_c", "1.0", .create = create, .on_request = on_request,
    .on_response = on_response, .on_done = on_done, .destroy = destroy, .on_request_body = on_request_body,
    .on_response_body = on_response_body, .on_resume = on_resume);
