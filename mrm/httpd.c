/* httpd.c - see httpd.h.  libmicrohttpd does the HTTP; its bounds: 16 connections, 5 s each, GET only. */
#include "mrm/httpd.h"

#include "shared/base.h"
#include "shared/metrics.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct httpd {
	struct MHD_Daemon *mhd;
	const struct metrics *metrics;
	_Atomic bool ready;
	int port;
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *text, enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)text, mode);
	if (!r)
		return MHD_NO;
	MHD_add_response_header(r, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
	enum MHD_Result ok = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return ok;
}

static enum MHD_Result answer_metrics(struct httpd *h, struct MHD_Connection *c)
{
	struct metrics_snapshot *s = malloc(sizeof *s);
	char *text = NULL;
	size_t bytes;
	FILE *f = s ? open_memstream(&text, &bytes) : NULL;
	if (f) {
		metrics_own(h->metrics, s);
		metrics_prometheus(s, f);
		fclose(f);
	}
	free(s);
	return text ? answer(c, MHD_HTTP_OK, text, MHD_RESPMEM_MUST_FREE) : MHD_NO;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_bytes, void **state)
{
	struct httpd *h = ctx;
	if (strcmp(method, "GET"))
		return answer(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n", MHD_RESPMEM_PERSISTENT);
	if (!strcmp(url, "/metrics"))
		return answer_metrics(h, c);
	if (!strcmp(url, "/healthz"))
		return answer(c, MHD_HTTP_OK, "ok\n", MHD_RESPMEM_PERSISTENT);
	if (!strcmp(url, "/readyz")) {
		bool ready = atomic_load(&h->ready);
		return answer(c, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, ready ? "ready\n" : "stopping\n",
			MHD_RESPMEM_PERSISTENT);
	}
	return answer(c, MHD_HTTP_NOT_FOUND, "try /metrics, /healthz or /readyz\n", MHD_RESPMEM_PERSISTENT);
}

static int split_address(const char *address, char *host, size_t host_size, char *port, size_t port_size)
{
	const char *colon = strrchr(address, ':');
	if (!colon || !colon[1] || strlen(colon + 1) >= port_size)
		return -EINVAL;
	size_t n = (size_t)(colon - address);
	if (n >= 2 && *address == '[' && address[n - 1] == ']') {
		address++;
		n -= 2;
	}
	if (!n || n >= host_size)
		return -EINVAL;
	memcpy(host, address, n);
	host[n] = 0;
	strcpy(port, colon + 1);
	return atoi(port) > UINT16_MAX ? -EINVAL : 0; /* getaddrinfo() would take the rest of a division for it */
}

static struct addrinfo *parse_address(const char *address, struct fault *why)
{
	char host[64], port[8];
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
	struct addrinfo *ai = NULL;
	if (split_address(address, host, sizeof host, port, sizeof port) || getaddrinfo(host, port, &hints, &ai)) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "metrics: \"%s\" is not ADDR:PORT", address);
		return NULL;
	}
	return ai;
}

int httpd_check(const char *address, struct fault *why)
{
	struct addrinfo *ai = parse_address(address, why);
	if (!ai)
		return -EINVAL;
	freeaddrinfo(ai);
	return 0;
}

static int listen_on(const char *address, int *out, struct fault *why)
{
	struct addrinfo *ai = parse_address(address, why);
	if (!ai)
		return -EINVAL;
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	int e = fd < 0 || bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 16) < 0 ? -errno : 0;
	freeaddrinfo(ai);
	if (e) {
		if (fd >= 0)
			close(fd);
		fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "metrics: cannot listen on %s", address);
		return e;
	}
	*out = fd;
	return 0;
}

static int port_of(int fd)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof a;
	char port[8] = "0";
	if (getsockname(fd, (void *)&a, &len) == 0)
		getnameinfo((void *)&a, len, NULL, 0, port, sizeof port, NI_NUMERICSERV);
	return atoi(port);
}

int httpd_new(struct httpd **out, const char *address, const struct metrics *metrics, struct fault *why)
{
	int fd;
	int e = listen_on(address, &fd, why);
	if (e)
		return e;
	struct httpd *h = calloc(1, sizeof *h);
	if (!h) {
		close(fd);
		return -ENOMEM;
	}
	h->metrics = metrics;
	h->port = port_of(fd);
	h->mhd = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL, 0, NULL, NULL, on_request, h,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, 16u, MHD_OPTION_CONNECTION_TIMEOUT, 5u,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(16 * KIB), MHD_OPTION_END);
	if (!h->mhd) {
		close(fd);
		free(h);
		return fault_set(why, TRIMS_E_NO_SYSTEM, "metrics: cannot serve on %s", address), -EIO;
	}
	*out = h;
	return 0;
}

void httpd_free(struct httpd **hp)
{
	if (!*hp)
		return;
	MHD_stop_daemon((*hp)->mhd);
	free(*hp);
	*hp = NULL;
}

int httpd_port(const struct httpd *h)
{
	return h->port;
}

void httpd_set_ready(struct httpd *h, bool ready)
{
	if (h)
		atomic_store(&h->ready, ready);
}
