/* topology.c - see topology.h.  Keeps: a topology that was read has at least one device, and every name in it exists. */
#include "tools/simcuda/topology.h"

#include "shared/base.h"
#include "shared/own.h"

#include <stdio.h>
#include <string.h>

struct reader {
	struct topology *t;
	const char *path;
	int line;
	struct fault *why;
};

static const struct {
	const char *name;
	unsigned number;
} attrs[] = {
#define CU_ATTR(number, name, theirs) {#name, number},
#include "shared/cuda.def"
};

unsigned topology_attr_number(const char *name)
{
	unsigned number = (unsigned)strtoul(name, NULL, 10);

	for (size_t i = 0; i < ARRAY_LEN(attrs); i++)
		if (!strcmp(name, attrs[i].name) || number == attrs[i].number)
			return attrs[i].number;
	return 0;
}

static bool wrong(struct reader *r, const char *what, const char *word)
{
	fault_set(r->why, TRIMS_E_BAD_REQUEST, "%s:%d: %s: %s", r->path, r->line, what, word);
	return false;
}

static bool read_number(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	return end != text && !*end && *out >= 0 && *out < 1e15;
}

/* 4096, 64K, 512M, 1.5G, 1T */
static bool read_bytes(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	char *end;
	double value = strtod(text, &end);
	const char *unit = *end ? strchr(units, *end) : NULL;

	if (end == text || value < 0 || (*end && (!unit || end[1])))
		return false;
	if (unit)
		value *= (double)((uint64_t)1 << 10 * (unit - units + 1));
	*out = (uint64_t)value;
	return value < 1e15;
}

static int find_switch(const struct topology *t, const char *name)
{
	for (unsigned i = 0; i < t->n_switches; i++)
		if (!strcmp(t->switches[i].name, name))
			return (int)i;
	return -1;
}

/* The same bytes in every process for the same place in the file. */
static void make_uuid(struct cu_uuid *uuid, unsigned ordinal)
{
	static const unsigned char fixed[] = {0x51, 0x3c, 0x0d, 0xa0, 0x51, 0x3c, 0x4d, 0xa0, 0x91, 0x3c};

	memset(uuid, 0, sizeof *uuid);
	memcpy(uuid->bytes, fixed, sizeof fixed);
	uuid->bytes[3] = (char)ordinal;
	uuid->bytes[15] = (char)ordinal;
}

static bool read_uuid(const char *text, struct cu_uuid *uuid)
{
	size_t n = 0;

	text += strncmp(text, "GPU-", 4) ? 0 : 4;
	for (; *text; text++) {
		unsigned byte;

		if (*text == '-')
			continue;
		if (n == sizeof uuid->bytes || sscanf(text, "%2x", &byte) != 1 || !text[1])
			return false;
		uuid->bytes[n++] = (char)byte;
		text++;
	}
	return n == sizeof uuid->bytes;
}

static bool device_attr(struct topology_device *d, const char *name, const char *value)
{
	unsigned number = topology_attr_number(name);

	if (!number || d->n_attrs == TOPOLOGY_ATTRS)
		return false;
	d->attrs[d->n_attrs++] = (struct topology_attr){number, atoi(value)};
	return true;
}

static bool device_key(struct reader *r, struct topology_device *d, const char *key, const char *value)
{
	double number = 0;
	bool is_number = read_number(value, &number);

	if (!strcmp(key, "name"))
		return snprintf(d->name, sizeof d->name, "simulated %s", value) > 0;
	if (!strcmp(key, "uuid"))
		return read_uuid(value, &d->uuid);
	if (!strcmp(key, "bytes"))
		return read_bytes(value, &d->bytes) && d->bytes >= 2 * MIB;
	if (!strcmp(key, "context"))
		return read_bytes(value, &d->context_bytes);
	if (!strcmp(key, "switch"))
		return (d->switch_number = find_switch(r->t, value)) >= 0;
	if (!strncmp(key, "attr.", 5))
		return device_attr(d, key + 5, value);
	if (!strcmp(key, "gbps"))
		return (d->gbps = number) > 0;
	if (!strcmp(key, "engines"))
		return (d->engines = (int)number) >= 1 && number <= 3;
	if (!strcmp(key, "numa"))
		return is_number && (d->numa = (int)number) >= 0;
	return false;
}

static void device_default(struct topology *t, struct topology_device *d)
{
	unsigned ordinal = (unsigned)(d - t->devices);

	*d = (struct topology_device){.bytes = GIB, .gbps = 26, .switch_number = -1, .engines = 3};
	snprintf(d->name, sizeof d->name, "simulated GPU");
	make_uuid(&d->uuid, ordinal);
}

static bool set_key(struct reader *r, const char *key, const char *value)
{
	struct topology *t = r->t;
	double number = 0;
	bool is_number = read_number(value, &number);

	if (!strcmp(key, "speed") && !strcmp(value, "unlimited"))
		return t->speed = 0, true;
	if (!is_number)
		return false;
	if (!strcmp(key, "speed"))
		return (t->speed = number) > 0;
	if (!strcmp(key, "duplex"))
		return (t->duplex = number) > 0 && number <= 1;
	if (!strcmp(key, "pageable_gbps"))
		return (t->pageable_gbps = number) > 0;
	if (!strcmp(key, "overhead_us"))
		return t->overhead_ns = (uint64_t)(number * 1000), true;
	if (!strcmp(key, "driver"))
		return (t->driver_version = (int)number) >= 11070;
	return false;
}

/* The next word; "double quotes" keep spaces together, also after an equals sign. */
static char *next_word(char **at)
{
	char *word, *out;
	bool quoted = false;

	*at += strspn(*at, " \t\r\n");
	if (!**at || **at == '#')
		return NULL;
	word = out = *at;
	for (; **at && (quoted || !strchr(" \t\r\n", **at)); ++*at) {
		if (**at == '"')
			quoted = !quoted;
		else
			*out++ = **at;
	}
	if (**at)
		++*at;
	*out = 0;
	return word;
}

typedef bool key_fn(struct reader *r, void *object, const char *key, const char *value);

static bool any_device_key(struct reader *r, void *object, const char *key, const char *value)
{
	return device_key(r, object, key, value);
}

static bool any_set_key(struct reader *r, void *object, const char *key, const char *value)
{
	return set_key(r, key, value);
}

/* Switches and NVLinks have this one key. */
static bool any_gbps(struct reader *r, void *object, const char *key, const char *value)
{
	return !strcmp(key, "gbps") && read_number(value, object) && *(double *)object > 0;
}

static bool read_keys(struct reader *r, char *at, key_fn *fn, void *object)
{
	char *word;

	while ((word = next_word(&at))) {
		char *value = strchr(word, '=');

		if (!value)
			return wrong(r, "not key=value", word);
		*value++ = 0;
		if (!fn(r, object, word, value))
			return wrong(r, "no such key, or not a value for it", word);
	}
	return true;
}

static bool read_device(struct reader *r, char *at)
{
	struct topology_device *d = &r->t->devices[r->t->n_devices];

	if (r->t->n_devices == TOPOLOGY_DEVICES)
		return wrong(r, "too many", "device");
	device_default(r->t, d);
	r->t->n_devices++;
	return read_keys(r, at, any_device_key, d);
}

static bool read_switch(struct reader *r, char *at)
{
	struct topology_switch *s = &r->t->switches[r->t->n_switches];
	char *name = next_word(&at);

	if (!name || r->t->n_switches == TOPOLOGY_SWITCHES || strlen(name) >= sizeof s->name ||
		find_switch(r->t, name) >= 0)
		return wrong(r, "too many, too long, twice or without a name", "switch");
	strcpy(s->name, name);
	s->gbps = 26;
	r->t->n_switches++;
	return read_keys(r, at, any_gbps, &s->gbps);
}

static bool read_nvlink(struct reader *r, char *at)
{
	struct topology_nvlink *l = &r->t->nvlinks[r->t->n_nvlinks];
	char *a = next_word(&at), *b = next_word(&at);

	if (!a || !b || r->t->n_nvlinks == TOPOLOGY_NVLINKS)
		return wrong(r, "too many, or without two devices", "nvlink");
	*l = (struct topology_nvlink){.a = atoi(a), .b = atoi(b), .gbps = 100};
	if (l->a < 0 || l->b < 0 || l->a == l->b || l->a >= (int)r->t->n_devices || l->b >= (int)r->t->n_devices)
		return wrong(r, "not two devices above this line", "nvlink");
	r->t->n_nvlinks++;
	return read_keys(r, at, any_gbps, &l->gbps);
}

static bool read_line(struct reader *r, char *at)
{
	char *word = next_word(&at);

	if (!word)
		return true;
	if (!strcmp(word, "device"))
		return read_device(r, at);
	if (!strcmp(word, "switch"))
		return read_switch(r, at);
	if (!strcmp(word, "nvlink"))
		return read_nvlink(r, at);
	if (!strcmp(word, "set"))
		return read_keys(r, at, any_set_key, NULL);
	return wrong(r, "neither device, switch, nvlink nor set", word);
}

static bool read_file(struct reader *r)
{
	FILE *f = fopen(r->path, "re");
	char *line = NULL;
	size_t room = 0;
	bool ok = true;

	if (!f)
		return fault_errno(r->why, TRIMS_E_BAD_REQUEST, errno, "%s", r->path) == 0;
	while (ok && getline(&line, &room, f) > 0) {
		r->line++;
		ok = read_line(r, line);
	}
	free(line);
	fclose(f);
	if (ok && !r->t->n_devices)
		return wrong(r, "no device in", "this file");
	return ok;
}

bool topology_read(struct topology *t, const char *path, struct fault *why)
{
	struct reader r = {.t = t, .path = path, .why = why};

	*t = (struct topology){
		.duplex = 0.9, .pageable_gbps = 6, .overhead_ns = 2500, .driver_version = 12080, .speed = 0};
	if (path)
		return read_file(&r);
	device_default(t, &t->devices[t->n_devices++]);
	return true;
}
