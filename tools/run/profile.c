/* profile.c - trims-run profile: what a planner wants to know of each layer, measured ("format": "trims-profile-1").
 * Every figure is a median over rounds; in a round all batch sizes, from the device and from host memory, take turns, so that
 * whatever else the machine does is in all of them.  Layers are timed one by one, each to its end. */
#include "tools/run/run.h"

#include "shared/device_class.h"
#include "shared/image.h"
#include "tools/run/input.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define USUAL_ROUNDS 10u

struct batch {
	struct input in;
	struct exec *exec;
};

struct profile {
	struct run r;
	struct session s;
	bool host; /* host memory is another place than the device's */
	uint32_t rounds;
	struct batch batches[RUN_MAX_BATCHES];
	uint64_t *samples; /* [figure][layer][round], figures: copy, then exec and dha of each batch */
};

static uint64_t *samples_of(const struct profile *p, uint32_t figure, uint32_t layer)
{
	return p->samples + ((size_t)figure * p->s.net->n_layers + layer) * p->rounds;
}

static uint32_t figure_of(uint32_t batch, enum place place)
{
	return 1 + 2 * batch + (place == PLACE_HOST);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static json_int_t median(const struct profile *p, uint32_t figure, uint32_t layer)
{
	uint64_t *v = samples_of(p, figure, layer);
	qsort(v, p->rounds, sizeof *v, by_size);
	return (json_int_t)(p->rounds % 2 ? v[p->rounds / 2] : (v[p->rounds / 2 - 1] + v[p->rounds / 2]) / 2);
}

/* ---- measuring ---- */

static int time_pass(struct profile *p, uint32_t b, enum place place, uint32_t round, struct fault *why)
{
	struct batch *batch = &p->batches[b];
	int e = p->host ? weights_place_all(p->s.weights, place, why) : 0;
	if (!e)
		e = batch->in.image ? exec_put_image(batch->exec, batch->in.image, why) :
				      exec_put_tokens(batch->exec, batch->in.tokens, batch->in.lengths, why);
	if (!e)
		e = exec_pass(batch->exec, why);
	for (uint32_t i = 0; !e && round < p->rounds && i < p->s.net->n_layers; i++)
		samples_of(p, figure_of(b, place), i)[round] = exec_layer_ns(batch->exec, i);
	return e;
}

/* A layer's tensors one behind the other, as a load has them: from memory that the device can read itself, or the driver would copy
 * it on its way; between two moments of the device, as a load's copies queue and nobody waits for each. */
static int time_copy(struct profile *p, uint32_t layer, uint32_t round, uint8_t *to, struct fault *why)
{
	const struct backend_ops *ops = p->s.ops;
	const struct layer *l = &p->s.net->layers[layer];
	const struct operand *from = weights_operands(p->s.weights, layer);
	int e = weights_layer(p->s.weights, layer, why);
	if (!e)
		e = ops->finish(p->s.backend, why);
	if (!e)
		e = ops->stamp(p->s.backend, 0, why);
	uint64_t at = 0;
	for (unsigned role = 0; !e && role < NET_MAX_WEIGHTS; role++) {
		if (l->w[role].tensor == WEIGHT_NONE)
			continue;
		e = ops->put(p->s.backend, to + at, from[role].data, (size_t)l->w[role].bytes, why);
		at += align_up(l->w[role].bytes, IMAGE_TENSOR_ALIGN);
	}
	if (!e)
		e = ops->stamp(p->s.backend, 1, why);
	if (!e)
		e = ops->finish(p->s.backend, why);
	if (!e)
		samples_of(p, 0, layer)[round] = ops->between_ns(p->s.backend, 0, 1);
	return e;
}

static int time_copies(struct profile *p, struct fault *why)
{
	uint64_t most = 0;
	void *to;
	for (uint32_t i = 0; i < p->s.net->n_layers; i++)
		most = MAX(most, p->s.net->layers[i].weight_bytes);
	int e = p->host ? weights_place_all(p->s.weights, PLACE_HOST, why) : 0;
	if (!e)
		e = p->s.ops->alloc(p->s.backend, most + NET_MAX_WEIGHTS * IMAGE_TENSOR_ALIGN, &to, why);
	if (e)
		return e;
	for (uint32_t round = 0; !e && round < p->rounds; round++)
		for (uint32_t i = 0; !e && i < p->s.net->n_layers; i++)
			e = time_copy(p, i, round, to, why);
	p->s.ops->free(p->s.backend, to);
	return e;
}

/* The round before the first warms up and is not kept. */
static int measure(struct profile *p, struct fault *why)
{
	int e = 0;
	for (uint32_t round = 0; !e && round <= p->rounds; round++)
		for (uint32_t b = 0; !e && b < p->r.n_batches; b++) {
			uint32_t kept = round ? round - 1 : p->rounds;
			e = time_pass(p, b, PLACE_DEVICE, kept, why);
			if (!e && p->host)
				e = time_pass(p, b, PLACE_HOST, kept, why);
		}
	return e ? e : time_copies(p, why);
}

/* ---- preparing ---- */

static int prepare_batch(struct profile *p, uint32_t b, struct fault *why)
{
	struct input_options options = {"random", p->r.batches[b], p->r.tokens, p->r.seed};
	struct batch *batch = &p->batches[b];
	int e = input_make(p->s.net, weights_catalog(p->s.weights), &options, &batch->in, why);
	if (!e)
		e = exec_new(p->s.backend, p->s.net, p->s.weights, batch->in.n, batch->in.t, 0, &batch->exec, why);
	if (!e)
		exec_time_layers(batch->exec, true);
	return e;
}

static int prepare(struct profile *p, struct fault *why)
{
	p->host = strcmp(p->r.device, "cpu") != 0;
	p->r.mode = MODE_RESIDENT;
	p->r.both = p->host;
	p->rounds = p->r.given & OPT_repeat ? p->r.repeat : USUAL_ROUNDS;
	int e = session_open(&p->s, &p->r, why);
	if (!e)
		e = session_bind(&p->s, &p->r, why);
	if (!e)
		e = weights_wait_all(p->s.weights, why);
	for (uint32_t b = 0; !e && b < p->r.n_batches; b++)
		e = prepare_batch(p, b, why);
	if (!e)
		p->samples = calloc((1 + 2 * (size_t)p->r.n_batches) * p->s.net->n_layers * p->rounds, sizeof *p->samples);
	return e || p->samples ? e : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the samples");
}

static void finish(struct profile *p)
{
	for (uint32_t b = 0; b < p->r.n_batches; b++) {
		exec_free(&p->batches[b].exec);
		input_fini(&p->batches[b].in);
	}
	session_close(&p->s);
	free(p->samples);
}

/* ---- telling ---- */

/* What crosses the link when a layer is read in place: of a table the rows that are asked for; else each byte once, which is the
 * least (kernels that come back to a weight read it again). */
static uint64_t touched_bytes(const struct layer *l, const struct input *in)
{
	if (l->op != OP_EMBED)
		return l->weight_bytes;
	return MIN(l->weight_bytes, (uint64_t)in->n * in->t * (l->w[0].bytes / l->w[0].shape[0]));
}

static json_t *tell_batches(const struct profile *p, uint32_t layer)
{
	const struct layer *l = &p->s.net->layers[layer];
	json_t *list = json_array();
	for (uint32_t b = 0; b < p->r.n_batches; b++) {
		json_t *j = json_pack("{s:i,s:I}", "batch", (int)p->r.batches[b], "exec_ns", median(p, figure_of(b, PLACE_DEVICE), layer));
		if (p->host && l->weight_bytes) {
			json_object_set_new(j, "dha_ns", json_integer(median(p, figure_of(b, PLACE_HOST), layer)));
			json_object_set_new(j, "touched_bytes", json_integer((json_int_t)touched_bytes(l, &p->batches[b].in)));
		}
		json_array_append_new(list, j);
	}
	return list;
}

/* Index of the first layer whose weights begin with the same tensor; its own: none does. */
static uint32_t same_as(const struct net *net, uint32_t layer)
{
	uint32_t i = 0;
	while (i < layer && (net->layers[layer].w[0].tensor == WEIGHT_NONE || net->layers[i].w[0].tensor != net->layers[layer].w[0].tensor))
		i++;
	return i;
}

static json_t *tell_layer(struct profile *p, uint32_t i)
{
	const struct layer *l = &p->s.net->layers[i];
	json_t *tensors = json_array();
	for (unsigned role = 0; role < NET_MAX_WEIGHTS; role++)
		if (l->w[role].tensor != WEIGHT_NONE)
			json_array_append_new(tensors, json_string(weights_tensor_name(p->s.weights, l->w[role].tensor)));
	json_t *j = json_pack("{s:s,s:s,s:I,s:o,s:o}", "name", l->name, "op", op_name(l->op), "bytes", (json_int_t)l->weight_bytes,
		"tensors", tensors, "batches", tell_batches(p, i));
	if (l->weight_bytes)
		json_object_set_new(j, "copy_ns", json_integer(median(p, 0, i)));
	if (same_as(p->s.net, i) < i)
		json_object_set_new(j, "same_as", json_integer(same_as(p->s.net, i)));
	return j;
}

/* As infer's: lesser ways that it went, each said on standard error, too. */
static json_t *tell_notes(const struct profile *p)
{
	const char *unreadable = weights_info(p->s.weights).unreadable;
	json_t *notes = json_array();
	if (p->s.backend->degraded)
		json_array_append_new(notes, json_string(p->s.backend->degraded));
	if (unreadable) {
		json_t *note = json_sprintf("host-copied: %s: what was measured is a copy that it can read", unreadable);
		fprintf(stderr, "trims-run: %s\n", json_string_value(note));
		json_array_append_new(notes, note);
	}
	return notes;
}

static json_t *tell(struct profile *p)
{
	bool simulated = weights_info(p->s.weights).simulated;
	char executor[96], class[DEVICE_CLASS_BYTES], driver[16] = "";
	if (p->host)
		snprintf(class, sizeof class, "%s", p->s.class);
	else
		device_class_cpu(class);
	if (p->host)
		device_class_driver(driver, p->s.driver);
	snprintf(executor, sizeof executor, "trims-run %s, backend %s", TRIMS_VERSION, p->s.ops->name);
	json_t *layers = json_array();
	for (uint32_t i = 0; i < p->s.net->n_layers; i++)
		json_array_append_new(layers, tell_layer(p, i));
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:o,s:o}", "format", "trims-profile-1", "model", p->r.model, "device",
		p->host ? p->s.uuid : "cpu", "device_class", class, "driver", driver, "executor", executor, "source",
		simulated ? "simulated: no measurement" : "measured", "tokens", (int)p->batches[0].in.t, "rounds", (int)p->rounds,
		"notes", tell_notes(p), "layers", layers);
}

static int put_profile(struct profile *p, struct fault *why)
{
	json_t *j = tell(p);
	int e = 0;
	if (!p->r.output)
		run_print_json(j);
	else if (json_dump_file(j, p->r.output, JSON_INDENT(1)))
		e = fault_set(why, TRIMS_E_DISK_ERROR, "writing %s: %s", p->r.output, strerror(errno));
	json_decref(j);
	return e;
}

/* For a daemon that measures while nothing else happens.  What cannot be had is done without: the command is no less right. */
static void step_back(void)
{
	const struct sched_param none = {0};
	const char *parent = getenv("TRIMS_PARENT");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (parent && atoi(parent) != (int)getppid()) /* it had ended before that could be asked for */
		exit(RUN_REFUSED);
	setpriority(PRIO_PROCESS, 0, 19);
	sched_setscheduler(0, SCHED_IDLE, &none);
	syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, 3 << 13 /* IOPRIO_CLASS_IDLE, ioprio_set(2) */);
}

int run_profile(struct run *r)
{
	struct profile p = {.r = *r};
	struct fault why = {0};
	if (r->given & OPT_background)
		step_back();
	int e = prepare(&p, &why);
	if (!e)
		e = measure(&p, &why);
	if (!e)
		e = put_profile(&p, &why);
	finish(&p);
	return e ? run_fail(r, &why) : RUN_DONE;
}
