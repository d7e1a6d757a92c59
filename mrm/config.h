/* config.h - the daemon's settings: command line over environment over file over default.
 * Thread: built by main, read-only afterwards; a reload builds a new one.  Owns its strings. */
#ifndef MRM_CONFIG_H
#define MRM_CONFIG_H

#include "shared/base.h"
#include "shared/error.h"

#include <stdio.h>

#define CONFIG_MAX_LIST 32

struct config_list {
	char *v[CONFIG_MAX_LIST];
	size_t n;
};

struct config {
#define CONFIG_FIELD_TEXT(f) char *f;
#define CONFIG_FIELD_CHOICE(f) char *f;
#define CONFIG_FIELD_LIST(f) struct config_list f;
#define CONFIG_FIELD_SIZE(f) uint64_t f;
#define CONFIG_FIELD_COUNT(f) uint64_t f;
#define CONFIG_FIELD_TIME(f) uint64_t f;
#define CONFIG_FIELD_BOOL(f) uint64_t f;
#define OPT(field, name, TYPE, def, lo, hi, reload, arg, help) CONFIG_FIELD_##TYPE(field)
#include "mrm/options.def"
#undef OPT
};

enum config_action { CONFIG_RUN, CONFIG_CHECK, CONFIG_PRINT, CONFIG_HELP, CONFIG_VERSION };

/* argv may be NULL (a reload keeps the command line it was given first).  -EINVAL: *why is one sentence. */
int config_load(struct config **out, int argc, char **argv, enum config_action *action, struct fault *why);
void config_free(struct config **c);
/* As a configuration file that gives the same settings. */
void config_print(const struct config *c, FILE *to);
void config_help(FILE *to);
/* Calls visit(ctx, name, value as text) for each option, lists once per element. */
void config_visit(const struct config *c, void (*visit)(void *ctx, const char *name, const char *value), void *ctx);
/* Copies every option that SIGHUP may change from `from`; returns the names of the others that differ in
 * `ignored` (comma separated, cut at its size). */
void config_take_reloadable(struct config *c, const struct config *from, char *ignored, size_t size);

/* "64K" -> 65536; suffixes K M G T are powers of 1024. */
int config_parse_size(const char *text, uint64_t *out);
/* "200ms" -> ns; suffixes us ms s m h; a bare number is seconds. */
int config_parse_time(const char *text, uint64_t *out_ns);

#endif
