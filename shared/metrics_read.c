/* metrics_read.c - the reading half of metrics.h: another process's segment, the walk over the table, Prometheus text.
 * Keeps: nothing found in a segment is trusted further than its numbers; texts are cut and terminated. */
#include "shared/metrics.h"

#include "shared/check.h"
#include "shared/metrics_segment.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct metrics_reader {
	int fd;
	const struct metrics_segment *segment;
	char name[METRICS_NAME_BYTES];
};

static int map_segment(struct metrics_reader *r)
{
	struct stat st;
	if (fstat(r->fd, &st))
		return -errno;
	if (st.st_size < (off_t)sizeof *r->segment)
		return -EPROTO;
	void *p = mmap(NULL, sizeof *r->segment, PROT_READ, MAP_SHARED, r->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	r->segment = p;
	if (atomic_load_explicit(&r->segment->magic, memory_order_acquire) != METRICS_MAGIC)
		return -EPROTO;
	bool same = r->segment->version == METRICS_VERSION && r->segment->n_slots == METRICS_SLOTS &&
		    r->segment->table_hash == metrics_table_hash();
	return same ? 0 : -EPROTO;
}

static int open_failed(int r, const char *socket_path, const char *name, struct fault *why)
{
	if (r == -ENOENT)
		fault_set(why, TRIMS_E_DISCONNECTED, "no daemon has run with socket %s since the machine started",
			socket_path);
	else if (r == -EACCES)
		fault_set(why, TRIMS_E_DISCONNECTED, "the daemon of socket %s is starting, try again", socket_path);
	else if (r == -EPROTO)
		fault_set(why, TRIMS_E_VERSION, "metrics segment %s was written by another build of trims", name);
	else
		fault_errno(why, TRIMS_E_NO_SYSTEM, -r, "metrics segment %s", name);
	return r == -EACCES ? -EAGAIN : r;
}

int metrics_open(struct metrics_reader **out, const char *socket_path, struct fault *why)
{
	struct metrics_reader *r = calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	metrics_segment_name(socket_path, r->name);
	r->fd = shm_open(r->name, O_RDONLY | O_CLOEXEC, 0);
	int result = r->fd < 0 ? -errno : map_segment(r);
	if (result < 0) {
		result = open_failed(result, socket_path, r->name, why);
		metrics_reader_free(&r);
		return result;
	}
	*out = r;
	return 0;
}

void metrics_reader_free(struct metrics_reader **r)
{
	if (!*r)
		return;
	if ((*r)->segment)
		munmap((void *)(*r)->segment, sizeof *(*r)->segment);
	if ((*r)->fd >= 0)
		close((*r)->fd);
	free(*r);
	*r = NULL;
}

void metrics_read(const struct metrics_reader *r, struct metrics_snapshot *out)
{
	const struct metrics_segment *s = r->segment;
	*out = (struct metrics_snapshot){
		.pid = s->pid,
		.boot_hi = s->boot_hi,
		.boot_lo = s->boot_lo,
		.start_unix_ns = s->start_unix_ns,
		.updated_unix_ns = atomic_load_explicit(&s->updated_unix_ns, memory_order_relaxed),
		.alive = metrics_fd_alive(r->fd),
	};
	memcpy(out->version, s->program, sizeof out->version - 1);
	memcpy(out->revision, s->revision, sizeof out->revision - 1);
	memcpy(out->socket_path, s->socket_path, sizeof out->socket_path - 1);
	for (size_t i = 0; i < METRICS_SLOTS; i++)
		out->values[i] = atomic_load_explicit(&s->slots[i], memory_order_relaxed);
}

bool metrics_replaced(const struct metrics_reader *r)
{
	struct stat mine, named;
	OWN_FD int fd = shm_open(r->name, O_RDONLY | O_CLOEXEC, 0);
	return fd >= 0 && fstat(fd, &named) == 0 && fstat(r->fd, &mine) == 0 && named.st_ino != mine.st_ino;
}

/* ---- the walk ---- */

/* A family's row has no slot; the metric rows below it belong to it. */
struct row {
	bool is_family;
	enum metric_kind kind;
	enum metric_unit unit;
	const char *name, *text; /* family: published name, help; metric: field, labels */
	enum metric slot;
};

static const struct row rows[] = {
#define FAMILY(kind, name, unit, help) {true, METRIC_##kind, METRIC_UNIT_##unit, name, help, 0},
#define COUNTER(field, labels) {false, METRIC_COUNTER, 0, #field, labels, M_##field},
#define GAUGE(field, labels) {false, METRIC_GAUGE, 0, #field, labels, M_##field},
#define HISTOGRAM(field, labels) {false, METRIC_HISTOGRAM, 0, #field, labels, M_##field},
#include "shared/metrics.def"
#undef FAMILY
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
};

static void append_escaped(const char *value, char *out, size_t size, size_t *used)
{
	for (; *value && *used + 3 < size; value++) {
		if (*value == '"' || *value == '\\')
			out[(*used)++] = '\\';
		out[(*used)++] = (unsigned char)*value < 0x20 ? ' ' : *value;
	}
	out[*used] = 0;
}

/* Puts the segment's version where a label value is "@" and its revision where it is "#", escaped as the text format
 * wants, and the mark of simulated devices where there is a "%". */
static void expand_labels(const char *labels, const struct metrics_snapshot *s, char *out, size_t size)
{
	size_t used = 0;
	out[0] = 0;
	for (; *labels && used + 3 < size; labels++) {
		if (*labels == '@')
			append_escaped(s->version, out, size, &used);
		else if (*labels == '#')
			append_escaped(s->revision, out, size, &used);
		else if (*labels != '%')
			out[used++] = *labels;
		else if (s->values[M_gpu_simulated])
			used += (size_t)snprintf(out + used, size - used, ",simulated=\"yes\"");
		ASSERT(used < size);
		out[used] = 0;
	}
}

static void fill_histogram(struct metric_view *v, const uint64_t *slots)
{
	v->buckets = slots;
	v->sum_ns = slots[METRICS_BUCKETS + 1];
	for (unsigned i = 0; i <= METRICS_BUCKETS; i++)
		v->count += slots[i];
}

void metrics_visit(const struct metrics_snapshot *s, metric_fn fn, void *ctx)
{
	const struct row *family = NULL;
	bool first = false;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct row *row = &rows[i];
		if (row->is_family) {
			family = row;
			first = true;
			continue;
		}
		ASSERT(family && family->kind == row->kind);
		struct metric_view v = {.kind = row->kind, .unit = family->unit, .field = row->name,
			.name = family->name, .help = family->text, .first = first};
		expand_labels(row->text, s, v.labels, sizeof v.labels);
		if (row->kind == METRIC_HISTOGRAM)
			fill_histogram(&v, &s->values[row->slot]);
		else
			v.value = s->values[row->slot];
		fn(ctx, &v);
		first = false;
	}
}

uint64_t metrics_bucket_ns(unsigned bucket)
{
	return bucket < METRICS_BUCKETS ? NS_PER_US << bucket : UINT64_MAX;
}

uint64_t metrics_quantile_ns(const struct metric_view *v, unsigned per_mille)
{
	if (v->count == 0)
		return 0;
	uint64_t rank = v->count - v->count / 1000 * (1000 - per_mille) - v->count % 1000 * (1000 - per_mille) / 1000;
	uint64_t seen = 0;
	for (unsigned i = 0; i < METRICS_BUCKETS; i++) {
		seen += v->buckets[i];
		if (seen >= rank)
			return metrics_bucket_ns(i);
	}
	return metrics_bucket_ns(METRICS_BUCKETS);
}

/* ---- Prometheus ---- */

static const char *const kind_names[] = {[METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge",
	[METRIC_HISTOGRAM] = "histogram"};

/* HELP text: backslash and newline are escaped. */
static void put_help(FILE *out, const struct metric_view *v)
{
	fprintf(out, "# HELP %s ", v->name);
	for (const char *p = v->help; *p; p++) {
		if (*p == '\\')
			fputs("\\\\", out);
		else if (*p == '\n')
			fputs("\\n", out);
		else
			fputc(*p, out);
	}
	fprintf(out, "\n# TYPE %s %s\n", v->name, kind_names[v->kind]);
}

static void put_seconds(FILE *out, uint64_t ns)
{
	fprintf(out, "%" PRIu64 ".%09" PRIu64 "\n", ns / NS_PER_S, ns % NS_PER_S);
}

static void put_histogram(FILE *out, const struct metric_view *v)
{
	const char *comma = *v->labels ? "," : "";
	uint64_t seen = 0;
	for (unsigned i = 0; i < METRICS_BUCKETS; i++) {
		seen += v->buckets[i];
		fprintf(out, "%s_bucket{%s%sle=\"%.9g\"} %" PRIu64 "\n", v->name, v->labels, comma,
			(double)metrics_bucket_ns(i) / 1e9, seen);
	}
	fprintf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", v->name, v->labels, comma, v->count);
	const char *open = *v->labels ? "{" : "", *end = *v->labels ? "}" : "";
	fprintf(out, "%s_sum%s%s%s ", v->name, open, v->labels, end);
	put_seconds(out, v->sum_ns);
	fprintf(out, "%s_count%s%s%s %" PRIu64 "\n", v->name, open, v->labels, end, v->count);
}

static void put_metric(void *ctx, const struct metric_view *v)
{
	FILE *out = ctx;
	if (v->first)
		put_help(out, v);
	if (v->kind == METRIC_HISTOGRAM) {
		put_histogram(out, v);
		return;
	}
	fprintf(out, *v->labels ? "%s{%s} " : "%s%s ", v->name, v->labels);
	if (v->unit == METRIC_UNIT_NS)
		put_seconds(out, v->value);
	else
		fprintf(out, "%" PRIu64 "\n", v->value);
}

void metrics_prometheus(const struct metrics_snapshot *s, FILE *out)
{
	metrics_visit(s, put_metric, out);
}
