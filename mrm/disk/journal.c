/* journal.c - the journal's bytes; see manifest.h and README.md.
 * Keeps: a record is only true together with the head in front of it: its hash is seeded by the head's. */
#include "mrm/disk/bytes.h"
#include "mrm/disk/manifest.h"
#include "shared/own.h"

#define JOURNAL_MAGIC UINT64_C(0x314e4a736d697274) /* "trimsJN1" */
#define JOURNAL_VERSION 1
#define FIXED_BYTES 24 /* magic, versions, description size */
#define RECORD_MAGIC 0x6b6e6863u /* "chnk" */

int journal_head_encode(const struct image_desc *d, uint8_t **out, size_t *bytes, struct fault *why)
{
	OWN_MEM uint8_t *desc = NULL;
	size_t desc_bytes;
	int r = image_desc_encode(d, &desc, &desc_bytes, why);
	if (r < 0)
		return r;
	struct out o = {0};
	out_u64(&o, JOURNAL_MAGIC);
	out_u32(&o, JOURNAL_VERSION);
	out_u32(&o, IMAGE_LAYOUT_VERSION);
	out_u64(&o, desc_bytes);
	out_bytes(&o, desc, desc_bytes);
	out_hash(&o, chunk_hash(o.p, o.n));
	*out = o.p;
	*bytes = o.n;
	return 0;
}

uint64_t journal_seed(const uint8_t *head, size_t bytes)
{
	return fetch_hash(head + bytes - CHECK_BYTES).lo;
}

int journal_head_decode(const uint8_t *bytes, size_t n, struct image_desc **desc, size_t *head_bytes, uint64_t *seed,
	struct fault *why)
{
	struct in in = {bytes, n, false};
	uint64_t magic = in_u64(&in);
	uint32_t version = in_u32(&in), layout_version = in_u32(&in);
	uint64_t desc_bytes = in_u64(&in);
	const uint8_t *d = in_bytes(&in, desc_bytes);
	struct hash128 check = in_hash(&in);
	if (in.bad || magic != JOURNAL_MAGIC || version != JOURNAL_VERSION || layout_version != IMAGE_LAYOUT_VERSION ||
		!hash_equal(check, chunk_hash(bytes, FIXED_BYTES + desc_bytes)))
		return fault_set(why, TRIMS_E_DISK_ERROR, "the journal's head is damaged or of another version");
	int r = image_desc_decode(d, desc_bytes, desc, why);
	if (r < 0)
		return r;
	*head_bytes = FIXED_BYTES + desc_bytes + CHECK_BYTES;
	*seed = check.lo;
	return 0;
}

void journal_record_encode(uint32_t chunk, const struct chunk_record *c, uint64_t seed,
	uint8_t out[JOURNAL_RECORD_BYTES])
{
	memset(out, 0, JOURNAL_RECORD_BYTES);
	store_u32(out, RECORD_MAGIC);
	store_u32(out + 4, chunk);
	store_hash(out + 8, c->hash);
	store_u64(out + 24, c->off);
	store_u32(out + 32, c->stored_bytes);
	store_u32(out + 36, c->codec);
	size_t covered = JOURNAL_RECORD_BYTES - CHECK_BYTES;
	store_hash(out + covered, seeded_hash(out, covered, seed));
}

bool journal_record_decode(const uint8_t in[JOURNAL_RECORD_BYTES], uint64_t seed, uint32_t *chunk,
	struct chunk_record *out)
{
	size_t covered = JOURNAL_RECORD_BYTES - CHECK_BYTES;
	if (fetch_u32(in) != RECORD_MAGIC || !hash_equal(fetch_hash(in + covered), seeded_hash(in, covered, seed)))
		return false;
	*chunk = fetch_u32(in + 4);
	*out = (struct chunk_record){.hash = fetch_hash(in + 8), .off = fetch_u64(in + 24),
		.stored_bytes = fetch_u32(in + 32), .codec = fetch_u32(in + 36)};
	return true;
}
