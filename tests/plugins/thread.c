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
const mrp_plugin MRP_PLUGIN_SYMBOL = {
    1, MRP_ABI_MAJOR, MRP_ABI_MINOR, sizeof(mrp_plugin), 0, 0, 0, 0,
    MRP_STR("thread"), MRP_STR("1"), NULL, NULL, NULL, NULL, NULL,
};
#endif
