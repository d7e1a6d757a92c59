/* log.h - levels, and a ring of the last lines for the panic dump.
 * Lines go to stderr as "level topic: text"; under systemd (JOURNAL_STREAM set) with "<N>" priorities instead of the
 * level word, without a time stamp, else with one.  Thread: any.  client/ and cache/ do not log. */
#ifndef SHARED_LOG_H
#define SHARED_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
/* A line of this level would be written: for lines that cost something to make. */
bool log_wants(enum log_level level);
/* Accepts "error", "warn", "info", "debug"; -EINVAL otherwise. */
int log_level_parse(const char *text, enum log_level *out);
void log_line(enum log_level level, const char *topic, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Writes the last lines of every level, oldest first; async-signal-unsafe, for the panic hook. */
void log_dump_ring(int fd);

#define log_error(topic, ...) log_line(LOG_ERROR, topic, __VA_ARGS__)
#define log_warn(topic, ...) log_line(LOG_WARN, topic, __VA_ARGS__)
#define log_info(topic, ...) log_line(LOG_INFO, topic, __VA_ARGS__)
#define log_debug(topic, ...) log_line(LOG_DEBUG, topic, __VA_ARGS__)

#endif
