/* Prints where the C header puts things, one "name number" a line. */
#include "mini_rproxy_plugin.h"

#include <stdio.h>

#define SIZE(type) printf("%s %lu\n", #type, (unsigned long)sizeof(type))
#define AT(type, member) printf("%s.%s %lu\n", #type, #member, (unsigned long)offsetof(type, member))
#define VALUE(name) printf("%s %ld\n", #name, (long)(name))

int main(void)
{
    SIZE(mrp_str);
    SIZE(mrp_field);
    SIZE(mrp_host);
    SIZE(mrp_plugin);
    AT(mrp_str, ptr);
    AT(mrp_str, len);
    AT(mrp_field, name);
    AT(mrp_field, value);
    AT(mrp_host, struct_size);
    AT(mrp_host, abi_major);
    AT(mrp_host, abi_minor);
    AT(mrp_host, log_enabled);
    AT(mrp_host, log);
    AT(mrp_host, attr_get);
    AT(mrp_host, attr_set);
    AT(mrp_host, field_count);
    AT(mrp_host, field_at);
    AT(mrp_host, field_get);
    AT(mrp_host, field_set);
    AT(mrp_host, field_add);
    AT(mrp_host, field_remove);
    AT(mrp_host, value_get);
    AT(mrp_host, value_set);
    AT(mrp_host, respond);
    AT(mrp_host, body_get);
    AT(mrp_host, body_set);
    AT(mrp_host, want);
    AT(mrp_host, config_get);
    AT(mrp_host, metric_define);
    AT(mrp_host, metric_add);
    AT(mrp_host, resume);
    AT(mrp_host, log_exchange);
    AT(mrp_host, access_add);
    AT(mrp_host, want_body);
    AT(mrp_host, pause);
    AT(mrp_plugin, magic);
    AT(mrp_plugin, abi_major);
    AT(mrp_plugin, abi_minor);
    AT(mrp_plugin, struct_size);
    AT(mrp_plugin, min_host_minor);
    AT(mrp_plugin, reserved0);
    AT(mrp_plugin, flags);
    AT(mrp_plugin, reserved1);
    AT(mrp_plugin, name);
    AT(mrp_plugin, version);
    AT(mrp_plugin, create);
    AT(mrp_plugin, on_request);
    AT(mrp_plugin, on_response);
    AT(mrp_plugin, on_done);
    AT(mrp_plugin, destroy);
    AT(mrp_plugin, on_request_body);
    AT(mrp_plugin, on_response_body);
    AT(mrp_plugin, on_resume);
    VALUE(MRP_MAGIC);
    VALUE(MRP_ABI_MAJOR);
    VALUE(MRP_ABI_MINOR);
    VALUE(MRP_OK);
    VALUE(MRP_NOT_FOUND);
    VALUE(MRP_INVALID);
    VALUE(MRP_WRONG_PHASE);
    VALUE(MRP_LIMIT);
    VALUE(MRP_UNSUPPORTED);
    VALUE(MRP_DENIED);
    VALUE(MRP_CONTINUE);
    VALUE(MRP_RESPOND);
    VALUE(MRP_FAIL);
    VALUE(MRP_PAUSE);
    VALUE(MRP_REQUEST);
    VALUE(MRP_RESPONSE);
    VALUE(MRP_METHOD);
    VALUE(MRP_TARGET);
    VALUE(MRP_AUTHORITY);
    VALUE(MRP_STATUS);
    VALUE(MRP_CLIENT_ADDR);
    VALUE(MRP_ROUTE_PREFIX);
    VALUE(MRP_UPSTREAM);
    VALUE(MRP_ORIGINAL_TARGET);
    VALUE(MRP_SCHEME);
    VALUE(MRP_PROTOCOL);
    VALUE(MRP_TLS_VERSION);
    VALUE(MRP_TLS_SERVER_NAME);
    VALUE(MRP_CLIENT_PORT);
    VALUE(MRP_LOCAL_ADDR);
    VALUE(MRP_CLIENT_HOST);
    VALUE(MRP_HAS_REQUEST_BODY);
    VALUE(MRP_HAS_RESPONSE_BODY);
    VALUE(MRP_ELAPSED_US);
    VALUE(MRP_RESPONSE_SOURCE);
    VALUE(MRP_CAUSE);
    VALUE(MRP_PLUGIN_NAME);
    VALUE(MRP_FINAL_STATUS);
    VALUE(MRP_BYTES_IN);
    VALUE(MRP_BYTES_OUT);
    VALUE(MRP_TIME_HEAD_US);
    VALUE(MRP_TIME_CONNECT_US);
    VALUE(MRP_TIME_FIRST_BYTE_US);
    VALUE(MRP_TIME_TOTAL_US);
    VALUE(MRP_UPSTREAM_ADDR);
    VALUE(MRP_RETRIES);
    VALUE(MRP_UPSTREAM_REUSED);
    VALUE(MRP_TICKET);
    VALUE(MRP_WANT_REQUEST_BODY);
    VALUE(MRP_WANT_RESPONSE_BODY);
    VALUE(MRP_BODY_OPTIONAL);
    VALUE(MRP_METRIC_COUNTER);
    VALUE(MRP_METRIC_GAUGE);
    VALUE(MRP_LOG_ERROR);
    VALUE(MRP_LOG_WARN);
    VALUE(MRP_LOG_INFO);
    VALUE(MRP_LOG_DEBUG);
    return 0;
}
