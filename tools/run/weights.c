/* weights.c - the modes: where a layer's bytes come from, and who waits for them when.
 * Keeps: a mode does what its row says or fails with a sentence; none turns into another. */
#include "tools/run/weights.h"

#include "client/trims.h"
#include "shared/image.h"
#include "tools/clock.h"
#include "tools/run/fail_trims.h"
#include "tools/run/planned.h"
#include "tools/run/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct bound {
	enum place place;
	bool there; /* its bytes were waited for with success */
	struct operand w[NET_MAX_WEIGHTS];
};

struct weights {
	struct weights_options options;
	struct backend *backend;
	struct catalog catalog;
	struct trims_conn *conn;
	struct trims_model *model, *host; /* host: the copy in host memory, of modes that plan, until they have; of profiles */
	struct private *private;
	const struct net *net;
	struct bound *layers;
	struct weights_times times;
	struct fault unordered; /* bytes come in the order of the files, though that of execution was asked for; code NONE: not so */
	struct fault unread; /* a file of the model that could not be asked for; code NONE: there was none */
	struct fault unreadable; /* why the device does not read the host's copy where it is; code NONE: it does, or nobody asked */
	uint8_t *pinned;         /* then: memory of this process that it reads, where the tensors of one layer are at a time */
	bool waited;  /* mode resident: for all of it */
	bool settled; /* a pass has come through, and everything it used was there */
};

const char *mode_name(unsigned mode)
{
	static const char *const names[] = {
#define MODE(NAME, name, doc) #name,
#include "tools/run/modes.def"
#undef MODE
	};
	return mode < ARRAY_LEN(names) ? names[mode] : "?";
}

enum mode mode_find(const char *name)
{
	unsigned m = 0;
	while (m < MODE_COUNT && strcmp(name, mode_name(m)) != 0)
		m++;
	return (enum mode)m;
}

static bool follows_plan(const struct weights *w)
{
	return mode_follows_plan(w->options.mode);
}

/* ---- what the model says of itself ---- */

static struct trims_model *any_copy(const struct weights *w)
{
	return w->model ? w->model : w->host;
}

static int catalog_find(const struct catalog *c, const char *name, const struct weight *want, struct weight *out)
{
	const struct weights *w = container_of(c, struct weights, catalog);
	struct trims_tensor t;
	if (trims_tensor_by_name(any_copy(w), name, &t))
		return -ENOENT;
	*out = (struct weight){.tensor = t.index, .dtype = t.dtype, .rank = t.rank, .bytes = t.bytes};
	for (uint32_t i = 0; i < MIN(t.rank, (uint32_t)NET_MAX_RANK); i++)
		out->shape[i] = t.shape[i];
	return 0;
}

static int catalog_file(const struct catalog *c, const char *path, const void **data, size_t *bytes)
{
	struct weights *w = container_of((struct catalog *)c, struct weights, catalog);
	int r = trims_file(any_copy(w), path, data, bytes);
	if (r && r != -TRIMS_E_NO_FILE && !w->unread.code)
		fail_trims(&w->unread);
	return r ? -ENOENT : 0;
}

const struct catalog *weights_catalog(const struct weights *w)
{
	return w->private ? private_catalog(w->private) : &w->catalog;
}

int weights_read_all(const struct weights *w, struct fault *why)
{
	if (!w->unread.code)
		return 0;
	*why = w->unread;
	return -EPROTO;
}

/* ---- opening ---- */

static int open_tier(struct weights *w, uint32_t tier, const struct trims_plan *plan, struct trims_model **out,
	struct fault *why)
{
	struct trims_open_options options = {
		.size = sizeof options,
		.tier = tier,
		.flags = TRIMS_OPEN_NO_WAIT,
		.device = tier == TRIMS_TIER_GPU ? w->options.device : NULL,
		.plan = plan,
	};
	w->times.asked_ns = clock_ns();
	return trims_open(w->conn, w->options.model, &options, out) ? fail_trims(why) : 0;
}

/* Names, shapes and configuration are the host's copy's: weights of another version are not those. */
static int check_version(const struct weights *w, struct fault *why)
{
	struct trims_info host = {.size = sizeof host}, model = {.size = sizeof model};
	if (trims_info(w->host, &host) || trims_info(w->model, &model))
		return fail_trims(why);
	return host.version == model.version ? 0 :
		fault_set(why, TRIMS_E_CHANGED, "the model changed at its source while it was opened");
}

static int open_shared(struct weights *w, struct fault *why)
{
	struct trims_connect_options options = {.size = sizeof options, .program = "trims-run"};
	uint64_t began = clock_ns();
	if (trims_connect(w->options.socket, &options, &w->conn))
		return fail_trims(why);
	uint64_t connected = clock_ns();
	w->times.connect_ns = connected - began;
	int r = 0;
	/* A plan wants the layers, those want names and shapes: from the host's copy, where all bytes begin anyway. */
	if (follows_plan(w) || w->options.both)
		r = open_tier(w, TRIMS_TIER_HOST, NULL, &w->host, why);
	if (!r && !follows_plan(w))
		r = open_tier(w, w->options.device ? TRIMS_TIER_GPU : TRIMS_TIER_HOST, NULL, &w->model, why);
	if (!r && w->host && w->model)
		r = check_version(w, why);
	w->times.open_ns = clock_ns() - connected;
	return r;
}

static int check_mode(const struct weights_options *o, struct fault *why)
{
	bool plans = mode_follows_plan(o->mode);
	if (plans && !o->device)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s wants a GPU: to the CPU all weights are in host memory",
			mode_name(o->mode));
	if (o->mode == MODE_PRIVATE && !o->file)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode private wants --file: it reads the model itself");
	if (o->plan && !plans)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "mode %s has no use for a plan", mode_name(o->mode));
	return 0;
}

/* The copy on the device as the plan has it.  What it leaves on the host, the library finds there. */
static int open_planned(struct weights *w, struct fault *why)
{
	const struct planned_wish wish = {
		.file = w->options.plan,
		.model = w->options.model,
		.host = w->options.mode != MODE_PT,
		.links = w->options.mode != MODE_DHA,
		.mode = mode_name(w->options.mode),
	};
	struct plan_file plan;
	int r = planned_make(&wish, w->net, w->host, &plan, why);
	if (r)
		return r;
	uint64_t began = clock_ns();
	r = open_tier(w, TRIMS_TIER_GPU, &plan.plan, &w->model, why);
	if (!r)
		r = check_version(w, why);
	w->times.open_ns += clock_ns() - began;
	plan_file_fini(&plan);
	trims_close(&w->host);
	return r;
}

static int open_private(struct weights *w, struct fault *why)
{
	uint64_t began = clock_ns();
	w->times.asked_ns = began;
	int r = private_open(w->options.file, &w->private, why);
	w->times.open_ns = clock_ns() - began;
	return r;
}

int weights_open(const struct weights_options *options, struct weights **out, struct fault *why)
{
	int r = check_mode(options, why);
	if (r)
		return r;
	struct weights *w = calloc(1, sizeof *w);
	if (!w)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the weights' books");
	w->options = *options;
	w->catalog = (struct catalog){catalog_find, catalog_file};
	r = options->mode == MODE_PRIVATE ? open_private(w, why) : open_shared(w, why);
	if (r)
		weights_free(&w);
	else
		*out = w;
	return r;
}

void weights_free(struct weights **w)
{
	if (!*w)
		return;
	private_free(&(*w)->private);
	if ((*w)->backend && (*w)->backend->ops->unhost)
		(*w)->backend->ops->unhost((*w)->backend);
	if ((*w)->pinned)
		(*w)->backend->ops->unstage((*w)->backend, (*w)->pinned);
	trims_close(&(*w)->host);
	trims_close(&(*w)->model);
	trims_disconnect(&(*w)->conn);
	free((*w)->layers);
	free(*w);
	*w = NULL;
}

/* ---- binding: each weight of each layer gets its address, whether its bytes are there or not ---- */

/* Tensors of a layer one behind the other, each aligned: where that of the role begins.  NET_MAX_WEIGHTS: all of them. */
static uint64_t offset_in_layer(const struct layer *l, unsigned role)
{
	uint64_t at = 0;
	for (unsigned i = 0; i < role; i++)
		at += l->w[i].tensor == WEIGHT_NONE ? 0 : align_up(l->w[i].bytes, IMAGE_TENSOR_ALIGN);
	return at;
}

/* The device cannot read the host's copy in place, as most cannot whose memory is apart from the host's: it reads what is copied here. */
static int take_pinned(struct weights *w, struct fault *why)
{
	uint64_t most = 0;
	void *pinned;
	w->unreadable = *why;
	for (uint32_t i = 0; i < w->net->n_layers; i++)
		most = MAX(most, offset_in_layer(&w->net->layers[i], NET_MAX_WEIGHTS));
	int r = w->backend->ops->stage(w->backend, most, &pinned, why);
	w->pinned = r ? NULL : pinned;
	return r;
}

static int find_data(struct weights *w, uint32_t layer, unsigned role, const void **out, struct fault *why)
{
	const struct layer *l = &w->net->layers[layer];
	struct trims_tensor t;
	if (w->private) {
		*out = private_tensor(w->private, l->w[role].tensor);
		return 0;
	}
	bool here = w->layers[layer].place == PLACE_HOST && w->host;
	if (trims_tensor(here ? w->host : w->model, l->w[role].tensor, &t))
		return fail_trims(why);
	*out = t.data;
	if (!here)
		return 0;
	int r = w->pinned ? 0 : w->backend->ops->host(w->backend, t.data, t.bytes, out, why);
	if (r && why->code == TRIMS_E_UNSUPPORTED && w->backend->ops->stage)
		r = take_pinned(w, why);
	if (w->pinned)
		*out = w->pinned + offset_in_layer(l, role);
	return r;
}

/* Vectors have one row; of what has more dimensions than two, the rest are columns. */
static void set_sizes(const struct weight *weight, struct operand *o)
{
	o->dtype = weight->dtype;
	o->rows = weight->rank > 1 ? weight->shape[0] : 1;
	o->columns = 1;
	for (uint32_t i = weight->rank > 1; i < weight->rank; i++)
		o->columns *= weight->shape[i];
}

static int bind_layer(struct weights *w, uint32_t i, struct fault *why)
{
	const struct layer *l = &w->net->layers[i];
	for (unsigned role = 0; role < NET_MAX_WEIGHTS; role++) {
		struct operand *o = &w->layers[i].w[role];
		if (l->w[role].tensor == WEIGHT_NONE)
			continue;
		set_sizes(&l->w[role], o);
		int r = find_data(w, i, role, &o->data, why);
		if (r)
			return r;
	}
	return 0;
}

void weights_ask_for_order(struct weights *w, const struct net *net)
{
	struct trims_info info = {.size = sizeof info};
	struct plan_file order;
	if (w->options.mode != MODE_PIPELINE || w->options.device || w->private || trims_info(w->model, &info) || info.hit)
		return;
	if (planned_order(net, w->model, &order, &w->unordered))
		return;
	struct trims_open_options options = {.size = sizeof options, .tier = TRIMS_TIER_HOST, .flags = TRIMS_OPEN_NO_WAIT,
		.plan = &order.plan};
	trims_model *again = NULL;
	if (trims_open(w->conn, w->options.model, &options, &again))
		fail_trims(&w->unordered);
	trims_close(&again);
	plan_file_fini(&order);
}

int weights_bind(struct weights *w, struct backend *b, const struct net *net, struct fault *why)
{
	w->backend = b;
	w->net = net;
	w->layers = calloc(net->n_layers, sizeof *w->layers);
	if (!w->layers)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for %u layers", net->n_layers);
	uint64_t began = clock_ns();
	int r = w->private ? private_load(w->private, b, why) : 0;
	w->times.wait_ns += w->private ? clock_ns() - began : 0;
	if (!r && follows_plan(w))
		r = open_planned(w, why);
	for (uint32_t i = 0; !r && i < net->n_layers; i++)
		r = bind_layer(w, i, why);
	return r;
}

/* ---- passes ---- */

int weights_start(struct weights *w, struct fault *why)
{
	if (w->options.mode != MODE_RESIDENT || w->waited)
		return 0;
	uint64_t began = clock_ns();
	int r = trims_wait(w->model, TRIMS_FOREVER) ? fail_trims(why) : 0;
	w->times.wait_ns += clock_ns() - began;
	w->waited = !r;
	return r;
}

bool weights_all_there(const struct weights *w)
{
	return w->private || ((w->waited || w->settled) && !w->pinned);
}

const struct operand *weights_operands(const struct weights *w, uint32_t layer)
{
	return w->layers[layer].w;
}

/* Of a copy in host memory the CPU waits, whoever reads it. */
static int wait_for(struct weights *w, enum place place, uint32_t tensor, struct fault *why)
{
	if (place == PLACE_HOST && w->host)
		return trims_wait_tensor(w->host, tensor, TRIMS_FOREVER) ? fail_trims(why) : 0;
	return w->backend->ops->wait(w->backend, w->model, tensor, why);
}

static int wait_layer(struct weights *w, uint32_t i, struct fault *why)
{
	const struct layer *l = &w->net->layers[i];
	uint64_t began = clock_ns();
	int r = 0;
	for (unsigned role = 0; !r && role < NET_MAX_WEIGHTS; role++)
		if (l->w[role].tensor != WEIGHT_NONE)
			r = wait_for(w, w->layers[i].place, l->w[role].tensor, why);
	w->times.wait_ns += clock_ns() - began;
	w->layers[i].there = !r;
	return r;
}

/* Once nothing reads the one before any more. */
static int copy_layer(struct weights *w, uint32_t layer, struct fault *why)
{
	const struct layer *l = &w->net->layers[layer];
	int r = w->backend->ops->finish(w->backend, why);
	for (unsigned role = 0; !r && role < NET_MAX_WEIGHTS; role++) {
		struct trims_tensor t;
		if (l->w[role].tensor == WEIGHT_NONE)
			continue;
		if (trims_tensor(w->host, l->w[role].tensor, &t))
			return fail_trims(why);
		memcpy(w->pinned + offset_in_layer(l, role), t.data, t.bytes);
	}
	return r;
}

int weights_layer(struct weights *w, uint32_t layer, struct fault *why)
{
	int r = w->layers[layer].there || weights_all_there(w) ? 0 : wait_layer(w, layer, why);
	return r || !w->pinned || w->layers[layer].place != PLACE_HOST ? r : copy_layer(w, layer, why);
}

int weights_settle(struct weights *w, struct fault *why)
{
	if (w->private || w->settled)
		return 0;
	for (uint32_t i = 0; i < w->net->n_layers; i++)
		for (unsigned role = 0; role < NET_MAX_WEIGHTS; role++) {
			uint32_t tensor = w->net->layers[i].w[role].tensor;
			struct trims_model *m = w->layers[i].place == PLACE_HOST && w->host ? w->host : w->model;
			if (tensor != WEIGHT_NONE && trims_wait_tensor(m, tensor, 0))
				return fail_trims(why);
		}
	w->settled = true;
	return 0;
}

int weights_wait_all(struct weights *w, struct fault *why)
{
	if (w->model && trims_wait(w->model, TRIMS_FOREVER))
		return fail_trims(why);
	if (w->host && trims_wait(w->host, TRIMS_FOREVER))
		return fail_trims(why);
	w->waited = true;
	return 0;
}

int weights_place_all(struct weights *w, enum place place, struct fault *why)
{
	int r = 0;
	for (uint32_t i = 0; !r && i < w->net->n_layers; i++) {
		w->layers[i].place = place;
		r = bind_layer(w, i, why);
	}
	return r;
}

const char *weights_tensor_name(const struct weights *w, uint32_t tensor)
{
	struct trims_tensor t;
	return any_copy(w) && trims_tensor(any_copy(w), tensor, &t) == 0 ? t.name : "?";
}

const struct weights_times *weights_times(const struct weights *w)
{
	return &w->times;
}

struct weights_info weights_info(const struct weights *w)
{
	struct trims_info info = {.size = sizeof info};
	if (w->private)
		return (struct weights_info){.bytes = private_bytes(w->private)};
	if (trims_info(any_copy(w), &info))
		return (struct weights_info){0};
	struct weights_info out = {
		.bytes = info.image_bytes,
		.hit = info.hit,
		.simulated = info.simulated,
		.device_bytes = info.device_bytes,
		.helper_bytes = info.helper_bytes,
		.direct_bytes = info.direct_bytes + info.numa_bytes + info.trusted_bytes,
		.staged_bytes = info.staged_bytes,
		.direct_tensors = info.direct_tensors + info.numa_tensors + info.trusted_tensors,
		.staged_tensors = info.staged_tensors,
	};
	memcpy(out.note, info.place_note, sizeof out.note);
	out.unordered = w->unordered.code ? w->unordered.text : NULL;
	out.unreadable = w->unreadable.code ? w->unreadable.text : NULL;
	return out;
}
