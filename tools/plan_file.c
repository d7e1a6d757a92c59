/* plan_file.c - see plan_file.h.  Keeps: nothing is ignored that a plan says. */
#include "tools/plan_file.h"

#include "shared/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BAD(why, ...) (fault_set(why, TRIMS_E_BAD_REQUEST, "plan: " __VA_ARGS__), -EPROTO)

static const json_t *plan_of(const json_t *file)
{
	const json_t *inside = json_object_get(file, "plan");
	return inside ? inside : file;
}

json_t *plan_file_load(const char *path, struct fault *why)
{
	json_error_t error;
	struct stat st;
	FILE *in = fopen(path, "re");
	bool is_folder = in && fstat(fileno(in), &st) == 0 && S_ISDIR(st.st_mode);
	json_t *file = in && !is_folder ? json_loadf(in, JSON_REJECT_DUPLICATES, &error) : NULL;
	if (!in || is_folder)
		fault_set(why, TRIMS_E_BAD_REQUEST, "%s: %s", path, strerror(in ? EISDIR : errno));
	else if (!file)
		fault_set(why, TRIMS_E_BAD_REQUEST, "%s: line %d: %s", path, error.line, error.text);
	if (in)
		fclose(in);
	return file;
}

bool plan_file_has_names(const json_t *file)
{
	size_t i;
	json_t *row;
	json_array_foreach(json_object_get(plan_of(file), "tensors"), i, row)
		if (json_is_string(json_object_get(row, "tensor")))
			return true;
	return false;
}

/* ---- members ---- */

static int check_members(const json_t *object, const char *const known[], size_t n, const char *what, struct fault *why)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)object, key, value) {
		size_t i = 0;
		while (i < n && strcmp(key, known[i]))
			i++;
		if (i == n)
			return BAD(why, "%s knows no \"%.64s\"", what, key);
	}
	return 0;
}

/* A number from 0 to max; one that is not there is 0. */
static int get_number(const json_t *object, const char *key, uint64_t max, uint64_t *out, struct fault *why)
{
	const json_t *value = json_object_get(object, key);
	json_int_t n = json_integer_value(value);
	if (value && (!json_is_integer(value) || n < 0 || (uint64_t)n > max))
		return BAD(why, "\"%s\" is no whole number from 0 to %llu", key, (unsigned long long)max);
	*out = (uint64_t)n;
	return 0;
}

/* The part of a model's name before its revision. */
static bool is_same_model(const char *a, const char *b)
{
	size_t len = strcspn(a, "@");
	return len == strcspn(b, "@") && !memcmp(a, b, len);
}

static int check_model(const json_t *plan, const char *model, struct fault *why)
{
	const json_t *its = json_object_get(plan, "model");
	if (its && (!json_is_string(its) || !is_same_model(json_string_value(its), model)))
		return BAD(why, "it was made for %.200s", json_is_string(its) ? json_string_value(its) : "something that is no name");
	return 0;
}

/* ---- entries ---- */

static int get_tensor(const json_t *row, const json_t *numbers, uint32_t *out, struct fault *why)
{
	const json_t *tensor = json_object_get(row, "tensor"), *number = tensor;
	if (json_is_string(tensor) && !(number = json_object_get(numbers, json_string_value(tensor))))
		return BAD(why, "the model has no tensor \"%.200s\"", json_string_value(tensor));
	json_int_t n = json_integer_value(number);
	if (!json_is_integer(number) || n < 0 || n > UINT32_MAX)
		return BAD(why, "a row of \"tensors\" has neither a tensor's name nor its number");
	*out = (uint32_t)n;
	return 0;
}

static int get_place(const json_t *row, uint8_t *out, struct fault *why)
{
	const char *place = json_string_value(json_object_get(row, "place"));
	if (!place || (strcmp(place, "load") && strcmp(place, "dha")))
		return BAD(why, "a tensor's \"place\" is neither \"load\" nor \"dha\"");
	*out = strcmp(place, "dha") ? TRIMS_PLAN_LOAD : TRIMS_PLAN_HOST;
	return 0;
}

static int read_entry(const json_t *row, const json_t *numbers, struct trims_plan_entry *out, struct fault *why)
{
	static const char *const known[] = {"tensor", "place", "link", "step"};
	uint64_t link, step;
	if (!json_is_object(row))
		return BAD(why, "a row of \"tensors\" is no object");
	int r = check_members(row, known, ARRAY_LEN(known), "a tensor", why);
	if (r || (r = get_tensor(row, numbers, &out->tensor, why)) || (r = get_place(row, &out->place, why)) ||
		(r = get_number(row, "link", TRIMS_PLAN_MAX_HELPERS, &link, why)) ||
		(r = get_number(row, "step", UINT16_MAX, &step, why)))
		return r;
	out->link = (uint8_t)link;
	out->step = (uint16_t)step;
	return 0;
}

static int read_entries(struct plan_file *p, const json_t *plan, const json_t *numbers, struct fault *why)
{
	const json_t *rows = json_object_get(plan, "tensors");
	size_t n = json_array_size(rows);
	if (!json_is_array(rows) || n > TRIMS_PLAN_MAX_ENTRIES)
		return BAD(why, "\"tensors\" is no array of at most %u", TRIMS_PLAN_MAX_ENTRIES);
	p->entries = calloc(n + 1, sizeof *p->entries);
	if (!p->entries)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a plan"), -ENOMEM;
	int r = 0;
	for (size_t i = 0; i < n && !r; i++)
		r = read_entry(json_array_get(rows, i), numbers, &p->entries[i], why);
	p->plan.entries = p->entries;
	p->plan.n_entries = (uint32_t)n;
	return r;
}

static int read_helpers(struct plan_file *p, const json_t *plan, struct fault *why)
{
	const json_t *helpers = json_object_get(plan, "helpers");
	size_t n = json_array_size(helpers);
	if ((helpers && !json_is_array(helpers)) || n > TRIMS_PLAN_MAX_HELPERS)
		return BAD(why, "\"helpers\" is no array of at most %d", TRIMS_PLAN_MAX_HELPERS);
	for (size_t i = 0; i < n; i++)
		if (!(p->helpers[i] = json_string_value(json_array_get(helpers, i))))
			return BAD(why, "a helper is no UUID");
	p->plan.helpers = p->helpers;
	p->plan.n_helpers = (uint32_t)n;
	return 0;
}

int plan_file_read(struct plan_file *out, json_t *file, const char *model, const json_t *numbers, struct fault *why)
{
	static const char *const known[] = {"model", "tensors", "helpers", "keep_bytes", "dha_bytes_per_s"};
	const json_t *plan = plan_of(file);
	*out = (struct plan_file){.plan = {.size = sizeof out->plan}, .json = json_incref(file)};
	int r = json_is_object(plan) ? check_members(plan, known, ARRAY_LEN(known), "a plan", why) : BAD(why, "it is no object");
	if (r || (r = check_model(plan, model, why)) || (r = read_entries(out, plan, numbers, why)) ||
		(r = read_helpers(out, plan, why)) ||
		(r = get_number(plan, "keep_bytes", INT64_MAX, &out->plan.keep_bytes, why)) ||
		(r = get_number(plan, "dha_bytes_per_s", INT64_MAX, &out->plan.dha_bytes_per_s, why)))
		plan_file_fini(out);
	return r;
}

void plan_file_fini(struct plan_file *p)
{
	free(p->entries);
	json_decref(p->json);
	*p = (struct plan_file){0};
}
