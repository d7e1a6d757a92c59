/* plan_wire.c - see plan_wire.h. */
#include "shared/plan_wire.h"

#include "shared/own.h"
#include "shared/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BAD(why, ...) (fault_set(why, TRIMS_E_BAD_REQUEST, "plan: " __VA_ARGS__), -EPROTO)

static bool is_zero(const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (bytes[i])
			return false;
	return true;
}

static int check_head(const struct plan_head *p, uint64_t bytes, struct fault *why)
{
	if (bytes < sizeof *p || memcmp(p->magic, PLAN_WIRE_MAGIC, sizeof p->magic))
		return BAD(why, "not a plan");
	if (p->version != PLAN_WIRE_VERSION)
		return BAD(why, "version %" PRIu32 ", only %d is known", p->version, PLAN_WIRE_VERSION);
	if (p->n_entries > PLAN_WIRE_ENTRIES || bytes != sizeof *p + p->n_entries * sizeof(struct plan_entry))
		return BAD(why, "%" PRIu64 " bytes do not hold %" PRIu32 " entries", bytes, p->n_entries);
	if (p->n_helpers > PLAN_WIRE_HELPERS || p->reserved)
		return BAD(why, "%" PRIu32 " helpers, at most %d are possible", p->n_helpers, PLAN_WIRE_HELPERS);
	for (uint32_t i = 0; i < PLAN_WIRE_HELPERS; i++) {
		size_t len = strnlen(p->helper[i], PLAN_WIRE_UUID);
		if ((i < p->n_helpers) != (len > 0) || len == PLAN_WIRE_UUID || !utf8_valid(p->helper[i], len) ||
			!is_zero(p->helper[i] + len, PLAN_WIRE_UUID - len))
			return BAD(why, "helper %" PRIu32 " is not a UUID", i + 1);
	}
	return 0;
}

static int check_entry(const struct plan_head *p, uint32_t i, uint32_t n_tensors, uint8_t *seen, struct fault *why)
{
	struct plan_entry e = plan_entries(p)[i];
	if (e.tensor >= n_tensors)
		return BAD(why, "entry %" PRIu32 " names tensor %" PRIu32 ", there are %" PRIu32, i, e.tensor, n_tensors);
	if (seen[e.tensor / 8] & 1u << e.tensor % 8)
		return BAD(why, "tensor %" PRIu32 " is named twice", e.tensor);
	seen[e.tensor / 8] |= (uint8_t)(1u << e.tensor % 8);
	if (e.place > PLAN_PLACE_DHA)
		return BAD(why, "entry %" PRIu32 " has the unknown place %u", i, e.place);
	if (e.link > p->n_helpers || (e.link && e.place == PLAN_PLACE_DHA))
		return BAD(why, "entry %" PRIu32 " has the unknown link %u", i, e.link);
	return 0;
}

int plan_check(const void *plan, uint64_t bytes, uint32_t n_tensors, struct fault *why)
{
	const struct plan_head *p = plan;
	uint32_t n = n_tensors ? n_tensors : PLAN_WIRE_ENTRIES;
	int r = check_head(p, bytes, why);
	if (r || !p->n_entries)
		return r;
	OWN_MEM uint8_t *seen = calloc(1, n / 8 + 1);
	if (!seen)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory to check a plan with"), -ENOMEM;
	for (uint32_t i = 0; i < p->n_entries && !r; i++)
		r = check_entry(p, i, n, seen, why);
	return r;
}

int plan_check_model(const struct plan_head *p, uint32_t n_tensors, struct fault *why)
{
	for (uint32_t i = 0; i < p->n_entries; i++)
		if (plan_entries(p)[i].tensor >= n_tensors)
			return BAD(why, "entry %" PRIu32 " names tensor %" PRIu32 ", the model has %" PRIu32, i,
				plan_entries(p)[i].tensor, n_tensors);
	return 0;
}
