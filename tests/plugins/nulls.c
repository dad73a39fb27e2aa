/* A plugin that passes everything that a careless one might pass. Each line says what the host must answer. */
#include "mini_rproxy_plugin.h"

#include <stdio.h>
#include <string.h>

static const mrp_host *host;
static mrp_ctx *the_ctx;
static int failures;
static uint32_t metric;

static mrp_str str(const char *text)
{
    mrp_str s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

static void expect(int line, long is, long should)
{
    char text[80];
    if (is == should)
        return;
    failures++;
    sprintf(text, "line %d: %ld instead of %ld", line, is, should);
    host->log(the_ctx, MRP_LOG_ERROR, str(text));
}
#define EXPECT(is, should) expect(__LINE__, (long)(is), (long)(should))

static mrp_status create(const mrp_host *h, mrp_ctx *ctx, mrp_str config, void **self)
{
    static const mrp_str nothing = { 0, 0 };
    mrp_str wild = { 0, 5 }, endless, out;
    endless.ptr = "x";
    endless.len = (size_t)-1;
    (void)config;
    *self = NULL;
    host = h;
    the_ctx = ctx;
    host->log(NULL, MRP_LOG_ERROR, str("nobody"));
    EXPECT(host->log_enabled(NULL, MRP_LOG_ERROR), 0);
    EXPECT(host->log_enabled(ctx, -1000), 1);
    EXPECT(host->log_enabled(ctx, 1000), 1);
    EXPECT(MRP_HAS(host, body_set), 1);

    EXPECT(host->want(NULL, 0), MRP_INVALID);
    EXPECT(host->want(ctx, 8), MRP_UNSUPPORTED);
    EXPECT(host->want(ctx, 0), MRP_OK);
    EXPECT(host->config_get(NULL, str(""), &out), MRP_INVALID);
    EXPECT(host->config_get(ctx, str(""), NULL), MRP_INVALID);
    EXPECT(host->config_get(ctx, wild, &out), MRP_INVALID);
    EXPECT(host->config_get(ctx, endless, &out), MRP_INVALID);
    EXPECT(host->config_get(ctx, str("\xff"), &out), MRP_INVALID);
    EXPECT(host->config_get(ctx, str("/none"), &out), MRP_NOT_FOUND);
    EXPECT(host->config_get(ctx, nothing, &out), MRP_OK);
    EXPECT(host->metric_define(NULL, MRP_METRIC_GAUGE, str("a"), nothing, &metric), MRP_INVALID);
    EXPECT(host->metric_define(ctx, 2, str("a"), nothing, &metric), MRP_UNSUPPORTED);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, nothing, nothing, &metric), MRP_INVALID);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, wild, nothing, &metric), MRP_INVALID);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, endless, nothing, &metric), MRP_INVALID);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, str("a b"), nothing, &metric), MRP_INVALID);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, str("a"), wild, &metric), MRP_INVALID);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, str("a"), str("\n# TYPE"), &metric), MRP_INVALID);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, str("a"), nothing, NULL), MRP_INVALID);
    EXPECT(host->metric_define(ctx, MRP_METRIC_COUNTER, str("nulls"), nothing, &metric), MRP_OK);
    EXPECT(host->metric_define(ctx, MRP_METRIC_GAUGE, str("nulls"), nothing, &metric), MRP_INVALID);
    return MRP_OK;
}

static mrp_verdict on_request(void *self, mrp_exchange *x)
{
    static const mrp_str nothing = { 0, 0 };
    mrp_str wild = { 0, 5 }, endless, out;
    mrp_field field;
    char forged[513];
    size_t i;
    (void)self;
    endless.ptr = "x";
    endless.len = (size_t)-1;

    EXPECT(host->attr_get(x, MRP_METHOD, NULL), MRP_INVALID);
    EXPECT(host->attr_get(NULL, MRP_METHOD, &out), MRP_INVALID);
    EXPECT(host->attr_get(x, 0, &out), MRP_UNSUPPORTED);
    EXPECT(host->attr_get(x, 99, &out), MRP_UNSUPPORTED);
    EXPECT(host->attr_get(x, MRP_STATUS, &out), MRP_WRONG_PHASE);
    EXPECT(host->attr_set(x, MRP_METHOD, wild), MRP_INVALID);
    EXPECT(host->attr_set(x, MRP_METHOD, endless), MRP_INVALID);
    EXPECT(host->attr_set(x, MRP_METHOD, nothing), MRP_INVALID);
    EXPECT(host->attr_set(x, MRP_CLIENT_ADDR, str("1.2.3.4")), MRP_DENIED);
    EXPECT(host->attr_set(x, 99, str("x")), MRP_UNSUPPORTED);
    EXPECT(host->attr_set(x, MRP_STATUS, str("200")), MRP_WRONG_PHASE);

    EXPECT(host->field_count(NULL, MRP_REQUEST), 0);
    EXPECT(host->field_count(x, MRP_RESPONSE), 0);
    EXPECT(host->field_count(x, 7), 0);
    EXPECT(host->field_at(x, MRP_REQUEST, (size_t)-1, &field), MRP_NOT_FOUND);
    EXPECT(host->field_at(x, MRP_REQUEST, 0, NULL), MRP_INVALID);
    EXPECT(host->field_at(x, MRP_RESPONSE, 0, &field), MRP_WRONG_PHASE);
    EXPECT(host->field_at(x, 7, 0, &field), MRP_UNSUPPORTED);
    EXPECT(host->field_get(x, MRP_REQUEST, wild, 0, &out), MRP_INVALID);
    EXPECT(host->field_get(x, MRP_REQUEST, nothing, 0, &out), MRP_NOT_FOUND);
    EXPECT(host->field_get(x, MRP_REQUEST, str("accept"), (size_t)-1, &out), MRP_NOT_FOUND);
    EXPECT(host->field_get(x, MRP_REQUEST, str("accept"), 0, NULL), MRP_INVALID);
    EXPECT(host->field_set(x, MRP_REQUEST, str("x-a"), wild), MRP_INVALID);
    EXPECT(host->field_set(x, MRP_REQUEST, wild, str("1")), MRP_INVALID);
    EXPECT(host->field_set(x, MRP_REQUEST, str("x-a"), endless), MRP_INVALID);
    EXPECT(host->field_set(x, MRP_RESPONSE, str("x-a"), str("1")), MRP_WRONG_PHASE);
    EXPECT(host->field_set(NULL, MRP_REQUEST, str("x-a"), str("1")), MRP_INVALID);
    EXPECT(host->field_set(x, MRP_REQUEST, str("x-empty"), nothing), MRP_OK);
    EXPECT(host->field_remove(x, MRP_REQUEST, str("x-empty")), MRP_OK);
    EXPECT(host->field_remove(x, MRP_REQUEST, str("x-empty")), MRP_NOT_FOUND);

    EXPECT(host->value_get(x, str("k"), &out), MRP_NOT_FOUND);
    EXPECT(host->value_set(x, str("k"), wild), MRP_INVALID);
    EXPECT(host->value_set(x, wild, str("v")), MRP_INVALID);
    EXPECT(host->value_set(x, str("k"), nothing), MRP_NOT_FOUND);
    EXPECT(host->value_set(x, str("k"), str("v")), MRP_OK);
    EXPECT(host->value_get(x, str("k"), NULL), MRP_INVALID);
    EXPECT(host->value_set(x, str("k"), nothing), MRP_OK);

    EXPECT(host->respond(x, 200, NULL, 1, nothing), MRP_INVALID);
    EXPECT(host->respond(x, 200, NULL, (size_t)-1, nothing), MRP_LIMIT);
    EXPECT(host->respond(x, 200, NULL, 0, wild), MRP_INVALID);
    EXPECT(host->respond(x, 0xffffffffu, NULL, 0, nothing), MRP_INVALID);
    EXPECT(host->respond(x, 65736, NULL, 0, nothing), MRP_INVALID); /* 200 when cut to 16 bits */
    EXPECT(host->respond(NULL, 200, NULL, 0, nothing), MRP_INVALID);
    field.name = wild;
    field.value = nothing;
    EXPECT(host->respond(x, 200, &field, 1, nothing), MRP_INVALID);

    EXPECT(host->body_get(x, MRP_REQUEST, &out), MRP_UNSUPPORTED);
    EXPECT(host->body_set(x, MRP_REQUEST, nothing), MRP_UNSUPPORTED);
    EXPECT(host->body_get(x, MRP_RESPONSE, &out), MRP_WRONG_PHASE);

    EXPECT(host->want(the_ctx, 0), MRP_WRONG_PHASE);
    EXPECT(host->config_get(the_ctx, str(""), &out), MRP_WRONG_PHASE);
    EXPECT(host->metric_define(the_ctx, MRP_METRIC_GAUGE, str("late"), nothing, &metric), MRP_WRONG_PHASE);
    EXPECT(host->metric_add(NULL, metric, 1), MRP_INVALID);
    EXPECT(host->metric_add(the_ctx, metric, -1), MRP_INVALID);
    EXPECT(host->metric_add(the_ctx, metric, INT64_MAX), MRP_OK);
    EXPECT(host->metric_add(the_ctx, metric, INT64_MAX), MRP_OK);
    EXPECT(host->metric_add(the_ctx, metric + 1, 1), MRP_NOT_FOUND);
    EXPECT(host->metric_add(the_ctx, 0xffffffffu, 1), MRP_NOT_FOUND);

    EXPECT(host->attr_get(x, MRP_SCHEME, NULL), MRP_INVALID);
    EXPECT(host->attr_get(x, MRP_SCHEME, &out), MRP_OK);
    EXPECT(host->attr_get(x, MRP_RESPONSE_SOURCE, &out), MRP_NOT_FOUND);
    EXPECT(host->attr_get(x, MRP_FINAL_STATUS, &out), MRP_NOT_FOUND);
    EXPECT(host->attr_get(x, MRP_TICKET + 1, &out), MRP_UNSUPPORTED);
    EXPECT(host->attr_set(x, MRP_SCHEME, str("https")), MRP_DENIED);
    EXPECT(host->attr_set(x, MRP_FINAL_STATUS, str("200")), MRP_DENIED);

    host->log_exchange(NULL, MRP_LOG_ERROR, str("nobody"));
    host->log_exchange(x, MRP_LOG_ERROR, wild);
    host->log_exchange(x, -1000, endless);
    EXPECT(host->access_add(NULL, str("k"), str("v")), MRP_INVALID);
    EXPECT(host->access_add(x, nothing, str("v")), MRP_INVALID);
    EXPECT(host->access_add(x, wild, str("v")), MRP_INVALID);
    EXPECT(host->access_add(x, endless, str("v")), MRP_INVALID);
    EXPECT(host->access_add(x, str("k"), wild), MRP_INVALID);
    EXPECT(host->access_add(x, str("k"), endless), MRP_INVALID);
    EXPECT(host->access_add(x, str("a=b"), str("v")), MRP_INVALID);
    EXPECT(host->access_add(x, str("Status"), str("200")), MRP_DENIED);
    for (i = 0; i < sizeof forged; i++)
        forged[i] = 'x';
    out.ptr = forged;
    out.len = 65;
    EXPECT(host->access_add(x, out, str("v")), MRP_LIMIT);
    out.len = 64;
    EXPECT(host->access_add(x, out, nothing), MRP_OK);
    field.value.ptr = forged;
    field.value.len = 513;
    EXPECT(host->access_add(x, out, field.value), MRP_LIMIT);
    field.value.len = 512;
    EXPECT(host->access_add(x, out, field.value), MRP_OK);
    EXPECT(host->access_add(x, out, str("replaced")), MRP_OK);
    for (i = 0; i < 7; i++) {
        out.len = i + 1;
        EXPECT(host->access_add(x, out, str("v")), MRP_OK);
    }
    out.len = 8;
    EXPECT(host->access_add(x, out, str("v")), MRP_LIMIT);
    EXPECT(host->want_body(NULL, MRP_REQUEST, 0), MRP_INVALID);
    EXPECT(host->want_body(x, 7, 0), MRP_UNSUPPORTED);
    EXPECT(host->want_body(x, MRP_REQUEST, 1), MRP_UNSUPPORTED);
    EXPECT(host->pause(NULL, NULL), MRP_INVALID);
    EXPECT(host->pause(x, NULL), MRP_INVALID);
    EXPECT(host->resume(NULL, 1, MRP_CONTINUE), MRP_INVALID);
    EXPECT(host->resume(the_ctx, 1, MRP_RESPOND), MRP_INVALID);

    /* Memory that is no exchange, and a pointer that is not even aligned. */
    for (i = 0; i < sizeof forged; i++)
        forged[i] = 0;
    EXPECT(host->attr_get((mrp_exchange *)(void *)forged, MRP_METHOD, &out), MRP_INVALID);
    EXPECT(host->attr_get((mrp_exchange *)(void *)((char *)x + 1), MRP_METHOD, &out), MRP_INVALID);

    /* Its own memory passed back to the host, which has to move it. */
    for (i = 0; i < 100; i++) {
        if (host->field_get(x, MRP_REQUEST, str("accept"), 0, &out) != MRP_OK)
            return MRP_FAIL;
        EXPECT(host->field_add(x, MRP_REQUEST, str("x-copy"), out), MRP_OK);
        if (host->field_at(x, MRP_REQUEST, 0, &field) != MRP_OK)
            return MRP_FAIL;
        EXPECT(host->field_set(x, MRP_REQUEST, field.name, field.value), MRP_OK);
    }
    EXPECT(host->field_get(x, MRP_REQUEST, str("x-copy"), 99, &out), MRP_OK);
    EXPECT(memcmp(out.ptr, "*/*", 3), 0);
    return failures == 0 ? MRP_CONTINUE : MRP_FAIL;
}

static void on_done(void *self, mrp_exchange *x)
{
    mrp_str out;
    uint64_t ticket;
    (void)self;
    EXPECT(host->attr_get(x, MRP_BYTES_OUT, &out), MRP_OK);
    EXPECT(host->attr_get(x, MRP_TICKET, &out), MRP_NOT_FOUND);
    EXPECT(host->access_add(x, str("x"), str("again")), MRP_OK);
    EXPECT(host->want_body(x, MRP_RESPONSE, 0), MRP_WRONG_PHASE);
    EXPECT(host->pause(x, &ticket), MRP_WRONG_PHASE);
    EXPECT(host->attr_get(x, MRP_METHOD, &out), MRP_OK);
    EXPECT(host->attr_set(x, MRP_METHOD, str("GET")), MRP_WRONG_PHASE);
    EXPECT(host->attr_set(x, MRP_STATUS, str("200")), MRP_WRONG_PHASE);
    EXPECT(host->field_add(x, MRP_REQUEST, str("x-a"), str("1")), MRP_WRONG_PHASE);
    EXPECT(host->field_add(x, MRP_RESPONSE, str("x-a"), str("1")), MRP_WRONG_PHASE);
    EXPECT(host->value_set(x, str("k"), str("v")), MRP_WRONG_PHASE);
    EXPECT(host->respond(x, 200, NULL, 0, str("")), MRP_WRONG_PHASE);
}

const mrp_plugin MRP_PLUGIN_SYMBOL =
    MRP_PLUGIN_INIT("nulls", "", .create = create, .on_request = on_request, .on_done = on_done);
