/* manifest.c - see manifest.h and README.md.
 * Keeps: a manifest's last 16 bytes are the hash of all before them, its length is written in it, and its digest is the
 * digest of what it lists; anything else is refused. */
#include "mrm/disk/manifest.h"

#include "mrm/disk/bytes.h"
#include "mrm/disk/codec.h"
#include "shared/own.h"

#include <inttypes.h>

#define MANIFEST_MAGIC UINT64_C(0x31464d736d697274) /* "trimsMF1" */
#define MANIFEST_VERSION 1
#define HEAD_BYTES 64
#define RECORD_BYTES 32

bool chunk_record_fits(const struct chunk_record *c, const struct layout *l, uint32_t chunk)
{
	uint64_t bytes = layout_chunk(l, chunk).bytes;
	if (c->off % DISK_ALIGN || c->off > INT64_MAX / 2 || c->stored_bytes == 0)
		return false;
	return c->codec == CODEC_RAW ? c->stored_bytes == bytes : c->codec < CODEC_N && c->stored_bytes < bytes;
}

void manifest_fini(struct manifest *m)
{
	image_desc_free(&m->desc);
	free(m->chunks);
	m->chunks = NULL;
}

int manifest_encode(const struct manifest *m, uint8_t **out, size_t *bytes, struct fault *why)
{
	OWN_MEM uint8_t *desc = NULL;
	size_t desc_bytes;
	int r = image_desc_encode(m->desc, &desc, &desc_bytes, why);
	if (r < 0)
		return r;
	uint32_t n = m->desc->layout->n_chunks;
	struct out o = {0};
	out_u64(&o, MANIFEST_MAGIC);
	out_u32(&o, MANIFEST_VERSION);
	out_u32(&o, IMAGE_LAYOUT_VERSION);
	out_u64(&o, HEAD_BYTES + desc_bytes + (uint64_t)n * RECORD_BYTES + CHECK_BYTES);
	out_u64(&o, m->data_bytes);
	out_hash(&o, m->digest);
	out_u64(&o, desc_bytes);
	out_u32(&o, n);
	out_u32(&o, 0);
	ASSERT(o.n == HEAD_BYTES);
	out_bytes(&o, desc, desc_bytes);
	for (uint32_t i = 0; i < n; i++) {
		out_hash(&o, m->chunks[i].hash);
		out_u64(&o, m->chunks[i].off);
		out_u32(&o, m->chunks[i].stored_bytes);
		out_u32(&o, m->chunks[i].codec);
	}
	out_hash(&o, chunk_hash(o.p, o.n));
	*out = o.p;
	*bytes = o.n;
	return 0;
}

static int malformed(struct fault *why, const char *what)
{
	return fault_set(why, TRIMS_E_DISK_ERROR, "the manifest %s", what);
}

/* In-place images have hashes and nothing else. */
static bool record_fits(const struct chunk_record *c, const struct manifest *m, uint32_t i)
{
	if (m->desc->in_place)
		return c->off == 0 && c->stored_bytes == 0 && c->codec == 0;
	return chunk_record_fits(c, m->desc->layout, i) && c->off + chunk_room(c) <= m->data_bytes;
}

static int decode_chunks(struct in *in, struct manifest *m, uint32_t n, struct fault *why)
{
	if (n != m->desc->layout->n_chunks || in->n != (uint64_t)n * RECORD_BYTES)
		return malformed(why, "lists another number of chunks than its tensors make");
	m->chunks = calloc((size_t)n + 1, sizeof *m->chunks);
	ASSERT(m->chunks);
	for (uint32_t i = 0; i < n; i++) {
		struct chunk_record *c = &m->chunks[i];
		c->hash = in_hash(in);
		c->off = in_u64(in);
		c->stored_bytes = in_u32(in);
		c->codec = in_u32(in);
		if (!record_fits(c, m, i))
			return malformed(why, "places a chunk where it cannot be");
	}
	return 0;
}

static int decode_body(const uint8_t *bytes, size_t n, struct manifest *m, struct fault *why)
{
	if (n < HEAD_BYTES + CHECK_BYTES)
		return malformed(why, "is cut short");
	struct in in = {bytes, n - CHECK_BYTES, false};
	if (in_u64(&in) != MANIFEST_MAGIC)
		return malformed(why, "is none");
	uint32_t version = in_u32(&in), layout_version = in_u32(&in);
	if (version != MANIFEST_VERSION || layout_version != IMAGE_LAYOUT_VERSION)
		return fault_set(why, TRIMS_E_DISK_ERROR,
			"the manifest is of version %u, layout %u; this daemon reads %u and %u",
			version, layout_version, MANIFEST_VERSION, IMAGE_LAYOUT_VERSION);
	uint64_t total = in_u64(&in);
	m->data_bytes = in_u64(&in);
	m->digest = in_hash(&in);
	uint64_t desc_bytes = in_u64(&in);
	uint32_t n_chunks = in_u32(&in), reserved = in_u32(&in);
	const uint8_t *desc = in_bytes(&in, desc_bytes);
	if (total != n || reserved || !desc)
		return malformed(why, "is cut short or malformed");
	if (m->data_bytes % DISK_ALIGN || m->data_bytes > INT64_MAX)
		return malformed(why, "states a data file that cannot be");
	int r = image_desc_decode(desc, desc_bytes, &m->desc, why);
	if (r < 0)
		return r;
	if (m->desc->in_place && m->data_bytes)
		return malformed(why, "states a data file for a model that is read in place");
	return decode_chunks(&in, m, n_chunks, why);
}

int manifest_decode_unchecked(const uint8_t *in, size_t n, struct manifest *out, struct fault *why)
{
	struct manifest m = {0};
	int r = decode_body(in, n, &m, why);
	if (r < 0)
		manifest_fini(&m);
	else
		*out = m;
	return r;
}

static int check_digest(const struct manifest *m, struct fault *why)
{
	uint32_t n = m->desc->layout->n_chunks;
	OWN_MEM struct hash128 *hashes = calloc((size_t)n + 1, sizeof *hashes);
	ASSERT(hashes);
	for (uint32_t i = 0; i < n; i++)
		hashes[i] = m->chunks[i].hash;
	if (!hash_equal(image_digest(m->desc, hashes), m->digest))
		return malformed(why, "states a digest that is not its own");
	return 0;
}

int manifest_decode(const uint8_t *in, size_t n, struct manifest *out, struct fault *why)
{
	struct manifest m;
	if (n < CHECK_BYTES || !hash_equal(chunk_hash(in, n - CHECK_BYTES), fetch_hash(in + n - CHECK_BYTES)))
		return malformed(why, "does not match its checksum");
	int r = manifest_decode_unchecked(in, n, &m, why);
	if (r < 0)
		return r;
	r = check_digest(&m, why);
	if (r < 0)
		manifest_fini(&m);
	else
		*out = m;
	return r;
}
