/* text.h - numbers as people read them, and aligned tables.
 * Thread: any.  A grid belongs to whoever made it.  Texts may come from a remote server: control characters are shown
 * as '?' so that no model name can drive the terminal. */
#ifndef TOOLS_TEXT_H
#define TOOLS_TEXT_H

#include "shared/base.h"

#include <stdio.h>

#define TEXT_NUMBER 24

/* "0", "812", "4.0K", "1.5G": three digits or so, powers of 1024. */
const char *text_bytes(char out[TEXT_NUMBER], uint64_t bytes);
/* As text_bytes with "/s". */
const char *text_rate(char out[TEXT_NUMBER], uint64_t bytes_per_s);
/* "17us", "4.1ms", "1.25s", "3m12s", "2h05m", "3d04h" */
const char *text_ns(char out[TEXT_NUMBER], uint64_t ns);
/* "2026-01-31 12:00:00", UTC */
const char *text_time(char out[TEXT_NUMBER], uint64_t unix_ns);
/* Sizes with K, M, G, T suffixes, powers of 1024.  -EINVAL, -ERANGE. */
int text_parse_bytes(const char *text, uint64_t *out);
/* Durations: a number of seconds, fractions allowed, or with a suffix us, ms, s, m, h.  -EINVAL, -ERANGE. */
int text_parse_ns(const char *text, uint64_t *out);
/* Writes text with control characters replaced. */
void text_put_clean(FILE *out, const char *text);

struct grid;

/* One letter per column: 'l' or 'r' for the side it leans to. */
struct grid *grid_new(const char *columns);
/* Fills the next cell, row by row. */
void grid_add(struct grid *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints and empties; two spaces between columns, nothing behind the last. */
void grid_print(struct grid *g, FILE *out);
void grid_free(struct grid **g);

#endif
