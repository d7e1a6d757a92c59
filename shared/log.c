/* log.c - see log.h.  Keeps: one write(2) per line, so lines of several threads do not mix. */
#include "shared/log.h"

#include "shared/base.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024
#define RING_LINES 256

static _Atomic int threshold = LOG_INFO;
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t limit_lock = PTHREAD_MUTEX_INITIALIZER; /* of every struct log_limit */
static char ring[RING_LINES][LINE_MAX_BYTES];
static unsigned ring_next;

static const struct {
	const char *name, *priority;
} levels[] = {{"error", "<3>"}, {"warn", "<4>"}, {"info", "<6>"}, {"debug", "<7>"}};

void log_set_level(enum log_level level)
{
	atomic_store(&threshold, (int)level);
}

bool log_wants(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&threshold, memory_order_relaxed);
}

int log_level_parse(const char *text, enum log_level *out)
{
	for (size_t i = 0; i < ARRAY_LEN(levels); i++)
		if (!strcmp(text, levels[i].name)) {
			*out = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

static int prefix(char *buf, size_t size, enum log_level level, const char *topic)
{
	if (getenv("JOURNAL_STREAM"))
		return snprintf(buf, size, "%s%s: ", levels[level].priority, topic);
	struct timespec ts;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	return snprintf(buf, size, "%02d:%02d:%02d.%03ld %-5s %s: ", tm.tm_hour, tm.tm_min, tm.tm_sec,
		ts.tv_nsec / 1000000, levels[level].name, topic);
}

static void __attribute__((format(printf, 3, 0))) put_line(enum log_level level, const char *topic, const char *fmt,
	va_list ap)
{
	char line[LINE_MAX_BYTES];
	int saved = errno;
	int used = prefix(line, sizeof line - 1, level, topic);
	int more = vsnprintf(line + used, sizeof line - 1 - (size_t)used, fmt, ap);
	size_t len = MIN((size_t)used + (size_t)MAX(more, 0), sizeof line - 2);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = ' ';
	line[len] = '\n';
	line[len + 1] = 0;
	pthread_mutex_lock(&ring_lock);
	memcpy(ring[ring_next++ % RING_LINES], line, len + 2);
	pthread_mutex_unlock(&ring_lock);
	if (log_wants(level)) {
		ssize_t ignored = write(STDERR_FILENO, line, len + 1); /* nowhere left to say that it failed */
		(void)ignored;
	}
	errno = saved;
}

void log_line(enum log_level level, const char *topic, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	put_line(level, topic, fmt, ap);
	va_end(ap);
}

void log_limited(struct log_limit *limit, uint64_t now, enum log_level level, const char *topic, const char *fmt, ...)
{
	uint32_t left_out = 0;
	pthread_mutex_lock(&limit_lock);
	if (limit->n == 0 || now - limit->began_ns >= limit->period_ns) {
		left_out = limit->n > limit->most ? limit->n - limit->most : 0;
		limit->began_ns = now;
		limit->n = 0;
	}
	limit->n += limit->n < UINT32_MAX;
	bool beyond = limit->n > limit->most, first = limit->n == limit->most + 1;
	pthread_mutex_unlock(&limit_lock);
	if (left_out)
		log_line(level, topic, "%u lines like the next one were left out", left_out);
	if (first)
		log_line(level, topic, "too many lines like the last one: more are left out, for at most %llu s",
			(unsigned long long)(limit->period_ns / NS_PER_S));
	va_list ap;
	va_start(ap, fmt);
	put_line(beyond ? LOG_DEBUG : level, topic, fmt, ap);
	va_end(ap);
}

void log_dump_ring(int fd)
{
	for (unsigned i = 0; i < RING_LINES; i++) {
		const char *line = ring[(ring_next + i) % RING_LINES];
		if (*line && write(fd, line, strlen(line)) < 0)
			return;
	}
}
