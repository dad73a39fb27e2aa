/* Starts a thread as soon as it is mapped, and has a record that every host refuses. */
#include "mini_rproxy_plugin.h"

#include <pthread.h>
#include <unistd.h>

static void *work(void *unused)
{
    for (;;) {
        usleep(1000);
    }
    return unused;
}

__attribute__((constructor)) static void start(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, NULL) == 0)
        pthread_detach(thread);
}

#ifndef WITHOUT_RECORD
const mrp_plugin MRP_PLUGIN_SYMBOL = { .magic = 1, .struct_size = sizeof(mrp_plugin) };
#endif
