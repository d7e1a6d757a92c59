/* test_httpd.c - mrm/httpd: what it answers, whom it refuses, and that it is never waited for. */
#include "mrm/httpd.h"
#include "shared/base.h"
#include "shared/metrics.h"
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct httpd *started(void)
{
	struct httpd *h;
	struct fault why;
	ck_assert_msg(httpd_new(&h, "127.0.0.1:0", NULL, &why) == 0, "%s", why.text);
	ck_assert_int_gt(httpd_port(h), 0);
	return h;
}

static int connected(const struct httpd *h)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)httpd_port(h)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(connect(fd, (void *)&a, sizeof a), 0);
	return fd;
}

/* Sends the request, returns the whole answer (heap, "" when there was none). */
static char *asked(const struct httpd *h, const char *request, size_t bytes)
{
	static char text[1 << 20];
	int fd = connected(h);
	size_t n = 0;
	ssize_t r;
	while (bytes) { /* the server may close before it has read everything */
		r = send(fd, request, bytes, MSG_NOSIGNAL);
		if (r <= 0)
			break;
		request += r;
		bytes -= (size_t)r;
	}
	shutdown(fd, SHUT_WR);
	while (n < sizeof text - 1 && (r = recv(fd, text + n, sizeof text - 1 - n, 0)) > 0)
		n += (size_t)r;
	text[n] = 0;
	close(fd);
	return text;
}

static char *got(const struct httpd *h, const char *method, const char *path)
{
	char request[300];
	int n = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
	return asked(h, request, (size_t)n);
}

static void check_status(const char *answer, int status)
{
	int found = 0;
	ck_assert_msg(sscanf(answer, "HTTP/1.%*d %d", &found) == 1 && found == status, "not %d: %.200s", status, answer);
}

START_TEST(metrics_are_served_as_text)
{
	struct httpd *h = started();
	metrics_add(M_connections, 41);
	const char *answer = got(h, "GET", "/metrics");
	check_status(answer, 200);
	ck_assert_ptr_nonnull(strstr(answer, "Content-Type: text/plain; version=0.0.4"));
	ck_assert_ptr_nonnull(strstr(answer, "# TYPE trims_connections_total counter"));
	ck_assert_ptr_nonnull(strstr(answer, "\ntrims_connections_total 41\n"));
	httpd_free(&h);
	ck_assert_ptr_null(h);
	httpd_free(&h);
}
END_TEST

START_TEST(it_is_ready_when_it_was_told_so)
{
	struct httpd *h = started();
	check_status(got(h, "GET", "/healthz"), 200);
	check_status(got(h, "GET", "/readyz"), 503);
	httpd_set_ready(h, true);
	check_status(got(h, "GET", "/readyz"), 200);
	httpd_set_ready(h, false);
	check_status(got(h, "GET", "/readyz"), 503);
	httpd_set_ready(NULL, true);
	httpd_free(&h);
}
END_TEST

START_TEST(other_paths_and_methods_are_refused)
{
	struct httpd *h = started();
	check_status(got(h, "GET", "/"), 404);
	check_status(got(h, "GET", "/metrics/"), 404);
	check_status(got(h, "GET", "/../etc/passwd"), 404);
	check_status(got(h, "POST", "/metrics"), 405);
	check_status(got(h, "DELETE", "/metrics"), 405);
	check_status(got(h, "PUT", "/nothing"), 405);
	check_status(got(h, "GET", "/healthz"), 200);
	httpd_free(&h);
}
END_TEST

START_TEST(requests_beyond_all_bounds_are_refused_and_cost_nothing_more)
{
	static char request[2 << 20];
	struct httpd *h = started();
	size_t n = (size_t)sprintf(request, "GET /");
	memset(request + n, 'a', sizeof request - n);
	const char *answer = asked(h, request, sizeof request);
	ck_assert_msg(!*answer || !strncmp(answer, "HTTP/1.1 4", 10) || !strncmp(answer, "HTTP/1.1 5", 10), "%.100s", answer);
	n = (size_t)sprintf(request, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Much: ");
	memset(request + n, 'a', sizeof request - n);
	answer = asked(h, request, sizeof request);
	ck_assert_msg(!*answer || !strncmp(answer, "HTTP/1.1 4", 10), "%.100s", answer);
	memset(request, 0xff, 1000);
	memcpy(request + 996, "\r\n\r\n", 4);
	answer = asked(h, request, 1000);
	ck_assert_msg(!*answer || !strncmp(answer, "HTTP/1.1 4", 10), "%.100s", answer);
	check_status(got(h, "GET", "/healthz"), 200);
	httpd_free(&h);
}
END_TEST

START_TEST(addresses_are_checked)
{
	static const char *const bad[] = {"", "9400", ":9400", "localhost:9400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http",
		"127.0.0.1:1234567890123", "127.0.0.1:65536", "127.0.0.1:99999", "[::1]", "[::1:9400", "1.2.3.4.5:80",
		"0123456789012345678901234567890123456789012345678901234567890123456789:80"};
	static const char *const good[] = {"127.0.0.1:9400", "127.0.0.1:65535", "[::1]:9400", "0.0.0.0:0"};
	struct fault why;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct httpd *h = NULL;
		ck_assert_msg(httpd_check(bad[i], &why) == -EINVAL, "%s", bad[i]);
		ck_assert_int_eq(httpd_new(&h, bad[i], NULL, &why), -EINVAL);
		ck_assert_ptr_null(h);
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		ck_assert_msg(httpd_check(good[i], &why) == 0, "%s: %s", good[i], why.text);
	struct httpd *h = started(), *other = NULL;
	char taken[40];
	snprintf(taken, sizeof taken, "127.0.0.1:%d", httpd_port(h));
	ck_assert_int_eq(httpd_new(&other, taken, NULL, &why), -EADDRINUSE);
	ck_assert_ptr_nonnull(strstr(why.text, taken));
	httpd_free(&h);
}
END_TEST

static void *scrape(void *h)
{
	struct httpd *server = h;
	for (int i = 0; i < 20; i++) {
		char buf[256] = "";
		int fd = connected(server);
		const char *request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
		if (send(fd, request, strlen(request), MSG_NOSIGNAL) > 0 && recv(fd, buf, sizeof buf - 1, 0) > 0)
			ck_assert_ptr_nonnull(strstr(buf, " 200 "));
		close(fd);
	}
	return NULL;
}

START_TEST(many_scrapes_while_numbers_move_and_while_it_ends)
{
	struct httpd *h = started();
	pthread_t threads[4];
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_create(&threads[i], NULL, scrape, h);
	for (int i = 0; i < 100000; i++) {
		metrics_add(M_connections, 1);
		metrics_observe_ns(M_open_hit, (uint64_t)i);
	}
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	int idle = connected(h); /* somebody who never asks does not hold the end up */
	httpd_free(&h);
	close(idle);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "answers", metrics_are_served_as_text, it_is_ready_when_it_was_told_so,
		other_paths_and_methods_are_refused, requests_beyond_all_bounds_are_refused_and_cost_nothing_more,
		many_scrapes_while_numbers_move_and_while_it_ends);
	UNIT_CASE(suite, "addresses", addresses_are_checked);
}

UNIT_MAIN("httpd", all)
