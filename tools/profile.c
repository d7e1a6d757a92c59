/* profile.c - see profile.h.
 * Keeps: a number that is there but is none, or does not fit, is refused, never taken for 0. */
#include "tools/profile.h"

#include "shared/check.h"
#include "tools/plan_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

/* Where in a file; for faults. */
struct place {
	const char *path, *list; /* "layers" */
	size_t index;
	struct fault *why;
};

static int refuse(const struct place *at, const char *key, const char *what)
{
	if (!at->list)
		return fault_set(at->why, TRIMS_E_BAD_REQUEST, "%s: %s %s", at->path, key, what);
	return fault_set(at->why, TRIMS_E_BAD_REQUEST, "%s: %s[%zu]: %s %s", at->path, at->list, at->index, key, what);
}

/* *out stays as it was where there is none, unless it must be there. */
static int take_number(const struct place *at, const json_t *object, const char *key, bool must, uint64_t *out)
{
	const json_t *v = json_object_get(object, key);
	if (!v)
		return must ? refuse(at, key, "is missing") : 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return refuse(at, key, "is no number of 0 or more");
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

static int take_small(const struct place *at, const json_t *object, const char *key, bool must, uint32_t *out)
{
	uint64_t v = *out;
	int r = take_number(at, object, key, must, &v);
	if (r == 0 && v > UINT32_MAX)
		return refuse(at, key, "is too large");
	*out = (uint32_t)v;
	return r;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

static int read_json(const char *path, const char *format, json_t **out, struct fault *why)
{
	*out = plan_file_load(path, why);
	if (!*out)
		return -EPROTO;
	if (strcmp(text_of(*out, "format"), format) == 0)
		return 0;
	json_decref(*out);
	*out = NULL;
	return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: its format is not \"%s\"", path, format);
}

/* ---- profiles ---- */

static void *allocate(size_t n, size_t bytes)
{
	void *p = calloc(n ? n : 1, bytes);
	ASSERT(p);
	return p;
}

/* The entry of a layer for the batch; 0: the only one, or that of batch 1. */
static const json_t *entry_of(const json_t *layer, uint32_t batch)
{
	const json_t *batches = json_object_get(layer, "batches"), *entry;
	size_t i;
	if (batch == 0 && json_array_size(batches) == 1)
		return json_array_get(batches, 0);
	json_array_foreach(batches, i, entry)
		if (json_integer_value(json_object_get(entry, "batch")) == (json_int_t)(batch ? batch : 1))
			return entry;
	return NULL;
}

static int take_tensors(const struct place *at, const json_t *layer, struct profile *p, struct plan_layer *out)
{
	const json_t *tensors = json_object_get(layer, "tensors"), *tensor;
	size_t i;
	out->first_tensor = p->n_tensors;
	json_array_foreach(tensors, i, tensor) {
		if (!json_is_string(tensor))
			return refuse(at, "tensors", "has something that is no name");
		p->tensors[p->n_tensors++] = json_string_value(tensor);
		out->n_tensors++;
	}
	return 0;
}

static int take_layer(const struct place *at, const json_t *layer, struct profile *p)
{
	struct plan_layer *out = &p->layers[at->index];
	const json_t *entry = entry_of(layer, p->batch), *same = json_object_get(layer, "same_as");
	uint64_t first;
	if (!entry)
		return refuse(at, "batches", "has none of the batch that was asked for");
	p->names[at->index] = text_of(layer, "name");
	if (take_number(at, layer, "bytes", true, &out->bytes) || take_number(at, layer, "copy_ns", false, &out->copy_ns) ||
		take_number(at, entry, "exec_ns", true, &out->exec_ns) || take_number(at, entry, "dha_ns", false, &out->dha_ns) ||
		take_number(at, layer, "touched_bytes", false, &out->touched_bytes) ||
		take_number(at, entry, "touched_bytes", false, &out->touched_bytes))
		return -EPROTO;
	if (out->dha_ns && !json_object_get(layer, "touched_bytes") && !json_object_get(entry, "touched_bytes"))
		return refuse(at, "touched_bytes", "is missing, although there is a dha_ns");
	if (same && take_number(at, layer, "same_as", true, &first) != 0)
		return -EPROTO;
	if (same && first >= at->index)
		return refuse(at, "same_as", "is no earlier layer");
	out->same_as = same ? (uint32_t)first + 1 : 0;
	return take_tensors(at, layer, p, out);
}

static int take_layers(const char *path, struct profile *p, struct fault *why)
{
	const json_t *layers = json_object_get(p->json, "layers"), *layer;
	struct place at = {.path = path, .list = "layers", .why = why};
	size_t n = json_array_size(layers), tensors = 0;
	if (n == 0 || n > PLAN_MAX_LAYERS)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: it has %zu layers, not 1 to %d", path, n, PLAN_MAX_LAYERS);
	json_array_foreach(layers, at.index, layer)
		tensors += json_array_size(json_object_get(layer, "tensors"));
	p->layers = allocate(n, sizeof *p->layers);
	p->names = allocate(n, sizeof *p->names);
	p->tensors = allocate(tensors, sizeof *p->tensors);
	p->n_layers = (uint32_t)n;
	json_array_foreach(layers, at.index, layer)
		if (take_layer(&at, layer, p))
			return -EPROTO;
	p->plan = (struct plan_profile){p->layers, p->n_layers};
	return 0;
}

int profile_read(const char *path, uint32_t batch, struct profile *out, struct fault *why)
{
	json_t *json;
	*out = (struct profile){0};
	int r = read_json(path, PROFILE_FORMAT, &json, why);
	return r ? r : profile_take(json, path, batch, out, why);
}

int profile_take(json_t *json, const char *path, uint32_t batch, struct profile *out, struct fault *why)
{
	*out = (struct profile){.json = json, .batch = batch};
	out->model = text_of(out->json, "model");
	out->device = text_of(out->json, "device");
	out->source = text_of(out->json, "source");
	int r = take_layers(path, out, why);
	if (r) {
		profile_fini(out);
		return r;
	}
	const json_t *first = json_array_get(json_object_get(out->json, "layers"), 0);
	out->batch = (uint32_t)json_integer_value(json_object_get(entry_of(first, batch), "batch"));
	return 0;
}

void profile_fini(struct profile *p)
{
	free(p->layers);
	free(p->names);
	free(p->tensors);
	json_decref(p->json);
	*p = (struct profile){0};
}

/* ---- machines ---- */

static int take_link(const struct place *at, const json_t *link, struct machine *m)
{
	struct plan_link *out = &m->plan.links[at->index];
	m->links[at->index] = text_of(link, "name");
	out->busy = json_is_true(json_object_get(link, "busy"));
	out->group = (uint32_t)at->index + PLAN_MAX_LINKS; /* said to share nothing with others */
	return take_number(at, link, "bytes_per_s", true, &out->bytes_per_s) ||
			take_number(at, link, "overhead_ns", true, &out->overhead_ns) ||
			take_number(at, link, "hop_bytes_per_s", false, &out->hop_bytes_per_s) ||
			take_small(at, link, "group", false, &out->group) ?
		-EPROTO : 0;
}

static int take_machine(const char *path, struct machine *m, struct fault *why)
{
	const json_t *links = json_object_get(m->json, "links"), *link;
	const struct place top = {.path = path, .why = why};
	struct place at = {.path = path, .list = "links", .why = why};
	size_t n = json_array_size(links);
	if (n == 0 || n > PLAN_MAX_LINKS)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%s: it has %zu links, not 1 to %d", path, n, PLAN_MAX_LINKS);
	m->plan.n_links = (uint32_t)n;
	m->name = text_of(m->json, "name");
	m->plan.dha = json_is_true(json_object_get(m->json, "dha"));
	if (take_small(&top, m->json, "target", true, &m->plan.target) ||
		take_number(&top, m->json, "chunk_bytes", true, &m->plan.chunk_bytes) ||
		take_number(&top, m->json, "memory_bytes", false, &m->plan.memory_bytes))
		return -EPROTO;
	json_array_foreach(links, at.index, link)
		if (take_link(&at, link, m))
			return -EPROTO;
	return 0;
}

int machine_read(const char *path, struct machine *out, struct fault *why)
{
	*out = (struct machine){0};
	int r = read_json(path, MACHINE_FORMAT, &out->json, why);
	if (r == 0)
		r = take_machine(path, out, why);
	if (r)
		machine_fini(out);
	return r;
}

void machine_fini(struct machine *m)
{
	json_decref(m->json);
	*m = (struct machine){0};
}
