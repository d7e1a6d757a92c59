/* httpd.h - /metrics (Prometheus text), /healthz and /readyz over HTTP, on a thread of its own that reads nothing but the
 * metrics' slots: scraping costs the loop nothing.  Thread: start and stop on the loop thread. */
#ifndef MRM_HTTPD_H
#define MRM_HTTPD_H

#include "shared/error.h"

#include <stdbool.h>

struct httpd;
struct metrics;

/* -EINVAL: not an address this could listen on. */
int httpd_check(const char *address, struct fault *why);
/* address: "127.0.0.1:9400", "[::1]:9400"; port 0 picks one, see httpd_port(). */
int httpd_new(struct httpd **out, const char *address, const struct metrics *metrics, struct fault *why);
void httpd_free(struct httpd **h);
int httpd_port(const struct httpd *h);
/* What /readyz answers. */
void httpd_set_ready(struct httpd *h, bool ready);

#endif
