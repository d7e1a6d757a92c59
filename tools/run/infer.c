/* infer.c - trims-run infer: one model, one input, the result, and where the time went.
 * Keeps: repetitions give the same bits, or the command fails; what is told of times is of the first, what is told of
 * repetitions says so. */
#include "tools/run/run.h"

#include "shared/own.h"
#include "tools/clock.h"
#include "tools/run/input.h"
#include "tools/text.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define SHOWN 5 /* values of a result that are printed */

/* One input run once. */
struct pass {
	uint64_t prefill_ns, decode_ns; /* execution, waits for weights not counted */
	uint32_t decoded;               /* tokens behind the first */
};

struct infer {
	const struct run *r;
	struct session s;
	struct input in;
	struct exec *exec;
	float *result;            /* [n][width], of the last pass */
	int32_t *tokens;          /* [n][generated] */
	uint32_t generated;
	XXH3_state_t *hash;
	XXH128_hash_t digest;
	uint64_t not_finite;      /* values of the first run's results that are no finite numbers */
	FILE *output;
	uint64_t prepare_ns; /* input, memory, addresses; without waiting for weights or starting libraries */
	uint64_t first_ns, *repeats; /* first_ns: from this process's beginning to the first result; repeats: [repeat] */
	struct pass first;
	uint64_t asked_ns;       /* by clock_ns(), when the model was asked for */
	json_t *layers;          /* of the first pass; NULL: not wanted, or not yet */
	json_t *texts;           /* what the generated tokens say, each input's; NULL: the input was no text */
	struct fault no_text;    /* why not, where it was one */
};

/* ---- running ---- */

static size_t result_floats(const struct infer *f)
{
	return (size_t)f->in.n * f->s.net->result_width;
}

static int take_result(struct infer *f, struct fault *why)
{
	size_t bytes = result_floats(f) * sizeof *f->result;
	int e = exec_result(f->exec, f->result, why);
	if (e)
		return e;
	XXH3_128bits_update(f->hash, f->result, bytes);
	for (size_t i = 0; !f->first_ns && i < result_floats(f); i++)
		f->not_finite += !isfinite(f->result[i]);
	if (f->output && fwrite(f->result, 1, bytes, f->output) != bytes)
		return fault_set(why, TRIMS_E_DISK_ERROR, "writing %s: %s", f->r->output, strerror(errno));
	return 0;
}

static int32_t likeliest(const float *scores, uint32_t n)
{
	uint32_t best = 0;
	for (uint32_t i = 1; i < n; i++)
		if (scores[i] > scores[best])
			best = i;
	return (int32_t)best;
}

/* Of those that were generated for a sequence, how many are its: what comes behind the end token comes since others went on. */
static uint32_t own_tokens(const struct infer *f, uint32_t i)
{
	const int32_t *tokens = f->tokens + (size_t)i * f->r->generate;
	uint32_t n = 0;
	while (n < f->generated)
		if (tokens[n++] == f->s.net->end_token)
			break;
	return n;
}

/* Greedy: each sequence goes on with its likeliest token, until all have come to their end. */
static int generate(struct infer *f, struct pass *p, struct fault *why)
{
	uint32_t n = f->in.n, width = f->s.net->result_width, going = n;
	OWN_MEM int32_t *next = malloc(n * sizeof *next);
	OWN_MEM bool *ended = calloc(n, sizeof *ended);
	if (!next || !ended)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for tokens");
	for (f->generated = 0;;) {
		for (uint32_t i = 0; i < n; i++) {
			next[i] = likeliest(f->result + (size_t)i * width, width);
			f->tokens[(size_t)i * f->r->generate + f->generated] = next[i];
			going -= !ended[i] && next[i] == f->s.net->end_token;
			ended[i] = ended[i] || next[i] == f->s.net->end_token;
		}
		if (++f->generated == f->r->generate || !going)
			return 0;
		uint64_t began = clock_ns();
		if (exec_step(f->exec, next, why) || take_result(f, why))
			return -EPROTO;
		p->decode_ns += clock_ns() - began;
		p->decoded++;
	}
}

/* Of the first pass, which was timed; later ones need not be. */
static void note_layers(struct infer *f)
{
	f->layers = json_array();
	for (uint32_t i = 0; i < f->s.net->n_layers; i++) {
		uint64_t began = exec_layer_began_ns(f->exec, i) - f->asked_ns;
		json_array_append_new(f->layers, json_pack("{s:s,s:I,s:I}", "name", f->s.net->layers[i].name, "begin_ns", (json_int_t)began,
			"end_ns", (json_int_t)(began + exec_layer_ns(f->exec, i))));
	}
	exec_time_layers(f->exec, false);
}

static int run_once(struct infer *f, struct pass *p, struct fault *why)
{
	uint64_t waited = weights_times(f->s.weights)->wait_ns;
	*p = (struct pass){0};
	XXH3_128bits_reset(f->hash);
	int e = f->in.image ? exec_put_image(f->exec, f->in.image, why) :
			      exec_put_tokens(f->exec, f->in.tokens, f->in.lengths, why);
	uint64_t began = clock_ns();
	if (!e)
		e = exec_pass(f->exec, why);
	if (!e && (f->r->given & OPT_layers) && !f->layers)
		note_layers(f);
	if (!e)
		e = take_result(f, why);
	p->prefill_ns = clock_ns() - began - (weights_times(f->s.weights)->wait_ns - waited);
	return e || f->s.net->output != NET_NEXT_TOKEN ? e : generate(f, p, why);
}

static int run_all(struct infer *f, struct fault *why)
{
	for (uint32_t i = 0; i < f->r->repeat; i++) {
		struct pass p;
		int e = run_once(f, &p, why);
		if (e)
			return e;
		XXH128_hash_t digest = XXH3_128bits_digest(f->hash);
		f->repeats[i] = p.prefill_ns + p.decode_ns;
		if (i == 0) {
			f->first = p;
			f->first_ns = clock_ns() - f->r->started_ns;
			f->digest = digest;
			if (f->output && fclose(STEAL(f->output)))
				return fault_set(why, TRIMS_E_DISK_ERROR, "writing %s: %s", f->r->output, strerror(errno));
		} else if (!XXH128_isEqual(digest, f->digest)) {
			return fault_set(why, TRIMS_E_INTERNAL, "repetition %u gave another result than the first", i);
		}
	}
	return 0;
}

/* A model may have more tokens than its vocabulary: those have no text, which is no reason to keep the tokens back. */
static void read_back(struct infer *f)
{
	if (f->s.net->output != NET_NEXT_TOKEN || !f->in.tokenizer)
		return;
	f->texts = json_array();
	for (uint32_t i = 0; f->texts && i < f->in.n; i++) {
		OWN_MEM char *text = NULL;
		size_t bytes;
		if (tokenizer_decode(f->in.tokenizer, f->tokens + (size_t)i * f->r->generate, own_tokens(f, i), &text, &bytes, &f->no_text)) {
			json_decref(STEAL(f->texts));
			return;
		}
		json_array_append_new(f->texts, json_stringn(text, bytes));
	}
}

/* ---- preparing ---- */

static int check_options(const struct infer *f, struct fault *why)
{
	const struct run *r = f->r;
	if (f->s.net->output != NET_NEXT_TOKEN && (r->given & OPT_generate))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--generate is for models that continue a text; %s is none", f->s.net->family);
	if (f->s.net->output == NET_NEXT_TOKEN && (uint64_t)f->in.t + r->generate - 1 > f->s.net->max_tokens)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "%u tokens and %u more: this model can take %u", f->in.t, r->generate - 1,
			f->s.net->max_tokens);
	return 0;
}

static int make_books(struct infer *f, struct fault *why)
{
	f->result = malloc(result_floats(f) * sizeof *f->result);
	f->tokens = calloc((size_t)f->in.n * f->r->generate, sizeof *f->tokens);
	f->repeats = calloc(f->r->repeat, sizeof *f->repeats);
	f->hash = XXH3_createState();
	if (!f->result || !f->tokens || !f->repeats || !f->hash)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the result");
	if (f->r->output && !(f->output = fopen(f->r->output, "we")))
		return fault_set(why, TRIMS_E_DISK_ERROR, "%s: %s", f->r->output, strerror(errno));
	return 0;
}

static int prepare(struct infer *f, struct fault *why)
{
	const struct run *r = f->r;
	struct input_options options = {r->input, r->batch, r->tokens, r->seed};
	f->asked_ns = clock_ns();
	int e = session_open(&f->s, r, why);
	uint64_t opened = e ? 0 : weights_times(f->s.weights)->open_ns;
	uint64_t began = clock_ns(), ready = f->s.backend ? f->s.backend->library_ns + f->s.backend->context_ns : 0;
	if (!e)
		e = input_make(f->s.net, weights_catalog(f->s.weights), &options, &f->in, why);
	if (f->s.weights && weights_read_all(f->s.weights, why))
		e = -EPROTO;
	if (!e)
		e = check_options(f, why);
	if (!e)
		e = make_books(f, why);
	if (!e)
		e = session_bind(&f->s, r, why);
	if (!e)
		e = exec_new(f->s.backend, f->s.net, f->s.weights, f->in.n, f->in.t, r->generate - 1, &f->exec, why);
	if (!e)
		exec_time_layers(f->exec, r->given & OPT_layers);
	if (!e)
		f->prepare_ns = clock_ns() - began - weights_times(f->s.weights)->wait_ns -
			(weights_times(f->s.weights)->open_ns - opened) -
			(f->s.backend->library_ns + f->s.backend->context_ns - ready);
	return e;
}

static void finish(struct infer *f)
{
	if (f->output)
		fclose(f->output);
	exec_free(&f->exec);
	session_close(&f->s);
	input_fini(&f->in);
	free(f->result);
	free(f->tokens);
	free(f->repeats);
	json_decref(f->layers);
	json_decref(f->texts);
	XXH3_freeState(f->hash);
}

/* ---- telling ---- */

/* JSON has no number for what is not finite. */
static json_t *number_or_null(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

/* Degraded ways and what else a user should know, each as "name: sentence". */
static json_t *tell_notes(const struct infer *f)
{
	json_t *notes = json_array();
	if (f->s.backend->degraded)
		json_array_append_new(notes, json_string(f->s.backend->degraded));
	if (f->not_finite)
		json_array_append_new(notes, json_sprintf("not-finite: %" PRIu64 " values that the model computed are no finite numbers",
			f->not_finite));
	if (weights_info(f->s.weights).unordered)
		json_array_append_new(notes, json_sprintf("not-ordered: %s", weights_info(f->s.weights).unordered));
	if (f->no_text.text[0])
		json_array_append_new(notes, json_sprintf("no-text: %s", f->no_text.text));
	return notes;
}

/* config.json's name of a class; NULL: it has none. */
static json_t *label(const struct infer *f, uint32_t class)
{
	const void *text;
	size_t bytes;
	char key[16];
	const struct catalog *c = weights_catalog(f->s.weights);
	if (c->file(c, "config.json", &text, &bytes))
		return NULL;
	json_t *config = json_loadb(text, bytes, 0, NULL);
	snprintf(key, sizeof key, "%u", class);
	json_t *name = json_incref(json_object_get(json_object_get(config, "id2label"), key));
	json_decref(config);
	return json_is_string(name) ? name : (json_decref(name), NULL);
}

static json_t *tell_one(const struct infer *f, uint32_t i)
{
	const struct net *net = f->s.net;
	const float *row = f->result + (size_t)i * net->result_width;
	json_t *j = json_object();
	if (net->output == NET_NEXT_TOKEN) {
		json_t *tokens = json_array();
		for (uint32_t k = 0, n = own_tokens(f, i); k < n; k++)
			json_array_append_new(tokens, json_integer(f->tokens[(size_t)i * f->r->generate + k]));
		json_object_set_new(j, "tokens", tokens);
		if (f->texts)
			json_object_set(j, "text", json_array_get(f->texts, i));
		return j;
	}
	if (net->output == NET_CLASSES) {
		uint32_t best = (uint32_t)likeliest(row, net->result_width);
		json_object_set_new(j, "class", json_integer(best));
		json_object_set_new(j, "score", number_or_null(row[best]));
		json_object_set_new(j, "label", label(f, best));
		return j;
	}
	double norm = 0;
	json_t *values = json_array();
	for (uint32_t k = 0; k < net->result_width; k++) {
		norm += (double)row[k] * row[k];
		if (k < SHOWN)
			json_array_append_new(values, number_or_null(row[k]));
	}
	json_object_set_new(j, "norm", number_or_null(__builtin_sqrt(norm)));
	json_object_set_new(j, "first", values);
	return j;
}

static json_t *tell_times(const struct infer *f)
{
	const struct weights_times *t = weights_times(f->s.weights);
	json_t *j = json_object();
	const struct {
		const char *name;
		uint64_t ns;
	} rows[] = {
		{"process_ns", f->r->main_ns - f->r->started_ns}, {"connect_ns", t->connect_ns}, {"open_ns", t->open_ns},
		{"build_ns", f->s.build_ns}, {"library_ns", f->s.backend->library_ns}, {"context_ns", f->s.backend->context_ns},
		{"prepare_ns", f->prepare_ns}, {"wait_ns", t->wait_ns}, {"execute_ns", f->first.prefill_ns + f->first.decode_ns},
		{"prefill_ns", f->first.prefill_ns}, {"decode_ns", f->first.decode_ns}, {"total_ns", f->first_ns},
		{"from_open_ns", f->r->started_ns + f->first_ns - t->asked_ns},
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		json_object_set_new(j, rows[i].name, json_integer((json_int_t)rows[i].ns));
	if (f->r->execed_ns)
		json_object_set_new(j, "container_ns", json_integer((json_int_t)(f->r->execed_ns - f->r->started_ns)));
	return j;
}

static json_t *tell(const struct infer *f)
{
	struct weights_info info = weights_info(f->s.weights);
	char digest[33];
	snprintf(digest, sizeof digest, "%016" PRIx64 "%016" PRIx64, (uint64_t)f->digest.high64, (uint64_t)f->digest.low64);
	json_t *results = json_array(), *repeats = json_array();
	for (uint32_t i = 0; i < f->in.n; i++)
		json_array_append_new(results, tell_one(f, i));
	for (uint32_t i = 1; i < f->r->repeat; i++)
		json_array_append_new(repeats, json_integer((json_int_t)f->repeats[i]));
	json_t *j = json_pack("{s:s*,s:s,s:s,s:s,s:s,s:b,s:I,s:b,s:i,s:i,s:i,s:s,s:o,s:o,s:o,s:o}", "model", f->r->model, "family",
		f->s.net->family, "mode", mode_name(f->r->mode), "device", f->r->device, "backend", f->s.ops->name, "simulated",
		(int)info.simulated, "bytes", (json_int_t)info.bytes, "hit", (int)info.hit, "batch", (int)f->in.n, "tokens",
		(int)f->in.t, "decoded", (int)f->first.decoded, "digest", digest, "notes", tell_notes(f), "times", tell_times(f),
		"repeats_ns", repeats, "results", results);
	if (mode_follows_plan(f->r->mode))
		json_object_set_new(j, "plan", json_pack("{s:I,s:I,s:i,s:I,s:i,s:I,s:s}", "device_bytes", (json_int_t)info.device_bytes,
			"helper_bytes", (json_int_t)info.helper_bytes,
			"direct_tensors", (int)info.direct_tensors, "direct_bytes", (json_int_t)info.direct_bytes, "staged_tensors",
			(int)info.staged_tensors, "staged_bytes", (json_int_t)info.staged_bytes, "note", info.note));
	if (f->layers)
		json_object_set(j, "layers", f->layers);
	if (f->s.backend->note[0])
		json_object_set_new(j, "note", json_string(f->s.backend->note));
	json_object_set_new(j, "graph_launches", json_integer((json_int_t)f->s.backend->graph_launches));
	return j;
}

/* What a plan's copy is, since that depends on who opened it before. */
static void print_plan(const json_t *plan)
{
	char bytes[TEXT_NUMBER], helped[TEXT_NUMBER];
	if (!plan)
		return;
	printf("%s on the device, %s of it over other devices' links; %d tensors read from the host by the device, %d from a copy of this process%s",
		text_bytes(bytes, (uint64_t)json_integer_value(json_object_get(plan, "device_bytes"))),
		text_bytes(helped, (uint64_t)json_integer_value(json_object_get(plan, "helper_bytes"))),
		(int)json_integer_value(json_object_get(plan, "direct_tensors")),
		(int)json_integer_value(json_object_get(plan, "staged_tensors")),
		*json_string_value(json_object_get(plan, "note")) ? ": " : "");
	text_put_clean(stdout, json_string_value(json_object_get(plan, "note")));
	putchar('\n');
}

/* The prompt and the tokens behind the first apart. */
static void print_steps(const struct infer *f)
{
	char prefill[TEXT_NUMBER], decode[TEXT_NUMBER], each[TEXT_NUMBER];
	if (f->first.decoded)
		printf("prefill of %u tokens %s, decode of %u %s, %s each\n", f->in.t, text_ns(prefill, f->first.prefill_ns), f->first.decoded,
			text_ns(decode, f->first.decode_ns), text_ns(each, f->first.decode_ns / f->first.decoded));
}

/* As number_or_null() has it. */
static double real_or_nan(const json_t *value)
{
	return json_is_real(value) ? json_real_value(value) : NAN;
}

static void print_result(const struct infer *f, const json_t *one)
{
	if (f->s.net->output == NET_NEXT_TOKEN) {
		char *tokens = json_dumps(json_object_get(one, "tokens"), JSON_COMPACT);
		printf("tokens %s\n", tokens ? tokens : "?");
		free(tokens);
		if (json_object_get(one, "text")) {
			fputs("text ", stdout);
			text_put_clean(stdout, json_string_value(json_object_get(one, "text")));
			putchar('\n');
		}
	} else if (f->s.net->output == NET_CLASSES) {
		printf("class %d, score %.4f  ", (int)json_integer_value(json_object_get(one, "class")),
			real_or_nan(json_object_get(one, "score")));
		const char *name = json_string_value(json_object_get(one, "label"));
		text_put_clean(stdout, name ? name : "");
		putchar('\n');
	} else {
		printf("embedding of %u values, length %.6f:", f->s.net->result_width, real_or_nan(json_object_get(one, "norm")));
		for (size_t i = 0; i < json_array_size(json_object_get(one, "first")); i++)
			printf(" %.6f", real_or_nan(json_array_get(json_object_get(one, "first"), i)));
		puts(" ...");
	}
}

static void print_text(const struct infer *f, const json_t *j)
{
	static const char *const shown[] = {"process_ns", "connect_ns", "open_ns", "wait_ns", "execute_ns", "total_ns"};
	const json_t *times = json_object_get(j, "times"), *results = json_object_get(j, "results");
	char number[TEXT_NUMBER];
	for (size_t i = 0; i < json_array_size(results); i++)
		print_result(f, json_array_get(results, i));
	for (size_t i = 0; i < ARRAY_LEN(shown); i++) {
		printf("%s%.*s %s", i ? ", " : "", (int)strlen(shown[i]) - 3, shown[i],
			text_ns(number, (uint64_t)json_integer_value(json_object_get(times, shown[i]))));
		if (i == 0 && f->r->execed_ns)
			printf(" (container %s)", text_ns(number, f->r->execed_ns - f->r->started_ns));
	}
	putchar('\n');
	print_steps(f);
	print_plan(json_object_get(j, "plan"));
	printf("%sdigest %s\n", weights_info(f->s.weights).simulated ? "simulated device: nothing of this is a measurement\n" : "",
		json_string_value(json_object_get(j, "digest")));
}

int run_infer(struct run *r)
{
	struct infer f = {.r = r};
	struct fault why = {0};
	int e = prepare(&f, &why);
	if (!e)
		e = run_all(&f, &why);
	if (!e) {
		read_back(&f);
		json_t *j = tell(&f);
		if (f.not_finite)
			fprintf(stderr, "trims-run: not-finite: %" PRIu64 " values that the model computed are no finite numbers\n", f.not_finite);
		if (weights_info(f.s.weights).unordered)
			fprintf(stderr, "trims-run: not-ordered: %s\n", weights_info(f.s.weights).unordered);
		if (f.no_text.text[0])
			fprintf(stderr, "trims-run: no-text: %s\n", f.no_text.text);
		if (r->given & OPT_json)
			run_print_json(j);
		else
			print_text(&f, j);
		json_decref(j);
	}
	finish(&f);
	return e ? run_fail(r, &why) : RUN_DONE;
}
