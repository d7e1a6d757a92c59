/* listing.c - the list of a model's files.  Keeps: weights first, every path without '/', sums that do not overflow,
 * a fingerprint that is a function of what the source said and of nothing else. */
#include "mrm/source/internal.h"

#include "shared/image.h"

#include <stdarg.h>
#include <stdio.h>
#include <xxhash.h>

void file_fini(struct source_file *f)
{
	free(f->path);
	free(f->locator);
	free(f->version);
	*f = (struct source_file){0};
}

void source_left_out_fini(struct source_left_out *o)
{
	for (size_t i = 0; i < ARRAY_LEN(o->named); i++) {
		free(o->named[i].path);
		free(o->named[i].why);
	}
	*o = (struct source_left_out){0};
}

int listing_new(struct source_listing **out, struct source *s, const char *name)
{
	struct source_listing *l = calloc(1, sizeof *l);
	if (!l)
		return -ENOMEM;
	l->source = s;
	l->index = UINT32_MAX;
	l->in_place = s->ops->in_place;
	l->name = strdup(name);
	if (!l->name)
		source_listing_free(&l);
	*out = l;
	return l ? 0 : -ENOMEM;
}

void source_listing_free(struct source_listing **l)
{
	if (!*l)
		return;
	for (uint32_t i = 0; i < (*l)->n_files; i++)
		file_fini(&(*l)->files[i]);
	free((*l)->files);
	source_left_out_fini(&(*l)->left_out);
	free((*l)->name);
	free((*l)->revision);
	free(*l);
	*l = NULL;
}

static int grow(struct source_listing *l)
{
	if (l->n_files & (l->n_files - 1)) /* room is doubled at each power of two */
		return 0;
	void *more = realloc(l->files, (l->n_files ? 2 * (size_t)l->n_files : 1) * sizeof *l->files);
	if (!more)
		return -ENOMEM;
	l->files = more;
	return 0;
}

static int add(struct source_listing *l, struct source_file *file, bool weight, struct fault *why)
{
	ASSERT(!weight || l->n_weights == l->n_files);
	ASSERT(file->path && file->locator && file->version && !strchr(file->path, '/'));
	uint64_t *sum = weight ? &l->weight_bytes : &l->side_bytes;
	uint64_t sum_after;
	if (weight && l->n_weights == IMAGE_MAX_FILES)
		return fail(why, TRIMS_E_BAD_MODEL, "%s: more than %u weight files", l->name, IMAGE_MAX_FILES);
	if (add_overflows(*sum, file->bytes, &sum_after) || sum_after > INT64_MAX)
		return fail(why, TRIMS_E_BAD_SOURCE, "%s: impossible file size", file->path);
	if (grow(l))
		return fail_memory(why);
	*sum = sum_after;
	l->n_weights += weight;
	l->no_ranges |= weight && file->no_ranges;
	l->files[l->n_files++] = *file;
	*file = (struct source_file){0};
	return 0;
}

int listing_add(struct source_listing *l, struct source_file *file, bool weight, struct fault *why)
{
	int r = add(l, file, weight, why);
	file_fini(file);
	return r;
}

void listing_leave_out(struct source_listing *l, const char *path, const char *fmt, ...)
{
	struct source_left_out *o = &l->left_out;
	char why[FAULT_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	degrade(l->source, DEGRADED_side_cut, "%s: %s does not travel with it: %s", l->name, path, why);
	if (o->n < ARRAY_LEN(o->named)) {
		o->named[o->n].path = strdup(path);
		o->named[o->n].why = strdup(why);
	}
	o->n++;
}

static void mix(XXH3_state_t *state, const void *data, uint64_t bytes)
{
	XXH3_128bits_update(state, &bytes, sizeof bytes); /* its length first, so that no two lists read the same */
	XXH3_128bits_update(state, data, bytes);
}

void listing_seal(struct source_listing *l)
{
	XXH3_state_t *state = XXH3_createState();
	ASSERT(state);
	XXH3_128bits_reset(state);
	mix(state, l->source->identity, strlen(l->source->identity));
	for (uint32_t i = 0; i < l->n_files; i++) {
		const struct source_file *f = &l->files[i];
		mix(state, f->locator, strlen(f->locator));
		mix(state, &f->bytes, sizeof f->bytes);
		if (f->has_sha256)
			mix(state, f->sha256, sizeof f->sha256);
		else
			mix(state, f->version, strlen(f->version));
	}
	XXH128_hash_t hash = XXH3_128bits_digest(state);
	XXH3_freeState(state);
	l->fingerprint_hi = hash.high64;
	l->fingerprint_lo = hash.low64;
}
