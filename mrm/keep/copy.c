/* copy.c - see copy.h.  Names: "cG.m" is the record of generation G (hexadecimal), "cG.eN" its extent or piece N. */
#include "mrm/keep/copy.h"

#include "mrm/disk/bytes.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/own.h"
#include "shared/pieces.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAGIC 0x7079632e736d7274u /* "trms.cyp" */
#define RECORD_VERSION 2
#define RECORD_MAX_BYTES (DESC_MAX_BYTES + 16 * (uint64_t)IMAGE_MAX_CHUNKS + PLAN_WIRE_BYTES + 4096)
#define CHECK_BYTES 16

void kept_copy_fini(struct kept_copy *c)
{
	for (uint32_t i = 0; c->fds && i < c->n_fds; i++)
		own_close_fd(&c->fds[i]);
	image_desc_free(&c->desc);
	free(STEAL(c->hashes));
	free(STEAL(c->fds));
	free(STEAL(c->plan));
}

void kept_copy_set_plan(struct kept_copy *c, const void *plan, uint64_t bytes, bool whole)
{
	c->plan = malloc(bytes);
	ASSERT(c->plan);
	memcpy(c->plan, plan, bytes);
	c->plan_bytes = bytes;
	c->whole = whole;
}

/* ---- the record ---- */

int kept_record_encode(const struct kept_copy *c, uint8_t **out, size_t *bytes, struct fault *why)
{
	OWN_MEM uint8_t *desc = NULL;
	size_t desc_bytes;
	int e = image_desc_encode(c->desc, &desc, &desc_bytes, why);
	if (e)
		return e;
	struct out o = {0};
	out_u64(&o, RECORD_MAGIC);
	out_u32(&o, RECORD_VERSION);
	out_u32(&o, IMAGE_LAYOUT_VERSION);
	out_u32(&o, c->tier);
	out_text(&o, c->device);
	out_u64(&o, c->generation);
	out_hash(&o, c->digest);
	out_u32(&o, c->n_fds);
	out_u32(&o, c->whole);
	out_u64(&o, c->plan_bytes);
	out_bytes(&o, c->plan, c->plan_bytes);
	out_u64(&o, desc_bytes);
	out_bytes(&o, desc, desc_bytes);
	for (uint32_t i = 0; i < c->desc->layout->n_chunks; i++)
		out_hash(&o, c->hashes[i]);
	out_hash(&o, seeded_hash(o.p, o.n, RECORD_MAGIC));
	*out = o.p;
	*bytes = o.n;
	return 0;
}

static void decode_head(struct in *in, struct kept_copy *c)
{
	bool ours = in_u64(in) == RECORD_MAGIC && in_u32(in) == RECORD_VERSION && in_u32(in) == IMAGE_LAYOUT_VERSION;
	c->tier = (enum tier_kind)in_u32(in);
	OWN_MEM char *device = in_text(in, sizeof c->device - 1);
	snprintf(c->device, sizeof c->device, "%s", device ? device : "");
	c->generation = in_u64(in);
	c->digest = in_hash(in);
	c->n_fds = in_u32(in);
	uint32_t whole = in_u32(in);
	c->whole = whole;
	uint64_t plan_bytes = in_u64(in);
	const uint8_t *plan = in_bytes(in, plan_bytes);
	struct fault why;
	if (plan && plan_bytes) {
		kept_copy_set_plan(c, plan, plan_bytes, c->whole);
		ours = ours && c->tier == TIER_GPU && !plan_check(c->plan, plan_bytes, 0, &why);
	}
	if (whole > 1 || (whole && !c->plan) || !c->n_fds || c->n_fds > PIECES_MAX)
		in->bad = true;
	if (!ours || (c->tier != TIER_HOST && c->tier != TIER_GPU) || (c->tier == TIER_GPU) != (*c->device != 0))
		in->bad = true;
}

static int decode_hashes(struct in *in, struct kept_copy *c)
{
	const struct layout *l = c->desc->layout;
	if (in->n != (size_t)l->n_chunks * CHECK_BYTES || (!c->plan && c->n_fds != l->n_extents))
		return -EPROTO;
	c->hashes = calloc(MAX(l->n_chunks, 1u), sizeof *c->hashes);
	c->fds = calloc(c->n_fds, sizeof *c->fds);
	ASSERT(c->hashes && c->fds);
	for (uint32_t i = 0; i < l->n_chunks; i++)
		c->hashes[i] = in_hash(in);
	for (uint32_t i = 0; i < c->n_fds; i++)
		c->fds[i] = -1;
	return 0;
}

int kept_record_decode(const uint8_t *bytes, size_t n, struct kept_copy *out, struct fault *why)
{
	*out = (struct kept_copy){0};
	if (n < CHECK_BYTES || !hash_equal(fetch_hash(bytes + n - CHECK_BYTES), seeded_hash(bytes, n - CHECK_BYTES, RECORD_MAGIC)))
		return fault_set(why, TRIMS_E_MISMATCH, "the record of a kept copy is damaged");
	struct in in = {.p = bytes, .n = n - CHECK_BYTES};
	decode_head(&in, out);
	uint64_t desc_bytes = in_u64(&in);
	const uint8_t *desc = in_bytes(&in, desc_bytes);
	if (!desc) {
		kept_copy_fini(out);
		return fault_set(why, TRIMS_E_MISMATCH, "the record of a kept copy is of another version");
	}
	int e = image_desc_decode(desc, desc_bytes, &out->desc, why);
	e = e ? e : decode_hashes(&in, out);
	if (e) {
		kept_copy_fini(out);
		return fault_set(why, TRIMS_E_MISMATCH, "the record of a kept copy makes no sense");
	}
	return 0;
}

/* ---- giving ---- */

static void name_record(char name[KEEP_NAME_MAX + 1], uint64_t generation)
{
	snprintf(name, KEEP_NAME_MAX + 1, "c%" PRIx64 ".m", generation);
}

static void name_extent(char name[KEEP_NAME_MAX + 1], uint64_t generation, uint32_t extent)
{
	snprintf(name, KEEP_NAME_MAX + 1, "c%" PRIx64 ".e%u", generation, extent);
}

static int record_fd(const struct kept_copy *c, int *out, struct fault *why)
{
	OWN_MEM uint8_t *bytes = NULL;
	size_t n = 0;
	int e = kept_record_encode(c, &bytes, &n, why);
	if (e)
		return e;
	OWN_FD int fd = memfd_create("mrm:kept", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	for (size_t at = 0; fd >= 0 && at < n;) {
		ssize_t w = write(fd, bytes + at, n - at);
		if (w < 0)
			own_close_fd(&fd);
		else
			at += (size_t)w;
	}
	if (fd < 0)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "no memory for the record of a kept copy"), -EIO;
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
	*out = steal_fd(&fd);
	return 0;
}

void kept_copy_drop(struct keep *k, uint64_t generation, uint32_t n_fds)
{
	char name[KEEP_NAME_MAX + 1];
	name_record(name, generation);
	keep_drop(k, name);
	for (uint32_t i = 0; i < n_fds; i++) {
		name_extent(name, generation, i);
		keep_drop(k, name);
	}
}

int kept_copy_put(struct keep *k, const struct kept_copy *c, struct fault *why)
{
	char name[KEEP_NAME_MAX + 1];
	OWN_FD int record = -1;
	uint32_t done = 0;
	int e = record_fd(c, &record, why);
	for (; !e && done < c->n_fds; done++) {
		name_extent(name, c->generation, done);
		e = keep_put(k, name, c->fds[done], why);
	}
	if (!e) {
		name_record(name, c->generation);
		e = keep_put(k, name, record, why);
	}
	if (e)
		kept_copy_drop(k, c->generation, done);
	return e;
}

/* ---- taking ---- */

static int read_record(int fd, struct kept_copy *out, struct fault *why)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || st.st_size <= 0 || (uint64_t)st.st_size > RECORD_MAX_BYTES)
		return fault_set(why, TRIMS_E_MISMATCH, "the record of a kept copy has an impossible size");
	OWN_MEM uint8_t *bytes = malloc((size_t)st.st_size);
	if (!bytes || pread(fd, bytes, (size_t)st.st_size, 0) != st.st_size)
		return fault_set(why, TRIMS_E_NO_MEMORY, "the record of a kept copy cannot be read");
	return kept_record_decode(bytes, (size_t)st.st_size, out, why);
}

static int take(struct keep *k, const char *name)
{
	size_t n;
	struct kept *f = keep_found(k, &n);
	for (size_t i = 0; i < n; i++)
		if (f[i].fd >= 0 && !strcmp(f[i].name, name))
			return steal_fd(&f[i].fd);
	return -1;
}

/* Its extents leave what was found; false when one is missing. */
static bool take_extents(struct keep *k, struct kept_copy *c)
{
	char name[KEEP_NAME_MAX + 1];
	bool all = true;
	for (uint32_t i = 0; i < c->n_fds; i++) {
		name_extent(name, c->generation, i);
		c->fds[i] = take(k, name);
		all = all && c->fds[i] >= 0;
	}
	return all;
}

static bool is_record(const struct kept *f)
{
	size_t n = strlen(f->name);
	return f->fd >= 0 && n > 3 && f->name[0] == 'c' && !strcmp(f->name + n - 2, ".m");
}

/* Whatever is left belongs to no whole copy. */
static void drop_rest(struct keep *k)
{
	size_t n;
	struct kept *f = keep_found(k, &n);
	for (size_t i = 0; i < n; i++) {
		if (f[i].fd < 0)
			continue;
		log_debug("keep", "%s belongs to nothing that is whole: dropped", f[i].name);
		own_close_fd(&f[i].fd);
		keep_drop(k, f[i].name);
	}
}

int kept_copy_next(struct keep *k, size_t *cursor, struct kept_copy *out)
{
	size_t n;
	struct kept *f = keep_found(k, &n);
	for (; *cursor < n; (*cursor)++) {
		struct fault why;
		if (!is_record(&f[*cursor]))
			continue;
		OWN_FD int fd = steal_fd(&f[*cursor].fd);
		char expected[KEEP_NAME_MAX + 1];
		int e = read_record(fd, out, &why);
		if (e) {
			log_warn("keep", "%s: %s", f[*cursor].name, why.text);
			keep_drop(k, f[*cursor].name);
			continue;
		}
		name_record(expected, out->generation);
		if (!strcmp(expected, f[*cursor].name) && take_extents(k, out))
			return 0;
		log_warn("keep", "%s: not all of it was kept", out->desc->name);
		kept_copy_drop(k, out->generation, out->n_fds);
		kept_copy_fini(out);
	}
	drop_rest(k);
	return -ENOENT;
}
