/* A plugin whose record is as wrong as the macros say. With EXTRA, its record is longer than the interface knows. */
#include "mini_rproxy_plugin.h"

#ifndef MAGIC
#define MAGIC MRP_MAGIC
#endif
#ifndef MAJOR
#define MAJOR MRP_ABI_MAJOR
#endif
#ifndef SIZE
#define SIZE sizeof(record)
#endif
#ifndef MIN_HOST_MINOR
#define MIN_HOST_MINOR 0
#endif
#ifndef FLAGS
#define FLAGS 0
#endif
#ifndef RESERVED
#define RESERVED 0
#endif
#ifndef CREATE
#define CREATE create
#endif
#ifndef ON_REQUEST
#define ON_REQUEST on_request
#endif

#ifdef CUT_AFTER_ON_RESPONSE
/* What an SDK older than on_done would have declared. */
typedef struct {
    uint32_t magic;
    uint16_t abi_major, abi_minor;
    uint32_t struct_size;
    uint16_t min_host_minor, reserved0;
    uint32_t flags, reserved1;
    mrp_str name, version;
    mrp_status (*create)(const mrp_host *, mrp_ctx *, mrp_str, void **);
    mrp_verdict (*on_request)(void *, mrp_exchange *);
    mrp_verdict (*on_response)(void *, mrp_exchange *);
} record;
#else
typedef struct {
    mrp_plugin known;
    char extra[64];
} record;
#endif

mrp_status create(const mrp_host *host, mrp_ctx *ctx, mrp_str config, void **self);
mrp_verdict on_request(void *self, mrp_exchange *x);

static const mrp_host *the_host;

mrp_status create(const mrp_host *host, mrp_ctx *ctx, mrp_str config, void **self)
{
    (void)ctx, (void)config, (void)self;
    the_host = host;
    return MRP_OK;
}

mrp_verdict on_request(void *self, mrp_exchange *x)
{
    mrp_str name, value;
    (void)self;
    name.ptr = "x-record";
    name.len = 8;
    value.ptr = "ran";
    value.len = 3;
    return the_host->field_set(x, MRP_REQUEST, name, value) == MRP_OK ? MRP_CONTINUE : MRP_FAIL;
}

extern const record MiniRProxyPluginInstance_;
#ifdef CUT_AFTER_ON_RESPONSE
const record MiniRProxyPluginInstance_ __attribute__((used)) = {
    MAGIC, MAJOR, MRP_ABI_MINOR, SIZE, MIN_HOST_MINOR, RESERVED, FLAGS, 0,
    MRP_STR("record"), MRP_STR("1"), CREATE, ON_REQUEST, 0,
};
#else
const record MiniRProxyPluginInstance_ __attribute__((used)) = {
    { MAGIC, MAJOR, MRP_ABI_MINOR, SIZE, MIN_HOST_MINOR, RESERVED, FLAGS, 0,
      MRP_STR("record"), MRP_STR("1"), CREATE, ON_REQUEST, 0, 0, 0, 0, 0, 0 },
    "what a later version will append",
};
#endif
/* The header has declared the symbol with the record's usual type; here it is an alias of ours. */
extern const mrp_plugin MRP_PLUGIN_SYMBOL __attribute__((alias("MiniRProxyPluginInstance_")));
