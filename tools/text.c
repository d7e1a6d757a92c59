/* text.c - see text.h.  Keeps: a grid's last row may be short and is padded when printed. */
#include "tools/text.h"

#include "shared/check.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_COLUMNS 20

const char *text_bytes(char out[TEXT_NUMBER], uint64_t bytes)
{
	static const char units[] = "KMGTPE";
	if (bytes < 1024) {
		snprintf(out, TEXT_NUMBER, "%" PRIu64, bytes);
		return out;
	}
	double value = (double)bytes / 1024;
	size_t unit = 0;
	for (; value >= 1023.5 && units[unit + 1]; unit++)
		value /= 1024;
	snprintf(out, TEXT_NUMBER, value < 9.95 ? "%.1f%c" : "%.0f%c", value, units[unit]);
	return out;
}

const char *text_rate(char out[TEXT_NUMBER], uint64_t bytes_per_s)
{
	text_bytes(out, bytes_per_s);
	strcat(out, "/s");
	return out;
}

const char *text_ns(char out[TEXT_NUMBER], uint64_t ns)
{
	uint64_t s = ns / NS_PER_S;
	if (ns < NS_PER_MS)
		snprintf(out, TEXT_NUMBER, "%.3gus", (double)ns / 1e3);
	else if (ns < NS_PER_S)
		snprintf(out, TEXT_NUMBER, "%.3gms", (double)ns / 1e6);
	else if (s < 60)
		snprintf(out, TEXT_NUMBER, "%.3gs", (double)ns / 1e9);
	else if (s < 3600)
		snprintf(out, TEXT_NUMBER, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, TEXT_NUMBER, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(out, TEXT_NUMBER, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
	return out;
}

const char *text_time(char out[TEXT_NUMBER], uint64_t unix_ns)
{
	time_t t = (time_t)(unix_ns / NS_PER_S);
	struct tm tm;
	if (!gmtime_r(&t, &tm) || !strftime(out, TEXT_NUMBER, "%Y-%m-%d %H:%M:%S", &tm))
		strcpy(out, "?");
	return out;
}

struct suffix {
	const char *text;
	double factor;
};

static int parse_scaled(const char *text, const struct suffix *suffixes, double *out)
{
	char *end;
	errno = 0;
	double value = strtod(text, &end);
	if (end == text || !isfinite(value) || value < 0)
		return -EINVAL;
	for (; suffixes->text; suffixes++)
		if (strcmp(end, suffixes->text) == 0) {
			*out = value * suffixes->factor;
			return *out < 0x1p63 ? 0 : -ERANGE;
		}
	return -EINVAL;
}

int text_parse_bytes(const char *text, uint64_t *out)
{
	static const struct suffix suffixes[] = {
		{"", 1}, {"K", 0x1p10}, {"M", 0x1p20}, {"G", 0x1p30}, {"T", 0x1p40}, {NULL, 0}};
	double value;
	int r = parse_scaled(text, suffixes, &value);
	if (r == 0)
		*out = (uint64_t)value;
	return r;
}

int text_parse_ns(const char *text, uint64_t *out)
{
	static const struct suffix suffixes[] = {
		{"", 1e9}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}, {NULL, 0}};
	double value;
	int r = parse_scaled(text, suffixes, &value);
	if (r == 0)
		*out = (uint64_t)value;
	return r;
}

static bool is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

void text_put_clean(FILE *out, const char *text)
{
	for (; *text; text++)
		putc(is_control((unsigned char)*text) ? '?' : *text, out);
}

/* ---- grids ---- */

struct grid {
	char columns[MAX_COLUMNS + 1];
	size_t n_columns, n_cells, cap;
	char **cells;
};

struct grid *grid_new(const char *columns)
{
	struct grid *g = calloc(1, sizeof *g);
	ASSERT(g);
	g->n_columns = strlen(columns);
	ASSERT(g->n_columns > 0 && g->n_columns <= MAX_COLUMNS);
	memcpy(g->columns, columns, g->n_columns);
	return g;
}

void grid_add(struct grid *g, const char *fmt, ...)
{
	if (g->n_cells == g->cap) {
		g->cap = g->cap ? 2 * g->cap : 64;
		g->cells = realloc(g->cells, g->cap * sizeof *g->cells);
		ASSERT(g->cells);
	}
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&g->cells[g->n_cells], fmt, ap);
	va_end(ap);
	ASSERT(n >= 0);
	g->n_cells++;
}

/* Columns on a terminal: bytes less UTF-8 continuations, which is right for all but wide and combining characters. */
static size_t width(const char *text)
{
	size_t n = 0;
	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static void put_spaces(FILE *out, size_t n)
{
	while (n--)
		putc(' ', out);
}

static void print_cell(const struct grid *g, size_t i, const size_t *widths, FILE *out)
{
	size_t column = i % g->n_columns, pad = widths[column] - width(g->cells[i]);
	bool last = column + 1 == g->n_columns || i + 1 == g->n_cells;
	if (g->columns[column] == 'r')
		put_spaces(out, pad);
	text_put_clean(out, g->cells[i]);
	if (g->columns[column] != 'r' && !last)
		put_spaces(out, pad);
	fputs(last ? "\n" : "  ", out);
}

static void empty(struct grid *g)
{
	for (size_t i = 0; i < g->n_cells; i++)
		free(g->cells[i]);
	g->n_cells = 0;
}

void grid_print(struct grid *g, FILE *out)
{
	size_t widths[MAX_COLUMNS] = {0};
	for (size_t i = 0; i < g->n_cells; i++) {
		size_t column = i % g->n_columns;
		widths[column] = MAX(widths[column], width(g->cells[i]));
	}
	for (size_t i = 0; i < g->n_cells; i++)
		print_cell(g, i, widths, out);
	empty(g);
}

void grid_free(struct grid **g)
{
	if (!*g)
		return;
	empty(*g);
	free((*g)->cells);
	free(*g);
	*g = NULL;
}
