/* main.c - trims-ctl: takes the command line apart and calls the command's function. */
#include "client/trims.h"
#include "tools/ctl/ctl.h"
#include "tools/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define CMDLINE_PROGRAM "trims-ctl"
#define CMDLINE_COMMANDS "tools/ctl/commands.def"
#define CMDLINE_OPTIONS "tools/ctl/options.def"
#define CMDLINE_INTO struct ctl
#define CMDLINE_FUNCTION(name) ctl_##name
#include "tools/cmdline_tables.def"

/* ---- saying no ---- */

int ctl_fail(const struct ctl *c, const struct fault *f)
{
	return cmdline_fail(&line, c->given & OPT_json, f);
}

int ctl_usage(const struct ctl *c, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int r = cmdline_usage(&line, c->given & OPT_json, fmt, ap);
	va_end(ap);
	return r;
}

void print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
	putchar('\n');
}

/* ---- the command line ---- */

static int parse_tier(struct ctl *c, const char *text)
{
	static const char *const names[] = {
#define TIER(number, NAME, name, doc) [number] = #name,
#include "shared/tiers.def"
#undef TIER
	};
	for (uint32_t i = 1; i < ARRAY_LEN(names); i++)
		if (strcmp(text, names[i]) == 0) {
			c->tier = i;
			return 0;
		}
	return ctl_usage(c, "--tier: %s is no tier; one of disk, host, gpu", text);
}

static int parse_number(struct ctl *c, const char *option, const char *text, uint64_t *out)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || n == 0)
		return ctl_usage(c, "--%s: %s is no number above 0", option, text);
	*out = n;
	return 0;
}

static int take_option(void *into, unsigned bit, const char *value)
{
	struct ctl *c = into;
	switch (bit) {
	case OPT_bit_socket:
		c->socket = value;
		return 0;
	case OPT_bit_tier:
		return parse_tier(c, value);
	case OPT_bit_device:
		c->device = value;
		return 0;
	case OPT_bit_plan:
		c->plan = value;
		return 0;
	case OPT_bit_count:
		return parse_number(c, "count", value, &c->count);
	case OPT_bit_batch:
		return parse_number(c, "batch", value, &c->batch);
	case OPT_bit_profile:
		c->profile = value;
		return 0;
	case OPT_bit_measured:
		c->measured = value;
		return 0;
	case OPT_bit_batches:
		c->batches = value;
		return 0;
	case OPT_bit_machine:
		c->machine = value;
		return 0;
	case OPT_bit_policy:
		c->policy = value;
		return 0;
	case OPT_bit_svg:
		c->svg = value;
		return 0;
	case OPT_bit_interval:
		if (text_parse_ns(value, &c->interval_ns) || c->interval_ns < 10 * NS_PER_MS)
			return ctl_usage(c, "--interval: %s is no time of 10ms or more", value);
		return 0;
	default:
		return 0;
	}
}

int main(int argc, char **argv)
{
	const char *env = getenv("TRIMS_SOCKET");
	struct ctl c = {
		.socket = env && *env ? env : "/run/trims/mrm.sock",
		.interval_ns = NS_PER_S,
	};
	struct cmdline_words words;
	int r = cmdline_parse(&line, argc, argv, &c, &c.given, &words);
	if (!r && words.command >= 0) {
		c.args = words.args;
		c.n_args = words.n_args;
		r = functions[words.command](&c);
	}
	trims_disconnect(&c.trims);
	return cmdline_end(&line, r);
}
