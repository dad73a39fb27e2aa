/*
 * A plugin that counts its instances in a file. Its configuration is "FILE LABEL"; it writes "create LABEL" and
 * "destroy LABEL" there, a line each, and sets the field X-Label of responses. With the label "refuse" it does not start.
 * VERSION stands behind the label.
 */
#include "mini_rproxy_plugin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION ""
#endif

struct counted {
    const mrp_host *host;
    char *file;
    char label[64];
};

static mrp_str str(const char *text)
{
    mrp_str s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

static void note(const struct counted *self, const char *what)
{
    char line[128];
    int file = open(self->file, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int length = snprintf(line, sizeof line, "%s %s\n", what, self->label);
    if (file < 0 || write(file, line, (size_t)length) != length)
        abort();
    close(file);
}

static mrp_status create(const mrp_host *host, mrp_ctx *ctx, mrp_str config, void **out)
{
    struct counted *self = calloc(1, sizeof *self);
    char *space;
    self->host = host;
    self->file = calloc(1, config.len + 1);
    memcpy(self->file, config.ptr, config.len);
    space = strchr(self->file, ' ');
    if (space == NULL || strcmp(space + 1, "refuse") == 0) {
        host->log(ctx, MRP_LOG_ERROR, str("I do not want to"));
        free(self->file);
        free(self);
        return MRP_INVALID;
    }
    *space = '\0';
    snprintf(self->label, sizeof self->label, "%s%s", space + 1, VERSION);
    note(self, "create");
    *out = self;
    return MRP_OK;
}

static mrp_verdict on_response(void *data, mrp_exchange *x)
{
    struct counted *self = data;
    self->host->field_add(x, MRP_RESPONSE, str("X-Label"), str(self->label));
    return MRP_CONTINUE;
}

static void on_done(void *data, mrp_exchange *x)
{
    struct counted *self = data;
    (void)x;
    /* An instance that was destroyed too early shows here. */
    if (self->label[0] == '\0')
        abort();
}

static void destroy(void *data)
{
    struct counted *self = data;
    note(self, "destroy");
    self->label[0] = '\0';
    free(self->file);
    free(self);
}

const mrp_plugin MRP_PLUGIN_SYMBOL = MRP_PLUGIN_INIT("counted", "1", .create = create, .on_response = on_response,
                                                     .on_done = on_done, .destroy = destroy);
