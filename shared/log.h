/* log.h - levels, and a ring of the last lines for the panic dump.
 * Lines go to stderr as "level topic: text"; under systemd (JOURNAL_STREAM set) with "<N>" priorities instead of the
 * level word, without a time stamp, else with one.  Thread: any.  client/ and cache/ do not log. */
#ifndef SHARED_LOG_H
#define SHARED_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
/* A line of this level would be written: for lines that cost something to make. */
bool log_wants(enum log_level level);
/* Accepts "error", "warn", "info", "debug"; -EINVAL otherwise. */
int log_level_parse(const char *text, enum log_level *out);
void log_line(enum log_level level, const char *topic, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* What one kind of line may take of the log when somebody outside can cause it as often as he likes: `most` lines in each
 * period.  Set the first two, all else 0; it lives as long as the process. */
struct log_limit {
	uint64_t period_ns;
	uint32_t most;
	uint32_t n; /* lines in the period that began then, the ones left out as well */
	uint64_t began_ns;
};

/* As log_line(), within a limit: what is beyond it has level debug, so the ring keeps it.  The first line that is left out is
 * replaced by a line that says so, the first of a later period is preceded by how many were.  now: monotonic ns. */
void log_limited(struct log_limit *limit, uint64_t now, enum log_level level, const char *topic, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
/* Writes the last lines of every level, oldest first; async-signal-unsafe, for the panic hook. */
void log_dump_ring(int fd);

#define log_error(topic, ...) log_line(LOG_ERROR, topic, __VA_ARGS__)
#define log_warn(topic, ...) log_line(LOG_WARN, topic, __VA_ARGS__)
#define log_info(topic, ...) log_line(LOG_INFO, topic, __VA_ARGS__)
#define log_debug(topic, ...) log_line(LOG_DEBUG, topic, __VA_ARGS__)

#endif
