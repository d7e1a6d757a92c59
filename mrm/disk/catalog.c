/* catalog.c - the catalog's bytes; see manifest.h and README.md. */
#include "mrm/disk/bytes.h"
#include "mrm/disk/disk.h"
#include "mrm/disk/manifest.h"

#define CATALOG_MAGIC UINT64_C(0x3154434d49525400) /* a byte that no text file begins with, then "TRIMCT1" */
#define CATALOG_VERSION 1
#define MIN_NAME_BYTES 36

void disk_names_free(struct disk_name *names, uint32_t n)
{
	for (uint32_t i = 0; names && i < n; i++) {
		free(names[i].name);
		free(names[i].source);
		free(names[i].revision);
	}
	free(names);
}

static bool fits(const char *text)
{
	return text && strlen(text) <= DESC_MAX_TEXT;
}

int catalog_encode(const struct disk_name *names, uint32_t n, uint8_t **out, size_t *bytes, struct fault *why)
{
	struct out o = {0};
	if (n > DISK_MAX_NAMES)
		return fault_set(why, TRIMS_E_LIMIT, "%u names, at most %u are kept on disk", n, DISK_MAX_NAMES);
	out_u64(&o, CATALOG_MAGIC);
	out_u32(&o, CATALOG_VERSION);
	out_u32(&o, n);
	for (uint32_t i = 0; i < n; i++) {
		const struct disk_name *e = &names[i];
		if (!fits(e->name) || !fits(e->source) || !fits(e->revision) || o.n > CATALOG_MAX_BYTES / 2) {
			free(o.p);
			return fault_set(why, TRIMS_E_LIMIT,
				"a name, source or revision is too long to be kept on disk");
		}
		out_text(&o, e->name);
		out_text(&o, e->source);
		out_text(&o, e->revision);
		out_u64(&o, e->fingerprint_hi);
		out_u64(&o, e->fingerprint_lo);
		out_u64(&o, e->last_use_s);
	}
	out_hash(&o, chunk_hash(o.p, o.n));
	*out = o.p;
	*bytes = o.n;
	return 0;
}

static bool decode_name(struct in *in, struct disk_name *e)
{
	e->name = in_text(in, DESC_MAX_TEXT);
	e->source = in_text(in, DESC_MAX_TEXT);
	e->revision = in_text(in, DESC_MAX_TEXT);
	e->fingerprint_hi = in_u64(in);
	e->fingerprint_lo = in_u64(in);
	e->last_use_s = in_u64(in);
	return !in->bad;
}

int catalog_decode(const uint8_t *bytes, size_t n, struct disk_name **out, uint32_t *count, struct fault *why)
{
	if (n < CHECK_BYTES || !hash_equal(chunk_hash(bytes, n - CHECK_BYTES), fetch_hash(bytes + n - CHECK_BYTES)))
		return fault_set(why, TRIMS_E_DISK_ERROR, "the catalog does not match its checksum");
	struct in in = {bytes, n - CHECK_BYTES, false};
	uint64_t magic = in_u64(&in);
	uint32_t version = in_u32(&in), total = in_count(&in, DISK_MAX_NAMES, MIN_NAME_BYTES), got = 0;
	struct disk_name *names = calloc((size_t)total + 1, sizeof *names);
	ASSERT(names);
	bool good = magic == CATALOG_MAGIC && version == CATALOG_VERSION;
	while (good && got < total)
		good = decode_name(&in, &names[got++]);
	if (!good || in.bad || in.n) {
		disk_names_free(names, got);
		return fault_set(why, TRIMS_E_DISK_ERROR, "the catalog is malformed or of another version");
	}
	*out = names;
	*count = total;
	return 0;
}
