/* fuzz_manifest.c - the daemon's own records.  The first byte says which: a manifest, a journal's head, a catalog, the record of a
 * kept copy, a stored profile.
 * Checksums are made to match, so that what is tested is what lies behind them: whatever is accepted encodes to the
 * same bytes. */
#include "mrm/disk/bytes.h"
#include "mrm/disk/disk.h"
#include "mrm/disk/manifest.h"
#include "mrm/disk/profiles.h"
#include "mrm/keep/copy.h"
#include "tests/fuzz/fuzz.h"

static void same(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
	ASSERT(a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0);
}

static void fuzz_manifest(uint8_t *in, size_t n)
{
	struct manifest m;
	struct fault why = {0};
	uint8_t *out;
	size_t out_bytes;
	if (n < 64 + CHECK_BYTES)
		return;
	store_u64(in + 16, n);
	store_hash(in + n - CHECK_BYTES, chunk_hash(in, n - CHECK_BYTES));
	if (manifest_decode_unchecked(in, n, &m, &why) < 0) {
		ASSERT(*why.text);
		return;
	}
	ASSERT(manifest_encode(&m, &out, &out_bytes, &why) == 0);
	same(in, n, out, out_bytes);
	ASSERT(image_desc_disk_bytes(m.desc) >= out_bytes);
	free(out);
	manifest_fini(&m);
}

static void fuzz_journal(uint8_t *in, size_t n)
{
	struct image_desc *d = NULL;
	struct fault why = {0};
	uint8_t *out;
	size_t out_bytes, head_bytes;
	uint64_t seed;
	if (n < 24 + CHECK_BYTES)
		return;
	uint64_t desc_bytes = fetch_u64(in + 16);
	if (desc_bytes <= n - 24 - CHECK_BYTES)
		store_hash(in + 24 + desc_bytes, chunk_hash(in, 24 + desc_bytes));
	if (journal_head_decode(in, n, &d, &head_bytes, &seed, &why) < 0) {
		ASSERT(*why.text && !d);
		return;
	}
	ASSERT(head_bytes <= n);
	ASSERT(journal_head_encode(d, &out, &out_bytes, &why) == 0);
	same(in, head_bytes, out, out_bytes);
	free(out);
	image_desc_free(&d);
}

static void fuzz_catalog(uint8_t *in, size_t n)
{
	struct disk_name *names;
	struct fault why = {0};
	uint8_t *out;
	size_t out_bytes;
	uint32_t count;
	if (n < CHECK_BYTES)
		return;
	store_hash(in + n - CHECK_BYTES, chunk_hash(in, n - CHECK_BYTES));
	if (catalog_decode(in, n, &names, &count, &why) < 0) {
		ASSERT(*why.text);
		return;
	}
	ASSERT(catalog_encode(names, count, &out, &out_bytes, &why) == 0);
	same(in, n, out, out_bytes);
	free(out);
	disk_names_free(names, count);
}

static void fuzz_kept(uint8_t *in, size_t n)
{
	struct kept_copy c;
	struct fault why = {0};
	uint8_t *out;
	size_t out_bytes;
	if (n < CHECK_BYTES)
		return;
	store_hash(in + n - CHECK_BYTES, seeded_hash(in, n - CHECK_BYTES, fetch_u64(in)));
	if (kept_record_decode(in, n, &c, &why) < 0) {
		ASSERT(*why.text && !c.desc);
		return;
	}
	ASSERT(kept_record_encode(&c, &out, &out_bytes, &why) == 0);
	same(in, n, out, out_bytes);
	free(out);
	kept_copy_fini(&c);
}

/* Where the head's own checksum lies; 0: nowhere. */
static size_t profile_check_at(const uint8_t *in, size_t n)
{
	size_t at = 24;
	for (int i = 0; i < 3; i++) {
		if (at + 4 > n || fetch_u32(in + at) > n - at - 4)
			return 0;
		at += 4 + fetch_u32(in + at);
	}
	return at + 32 + CHECK_BYTES <= n ? at + 32 : 0;
}

static void fuzz_profile(uint8_t *in, size_t n)
{
	struct disk_profile p;
	struct hash128 text;
	struct out out = {0};
	size_t at = profile_check_at(in, n), head = at + CHECK_BYTES;
	if (at) {
		store_hash(in + at - CHECK_BYTES, chunk_hash(in + head, n - head));
		store_hash(in + at, chunk_hash(in, at));
	}
	size_t found = disk_profile_decode(in, n, &p, &text);
	if (!found || p.bytes != n - found)
		return;
	ASSERT(found == head);
	disk_profile_encode(&p, (const char *)in + head, &out);
	same(in, n, out.p, out.n);
	free(out.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const kinds[])(uint8_t *in, size_t n) = {fuzz_manifest, fuzz_journal, fuzz_catalog,
		fuzz_kept, fuzz_profile};
	if (size < 1)
		return 0;
	uint8_t *copy = malloc(size - 1 + !(size - 1)); /* exact, so that a sanitizer sees a read behind it */
	ASSERT(copy);
	memcpy(copy, data + 1, size - 1);
	kinds[data[0] % ARRAY_LEN(kinds)](copy, size - 1);
	free(copy);
	return 0;
}
