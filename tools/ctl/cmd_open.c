/* cmd_open.c - the commands that take a lease: pull, open, cat, file.
 * Keeps: bytes go to stdout only after they were checked, and a lease is given back on every way out. */
#include "client/trims.h"
#include "shared/own.h"
#include "tools/clock.h"
#include "tools/ctl/ctl.h"
#include "tools/plan_file.h"
#include "tools/text.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BAR_STEP_NS (100 * NS_PER_MS) /* a bar moves ten times a second ... */
#define LINE_STEP_NS (2 * NS_PER_S)   /* ... and a log gets a line every other */
#define BAR_WIDTH 30

static int open_model(struct ctl *c, uint32_t flags, trims_model **out)
{
	struct trims_open_options options = {.size = sizeof options, .tier = c->tier, .flags = flags, .device = c->device};
	struct plan_file file;
	if (c->given & OPT_resident)
		options.flags |= TRIMS_OPEN_NO_LOAD;
	int r = ctl_read_plan(c, &file);
	if (r != CTL_DONE)
		return r;
	options.plan = c->plan ? &file.plan : NULL;
	r = trims_open(c->trims, c->args[0], &options, out) ? ctl_fail_trims(c) : CTL_DONE;
	plan_file_fini(&file);
	return r;
}

static const char *tier_name(uint32_t tier)
{
	static const char *const names[] = {
#define TIER(number, NAME, name, doc) [number] = #name,
#include "shared/tiers.def"
#undef TIER
	};
	return tier < ARRAY_LEN(names) ? names[tier] : "?";
}

/* ---- pull ---- */

struct meter {
	uint64_t started_ns, drawn_ns, first_bytes;
	const char *mark; /* behind what could be taken for a measurement */
	bool bar, drawn;
};

static const char *mark_of(trims_model *model)
{
	struct trims_info info = {.size = sizeof info};
	return trims_info(model, &info) == 0 && info.simulated ? " (simulated)" : "";
}

static void draw_bar(const struct trims_progress *p, uint64_t rate, double share, const char *mark)
{
	char landed[TEXT_NUMBER], whole[TEXT_NUMBER], speed[TEXT_NUMBER], left[TEXT_NUMBER] = "-";
	char bar[BAR_WIDTH + 1];
	int filled = (int)(share * BAR_WIDTH);
	for (int i = 0; i < BAR_WIDTH; i++)
		bar[i] = i < filled ? '=' : i == filled ? '>' : ' ';
	bar[BAR_WIDTH] = 0;
	if (rate)
		text_ns(left, (p->image_bytes - p->landed_bytes) / rate * NS_PER_S);
	fprintf(stderr, "\r\033[K[%s] %3.0f%%  %s of %s  %s  %s left%s", bar, 100 * share,
		text_bytes(landed, p->landed_bytes), text_bytes(whole, p->image_bytes), text_rate(speed, rate), left, mark);
}

static void draw(struct meter *m, const struct trims_progress *p)
{
	uint64_t now = clock_ns(), spent = MAX(now - m->started_ns, 1);
	uint64_t step = m->bar ? BAR_STEP_NS : LINE_STEP_NS;
	if (now - m->drawn_ns < step)
		return;
	uint64_t rate = (uint64_t)((double)(p->landed_bytes - m->first_bytes) * 1e9 / (double)spent);
	double share = p->image_bytes ? MIN((double)p->landed_bytes / (double)p->image_bytes, 1.0) : 1.0;
	if (m->bar) {
		draw_bar(p, rate, share, m->mark);
	} else {
		char landed[TEXT_NUMBER], whole[TEXT_NUMBER], speed[TEXT_NUMBER];
		fprintf(stderr, "%.0f%%  %s of %s  %s%s\n", 100 * share, text_bytes(landed, p->landed_bytes),
			text_bytes(whole, p->image_bytes), text_rate(speed, rate), m->mark);
	}
	m->drawn_ns = now;
	m->drawn = true;
}

#define CTL_AGAIN (-1) /* inside this file: open the model once more */

/* The model was replaced at its source while it was read: what is there now can be opened. */
static int fail_or_again(struct ctl *c)
{
	if (!c->tried_again && trims_last_error()->code == TRIMS_E_CHANGED) {
		c->tried_again = true;
		return CTL_AGAIN;
	}
	return ctl_fail_trims(c);
}

static int wait_and_draw(struct ctl *c, trims_model *model)
{
	struct trims_progress p;
	struct meter m = {.started_ns = clock_ns(), .mark = mark_of(model), .bar = isatty(STDERR_FILENO)};
	m.drawn_ns = m.started_ns;
	if (trims_progress(model, &p) == 0)
		m.first_bytes = p.landed_bytes;
	int r;
	while ((r = trims_wait(model, BAR_STEP_NS)) == -TRIMS_E_TIMED_OUT)
		if (trims_progress(model, &p) == 0)
			draw(&m, &p);
	if (m.bar && m.drawn)
		fputs("\r\033[K", stderr);
	return r ? fail_or_again(c) : CTL_DONE;
}

static const char *export_name(uint32_t kind)
{
	return kind == TRIMS_EXPORT_VMM_FD ? "vmm-fd" : kind == TRIMS_EXPORT_CUDA_IPC ? "cuda-ipc" : "?";
}

#define WAYS 4

/* Tensors that a plan left on the host, by how the device reads them. */
struct on_host {
	const char *way, *words;
	uint32_t tensors;
	uint64_t bytes;
};

static bool find_on_host(const struct trims_info *info, struct on_host out[WAYS])
{
	const struct on_host all[WAYS] = {
		{"dha-registered", "read there", info->direct_tensors, info->direct_bytes},
		{"dha-host-numa", "read there, in memory shared for that", info->numa_tensors, info->numa_bytes},
		{"dha-trusted", "read there, in memory of this user", info->trusted_tensors, info->trusted_bytes},
		{"dha-staged", "staged", info->staged_tensors, info->staged_bytes},
	};
	memcpy(out, all, sizeof all);
	return info->direct_tensors || info->numa_tensors || info->trusted_tensors || info->staged_tensors;
}

static void add_device(json_t *j, const struct trims_info *info)
{
	json_object_set_new(j, "device", json_string(info->device));
	json_object_set_new(j, "export", json_string(export_name(info->export_kind)));
	json_object_set_new(j, "simulated", json_boolean(info->simulated));
	json_object_set_new(j, "stream_wait", json_string(info->stream_wait == TRIMS_STREAM_WAIT_CPU ? "cpu" :
		info->stream_wait == TRIMS_STREAM_WAIT_GPU ? "gpu" : "none"));
	if (*info->note)
		json_object_set_new(j, "note", json_string(info->note));
	json_object_set_new(j, "device_bytes", json_integer((json_int_t)info->device_bytes));
	json_object_set_new(j, "helper_bytes", json_integer((json_int_t)info->helper_bytes));
	struct on_host host[WAYS];
	if (!find_on_host(info, host))
		return;
	json_t *ways = json_object();
	for (int i = 0; i < WAYS; i++)
		json_object_set_new(ways, host[i].way, json_pack("{s:I,s:I}", "tensors", (json_int_t)host[i].tensors, "bytes",
			(json_int_t)host[i].bytes));
	json_object_set_new(j, "on_host", ways);
	if (*info->place_note)
		json_object_set_new(j, "place_note", json_string(info->place_note));
}

static void say_places(const struct trims_info *info)
{
	char text[TEXT_NUMBER];
	struct on_host host[WAYS];
	const char *before = "on the host: ";
	if (info->helper_bytes)
		printf("  %s came over other devices' links\n", text_bytes(text, info->helper_bytes));
	if (!find_on_host(info, host))
		return;
	printf("  %s in device memory; ", text_bytes(text, info->device_bytes));
	for (int i = 0; i < WAYS; i++) {
		if (!host[i].tensors)
			continue;
		printf("%s%" PRIu32 " tensors (%s) %s", before, host[i].tensors, text_bytes(text, host[i].bytes), host[i].words);
		before = ", ";
	}
	printf("%s%s\n", *info->place_note ? "; " : "", info->place_note);
}

/* A line or two, or JSON, about a model that is open. */
static void say_open(const struct ctl *c, trims_model *model, uint64_t ns)
{
	struct trims_info info = {.size = sizeof info};
	uint32_t tensors = 0;
	char digest[33], bytes[TEXT_NUMBER], time[TEXT_NUMBER];
	if (trims_info(model, &info) || trims_tensor_count(model, &tensors))
		return;
	snprintf(digest, sizeof digest, "%016" PRIx64 "%016" PRIx64, info.digest_hi, info.digest_lo);
	if (c->given & OPT_json) {
		json_t *j = json_pack("{s:s,s:s,s:b,s:I,s:i,s:s,s:I,s:I}", "model", c->args[0], "tier",
			tier_name(info.tier), "hit", (int)info.hit, "bytes", (json_int_t)info.image_bytes, "tensors",
			(int)tensors, "digest", digest, "copy", (json_int_t)info.copy, "ns", (json_int_t)ns);
		if (info.tier == TRIMS_TIER_GPU)
			add_device(j, &info);
		print_json(j);
		json_decref(j);
		return;
	}
	text_put_clean(stdout, c->args[0]);
	printf(": %s on %s%s, %" PRIu32 " tensors, %s in %s, digest %s\n", text_bytes(bytes, info.image_bytes),
		tier_name(info.tier), mark_of(model), tensors, info.hit ? "was there, opened" : "loaded", text_ns(time, ns), digest);
	if (info.tier == TRIMS_TIER_GPU) {
		printf("  on %s%s, shared by %s%s%s\n", info.device, mark_of(model), export_name(info.export_kind),
			*info.note ? "; " : "", info.note);
		say_places(&info);
	}
}

int ctl_pull(struct ctl *c)
{
	trims_model *model;
	uint64_t started = clock_ns();
	int r;
	do {
		r = open_model(c, TRIMS_OPEN_NO_WAIT, &model);
		if (r != CTL_DONE)
			return r;
		r = wait_and_draw(c, model);
		if (r == CTL_DONE)
			say_open(c, model, clock_ns() - started);
		trims_close(&model);
	} while (r == CTL_AGAIN);
	return r;
}

/* ---- open ---- */

/* Until a signal says stop or, where somebody holds the other end of standard input, until that ends; what it sends is only
 * drained.  A terminal stops a program in the background that reads from it, and a shell's `&` may give it /dev/null. */
static void hold(int signals)
{
	struct stat st;
	bool piped = fstat(STDIN_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
	struct pollfd fds[] = {{.fd = signals, .events = POLLIN}, {.fd = piped ? STDIN_FILENO : -1, .events = POLLIN}};
	char buf[4096];
	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return;
		if (fds[0].revents)
			return;
		if (fds[1].revents && read(STDIN_FILENO, buf, sizeof buf) <= 0)
			return;
	}
}

int ctl_open(struct ctl *c)
{
	trims_model *model;
	int signals = -1;
	if (c->given & OPT_hold) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGINT);
		sigaddset(&set, SIGTERM);
		sigprocmask(SIG_BLOCK, &set, NULL);
		signals = signalfd(-1, &set, SFD_CLOEXEC);
	}
	uint64_t started = clock_ns();
	int r = open_model(c, 0, &model);
	if (r == CTL_DONE) {
		say_open(c, model, clock_ns() - started);
		fflush(stdout);
		if (signals >= 0)
			hold(signals);
		trims_close(&model);
	}
	if (signals >= 0)
		close(signals);
	return r;
}

/* ---- cat, file ---- */

/* Base64 in pieces, so that a tensor of gigabytes needs no second copy of itself. */
static void put_base64(const uint8_t *p, size_t bytes)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	for (; bytes > 0 && !ferror(stdout); p += MIN(bytes, 3), bytes -= MIN(bytes, 3)) {
		uint32_t v = (uint32_t)p[0] << 16 | (bytes > 1 ? (uint32_t)p[1] << 8 : 0) | (bytes > 2 ? p[2] : 0u);
		putchar(digits[v >> 18]);
		putchar(digits[v >> 12 & 63]);
		putchar(bytes > 1 ? digits[v >> 6 & 63] : '=');
		putchar(bytes > 2 ? digits[v & 63] : '=');
	}
}

/* Raw, or with --json as {members of head ..., "bytes": n, "base64": "..."}.  Takes head. */
static int put_bytes(const struct ctl *c, json_t *head, const void *data, size_t bytes)
{
	if (c->given & OPT_json) {
		json_object_set_new(head, "bytes", json_integer((json_int_t)bytes));
		char *text = json_dumps(head, JSON_COMPACT);
		/* The closing brace is replaced by one more member. */
		if (text)
			printf("%.*s,\"base64\":\"", (int)strlen(text) - 1, text);
		put_base64(data, bytes);
		puts("\"}");
		free(text);
	} else if (bytes) {
		fwrite(data, 1, bytes, stdout);
	}
	json_decref(head);
	return ferror(stdout) ? CTL_REFUSED : CTL_DONE; /* main() says why */
}

static bool is_on_gpu(trims_model *model)
{
	struct trims_info info = {.size = sizeof info};
	return trims_info(model, &info) == 0 && info.tier == TRIMS_TIER_GPU;
}

static int put_tensor(struct ctl *c, trims_model *model)
{
	struct trims_tensor t;
	if (trims_tensor_by_name(model, c->args[1], &t) || trims_wait_tensor(model, t.index, TRIMS_FOREVER))
		return fail_or_again(c);
	json_t *shape = json_array();
	for (uint32_t i = 0; i < t.rank; i++)
		json_array_append_new(shape, json_integer((json_int_t)t.shape[i]));
	json_t *head = json_pack("{s:s,s:s,s:s,s:o}", "model", c->args[0], "tensor", t.name, "dtype",
		trims_dtype_name(t.dtype), "shape", shape);
	if (!is_on_gpu(model))
		return put_bytes(c, head, t.data, (size_t)t.bytes);
	OWN_MEM void *back = malloc(MAX(t.bytes, 1u)); /* its address is a device's */
	if (!back || trims_read(model, t.index, 0, back, (size_t)t.bytes)) {
		json_decref(head);
		return back ? ctl_fail_trims(c) : ctl_fail(c, &(struct fault){TRIMS_E_NO_MEMORY, "no memory for the tensor"});
	}
	return put_bytes(c, head, back, (size_t)t.bytes);
}

static int put_file(struct ctl *c, trims_model *model)
{
	const void *data;
	size_t bytes;
	if (trims_file(model, c->args[1], &data, &bytes))
		return ctl_fail_trims(c);
	return put_bytes(c, json_pack("{s:s,s:s}", "model", c->args[0], "file", c->args[1]), data, bytes);
}

static int with_model(struct ctl *c, int (*fn)(struct ctl *, trims_model *))
{
	trims_model *model;
	int r;
	do {
		r = open_model(c, TRIMS_OPEN_NO_WAIT, &model);
		if (r != CTL_DONE)
			return r;
		r = fn(c, model);
		trims_close(&model);
	} while (r == CTL_AGAIN);
	return r;
}

int ctl_cat(struct ctl *c)
{
	return with_model(c, put_tensor);
}

int ctl_file(struct ctl *c)
{
	return with_model(c, put_file);
}
