/* render.c - the daemon's reports as aligned text.  Pure: a JSON value in, text out.
 * Keeps: whatever is missing or of another type prints as "-"; nothing of a report reaches the terminal uncleaned. */
#include "shared/error.h"
#include "tools/ctl/ctl.h"
#include "tools/text.h"

#include <inttypes.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "-";
}

static uint64_t number_of(const json_t *object, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(object, key));
	return n > 0 ? (uint64_t)n : 0;
}

static bool has_number(const json_t *object, const char *key)
{
	return json_is_number(json_object_get(object, key));
}

static const char *bytes_of(char buf[TEXT_NUMBER], const json_t *object, const char *key)
{
	return has_number(object, key) ? text_bytes(buf, number_of(object, key)) : "-";
}

static const char *ns_of(char buf[TEXT_NUMBER], const json_t *object, const char *key)
{
	return has_number(object, key) ? text_ns(buf, number_of(object, key)) : "-";
}

static void grid_header(struct grid *g, const char *const *titles, size_t n)
{
	for (size_t i = 0; i < n; i++)
		grid_add(g, "%s", titles[i]);
}
#define GRID_HEADER(g, ...)                                                                                           \
	grid_header(g, (const char *const[]){__VA_ARGS__}, ARRAY_LEN(((const char *const[]){__VA_ARGS__})))

static void end_grid(struct grid **g, FILE *out)
{
	grid_print(*g, out);
	grid_free(g);
}

/* As end_grid(), with a line between it and what was printed before. */
static void end_section(struct grid **g, FILE *out)
{
	fputc('\n', out);
	end_grid(g, out);
}

void ctl_merge_page(json_t *whole, const json_t *page)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)page, key, value) {
		json_t *old = json_object_get(whole, key);
		if (json_is_array(old) && json_is_array(value))
			json_array_extend(old, value);
		else if (!old)
			json_object_set(whole, key, value);
	}
}

/* No figure of a simulated device may pass for a measurement. */
static const char *simulated_mark(const json_t *object)
{
	return json_is_true(json_object_get(object, "simulated")) ? " (simulated)" : "";
}

/* ---- ls ---- */

/* "ready", "loading 42%", "ready part=78% leases=3 pinned", "ready (simulated)" */
static void describe_copy(const json_t *copy, char *out, size_t size)
{
	if (!json_is_object(copy)) {
		snprintf(out, size, "-");
		return;
	}
	const char *state = text_of(copy, "state");
	uint64_t bytes = number_of(copy, "bytes"), landed = number_of(copy, "landed");
	uint64_t leases = number_of(copy, "leases"), pins = number_of(copy, "pins");
	int n = snprintf(out, size, "%s", state);
	if (landed < bytes && strcmp(state, "loading") == 0)
		n += snprintf(out + n, size - (size_t)n, " %.0f%%", 100.0 * (double)landed / (double)bytes);
	const json_t *part = json_object_get(copy, "part");
	uint64_t all = number_of(part, "all_bytes");
	if (part && all && bytes < all && (size_t)n < size)
		n += snprintf(out + n, size - (size_t)n, " part=%.0f%%", 100.0 * (double)bytes / (double)all);
	if (number_of(copy, "helper_bytes") && bytes && (size_t)n < size)
		n += snprintf(out + n, size - (size_t)n, " helped=%.0f%%",
			100.0 * (double)number_of(copy, "helper_bytes") / (double)bytes);
	if (leases && (size_t)n < size)
		n += snprintf(out + n, size - (size_t)n, " leases=%" PRIu64, leases);
	if (pins && (size_t)n < size)
		n += snprintf(out + n, size - (size_t)n, " pinned");
	if ((size_t)n < size)
		snprintf(out + n, size - (size_t)n, "%s", simulated_mark(copy));
}

static void add_copy(struct grid *g, const json_t *model, const char *tier)
{
	char text[128];
	describe_copy(json_object_get(json_object_get(model, "tiers"), tier), text, sizeof text);
	grid_add(g, "%s", text);
}

static bool is_device(const char *tier)
{
	return strncmp(tier, "gpu", 3) == 0;
}

static bool has_gpus(const json_t *models)
{
	const json_t *model, *copy;
	const char *tier;
	size_t i;
	json_array_foreach(models, i, model)
		json_object_foreach((json_t *)json_object_get(model, "tiers"), tier, copy)
			if (is_device(tier))
				return true;
	return false;
}

/* "ready", or of several devices those that have something: "gpu0 ready, gpu3 loading 12%" */
static void add_device_copies(struct grid *g, const json_t *model)
{
	char all[512] = "", text[128];
	const json_t *copy;
	const char *tier;
	size_t n = 0;
	json_object_foreach((json_t *)json_object_get(model, "tiers"), tier, copy) {
		if (!is_device(tier) || strcmp(text_of(copy, "state"), "absent") == 0 || n >= sizeof all)
			continue;
		describe_copy(copy, text, sizeof text);
		n += (size_t)snprintf(all + n, sizeof all - n, "%s%s%s%s", n ? ", " : "", tier[3] ? tier : "", tier[3] ? " " : "",
			text);
	}
	grid_add(g, "%s", n ? all : "absent");
}

void render_ls(const json_t *report, FILE *out)
{
	const json_t *models = json_object_get(report, "models"), *model;
	bool gpus = has_gpus(models);
	struct grid *g = grid_new(gpus ? "lrllll" : "lrlll");
	size_t i;
	if (gpus)
		GRID_HEADER(g, "MODEL", "BYTES", "DISK", "HOST", "GPU", "SOURCE");
	else
		GRID_HEADER(g, "MODEL", "BYTES", "DISK", "HOST", "SOURCE");
	json_array_foreach(models, i, model) {
		const json_t *names = json_object_get(model, "names");
		const char *name = json_string_value(json_array_get(names, 0));
		char bytes[TEXT_NUMBER];
		if (json_array_size(names) > 1)
			grid_add(g, "%s (+%zu)", name ? name : "-", json_array_size(names) - 1);
		else
			grid_add(g, "%s", name ? name : "(no name)");
		grid_add(g, "%s", bytes_of(bytes, model, "bytes"));
		add_copy(g, model, "disk");
		add_copy(g, model, "host");
		if (gpus)
			add_device_copies(g, model);
		grid_add(g, "%s", text_of(model, "source"));
	}
	end_grid(&g, out);
}

/* ---- show ---- */

static void add_pair(struct grid *g, const char *key, const char *value)
{
	grid_add(g, "%s", key);
	grid_add(g, "%s", value);
}

static void show_head(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("ll");
	const json_t *name, *tiers = json_object_get(report, "tiers"), *copy;
	const char *tier;
	char text[160], bytes[TEXT_NUMBER];
	size_t i;
	json_array_foreach(json_object_get(report, "names"), i, name)
		add_pair(g, i ? "" : "name", json_is_string(name) ? json_string_value(name) : "-");
	add_pair(g, "source", text_of(report, "source"));
	add_pair(g, "digest", text_of(report, "digest"));
	snprintf(text, sizeof text, "%s (%" PRIu64 ")", bytes_of(bytes, report, "bytes"), number_of(report, "bytes"));
	add_pair(g, "bytes", text);
	snprintf(text, sizeof text, "%zu extents, %" PRIu64 " chunks",
		json_array_size(json_object_get(report, "extents")), number_of(report, "chunks"));
	add_pair(g, "image", text);
	if (json_is_number(json_object_get(report, "compression"))) {
		snprintf(text, sizeof text, "%.3f of the image's bytes on disk",
			json_number_value(json_object_get(report, "compression")));
		add_pair(g, "stored", text);
	}
	json_object_foreach((json_t *)tiers, tier, copy) {
		char state[128];
		describe_copy(copy, state, sizeof state);
		snprintf(text, sizeof text, "%s, %s", state, bytes_of(bytes, copy, "bytes"));
		add_pair(g, tier, text);
	}
	end_grid(&g, out);
}

static void show_files(const json_t *files, FILE *out)
{
	struct grid *g = grid_new("lrll");
	const json_t *file;
	size_t i;
	GRID_HEADER(g, "FILE", "BYTES", "KIND", "SHA256");
	json_array_foreach(files, i, file) {
		char bytes[TEXT_NUMBER];
		grid_add(g, "%s", text_of(file, "path"));
		grid_add(g, "%s", bytes_of(bytes, file, "bytes"));
		grid_add(g, "%s", text_of(file, "kind"));
		grid_add(g, "%s", text_of(file, "sha256"));
	}
	end_section(&g, out);
}

static void show_left_out(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("ll");
	const json_t *rows = json_object_get(report, "left_out"), *row;
	size_t i;
	GRID_HEADER(g, "LEFT OUT", "WHY");
	json_array_foreach(rows, i, row) {
		grid_add(g, "%s", text_of(row, "path"));
		grid_add(g, "%s", text_of(row, "why"));
	}
	if (number_of(report, "left_out_count") > json_array_size(rows))
		grid_add(g, "and %" PRIu64 " more", number_of(report, "left_out_count") - json_array_size(rows));
	end_section(&g, out);
}

/* "[1024,768]" */
static void format_shape(const json_t *shape, char *out, size_t size)
{
	const json_t *dim;
	size_t i, n = 0;
	n += (size_t)snprintf(out, size, "[");
	json_array_foreach(shape, i, dim)
		if (n + 24 < size)
			n += (size_t)snprintf(out + n, size - n, "%s%" JSON_INTEGER_FORMAT, i ? "," : "",
				json_integer_value(dim));
	snprintf(out + n, size - n, "]");
}

static void show_tensors(const json_t *tensors, FILE *out)
{
	struct grid *g = grid_new("lllrrr");
	const json_t *tensor;
	size_t i;
	GRID_HEADER(g, "TENSOR", "DTYPE", "SHAPE", "BYTES", "EXTENT", "OFFSET");
	json_array_foreach(tensors, i, tensor) {
		char bytes[TEXT_NUMBER], shape[192];
		format_shape(json_object_get(tensor, "shape"), shape, sizeof shape);
		grid_add(g, "%s", text_of(tensor, "name"));
		grid_add(g, "%s", text_of(tensor, "dtype"));
		grid_add(g, "%s", shape);
		grid_add(g, "%s", bytes_of(bytes, tensor, "bytes"));
		grid_add(g, "%" PRIu64, number_of(tensor, "extent"));
		grid_add(g, "%" PRIu64, number_of(tensor, "offset"));
	}
	end_section(&g, out);
}

static void show_profiles(const json_t *profiles, FILE *out)
{
	struct grid *g = grid_new("lll");
	const json_t *row;
	size_t i;
	GRID_HEADER(g, "PROFILE", "DRIVER", "EXECUTOR");
	json_array_foreach(profiles, i, row) {
		grid_add(g, "%s", text_of(row, "device_class"));
		grid_add(g, "%s", text_of(row, "driver"));
		grid_add(g, "%s", text_of(row, "executor"));
	}
	end_section(&g, out);
}

/* Beside the host tier, for devices that cannot register what is there. */
static void show_direct(const json_t *rows, FILE *out)
{
	struct grid *g = grid_new("llrrl");
	const json_t *row;
	size_t i;
	GRID_HEADER(g, "READ ON HOST", "DEVICE", "BYTES", "USERS", "STATE");
	json_array_foreach(rows, i, row) {
		char text[TEXT_NUMBER];
		grid_add(g, "%s", text_of(row, "way"));
		grid_add(g, "%s%s", text_of(row, "device"), simulated_mark(row));
		grid_add(g, "%s", text_bytes(text, number_of(row, "bytes")));
		grid_add(g, "%" PRIu64, number_of(row, "users"));
		grid_add(g, "%s", text_of(row, "state"));
	}
	end_section(&g, out);
}

void render_show(const json_t *report, FILE *out)
{
	show_head(report, out);
	if (json_array_size(json_object_get(report, "files")))
		show_files(json_object_get(report, "files"), out);
	if (json_array_size(json_object_get(report, "left_out")))
		show_left_out(report, out);
	if (json_array_size(json_object_get(report, "profiles")))
		show_profiles(json_object_get(report, "profiles"), out);
	if (json_array_size(json_object_get(report, "direct")))
		show_direct(json_object_get(report, "direct"), out);
	if (json_array_size(json_object_get(report, "tensors")))
		show_tensors(json_object_get(report, "tensors"), out);
}

/* ---- trace ---- */

/* RESOLVE and ALLOC come before TOTAL begins; VERIFY runs beside TRANSFER. */
static const char *const stages[] = {
	"resolve_ns", "alloc_ns", "prepare_ns", "first_byte_ns", "transfer_ns", "verify_ns", "finish_ns"};

/* "demand 1.2ms, nobody 40us (own cap 30us)": the last is how much of it the user's cap was in the way. */
static void format_waited(const json_t *row, char *out, size_t size)
{
	const json_t *ns, *waited = json_object_get(row, "waited_ns");
	const char *who;
	char text[TEXT_NUMBER];
	size_t n = 0;
	snprintf(out, size, "-");
	json_object_foreach((json_t *)waited, who, ns)
		if (n + 40 < size)
			n += (size_t)snprintf(out + n, size - n, "%s%s %s", n ? ", " : "", who, ns_of(text, waited, who));
	if (number_of(row, "capped_ns") && n + 40 < size)
		snprintf(out + n, size - n, "%s(own cap %s)", n ? " " : "", ns_of(text, row, "capped_ns"));
}

/* What loads of a device waited for on its link, whose time is part of TRANSFER. */
static void show_link_waits(const json_t *loads, FILE *out)
{
	struct grid *g = grid_new("llrrl");
	const json_t *load;
	size_t i, n = 0;
	json_array_foreach(loads, i, load) {
		const json_t *link = json_object_get(load, "link");
		char started[TEXT_NUMBER], longest[TEXT_NUMBER], waited[256];
		if (!number_of(link, "waits"))
			continue;
		if (n++ == 0)
			GRID_HEADER(g, "STARTED", "LOAD", "WAITS", "LONGEST", "WAITED FOR");
		format_waited(link, waited, sizeof waited);
		grid_add(g, "%s", has_number(load, "started_unix_ns") ?
			text_time(started, number_of(load, "started_unix_ns")) : "-");
		grid_add(g, "%s > %s%s", text_of(load, "from"), text_of(load, "to"), simulated_mark(load));
		grid_add(g, "%" PRIu64, number_of(link, "waits"));
		grid_add(g, "%s", ns_of(longest, link, "longest_ns"));
		grid_add(g, "%s", waited);
	}
	if (n)
		fputc('\n', out);
	end_grid(&g, out);
}

/* What came over other devices' links, as a plan said. */
static void show_helped(const json_t *loads, FILE *out)
{
	struct grid *g = grid_new("lllrr");
	const json_t *load;
	size_t i, n = 0;
	json_array_foreach(loads, i, load) {
		char text[TEXT_NUMBER];
		if (!number_of(load, "helper_bytes") && !number_of(load, "taken_back"))
			continue;
		if (n++ == 0)
			GRID_HEADER(g, "STARTED", "LOAD", "PLAN", "OVER HELPERS", "CHUNKS TAKEN BACK");
		grid_add(g, "%s", has_number(load, "started_unix_ns") ?
			text_time(text, number_of(load, "started_unix_ns")) : "-");
		grid_add(g, "%s > %s%s", text_of(load, "from"), text_of(load, "to"), simulated_mark(load));
		grid_add(g, "%" PRIu64, number_of(load, "plan"));
		grid_add(g, "%s", bytes_of(text, load, "helper_bytes"));
		grid_add(g, "%" PRIu64, number_of(load, "taken_back"));
	}
	if (n)
		fputc('\n', out);
	grid_print(g, out);
	grid_free(&g);
}

/* Which one, and what came over other devices' links by it. */
static void add_plan(struct grid *g, const json_t *load)
{
	char bytes[TEXT_NUMBER];
	if (!has_number(load, "plan"))
		grid_add(g, "-");
	else if (number_of(load, "helper_bytes"))
		grid_add(g, "%" PRIu64 ", %s by helpers", number_of(load, "plan"), bytes_of(bytes, load, "helper_bytes"));
	else
		grid_add(g, "%" PRIu64, number_of(load, "plan"));
}

void render_trace(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("llllrrrrrrrrrrrl");
	const json_t *load;
	size_t i;
	GRID_HEADER(g, "STARTED", "LOAD", "CLASS", "PLAN", "TOTAL", "RESOLVE", "ALLOC", "PREPARE", "FIRST BYTE", "TRANSFER",
		"VERIFY", "FINISH", "BYTES", "RATE", "RETRIES", "RESULT");
	json_array_foreach(json_object_get(report, "loads"), i, load) {
		char text[TEXT_NUMBER];
		grid_add(g, "%s", has_number(load, "started_unix_ns") ?
			text_time(text, number_of(load, "started_unix_ns")) : "-");
		grid_add(g, "%s > %s%s", text_of(load, "from"), text_of(load, "to"), simulated_mark(load));
		grid_add(g, "%s", text_of(load, "class"));
		add_plan(g, load);
		grid_add(g, "%s", ns_of(text, load, "total_ns"));
		for (size_t s = 0; s < ARRAY_LEN(stages); s++)
			grid_add(g, "%s", ns_of(text, json_object_get(load, "stages"), stages[s]));
		grid_add(g, "%s", bytes_of(text, load, "bytes"));
		grid_add(g, "%s", has_number(load, "rate_bytes_per_s") ?
			text_rate(text, number_of(load, "rate_bytes_per_s")) : "-");
		grid_add(g, "%" PRIu64, number_of(load, "retries"));
		const char *error = json_string_value(json_object_get(load, "error"));
		grid_add(g, "%s%s%s", text_of(load, "result"), error ? ": " : "", error ? error : "");
	}
	end_grid(&g, out);
	show_link_waits(json_object_get(report, "loads"), out);
	show_helped(json_object_get(report, "loads"), out);
}

/* ---- doctor ---- */

void render_doctor(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("lll");
	const json_t *check, *value;
	const char *key;
	char up[TEXT_NUMBER];
	size_t i;
	fputs("mrm ", out);
	text_put_clean(out, text_of(report, "version"));
	fprintf(out, ", pid %" PRIu64 ", up %s\n\n", number_of(report, "pid"),
		text_ns(up, MIN(number_of(report, "uptime_s"), UINT64_MAX / NS_PER_S) * NS_PER_S));
	json_array_foreach(json_object_get(report, "checks"), i, check) {
		grid_add(g, "%s", text_of(check, "state"));
		grid_add(g, "%s", text_of(check, "name"));
		grid_add(g, "%s", text_of(check, "detail"));
	}
	grid_print(g, out);
	fputc('\n', out);
	json_object_foreach((json_t *)json_object_get(report, "config"), key, value) {
		char *text = json_is_string(value) ? strdup(json_string_value(value)) :
			json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
		grid_add(g, "%s", key);
		grid_add(g, "=");
		grid_add(g, "%s", text ? text : "-");
		free(text);
	}
	end_grid(&g, out);
}

/* ---- verify ---- */

static void format_bad(const json_t *bad, char *out, size_t size)
{
	const json_t *chunk;
	size_t i, n = 0;
	out[0] = 0;
	json_array_foreach(bad, i, chunk) {
		if (n + 32 > size) {
			snprintf(out + n, size - n, " ...");
			return;
		}
		n += (size_t)snprintf(out + n, size - n, "%s%" JSON_INTEGER_FORMAT, i ? " " : ", chunks: ",
			json_integer_value(chunk));
	}
}

void render_verify(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("lrrl");
	const json_t *copy;
	size_t i;
	GRID_HEADER(g, "TIER", "CHUNKS", "BYTES", "RESULT");
	json_array_foreach(json_object_get(report, "copies"), i, copy) {
		char bytes[TEXT_NUMBER], bad[256];
		format_bad(json_object_get(copy, "bad"), bad, sizeof bad);
		grid_add(g, "%s%s", text_of(copy, "tier"), simulated_mark(copy));
		grid_add(g, "%" PRIu64, number_of(copy, "chunks"));
		grid_add(g, "%s", bytes_of(bytes, copy, "bytes"));
		grid_add(g, "%s%s", text_of(copy, "result"), bad);
	}
	end_grid(&g, out);
}

bool verify_is_ok(const json_t *report)
{
	const json_t *copy;
	size_t i;
	json_array_foreach(json_object_get(report, "copies"), i, copy)
		if (strcmp(text_of(copy, "result"), "ok") != 0 && strcmp(text_of(copy, "result"), "absent") != 0)
			return false;
	return true;
}

/* ---- tiers ---- */

void render_tiers(const json_t *report, FILE *out)
{
	static const char *const columns[] = {"capacity", "used", "pinned", "leased", "draining"};
	struct grid *g = grid_new("lrrrrrr");
	const json_t *tier, *link;
	char text[TEXT_NUMBER];
	size_t i;
	GRID_HEADER(g, "TIER", "CAPACITY", "USED", "PINNED", "LEASED", "DRAINING", "COPIES");
	json_array_foreach(json_object_get(report, "tiers"), i, tier) {
		grid_add(g, "%s%s", text_of(tier, "tier"), simulated_mark(tier));
		for (size_t c = 0; c < ARRAY_LEN(columns); c++)
			grid_add(g, "%s", bytes_of(text, tier, columns[c]));
		grid_add(g, "%" PRIu64, number_of(tier, "copies"));
	}
	grid_print(g, out);
	json_array_foreach(json_object_get(report, "links"), i, link) {
		grid_add(g, "%s > %s%s", text_of(link, "from"), text_of(link, "to"), simulated_mark(link));
		grid_add(g, "%s", has_number(link, "bytes_per_s") ?
			text_rate(text, number_of(link, "bytes_per_s")) : "-");
		for (int pad = 0; pad < 5; pad++)
			grid_add(g, " ");
	}
	end_grid(&g, out);
}

/* ---- links ---- */

static const json_t *same_link(const json_t *report, const json_t *link)
{
	const json_t *other;
	size_t i;
	json_array_foreach(json_object_get(report, "links"), i, other)
		if (strcmp(text_of(other, "device"), text_of(link, "device")) == 0 &&
			strcmp(text_of(other, "direction"), text_of(link, "direction")) == 0)
			return other;
	return NULL;
}

static uint64_t moved_bytes(const json_t *link)
{
	const json_t *row;
	uint64_t sum = 0;
	size_t i;
	json_array_foreach(json_object_get(link, "classes"), i, row)
		sum += number_of(row, "bytes");
	return sum;
}

static void add_link(struct grid *g, const json_t *link, const json_t *before, double seconds)
{
	char a[TEXT_NUMBER], b[TEXT_NUMBER];
	uint64_t now = moved_bytes(link), then = before ? moved_bytes(before) : 0;
	grid_add(g, "%s %s%s", text_of(link, "device"), text_of(link, "direction"), simulated_mark(link));
	grid_add(g, "%s", text_of(link, "state"));
	grid_add(g, "%s", before && seconds > 0 ? text_rate(a, (uint64_t)((double)(now - MIN(then, now)) / seconds)) : "-");
	grid_add(g, "%s", has_number(link, "bytes_per_s") ? text_rate(a, number_of(link, "bytes_per_s")) : "-");
	grid_add(g, "%s", bytes_of(a, link, "chunk_bytes"));
	grid_add(g, "%s", ns_of(a, link, "bound_ns"));
	grid_add(g, "%s", ns_of(b, link, "alone_wait_max_ns"));
	grid_add(g, "%" PRIu64, number_of(link, "flows"));
	grid_add(g, "%" PRIu64, number_of(link, "in_flight"));
	grid_add(g, "%s", text_bytes(a, now));
}

static void add_classes(struct grid *g, const json_t *link)
{
	const json_t *row;
	char text[TEXT_NUMBER];
	size_t i;
	json_array_foreach(json_object_get(link, "classes"), i, row) {
		uint64_t waits = number_of(row, "waits");
		if (!number_of(row, "bytes") && !number_of(row, "queued") && !waits)
			continue;
		grid_add(g, "%s %s%s", text_of(link, "device"), text_of(link, "direction"), simulated_mark(link));
		grid_add(g, "%s", text_of(row, "class"));
		grid_add(g, "%s", bytes_of(text, row, "bytes"));
		grid_add(g, "%s", bytes_of(text, row, "queued"));
		grid_add(g, "%" PRIu64, waits);
		grid_add(g, "%s", waits ? text_ns(text, number_of(row, "wait_ns") / waits) : "-");
		grid_add(g, "%s", ns_of(text, row, "wait_max_ns"));
	}
}

/* The daemon's own loads are nobody's. */
static const char *user_of(char *text, const json_t *row)
{
	if (has_number(row, "user"))
		snprintf(text, TEXT_NUMBER, "%" PRIu64, number_of(row, "user"));
	else
		snprintf(text, TEXT_NUMBER, "mrm");
	return text;
}

static void show_doubts(const json_t *link, FILE *out)
{
	char a[TEXT_NUMBER], b[TEXT_NUMBER];
	if (number_of(link, "buffered"))
		fprintf(out, "%s %s%s: %" PRIu64 " pieces went through a buffer, %" PRIu64 " slower than the bound allows\n",
			text_of(link, "device"), text_of(link, "direction"), simulated_mark(link), number_of(link, "buffered"),
			number_of(link, "slow_copies"));
	if (number_of(link, "slow_calls"))
		fprintf(out, "%s %s%s: the driver took up to %s to accept a copy, %" PRIu64 " times longer than the bound allows\n",
			text_of(link, "device"), text_of(link, "direction"), simulated_mark(link),
			text_ns(a, number_of(link, "slowest_call_ns")), number_of(link, "slow_calls"));
	if (json_is_true(json_object_get(link, "doubtful")))
		fprintf(out, "%s %s%s: calibration in doubt: %s then, %s now\n", text_of(link, "device"), text_of(link, "direction"),
			simulated_mark(link), text_rate(a, number_of(link, "calibrated_bytes_per_s")),
			text_rate(b, number_of(link, "bytes_per_s")));
}

static void show_nodes(const json_t *nodes, FILE *out)
{
	struct grid *g = grid_new("lrrrr");
	const json_t *node;
	size_t i;
	GRID_HEADER(g, "SHARED", "CAN", "GIVES OUT", "RESERVED", "MOVED");
	json_array_foreach(nodes, i, node) {
		char text[TEXT_NUMBER];
		grid_add(g, "%s%s%s", text_of(node, "name"), simulated_mark(node),
			json_is_true(json_object_get(node, "assumed")) ? " (assumed)" : "");
		grid_add(g, "%s", text_rate(text, number_of(node, "bytes_per_s")));
		grid_add(g, "%s", text_rate(text, number_of(node, "given_bytes_per_s")));
		grid_add(g, "%s", text_rate(text, number_of(node, "reserved_bytes_per_s")));
		grid_add(g, "%s", bytes_of(text, node, "bytes"));
	}
	end_section(&g, out);
}

static void show_users(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("lrrrr");
	const json_t *user;
	size_t i;
	uint64_t cap = number_of(report, "user_bytes_per_s");
	GRID_HEADER(g, "USER", "CAP", "MOVED", "SINCE", "LOADS");
	json_array_foreach(json_object_get(report, "users"), i, user) {
		char text[TEXT_NUMBER];
		grid_add(g, "%s", user_of(text, user));
		grid_add(g, "%s", cap && has_number(user, "user") ? text_rate(text, cap) : "-");
		grid_add(g, "%s", bytes_of(text, user, "bytes"));
		grid_add(g, "%s", ns_of(text, user, "age_ns"));
		grid_add(g, "%" PRIu64, number_of(user, "flows"));
	}
	end_section(&g, out);
}

static void show_reserved(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("llr");
	const json_t *r;
	size_t i;
	GRID_HEADER(g, "RESERVED FOR", "LINK", "RATE");
	json_array_foreach(json_object_get(report, "reserved"), i, r) {
		char text[TEXT_NUMBER];
		grid_add(g, "%s", text_of(r, "holder"));
		grid_add(g, "%s h2d%s", text_of(r, "device"), simulated_mark(report));
		grid_add(g, "%s", text_rate(text, number_of(r, "bytes_per_s")));
	}
	end_section(&g, out);
}

/* Devices that hold what is on its way to others, and what each has taken there. */
static void show_staging(const json_t *staging, FILE *out)
{
	struct grid *g = grid_new("lrrrrr");
	const json_t *row;
	size_t i;
	GRID_HEADER(g, "STAGING", "HAS", "MOST USED", "TOOK", "BYTES", "FAILED");
	json_array_foreach(staging, i, row) {
		char text[TEXT_NUMBER];
		grid_add(g, "%s%s", text_of(row, "device"), simulated_mark(row));
		grid_add(g, "%s", bytes_of(text, row, "bytes"));
		grid_add(g, "%" PRIu64 " of %" PRIu64, number_of(row, "most_in_use"), number_of(row, "slots"));
		grid_add(g, "%" PRIu64, number_of(row, "taken"));
		grid_add(g, "%s", bytes_of(text, row, "taken_bytes"));
		grid_add(g, "%" PRIu64, number_of(row, "taken_failed"));
	}
	fputc('\n', out);
	grid_print(g, out);
	grid_free(&g);
}

static void show_transfers(const json_t *report, FILE *out)
{
	struct grid *g = grid_new("llllrrrl");
	const json_t *transfers = json_object_get(report, "transfers"), *t;
	size_t i;
	GRID_HEADER(g, "MODEL", "LINK", "CLASS", "USER", "DONE", "OF", "DUE", "WAITED FOR");
	json_array_foreach(transfers, i, t) {
		char text[TEXT_NUMBER], waited[256];
		format_waited(t, waited, sizeof waited);
		grid_add(g, "%s", text_of(t, "model"));
		grid_add(g, "%s %s%s%s", text_of(t, "device"), text_of(t, "direction"), simulated_mark(report),
			json_is_string(json_object_get(t, "helps")) ? " (helps)" : "");
		grid_add(g, "%s%s", text_of(t, "class"), json_is_true(json_object_get(t, "late")) ? " (late)" : "");
		grid_add(g, "%s", user_of(text, t));
		grid_add(g, "%s", bytes_of(text, t, "done"));
		grid_add(g, "%s", bytes_of(text, t, "bytes"));
		grid_add(g, "%s", ns_of(text, t, "due_ns"));
		grid_add(g, "%s", waited);
	}
	end_section(&g, out);
}

void render_links(const json_t *report, const json_t *before, double seconds, FILE *out)
{
	struct grid *g = grid_new("llrrrrrrrr");
	const json_t *link;
	size_t i;
	if (json_is_true(json_object_get(report, "simulated")))
		fputs("simulated devices: no figure here is a measurement\n\n", out);
	GRID_HEADER(g, "LINK", "STATE", "NOW", "CAN", "PIECE", "BOUND", "LONGEST", "LOADS", "IN FLIGHT", "MOVED");
	json_array_foreach(json_object_get(report, "links"), i, link)
		add_link(g, link, same_link(before, link), seconds);
	end_grid(&g, out);
	json_array_foreach(json_object_get(report, "links"), i, link)
		show_doubts(link, out);
	g = grid_new("llrrrrr");
	fputc('\n', out);
	GRID_HEADER(g, "LINK", "CLASS", "MOVED", "QUEUED", "WAITS", "MEAN", "LONGEST");
	json_array_foreach(json_object_get(report, "links"), i, link)
		add_classes(g, link);
	end_grid(&g, out);
	if (json_array_size(json_object_get(report, "nodes")))
		show_nodes(json_object_get(report, "nodes"), out);
	if (json_array_size(json_object_get(report, "users")))
		show_users(report, out);
	if (json_array_size(json_object_get(report, "reserved")))
		show_reserved(report, out);
	if (json_array_size(json_object_get(report, "staging")))
		show_staging(json_object_get(report, "staging"), out);
	if (json_array_size(json_object_get(report, "transfers")))
		show_transfers(report, out);
}
