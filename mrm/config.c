/* config.c - see config.h.  Keeps: every value in a struct config has been through its row's checks. */
#include "mrm/config.h"

#include "cache/linksched.h"
#include "shared/own.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum option_type { OPTION_TEXT, OPTION_LIST, OPTION_SIZE, OPTION_COUNT, OPTION_TIME, OPTION_BOOL, OPTION_CHOICE };

struct option_row {
	const char *name;
	enum option_type type;
	const char *def;
	uint64_t lo, hi;
	bool reload;
	const char *arg, *help;
	size_t offset;
};

static const struct option_row rows[] = {
#define OPT(field, name_, TYPE, def_, lo_, hi_, reload_, arg_, help_)                                                 \
	{name_, OPTION_##TYPE, def_, lo_, hi_, reload_, arg_, help_, offsetof(struct config, field)},
#include "mrm/options.def"
#undef OPT
};

static const struct option_row *row_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (strlen(rows[i].name) == len && !memcmp(rows[i].name, name, len))
			return &rows[i];
	return NULL;
}

static char **text_of(const struct config *c, const struct option_row *r)
{
	return (char **)((char *)c + r->offset);
}

static uint64_t *number_of(const struct config *c, const struct option_row *r)
{
	return (uint64_t *)((char *)c + r->offset);
}

static struct config_list *list_of(const struct config *c, const struct option_row *r)
{
	return (struct config_list *)((char *)c + r->offset);
}

struct unit {
	const char *suffix;
	uint64_t factor;
};

/* Smallest first. */
static const struct unit size_units[] = {{"K", KIB}, {"M", MIB}, {"G", GIB}, {"T", GIB << 10}};
static const struct unit time_units[] = {{"us", NS_PER_US}, {"ms", NS_PER_MS}, {"s", NS_PER_S}, {"m", 60 * NS_PER_S},
	{"h", 3600 * NS_PER_S}};

static int parse_scaled(const char *text, const struct unit *units, size_t n, uint64_t bare, uint64_t *out)
{
	char *end;
	errno = 0;
	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	uint64_t v = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	uint64_t f = bare;
	if (*end) {
		size_t i = 0;
		while (i < n && strcmp(end, units[i].suffix))
			i++;
		if (i == n)
			return -EINVAL;
		f = units[i].factor;
	}
	return mul_overflows(v, f, out) ? -ERANGE : 0;
}

int config_parse_size(const char *text, uint64_t *out)
{
	return parse_scaled(text, size_units, ARRAY_LEN(size_units), 1, out);
}

int config_parse_time(const char *text, uint64_t *out_ns)
{
	return parse_scaled(text, time_units, ARRAY_LEN(time_units), NS_PER_S, out_ns);
}

static int parse_bool(const char *text, uint64_t *out)
{
	static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (!strcmp(text, words[i])) {
			*out = i & 1;
			return 0;
		}
	return -EINVAL;
}

static bool is_choice(const char *choices, const char *text)
{
	size_t len = strlen(text);
	for (const char *p = choices; len && p && !strchr(text, '|'); p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (!strncmp(p, text, len) && (p[len] == '|' || !p[len]))
			return true;
	return false;
}

static int set_text(const struct option_row *r, char **slot, const char *value, struct fault *why)
{
	size_t len = strlen(value);
	bool fits = r->type == OPTION_CHOICE ? is_choice(r->arg, value) : len >= r->lo && len <= r->hi;
	if (!fits) {
		if (r->type == OPTION_CHOICE)
			fault_set(why, TRIMS_E_BAD_REQUEST, "%s: \"%s\" is none of %s", r->name, value, r->arg);
		else
			fault_set(why, TRIMS_E_BAD_REQUEST, "%s: needs %" PRIu64 " to %" PRIu64 " characters, has %zu",
				r->name, r->lo, r->hi, len);
		return -EINVAL;
	}
	free(*slot);
	*slot = strdup(value);
	return *slot ? 0 : -ENOMEM;
}

/* A bound as people would type it: "300us", "1h", "64M".  What no unit divides is so large that a round number does. */
static const char *format_bound(const struct option_row *r, uint64_t v, char buf[32])
{
	const struct unit *units = r->type == OPTION_TIME ? time_units : size_units;
	size_t n = r->type == OPTION_TIME ? ARRAY_LEN(time_units) : r->type == OPTION_SIZE ? ARRAY_LEN(size_units) : 0;
	size_t largest = n;
	for (size_t i = 0; i < n; i++)
		if (v && v % units[i].factor == 0)
			largest = i;
	if (largest == n && n && v / units[n - 1].factor)
		largest = n - 1;
	if (largest < n)
		snprintf(buf, 32, "%" PRIu64 "%s", v / units[largest].factor, units[largest].suffix);
	else
		snprintf(buf, 32, "%" PRIu64, v);
	return buf;
}

static int set_number(const struct option_row *r, uint64_t *slot, const char *value, struct fault *why)
{
	uint64_t v = 0;
	int e = r->type == OPTION_TIME ? config_parse_time(value, &v)
		: r->type == OPTION_BOOL ? parse_bool(value, &v)
		: r->type == OPTION_SIZE ? config_parse_size(value, &v)
					 : parse_scaled(value, NULL, 0, 1, &v);
	if (e == -EINVAL) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "%s: \"%s\" is not a %s", r->name, value,
			r->type == OPTION_TIME ? "time (a number with us, ms, s, m or h)"
			: r->type == OPTION_BOOL ? "yes or no"
			: r->type == OPTION_SIZE ? "size (a number with K, M, G or T)" : "number");
		return -EINVAL;
	}
	if (r->type != OPTION_BOOL && (e || v < r->lo || v > r->hi)) {
		char lo[32], hi[32];
		fault_set(why, TRIMS_E_BAD_REQUEST, "%s: %s is outside %s to %s", r->name, value, format_bound(r, r->lo, lo),
			format_bound(r, r->hi, hi));
		return -EINVAL;
	}
	*slot = v;
	return 0;
}

static void list_clear(struct config_list *l)
{
	while (l->n)
		free(l->v[--l->n]);
}

static int list_add(const struct option_row *r, struct config_list *l, const char *value, struct fault *why)
{
	if (l->n == CONFIG_MAX_LIST) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "%s: given more than %d times", r->name, CONFIG_MAX_LIST);
		return -EINVAL;
	}
	char *slot = NULL;
	int e = set_text(r, &slot, value, why);
	if (!e)
		l->v[l->n++] = slot;
	return e;
}

static int set(struct config *c, const struct option_row *r, const char *value, struct fault *why)
{
	switch (r->type) {
	case OPTION_TEXT:
	case OPTION_CHOICE:
		return set_text(r, text_of(c, r), value, why);
	case OPTION_LIST:
		return list_add(r, list_of(c, r), value, why);
	default:
		return set_number(r, number_of(c, r), value, why);
	}
}

static int load_defaults(struct config *c, struct fault *why)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (rows[i].type == OPTION_LIST)
			continue;
		int e = set(c, &rows[i], rows[i].def, why);
		if (e)
			return e;
	}
	return 0;
}

/* The library reads a file in lines of bounded length and cuts longer ones without a word: they are stopped here. */
struct file_load {
	struct config *c;
	struct fault *why;
	const char *path;
	FILE *file;
	int line;
	int error; /* the first */
	int broken; /* errno of reading; 0: none */
};

static char *file_read(char *buf, int size, void *ctx)
{
	struct file_load *f = ctx;
	if (f->error)
		return NULL;
	if (!fgets(buf, size, f->file)) {
		f->broken = ferror(f->file) ? errno : 0;
		return NULL;
	}
	f->line++;
	size_t len = strlen(buf);
	if (len + 1 == (size_t)size && buf[len - 1] != '\n' && !feof(f->file)) {
		fault_set(f->why, TRIMS_E_BAD_REQUEST, "%s: line %d is longer than %d bytes; longer values go on the command "
			"line or into the environment", f->path, f->line, size - 2);
		f->error = -EINVAL;
		return NULL;
	}
	return buf;
}

static int file_line(void *ctx, const char *section, const char *name, const char *value)
{
	struct file_load *f = ctx;
	const struct option_row *r = row_find(name, strlen(name));
	struct fault why;
	if (f->error)
		return 0;
	if ((*section && strcmp(section, "mrm")) || !r || !strcmp(name, "config")) {
		fault_set(f->why, TRIMS_E_BAD_REQUEST, "%s: line %d: unknown option \"%s\"", f->path, f->line, name);
		f->error = -EINVAL;
	} else {
		f->error = set(f->c, r, value, &why);
		if (f->error)
			fault_set(f->why, TRIMS_E_BAD_REQUEST, "%s: line %d: %s", f->path, f->line, why.text);
	}
	return f->error == 0;
}

static int load_file(struct config *c, const char *path, struct fault *why)
{
	struct file_load f = {.c = c, .why = why, .path = path, .file = fopen(path, "re")};
	if (!f.file) {
		fault_errno(why, TRIMS_E_BAD_REQUEST, errno, "%s", path);
		return -EINVAL;
	}
	int line = ini_parse_stream(file_read, &f, file_line, &f);
	fclose(f.file);
	if (f.error)
		return f.error;
	if (f.broken || line < 0) {
		fault_errno(why, TRIMS_E_BAD_REQUEST, f.broken ? f.broken : ENOMEM, "%s", path);
		return -EINVAL;
	}
	if (line > 0) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "%s: line %d is not `option = value`", path, line);
		return -EINVAL;
	}
	return 0;
}

static const char *environment_value(const struct option_row *r)
{
	char name[64] = "TRIMS_";
	size_t n = strlen(name);
	for (const char *p = r->name; *p && n < sizeof name - 1; p++)
		name[n++] = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
	name[n] = 0;
	return getenv(name);
}

/* A list in the environment is separated by spaces: URLs hold none. */
static int load_environment(struct config *c, struct fault *why)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *value = environment_value(&rows[i]);
		if (!value)
			continue;
		if (rows[i].type != OPTION_LIST) {
			int e = set(c, &rows[i], value, why);
			if (e)
				return e;
			continue;
		}
		list_clear(list_of(c, &rows[i]));
		OWN_MEM char *copy = strdup(value);
		if (!copy)
			return -ENOMEM;
		char *save = NULL;
		for (char *t = strtok_r(copy, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
			int e = set(c, &rows[i], t, why);
			if (e)
				return e;
		}
	}
	return 0;
}

struct argument {
	const struct option_row *row; /* NULL: an action */
	const char *value;
};

static int next_argument(int argc, char **argv, int *i, struct argument *a, enum config_action *action,
	struct fault *why)
{
	static const struct {
		const char *flag;
		enum config_action action;
	} flags[] = {{"--check", CONFIG_CHECK}, {"--print-config", CONFIG_PRINT}, {"--help", CONFIG_HELP},
		{"-h", CONFIG_HELP}, {"--version", CONFIG_VERSION}};
	const char *arg = argv[(*i)++];
	a->row = NULL;
	for (size_t k = 0; k < ARRAY_LEN(flags); k++)
		if (!strcmp(arg, flags[k].flag)) {
			*action = flags[k].action;
			return 0;
		}
	const char *eq = strchr(arg, '=');
	size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
	if (len > 2 && !strncmp(arg, "--", 2))
		a->row = row_find(arg + 2, len - 2);
	if (!a->row) {
		fault_set(why, TRIMS_E_BAD_REQUEST, "unknown option \"%s\"; see --help", arg);
		return -EINVAL;
	}
	if (eq) {
		a->value = eq + 1;
	} else if (*i < argc) {
		a->value = argv[(*i)++];
	} else {
		fault_set(why, TRIMS_E_BAD_REQUEST, "%s needs a value", arg);
		return -EINVAL;
	}
	return 0;
}

static int load_arguments(struct config *c, int argc, char **argv, enum config_action *action, bool only_config,
	struct fault *why)
{
	const struct option_row *config_row = row_find("config", 6);
	bool cleared = false;
	for (int i = 1; i < argc;) {
		struct argument a;
		int e = next_argument(argc, argv, &i, &a, action, why);
		if (e)
			return e;
		if (!a.row || (only_config && a.row != config_row))
			continue;
		if (a.row->type == OPTION_LIST && !cleared) {
			list_clear(list_of(c, a.row));
			cleared = true;
		}
		e = set(c, a.row, a.value, why);
		if (e)
			return e;
	}
	return 0;
}

static int load_layers(struct config *c, int argc, char **argv, enum config_action *action, struct fault *why)
{
	int e = load_defaults(c, why);
	if (e)
		return e;
	const char *from_env = environment_value(row_find("config", 6));
	e = from_env ? set(c, row_find("config", 6), from_env, why) : 0;
	if (!e)
		e = load_arguments(c, argc, argv, action, true, why);
	if (!e && *c->config)
		e = load_file(c, c->config, why);
	if (!e)
		e = load_environment(c, why);
	return e ? e : load_arguments(c, argc, argv, action, false, why);
}

int config_load(struct config **out, int argc, char **argv, enum config_action *action, struct fault *why)
{
	struct config *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	*action = CONFIG_RUN;
	int e = load_layers(c, argc, argv, action, why);
	if (e) {
		config_free(&c);
		return e;
	}
	*out = c;
	return 0;
}

void config_free(struct config **c)
{
	if (!*c)
		return;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (rows[i].type == OPTION_TEXT || rows[i].type == OPTION_CHOICE)
			free(*text_of(*c, &rows[i]));
		else if (rows[i].type == OPTION_LIST)
			list_clear(list_of(*c, &rows[i]));
	}
	free(*c);
	*c = NULL;
}

static void format_value(const struct config *c, const struct option_row *r, char *buf, size_t size)
{
	uint64_t v = r->type == OPTION_TEXT || r->type == OPTION_CHOICE || r->type == OPTION_LIST ? 0 : *number_of(c, r);
	if (r->type == OPTION_BOOL)
		snprintf(buf, size, "%s", v ? "yes" : "no");
	else if (r->type == OPTION_TIME)
		v % NS_PER_S ? snprintf(buf, size, "%" PRIu64 "us", v / NS_PER_US)
			     : snprintf(buf, size, "%" PRIu64 "s", v / NS_PER_S);
	else
		snprintf(buf, size, "%" PRIu64, v);
}

void config_visit(const struct config *c, void (*visit)(void *ctx, const char *name, const char *value), void *ctx)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct option_row *r = &rows[i];
		char buf[32];
		if (r->type == OPTION_TEXT || r->type == OPTION_CHOICE) {
			visit(ctx, r->name, *text_of(c, r));
		} else if (r->type == OPTION_LIST) {
			for (size_t k = 0; k < list_of(c, r)->n; k++)
				visit(ctx, r->name, list_of(c, r)->v[k]);
		} else {
			format_value(c, r, buf, sizeof buf);
			visit(ctx, r->name, buf);
		}
	}
}

static void print_one(void *ctx, const char *name, const char *value)
{
	if (strcmp(name, "config"))
		fprintf(ctx, "%s = %s\n", name, value);
}

void config_print(const struct config *c, FILE *to)
{
	config_visit(c, print_one, to);
}

void config_help(FILE *to)
{
	fputs("usage: mrm [--OPTION VALUE ...] [--check | --print-config | --help | --version]\n\n"
	      "The model resource manager of this machine.  Each option can also be set as TRIMS_OPTION in the\n"
	      "environment or as `option = value` in the configuration file; the command line wins, then the\n"
	      "environment, then the file.\n\n", to);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		fprintf(to, "  --%s %s\n      %s", rows[i].name, rows[i].arg, rows[i].help);
		fprintf(to, *rows[i].def ? " (%s)\n" : "\n", rows[i].def);
	}
	fputs("  --check\n      check the settings, say what is wrong, and exit\n"
	      "  --print-config\n      print the settings as a configuration file and exit\n"
	      "  --help\n      print this and exit\n  --version\n      print the version and exit\n", to);
}

static bool same_value(const struct config *a, const struct config *b, const struct option_row *r)
{
	if (r->type == OPTION_TEXT || r->type == OPTION_CHOICE)
		return !strcmp(*text_of(a, r), *text_of(b, r));
	if (r->type != OPTION_LIST)
		return *number_of(a, r) == *number_of(b, r);
	const struct config_list *x = list_of(a, r), *y = list_of(b, r);
	if (x->n != y->n)
		return false;
	for (size_t i = 0; i < x->n; i++)
		if (strcmp(x->v[i], y->v[i]))
			return false;
	return true;
}

void config_take_reloadable(struct config *c, const struct config *from, char *ignored, size_t size)
{
	*ignored = 0;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct option_row *r = &rows[i];
		if (same_value(c, from, r))
			continue;
		if (!r->reload) {
			size_t used = strlen(ignored);
			snprintf(ignored + used, size - used, "%s%s", used ? ", " : "", r->name);
		} else if (r->type == OPTION_TEXT || r->type == OPTION_CHOICE) {
			struct fault why;
			int e = set_text(r, text_of(c, r), *text_of(from, r), &why);
			(void)e; /* the value has passed these checks when `from` was loaded */
		} else {
			*number_of(c, r) = *number_of(from, r);
		}
	}
}
