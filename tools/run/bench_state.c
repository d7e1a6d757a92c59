/* bench_state.c - bringing daemon and page cache into the state that a run is to begin with.  See bench.h.
 *	miss   on a GPU: the host has the model, the device has nothing of it; on the CPU: the host has nothing of it
 *	hit    the device (on the CPU: the host) has it as a run of the same mode left it
 * Files are in the page cache, but for misses on the CPU: then nothing of them is. */
#include "tools/run/bench.h"

#include "shared/own.h"
#include "tools/clock.h"
#include "tools/pagecache.h"
#include "tools/run/fail_trims.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GONE_NS (30 * NS_PER_S)  /* for what was evicted */
#define LET_GO_NS NS_PER_S       /* of that, for a process that has ended to let go of it */
#define HERE_NS (600 * NS_PER_S) /* for what was asked for */

/* ---- the daemon ---- */

/* What the daemon says of the model; NULL and no fault where it knows none of that name. */
static int look(struct bench *b, json_t **out, struct fault *why)
{
	char *text;
	size_t bytes;
	uint64_t next;
	*out = NULL;
	int r = trims_query(b->conn, TRIMS_REPORT_SHOW, b->r->model, 0, &text, &bytes, &next);
	if (r)
		return r == -TRIMS_E_NOT_FOUND ? 0 : fail_trims(why);
	*out = json_loadb(text, bytes, 0, NULL);
	free(text);
	return *out ? 0 : fault_set(why, TRIMS_E_PROTOCOL, "the daemon sent a report that is no JSON");
}

/* The row of one tier; of several GPUs the one that is used. */
static const json_t *copy_on(const struct bench *b, const json_t *model, uint32_t tier)
{
	json_t *tiers = json_object_get(model, "tiers"), *row;
	const char *key;
	if (tier == TRIMS_TIER_HOST)
		return json_object_get(tiers, "host");
	json_object_foreach(tiers, key, row) {
		const char *uuid = json_string_value(json_object_get(row, "device"));
		if (uuid && strcmp(uuid, b->uuid) == 0)
			return row;
	}
	return NULL;
}

static bool is_in(const struct bench *b, const json_t *model, uint32_t tier, const char *state)
{
	const char *is = json_string_value(json_object_get(copy_on(b, model, tier), "state"));
	return strcmp(is ? is : "absent", state) == 0;
}

static const char *place_name(uint32_t tier)
{
	return tier == TRIMS_TIER_HOST ? "in host memory" : "on the device";
}

/* Until the copy is in that state.  Nobody measures meanwhile. */
static int wait_for(struct bench *b, uint32_t tier, const char *state, uint64_t patience_ns, struct fault *why)
{
	bool leaving = patience_ns == GONE_NS;
	for (uint64_t began = clock_ns();; poll(NULL, 0, 1)) {
		json_t *model;
		int r = look(b, &model, why);
		bool good = !r && is_in(b, model, tier, state);
		json_int_t leases = json_integer_value(json_object_get(copy_on(b, model, tier), "leases"));
		uint64_t waited = clock_ns() - began;
		json_decref(model);
		if (r || good)
			return r;
		if (leaving && leases && waited > LET_GO_NS)
			return fault_set(why, TRIMS_E_BUSY, "somebody else has the model open %s", place_name(tier));
		if (waited > patience_ns)
			return fault_set(why, TRIMS_E_BUSY, "the daemon's copy %s is not %s after %u s", place_name(tier), state,
				(unsigned)(patience_ns / NS_PER_S));
	}
}

static int evict(struct bench *b, uint32_t tier, struct fault *why)
{
	int r = trims_evict(b->conn, b->r->model, tier, tier == TRIMS_TIER_GPU ? b->uuid : NULL, NULL, 0);
	if (r && r != -TRIMS_E_NOT_FOUND)
		return fail_trims(why);
	return wait_for(b, tier, "absent", GONE_NS, why);
}

static int bring_to_host(struct bench *b, struct fault *why)
{
	if (trims_prefetch(b->conn, b->r->model, TRIMS_TIER_HOST, NULL, NULL, NULL, 0))
		return fail_trims(why);
	return wait_for(b, TRIMS_TIER_HOST, "ready", HERE_NS, why);
}

int bench_first_look(struct bench *b, struct fault *why)
{
	json_t *model;
	int r = bring_to_host(b, why);
	if (!r)
		r = look(b, &model, why);
	if (r)
		return r;
	const char *source = json_string_value(json_object_get(model, "source"));
	b->bytes = (uint64_t)json_integer_value(json_object_get(model, "bytes"));
	snprintf(b->source, sizeof b->source, "%s", source ? source : "");
	json_decref(model);
	return 0;
}

/* ---- files ---- */

static int add_file(struct bench *b, const char *path, struct fault *why)
{
	if (b->n_files == BENCH_MAX_FILES)
		return fault_set(why, TRIMS_E_LIMIT, "%s: more than %u weight files", b->r->file, BENCH_MAX_FILES);
	if (snprintf(b->files[b->n_files], PATH_MAX, "%s", path) >= PATH_MAX)
		return fault_set(why, TRIMS_E_LIMIT, "%s: its name is too long", b->r->file);
	b->n_files++;
	return 0;
}

int bench_find_files(struct bench *b, struct fault *why)
{
	struct stat st;
	if (!b->r->file)
		return 0;
	if (stat(b->r->file, &st))
		return fault_errno(why, TRIMS_E_NOT_FOUND, errno, "%s", b->r->file);
	if (!S_ISDIR(st.st_mode))
		return add_file(b, b->r->file, why);
	DIR *d = opendir(b->r->file);
	if (!d)
		return fault_errno(why, TRIMS_E_DISK_ERROR, errno, "%s", b->r->file);
	int r = 0;
	for (struct dirent *e; !r && (e = readdir(d));) {
		char path[PATH_MAX + NAME_MAX];
		const char *dot = strrchr(e->d_name, '.');
		if (!dot || strcmp(dot, ".safetensors") != 0)
			continue;
		snprintf(path, sizeof path, "%s/%s", b->r->file, e->d_name);
		r = add_file(b, path, why);
	}
	closedir(d);
	return r;
}

static bool wants_cold(const struct bench *b)
{
	return !b->uuid[0] && b->r->state == BENCH_MISS;
}

const char *bench_page_cache(const struct bench *b)
{
	return wants_cold(b) ? "cold" : "warm";
}

static int prepare_file(const struct bench *b, const char *path, struct fault *why)
{
	double share = 0;
	if (wants_cold(b))
		return pagecache_drop(path, why);
	int r = pagecache_share(path, &share, why);
	if (!r && share < 1)
		r = pagecache_fill(path, why);
	if (!r && share < 1)
		r = pagecache_share(path, &share, why);
	if (!r && share < 1)
		r = fault_set(why, TRIMS_E_NO_ROOM, "only %.0f %% of %s stay in the page cache", 100 * share, path);
	return r;
}

/* ---- both ---- */

/* Copies that modes without a plan leave are the same; each other mode leaves one of its own. */
static int kind_of(const struct bench_mode *m)
{
	return m->mode == MODE_RESIDENT || m->mode == MODE_PIPELINE ? MODE_RESIDENT : (int)m->mode;
}

static int prepare_miss(struct bench *b, struct fault *why)
{
	if (!b->uuid[0])
		return evict(b, TRIMS_TIER_HOST, why);
	int r = evict(b, TRIMS_TIER_GPU, why);
	return r ? r : bring_to_host(b, why);
}

static int prepare_hit(struct bench *b, struct bench_mode *m,
	int (*first)(struct bench *b, struct bench_mode *m, struct fault *why), struct fault *why)
{
	uint32_t tier = b->uuid[0] ? TRIMS_TIER_GPU : TRIMS_TIER_HOST;
	int r = 0;
	if (b->there != kind_of(m)) {
		b->there = -1;
		r = evict(b, tier, why);
		if (!r)
			r = first(b, m, why);
	}
	if (!r)
		r = wait_for(b, tier, "ready", HERE_NS, why);
	b->there = r ? -1 : kind_of(m);
	return r;
}

int bench_prepare(struct bench *b, struct bench_mode *m, int (*first)(struct bench *b, struct bench_mode *m, struct fault *why),
	struct fault *why)
{
	int r = 0;
	if (m->mode != MODE_PRIVATE)
		r = b->r->state == BENCH_HIT ? prepare_hit(b, m, first, why) : prepare_miss(b, why);
	for (uint32_t i = 0; !r && i < b->n_files; i++)
		r = prepare_file(b, b->files[i], why);
	return r ? r : function_warm_memory(b->bytes, why);
}

int bench_check_state(const struct bench *b, const struct bench_mode *m, const json_t *report, struct fault *why)
{
	bool hit = json_is_true(json_object_get(report, "hit"));
	if (m->mode == MODE_PRIVATE || hit == (b->r->state == BENCH_HIT))
		return 0;
	return fault_set(why, TRIMS_E_BUSY, hit ? "it was no miss: somebody else had the model brought there" :
		"it was no hit: the copy was no longer whole");
}
