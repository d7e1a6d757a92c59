/* report.c - see report.h. */
#include "mrm/report.h"

#include "mrm/gauges.h"
#include "mrm/gpu/beside.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/report.h"
#include "mrm/holding.h"
#include "mrm/profiles.h"
#include "shared/check.h"
#include "shared/reports.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MODELS_PER_PAGE 200
#define TENSORS_PER_PAGE 1000
#define NAMES_PER_MODEL 64

void report_send(struct conn *c, uint64_t request, json_t *page, uint64_t next)
{
	struct daemon *d = conn_daemon(c);
	char *text = page ? json_dumps(page, JSON_COMPACT) : NULL;
	json_decref(page);
	struct shm_region r;
	struct fault why;
	if (!text) {
		conn_reply_fault(c, request, TRIMS_E_INTERNAL, "the report could not be made");
		return;
	}
	size_t bytes = strlen(text);
	int e = shm_new_filled(&r, "mrm:report", text, bytes, &d->shm, &why);
	free(text);
	if (e) {
		conn_reply_fault(c, request, why.code, why.text);
		return;
	}
	struct msg m;
	msg_init(&m, MSG_REPORT, request);
	m.u.report.next = next;
	m.u.report.bytes = bytes;
	m.u.report.fds.n = 1;
	m.u.report.fds.fd[0] = r.fd;
	conn_reply(c, &m);
	shm_fini(&r);
}

static json_t *hex_digest(struct hash128 digest)
{
	char text[33];
	if (!(digest.hi | digest.lo))
		return json_null();
	snprintf(text, sizeof text, "%016" PRIx64 "%016" PRIx64, digest.hi, digest.lo);
	return json_string(text);
}

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

/* How much of a copy is on its device, and by which plan. */
static const char *reach_name(enum copy_reach reach)
{
	return reach == REACH_HEAD ? "head" : reach == REACH_ALL ? "all" : "plan";
}

static void add_part(json_t *row, const struct cache_copy_view *v)
{
	if (!v->plan)
		return;
	json_object_set_new(row, "part", json_pack("{s:o, s:s, s:o, s:o, s:o, s:b, s:b}", "plan", number(v->plan), "reach",
		reach_name(v->reach), "head_bytes", number(v->size.head_bytes), "plan_bytes", number(v->size.plan_bytes),
		"all_bytes", number(v->size.all_bytes), "growing", v->growing, "trimming", v->trimming));
}

static json_t *tier_row(const struct cache_copy_view *v)
{
	return json_pack("{s:s, s:o, s:o, s:i, s:i, s:i, s:o}", "state", copy_state_name(v->state), "bytes",
		number(v->bytes), "landed", number(v->landed_bytes), "leases", (int)v->leases, "readers", (int)v->readers,
		"pins", (int)v->pins, "uses", number(v->uses));
}

/* Several devices have a key each, in the machine's order. */
static const char *tier_key(const struct daemon *d, const struct cache_tier_view *v, char key[16])
{
	if (v->kind != TIER_GPU || gpu_count(d->gpu) == 1)
		return tier_kind_name(v->kind);
	snprintf(key, 16, "gpu%u", (unsigned)v->device);
	return key;
}

static json_t *model_row(struct daemon *d, uint64_t model)
{
	struct cache_model_view v;
	struct holding *img = holding_by_model(d, model);
	if (cache_view(d->cache, model, &v) || !img)
		return NULL;
	json_t *names = json_array(), *tiers = json_object();
	char key[16];
	const char *name;
	for (uint32_t i = 0; i < NAMES_PER_MODEL && (name = cache_name(d->cache, model, i)); i++)
		json_array_append_new(names, json_string(name));
	for (size_t t = 1; t < cache_n_tiers(d->cache); t++) {
		struct cache_tier_view tv;
		cache_tier(d->cache, (uint8_t)t, &tv);
		json_t *row = tier_row(&v.copies[t]);
		if (tv.kind == TIER_GPU) {
			json_object_set_new(row, "device", json_string(gpu_facts(d->gpu, tv.device)->uuid));
			json_object_set_new(row, "simulated", json_boolean(gpu_is_simulated(d->gpu)));
			add_part(row, &v.copies[t]);
			json_object_set_new(row, "helper_bytes", number(img->copies[t] ? img->copies[t]->helper_bytes : 0));
		}
		json_object_set_new(tiers, tier_key(d, &tv, key), row);
	}
	const struct image_desc *desc = holding_desc(img);
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:s, s:s, s:b}", "names", names, "model", number(model), "digest",
		hex_digest(img->digest), "bytes", number(v.info.image_bytes), "tiers", tiers, "source", desc->source,
		"revision", desc->revision, "in_place", v.info.in_place);
}

static void answer_ls(struct conn *c, uint64_t request, uint64_t cursor)
{
	struct daemon *d = conn_daemon(c);
	json_t *rows = json_array();
	size_t n = 0;
	bool more = cache_next_model(d->cache, &cursor);
	for (; more && n < MODELS_PER_PAGE; more = cache_next_model(d->cache, &cursor), n++) {
		json_t *row = model_row(d, cursor);
		if (row)
			json_array_append_new(rows, row);
	}
	/* The cursor is the last id seen; one less than the next model's id finds that one again. */
	report_send(c, request, json_pack("{s:o}", "models", rows), more ? cursor - 1 : 0);
}

static json_t *hex_sha(const struct image_file *f)
{
	char text[65];
	if (!f->has_sha256)
		return json_null();
	for (int i = 0; i < 32; i++)
		snprintf(text + 2 * i, 3, "%02x", f->sha256[i]);
	return json_string(text);
}

static json_t *file_rows(const struct image_desc *desc)
{
	json_t *rows = json_array();
	for (uint32_t i = 0; i < desc->n_files; i++)
		json_array_append_new(rows, json_pack("{s:s, s:o, s:o, s:s, s:s}", "path", desc->files[i].path, "bytes",
			number(desc->layout->file_bytes[i]), "sha256", hex_sha(&desc->files[i]), "kind", "weights",
			"version", desc->files[i].version));
	for (uint32_t i = 0; i < desc->n_sides; i++)
		json_array_append_new(rows, json_pack("{s:s, s:o, s:n, s:s}", "path", desc->sides[i].name, "bytes",
			number(desc->sides[i].bytes), "sha256", "kind", "side"));
	return rows;
}

static json_t *left_out_rows(const struct source_left_out *o)
{
	json_t *rows = json_array();
	for (uint32_t i = 0; i < MIN(o->n, (uint32_t)SOURCE_LEFT_OUT_NAMED); i++)
		json_array_append_new(rows, json_pack("{s:s, s:s}", "path", o->named[i].path, "why", o->named[i].why));
	return rows;
}

static json_t *tensor_row(const struct tensor *t)
{
	json_t *shape = json_array();
	for (uint32_t i = 0; i < t->rank; i++)
		json_array_append_new(shape, number(t->shape[i]));
	return json_pack("{s:s, s:s, s:o, s:o, s:i, s:o}", "name", t->name, "dtype", dtype_name(t->dtype), "shape", shape,
		"bytes", number(t->bytes), "extent", (int)t->extent, "offset", number(t->offset));
}

static void answer_show(struct conn *c, uint64_t request, struct holding *img, uint64_t cursor)
{
	struct daemon *d = conn_daemon(c);
	const struct image_desc *desc = holding_desc(img);
	const struct layout *l = desc->layout;
	json_t *page = cursor ? json_object() : model_row(d, img->model);
	json_t *tensors = json_array();
	if (!cursor && page) {
		json_t *extents = json_array();
		for (uint32_t i = 0; i < l->n_extents; i++)
			json_array_append_new(extents, number(l->extent_bytes[i]));
		json_object_set_new(page, "files", file_rows(desc));
		json_object_set_new(page, "left_out", left_out_rows(&img->left_out));
		json_object_set_new(page, "left_out_count", number(img->left_out.n));
		json_object_set_new(page, "extents", extents);
		json_object_set_new(page, "direct", beside_rows(d->beside, img));
		json_object_set_new(page, "profiles", profiles_list(d, img->digest));
		json_object_set_new(page, "chunks", number(l->n_chunks));
		json_object_set_new(page, "tensor_count", number(l->n_tensors));
		if (img->stored && disk_image_complete(img->stored) && !desc->in_place)
			json_object_set_new(page, "compression", json_real((double)disk_image_bytes(img->stored) /
				(double)MAX(l->image_bytes, 1u)));
	}
	uint64_t stop = MIN(cursor + TENSORS_PER_PAGE, (uint64_t)l->n_tensors);
	for (uint64_t i = cursor; i < stop; i++)
		json_array_append_new(tensors, tensor_row(&l->tensors[i]));
	if (page)
		json_object_set_new(page, "tensors", tensors);
	report_send(c, request, page, stop < l->n_tensors ? stop : 0);
}

static json_t *span_ns(uint64_t from, uint64_t to)
{
	return number(from && to > from ? to - from : 0);
}

static json_t *load_row(const struct daemon *d, const struct trace_load *l)
{
	static const char *const classes[] = {"demand", "prefetch", "write-through"};
	uint64_t total = l->ended_ns ? l->ended_ns - l->started_ns : 0;
	uint64_t moving = l->last_byte_ns > l->prepared_ns && l->prepared_ns ? l->last_byte_ns - l->prepared_ns : 0;
	json_t *stages = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "resolve_ns", number(l->resolve_ns), "alloc_ns",
		number(l->alloc_ns), "prepare_ns", span_ns(l->started_ns, l->prepared_ns), "first_byte_ns",
		span_ns(l->prepared_ns, l->first_byte_ns), "transfer_ns", span_ns(l->first_byte_ns, l->last_byte_ns),
		"verify_ns", number(l->verify_ns), "finish_ns",
		span_ns(l->last_byte_ns ? l->last_byte_ns : l->prepared_ns, l->ended_ns));
	bool bad = l->error.code != TRIMS_E_NONE;
	json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:o}", "from", tier_kind_name(l->from),
		"to", tier_kind_name(l->to), "class", classes[l->class], "result",
		!l->ended_ns ? "running" : !bad ? "done" : l->error.code == TRIMS_E_CANCELLED ? "cancelled" : "failed",
		"error", bad ? json_string(l->error.text) : json_null(), "started_unix_ns", number(l->started_unix_ns),
		"total_ns", number(total), "stages", stages, "bytes", number(l->bytes), "retries", (int)l->chunks_bad,
		"resumed_chunks", (int)l->chunks_resumed, "rate_bytes_per_s",
		number(moving ? (uint64_t)((double)l->bytes * 1e9 / (double)moving) : 0));
	if (l->plan)
		json_object_set_new(row, "plan", number(l->plan));
	if (l->to == TIER_GPU) {
		json_object_set_new(row, "simulated", json_boolean(gpu_is_simulated(d->gpu)));
		json_object_set_new(row, "link", gpu_report_waits(&l->link));
		json_object_set_new(row, "helper_bytes", number(l->helper_bytes));
		json_object_set_new(row, "taken_back", json_integer(l->taken_back));
	}
	return row;
}

static void answer_trace(struct conn *c, uint64_t request, struct holding *img)
{
	json_t *rows = json_array();
	uint32_t n = MIN(img->trace.n, (uint32_t)TRACE_KEPT);
	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(rows, load_row(conn_daemon(c), &img->trace.load[(img->trace.n - 1 - i) % TRACE_KEPT]));
	report_send(c, request, json_pack("{s:o}", "loads", rows), 0);
}

static json_t *tiers_report(struct daemon *d)
{
	json_t *tiers = json_array(), *links = json_array();
	size_t n = cache_n_tiers(d->cache);
	for (size_t t = 1; t < n; t++) {
		struct cache_tier_view v;
		cache_tier(d->cache, (uint8_t)t, &v);
		json_t *row = json_pack("{s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:i}", "tier",
			tier_kind_name(v.kind), "device", (int)v.device, "capacity", number(v.capacity_bytes), "used",
			number(v.used_bytes), "pinned", number(v.pinned_bytes), "leased", number(v.leased_bytes), "draining",
			number(v.draining_bytes), "copies", (int)v.copies);
		if (v.kind == TIER_GPU)
			gpu_report_tier(d, v.device, row);
		json_array_append_new(tiers, row);
	}
	for (size_t from = 0; from < n; from++)
		for (size_t to = 0; to < n; to++) {
			uint64_t rate = cache_link_rate(d->cache, (uint8_t)from, (uint8_t)to);
			struct cache_tier_view a, b;
			if (!rate)
				continue;
			cache_tier(d->cache, (uint8_t)from, &a);
			cache_tier(d->cache, (uint8_t)to, &b);
			bool simulated = b.kind == TIER_GPU && gpu_is_simulated(d->gpu);
			json_array_append_new(links, json_pack("{s:s, s:s, s:i, s:b, s:o}", "from", tier_kind_name(a.kind), "to",
				tier_kind_name(b.kind), "device", (int)b.device, "simulated", simulated, "bytes_per_s",
				number(rate)));
		}
	return json_pack("{s:o, s:o}", "tiers", tiers, "links", links);
}

static struct holding *asked_for(struct conn *c, uint64_t request, const char *name)
{
	struct daemon *d = conn_daemon(c);
	struct holding *img = holding_by_model(d, cache_find(d->cache, name));
	if (!img)
		conn_reply_fault(c, request, TRIMS_E_NOT_FOUND, "no model of this name is known here; pull or open it first");
	return img;
}

void report_answer(struct conn *c, uint64_t request, uint32_t report, const char *model, uint64_t cursor)
{
	struct daemon *d = conn_daemon(c);
	struct holding *img = NULL;
	if (!report_name(report)) {
		conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "no such report");
		return;
	}
	if (report_needs_model(report) && !(img = asked_for(c, request, model)))
		return;
	switch (report) {
	case REPORT_LS:
		answer_ls(c, request, cursor);
		break;
	case REPORT_SHOW:
		answer_show(c, request, img, cursor);
		break;
	case REPORT_TRACE:
		answer_trace(c, request, img);
		break;
	case REPORT_DOCTOR:
		report_send(c, request, report_doctor(d), 0);
		break;
	case REPORT_TIERS:
		gauges_update(d); /* so that who asked finds the same in the segment */
		report_send(c, request, tiers_report(d), 0);
		break;
	case REPORT_LINKS:
		if (d->links)
			report_send(c, request, gpu_report_links(d), 0);
		else
			conn_reply_fault(c, request, TRIMS_E_UNSUPPORTED, "this daemon has no GPU, hence no links to report");
		break;
	case REPORT_PROFILE:
		profiles_report(c, request, img, cursor);
		break;
	default:
		NEVER();
	}
}
