/*
 * Native plugins for mini-rproxy: the binary interface, version 1.0.
 *
 * A plugin is a shared object which exports one data symbol, MiniRProxyPluginInstance, of type mrp_plugin.
 * The host calls on_request before it forwards a request and on_response after the upstream has responded, or when it or a
 * plugin answers in the upstream's place: see MRP_RESPONSE_SOURCE.
 *
 * Memory:  (1) Arguments are borrowed for the length of the call; bytes that are kept longer must be copied.
 *          (2) Bytes which the host hands out live until the next changing call on that exchange, or the end of the hook.
 *          (3) Nobody frees what the other one allocated. destroy() is where a plugin disposes of its own.
 * Threads: create and destroy run on threads that serve no requests, before the first hook of that instance and after its last.
 *          The hooks run on every loop thread at the same time with the same self: no unlocked writable data. One exchange is
 *          on one thread.
 * Time:    hooks must not block. Blocking work belongs into create(), or into a thread of the plugin's own while the exchange
 *          is paused.
 * C++:     no exception may leave a function of this interface: catch everything, return MRP_FAIL.
 *
 * Versions: within a major version the tables only grow at their ends, and nothing changes its meaning.
 *           Fill struct_size with sizeof, and test with MRP_HAS before calling a function that is newer than 1.0.
 */
#ifndef MINI_RPROXY_PLUGIN_H
#define MINI_RPROXY_PLUGIN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MRP_MAGIC 0x4D525031u
#define MRP_ABI_MAJOR 1u
#define MRP_ABI_MINOR 0u

/* Borrowed bytes, no NUL at the end. Empty ones may have a null ptr. */
typedef struct mrp_str {
    const char *ptr;
    size_t len;
} mrp_str;

/* One field line. */
typedef struct mrp_field {
    mrp_str name, value;
} mrp_field;

typedef struct mrp_ctx mrp_ctx;           /* this plugin's instance on the host's side; valid until the process ends */
typedef struct mrp_exchange mrp_exchange; /* valid only inside the hook that got it; to keep it is undefined behaviour */

typedef int32_t mrp_status;
enum {
    MRP_OK = 0,
    MRP_NOT_FOUND = 1,    /* there is no such thing */
    MRP_INVALID = -1,     /* null pointer, a name that is no token, a value with CR, LF or NUL ... */
    MRP_WRONG_PHASE = -2, /* for example the request in on_response */
    MRP_LIMIT = -3,       /* larger than a limit of the host */
    MRP_UNSUPPORTED = -4, /* unknown attribute or side; a body without its MRP_WANT flag */
    MRP_DENIED = -5       /* the host keeps this to itself: framing and connection fields ... */
};

typedef int32_t mrp_verdict; /* anything else is read as MRP_FAIL */
enum {
    MRP_CONTINUE = 0,
    MRP_RESPOND = 1, /* after a successful respond() */
    MRP_FAIL = 2,    /* 502 to the client */
    MRP_PAUSE = 3    /* after a successful pause(): the exchange waits for resume() */
};

/* "side" */
enum { MRP_REQUEST = 0, MRP_RESPONSE = 1 };

/* "attr" */
enum {
    MRP_METHOD = 1,           /* writable in on_request; not CONNECT or TRACE, not to or from HEAD */
    MRP_TARGET = 2,           /* writable in on_request; as it will be sent, begins with '/' */
    MRP_AUTHORITY = 3,        /* writable in on_request; the Host to send */
    MRP_STATUS = 4,           /* writable in on_response; three digits, not to or from 204 and 304 */
    MRP_CLIENT_ADDR = 16,     /* IP address in text, no port; MRP_NOT_FOUND on a unix socket */
    MRP_ROUTE_PREFIX = 17,    /* the prefix of the route */
    MRP_UPSTREAM = 18,        /* the authority of the upstream, as in its URL */
    MRP_ORIGINAL_TARGET = 19, /* the target as the client sent it */
    MRP_SCHEME = 20,          /* how the client speaks to the proxy: "http" or "https" */
    MRP_PROTOCOL = 21,        /* the client's version: "HTTP/1.1" or "HTTP/1.0" */
    MRP_TLS_VERSION = 22,     /* "TLSv1.2" or "TLSv1.3"; MRP_NOT_FOUND without TLS */
    MRP_TLS_SERVER_NAME = 23, /* the server name of the client's handshake (SNI) */
    MRP_CLIENT_PORT = 24,
    MRP_LOCAL_ADDR = 25,      /* address and port that the client has connected to */
    MRP_CLIENT_HOST = 26,     /* the Host that the client sent */
    MRP_HAS_REQUEST_BODY = 27,  /* "1" or "0" */
    MRP_HAS_RESPONSE_BODY = 28, /* "1" or "0"; MRP_NOT_FOUND in the request phase */
    MRP_ELAPSED_US = 29,      /* microseconds since the first byte of the request */
    MRP_RESPONSE_SOURCE = 30, /* who made the response: "upstream", "proxy" or "plugin" */
    MRP_CAUSE = 31,           /* what went wrong, in the word of the access log */
    MRP_PLUGIN_NAME = 32,     /* the name of this plugin's entry in the configuration */
    /* in on_done */
    MRP_FINAL_STATUS = 40,    /* what the client got; 499: it left before that */
    MRP_BYTES_IN = 41,        /* of the request's body */
    MRP_BYTES_OUT = 42,       /* of the response's body */
    MRP_TIME_HEAD_US = 43,    /* from the first byte of the request to the end of its head */
    MRP_TIME_CONNECT_US = 44, /* from there to the upstream's connection */
    MRP_TIME_FIRST_BYTE_US = 45, /* from there to the first byte of the response */
    MRP_TIME_TOTAL_US = 46,   /* from the first byte of the request to the end */
    MRP_UPSTREAM_ADDR = 47,   /* address and port of the upstream's connection */
    MRP_RETRIES = 48,
    MRP_UPSTREAM_REUSED = 49, /* "1" where the upstream's connection was used before */
    MRP_TICKET = 50           /* where the exchange has ended in a pause of this plugin */
};

/* "flags" of mrp_plugin, want and want_body */
enum {
    MRP_WANT_REQUEST_BODY = 1,  /* on_request waits for the whole body */
    MRP_WANT_RESPONSE_BODY = 2, /* on_response waits for the whole body */
    MRP_BODY_OPTIONAL = 4       /* a body above plugin_body_limit passes without this plugin: its hook runs, body_get
                                   answers MRP_LIMIT. Without the flag such a message is refused (413, 502) */
};

/* "kind" of a metric */
enum { MRP_METRIC_COUNTER = 0, MRP_METRIC_GAUGE = 1 };

/* "level" */
enum { MRP_LOG_ERROR = 0, MRP_LOG_WARN = 1, MRP_LOG_INFO = 2, MRP_LOG_DEBUG = 3 };

/* What the host can do for a plugin. Valid until the process ends. Grows only at the end. */
typedef struct mrp_host {
    uint32_t struct_size;
    uint16_t abi_major, abi_minor;

    /* From any thread. */
    int32_t (*log_enabled)(mrp_ctx *, int32_t level);
    void (*log)(mrp_ctx *, int32_t level, mrp_str message);

    mrp_status (*attr_get)(mrp_exchange *, uint32_t attr, mrp_str *out);
    mrp_status (*attr_set)(mrp_exchange *, uint32_t attr, mrp_str value);

    /* Names are matched without case; order and duplicates are kept. Host is not among the fields: MRP_AUTHORITY. */
    size_t (*field_count)(mrp_exchange *, uint32_t side);
    mrp_status (*field_at)(mrp_exchange *, uint32_t side, size_t i, mrp_field *out);
    mrp_status (*field_get)(mrp_exchange *, uint32_t side, mrp_str name, size_t nth, mrp_str *out);
    mrp_status (*field_set)(mrp_exchange *, uint32_t side, mrp_str name, mrp_str value); /* replaces all lines */
    mrp_status (*field_add)(mrp_exchange *, uint32_t side, mrp_str name, mrp_str value); /* appends a line */
    mrp_status (*field_remove)(mrp_exchange *, uint32_t side, mrp_str name);             /* removes all lines */

    /* Values of this exchange, shared by all plugins and both phases; by convention "plugin.key". */
    mrp_status (*value_get)(mrp_exchange *, mrp_str key, mrp_str *out);
    mrp_status (*value_set)(mrp_exchange *, mrp_str key, mrp_str value); /* a null ptr deletes */

    /* Prepares an answer (status 200 to 599); then return MRP_RESPOND. The host adds framing, Date, Connection.
       MRP_LIMIT: a body above plugin_body_limit, or a head above the host's limits. */
    mrp_status (*respond)(mrp_exchange *, uint32_t status, const mrp_field *fields, size_t n, mrp_str body);

    /* Only with the MRP_WANT flag of that side. body_get: MRP_NOT_FOUND where the message has no body at all. */
    mrp_status (*body_get)(mrp_exchange *, uint32_t side, mrp_str *out);
    mrp_status (*body_set)(mrp_exchange *, uint32_t side, mrp_str body);

    /* Only in create(). want: adds flags to those of the descriptor. config_get: a value by its JSON pointer, such as "/realm"
       or "/users/0" ("" is the whole): texts as they are, all else as JSON; it stays until the process ends. metric_define: it appears in /metrics, as
       mini_rproxy_plugin_<plugin>_<name>. */
    mrp_status (*want)(mrp_ctx *, uint32_t flags);
    mrp_status (*config_get)(mrp_ctx *, mrp_str pointer, mrp_str *out);
    mrp_status (*metric_define)(mrp_ctx *, uint32_t kind, mrp_str name, mrp_str help, uint32_t *metric);

    /* From any thread. resume: MRP_CONTINUE runs on_resume, MRP_FAIL is a failure. MRP_NOT_FOUND: the exchange is over, or was
       resumed before. */
    mrp_status (*metric_add)(mrp_ctx *, uint32_t metric, int64_t delta);
    mrp_status (*resume)(mrp_ctx *, uint64_t ticket, mrp_verdict verdict);

    /* log_exchange: with client, method and path. access_add: a pair in the line of the access log; at most 8 of all plugins
       together, with keys of 64 bytes (a token, and none of the line's own) and values of 512. */
    void (*log_exchange)(mrp_exchange *, int32_t level, mrp_str message);
    mrp_status (*access_add)(mrp_exchange *, mrp_str key, mrp_str value);

    /* Asks for the body of this exchange's message: in on_request for either side, in on_response for the response. When all
       of it is there, on_request_body or on_response_body runs, before the next plugin sees the message. */
    mrp_status (*want_body)(mrp_exchange *, uint32_t side, uint32_t flags);

    /* Makes a ticket for resume(); then return MRP_PAUSE. Not in on_done. */
    mrp_status (*pause)(mrp_exchange *, uint64_t *ticket);
} mrp_host;

/* What a plugin says of itself. */
typedef struct mrp_plugin {
    uint32_t magic;                /* MRP_MAGIC */
    uint16_t abi_major, abi_minor; /* MRP_ABI_MAJOR, MRP_ABI_MINOR */
    uint32_t struct_size;          /* sizeof(mrp_plugin) */
    uint16_t min_host_minor;       /* the oldest host that will do */
    uint16_t reserved0;            /* 0 */
    uint32_t flags;                /* MRP_WANT_... */
    uint32_t reserved1;            /* 0 */
    mrp_str name;                  /* 1 to 64 visible ASCII characters */
    mrp_str version;               /* 0 to 64 visible ASCII characters */

    mrp_status (*create)(const mrp_host *, mrp_ctx *, mrp_str config, void **self); /* required */
    mrp_verdict (*on_request)(void *self, mrp_exchange *);                          /* may be null */
    mrp_verdict (*on_response)(void *self, mrp_exchange *);                         /* may be null */
    void (*on_done)(void *self, mrp_exchange *);         /* read only. May be null, but not all three */
    void (*destroy)(void *self);                                                    /* may be null */
    mrp_verdict (*on_request_body)(void *self, mrp_exchange *);  /* may be null: see want_body */
    mrp_verdict (*on_response_body)(void *self, mrp_exchange *); /* may be null: see want_body */
    mrp_verdict (*on_resume)(void *self, mrp_exchange *, uint64_t ticket); /* may be null: then it goes on */
} mrp_plugin;

/* Static builds give each plugin a name of its own: -DMRP_PLUGIN_SYMBOL=my_plugin */
#ifndef MRP_PLUGIN_SYMBOL
#define MRP_PLUGIN_SYMBOL MiniRProxyPluginInstance
#endif

/* static initialiser of an mrp_str from a string literal */
#define MRP_STR(literal) { (literal), sizeof(literal) - 1 }

/* an mrp_str at run time, of a text that ends with a NUL */
static inline mrp_str mrp_text(const char *text)
{
    mrp_str out;
    out.ptr = text;
    out.len = strlen(text);
    return out;
}

/* initialiser of an mrp_plugin in C: MRP_PLUGIN_INIT("hush", "1.0", .create = create, .on_response = on_response) */
#define MRP_PLUGIN_INIT(plugin_name, plugin_version, ...)                                                         \
    { .magic = MRP_MAGIC, .abi_major = MRP_ABI_MAJOR, .abi_minor = MRP_ABI_MINOR, .struct_size = sizeof(mrp_plugin), \
      .name = MRP_STR(plugin_name), .version = MRP_STR(plugin_version), __VA_ARGS__ }

/* whether this host has a function: MRP_HAS(host, body_set) */
#define MRP_HAS(host, m) ((host)->struct_size >= offsetof(mrp_host, m) + sizeof((host)->m))

/* the descriptor is visible even where the compiler hides symbols by default, and has C linkage in C++ */
#if defined(__GNUC__) || defined(__clang__)
#define MRP_EXPORT __attribute__((visibility("default")))
#else
#define MRP_EXPORT
#endif

extern MRP_EXPORT const mrp_plugin MRP_PLUGIN_SYMBOL;

#ifdef __cplusplus
}
#endif

#endif
