/* holding.c - see holding.h.
 * Keeps: an image is in `prints` as long as it lives, and in `images` while model != 0. */
#include "mrm/holding.h"

#include "shared/check.h"
#include "shared/gpu_handle.h"
#include "shared/own.h"
#include "shared/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HOLDING_MAGIC 0x484f4c44u

/* Fingerprints are 128 bits; the map's 64 are compared in full by holding_by_fingerprint(). */
static uint64_t print_key(uint64_t hi, uint64_t lo)
{
	uint64_t key = hi ^ (lo << 1 | lo >> 63);
	return key ? key : 1;
}

int holding_new(struct holding **out, struct daemon *d, uint64_t hi, uint64_t lo)
{
	struct holding *img = calloc(1, sizeof *img);
	if (!img)
		return -ENOMEM;
	img->magic = HOLDING_MAGIC;
	img->daemon = d;
	img->fingerprint_hi = hi;
	img->fingerprint_lo = lo;
	img->table.fd = -1;
	idmap_set(&d->prints, print_key(hi, lo), img);
	*out = img;
	return 0;
}

bool holding_in_memory(const struct holding *img)
{
	for (uint8_t t = 0; t < CACHE_MAX_TIERS; t++)
		if (img->copies[t] && t != BRAIN_DISK)
			return true;
	return false;
}

static void forget_hashes(struct holding *img)
{
	free(STEAL(img->hashes));
	free(STEAL(img->has_hash));
	free(STEAL(img->hash_by));
}

static void free_sides(struct holding *img)
{
	for (uint32_t i = 0; img->side_data && i < img->desc->n_sides; i++)
		free(img->side_data[i]);
	free(img->side_data);
	img->side_data = NULL;
}

static void holding_free(struct holding *img)
{
	uint64_t key = print_key(img->fingerprint_hi, img->fingerprint_lo);
	if (idmap_get(&img->daemon->prints, key) == img)
		idmap_take(&img->daemon->prints, key);
	ASSERT(!img->model && !img->when_alone);
	segment_free(&img->copies[BRAIN_DISK]);
	ASSERT(!holding_in_memory(img));
	free_sides(img);
	image_desc_free(&img->desc);
	source_listing_free(&img->listing);
	source_left_out_fini(&img->left_out);
	shm_fini(&img->table);
	trace_fini(&img->trace);
	forget_hashes(img);
	img->magic = 0;
	free(img);
}

static struct source *source_by_url(struct daemon *d, const char *url)
{
	for (size_t i = 0; i < d->n_sources; i++)
		if (!strcmp(source_url(d->sources[i]), url))
			return d->sources[i];
	return NULL;
}

struct holding *holding_for_desc(struct daemon *d, const struct image_desc *desc)
{
	struct holding *img = holding_by_fingerprint(d, desc->fingerprint_hi, desc->fingerprint_lo);
	if (img)
		return img;
	int e = holding_new(&img, d, desc->fingerprint_hi, desc->fingerprint_lo);
	ASSERT(!e);
	img->desc = image_desc_ref(desc);
	img->source = source_by_url(d, desc->source);
	return img;
}

struct holding *holding_get(struct holding *img)
{
	CHECK_OBJ(img, HOLDING_MAGIC);
	img->refs++;
	return img;
}

void holding_settle(struct holding *img)
{
	CHECK_OBJ(img, HOLDING_MAGIC);
	if (!img->refs && !img->model && !img->stored)
		holding_free(img);
}

/* No job looks at it: what the stored image knows, too, need not be kept twice, nor its files be kept open. */
static void rest(struct holding *img)
{
	if (!img->stored || !disk_image_complete(img->stored))
		return;
	if (img->desc != disk_image_desc(img->stored)) {
		image_desc_free(&img->desc);
		img->desc = image_desc_ref(disk_image_desc(img->stored));
	}
	free_sides(img);
	forget_hashes(img);
	disk_image_rest(img->stored);
}

static void submit_if_alone(struct holding *img)
{
	if (img->when_alone && img->refs == 1)
		pool_submit(img->daemon->misc, STEAL(img->when_alone));
}

void holding_when_alone(struct holding *img, struct job *job)
{
	ASSERT(!img->when_alone);
	img->when_alone = job;
	submit_if_alone(img);
}

void holding_put(struct holding **img)
{
	CHECK_OBJ(*img, HOLDING_MAGIC);
	ASSERT((*img)->refs > 0);
	struct holding *i = *img;
	i->refs--;
	submit_if_alone(i);
	if (i->refs == 0)
		rest(i);
	holding_settle(i);
	*img = NULL;
}

struct holding *holding_by_model(struct daemon *d, uint64_t model)
{
	return idmap_get(&d->images, model);
}

struct holding *holding_by_fingerprint(struct daemon *d, uint64_t hi, uint64_t lo)
{
	struct holding *img = idmap_get(&d->prints, print_key(hi, lo));
	return img && img->fingerprint_hi == hi && img->fingerprint_lo == lo ? img : NULL;
}

const struct image_desc *holding_desc(const struct holding *img)
{
	return img->desc;
}

const struct layout *holding_layout(const struct holding *img)
{
	const struct image_desc *desc = holding_desc(img);
	return desc ? desc->layout : NULL;
}

bool holding_chunk_hash(const struct holding *img, uint32_t chunk, struct hash128 *out)
{
	if (img->has_hash && img->has_hash[chunk]) {
		*out = img->hashes[chunk];
		return true;
	}
	return img->stored && !img->suspect && disk_image_hash(img->stored, chunk, out);
}

int holding_want_hash(const struct holding *img, uint32_t chunk, struct hash128 *out, struct fault *why)
{
	if (holding_chunk_hash(img, chunk, out))
		return 0;
	fault_set(why, TRIMS_E_INTERNAL, "%s: there is no checksum on record that chunk %u could be compared with",
		holding_label(img), chunk);
	return -ENODATA;
}

void holding_set_chunk_hash(struct holding *img, uint32_t chunk, struct hash128 hash, uint64_t haul, bool stored)
{
	if (!img->hashes) {
		uint32_t n = holding_layout(img)->n_chunks;
		img->hashes = calloc(n, sizeof *img->hashes);
		img->has_hash = calloc(n, sizeof *img->has_hash);
		img->hash_by = calloc(n, sizeof *img->hash_by);
		ASSERT(img->hashes && img->has_hash && img->hash_by);
	}
	bool on_disk = img->stored && !img->suspect && !stored && disk_image_has(img->stored, chunk);
	bool first = !img->has_hash[chunk] && !on_disk;
	img->hash_by[chunk] = first || img->hash_by[chunk] == haul ? haul : 0;
	img->hashes[chunk] = hash;
	img->has_hash[chunk] = true;
}

void holding_disown(struct holding *img, uint64_t haul)
{
	uint32_t n = img->hashes ? holding_layout(img)->n_chunks : 0;
	for (uint32_t i = 0; i < n; i++)
		if (img->hash_by[i] == haul)
			img->has_hash[i] = false;
}

void holding_keep_hashes(struct holding *img)
{
	uint32_t n = holding_in_memory(img) ? holding_layout(img)->n_chunks : 0;
	struct hash128 hash;
	for (uint32_t i = 0; i < n; i++)
		if (!(img->has_hash && img->has_hash[i]) && holding_chunk_hash(img, i, &hash))
			holding_set_chunk_hash(img, i, hash, 0, false);
}

/* What was received in a load that failed may be what was wrong: the next one must not be measured by it. */
void holding_settle_hashes(struct holding *img)
{
	if (!img->doubtful || img->n_hauls || holding_in_memory(img))
		return;
	img->doubtful = false;
	forget_hashes(img);
}

int holding_build_table(const struct layout *l, const struct shm_options *options, struct shm_region *out,
	struct fault *why)
{
	uint64_t bytes = table_bytes(l);
	void *table = aligned_alloc(64, align_up(bytes, 64));
	if (!table)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for a tensor table"), -ENOMEM;
	table_build(l, table);
	int e = shm_new_filled(out, "mrm:tensor-table", table, bytes, options, why);
	free(table);
	return e;
}

int holding_clone_desc(const struct image_desc *from, uint8_t *const *side_data, struct image_desc **out,
	struct fault *why)
{
	uint8_t *bytes;
	size_t n;
	struct image_desc *copy;
	int e = image_desc_encode(from, &bytes, &n, why);
	if (e)
		return e;
	e = image_desc_decode(bytes, n, &copy, why);
	free(bytes);
	if (e)
		return e;
	for (uint32_t i = 0; i < copy->n_sides; i++) {
		const uint8_t *data = from->sides[i].data ? from->sides[i].data : side_data ? side_data[i] : NULL;
		if (!data)
			continue;
		copy->sides[i].data = malloc(from->sides[i].bytes ? from->sides[i].bytes : 1);
		if (!copy->sides[i].data) {
			image_desc_free(&copy);
			return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for side files"), -ENOMEM;
		}
		memcpy(copy->sides[i].data, data, from->sides[i].bytes);
	}
	*out = copy;
	return 0;
}

void holding_take_sides(struct holding *img, uint8_t **side_data)
{
	if (!img->side_data) {
		img->side_data = side_data;
		return;
	}
	/* A worker may be reading the ones that are there. */
	for (uint32_t i = 0; i < img->desc->n_sides; i++)
		free(side_data[i]);
	free(side_data);
}

void holding_drop_table(struct holding *img)
{
	if (!img->copies[BRAIN_DISK] && !holding_in_memory(img))
		shm_fini(&img->table);
}

const char *holding_label(const struct holding *img)
{
	const char *name = img->model ? cache_name(img->daemon->cache, img->model, 0) : NULL;
	const struct image_desc *desc = holding_desc(img);
	return name ? name : desc && desc->name ? desc->name : "unnamed";
}

/* Each extent is an allocation of its own there. */
static uint64_t gpu_bytes(const struct layout *layout)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < layout->n_extents; i++)
		sum += align_up(layout->extent_bytes[i], GPU_EXTENT_ALIGN);
	return sum;
}

void holding_info(const struct holding *img, struct cache_model_info *out)
{
	const struct image_desc *desc = holding_desc(img);
	*out = (struct cache_model_info){
		.fingerprint_hi = img->fingerprint_hi,
		.fingerprint_lo = img->fingerprint_lo,
		.image_bytes = desc->layout->image_bytes,
		.gpu_bytes = gpu_bytes(desc->layout),
		.disk_bytes = image_desc_disk_bytes(desc),
		.in_place = desc->in_place,
	};
}
