/* plan.c - a plan on its way to the daemon; see plan.h.
 * Keeps: what the daemon would refuse because of the plan alone is refused here, with a sentence about the caller's struct. */
#include "client/plan.h"

#include "client/fail.h"
#include "client/options.h"
#include "shared/msg.h"
#include "shared/plan_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* Entries go out as they are. */
_Static_assert(sizeof(struct trims_plan_entry) == sizeof(struct plan_entry), "wire format");
_Static_assert(offsetof(struct trims_plan_entry, tensor) == offsetof(struct plan_entry, tensor) &&
	offsetof(struct trims_plan_entry, place) == offsetof(struct plan_entry, place) &&
	offsetof(struct trims_plan_entry, link) == offsetof(struct plan_entry, link) &&
	offsetof(struct trims_plan_entry, step) == offsetof(struct plan_entry, step), "wire format");
_Static_assert(TRIMS_PLAN_MAX_ENTRIES == PLAN_WIRE_ENTRIES && TRIMS_PLAN_MAX_HELPERS == PLAN_WIRE_HELPERS, "the same bounds");

static size_t plan_bytes(const struct trims_plan *p)
{
	return sizeof(struct plan_head) + p->n_entries * sizeof(struct plan_entry);
}

static int fill(const struct trims_plan *p, struct plan_head *h)
{
	struct fault why;
	*h = (struct plan_head){.magic = PLAN_WIRE_MAGIC, .version = PLAN_WIRE_VERSION, .n_entries = p->n_entries,
		.keep_bytes = p->keep_bytes, .dha_bytes_per_s = p->dha_bytes_per_s, .n_helpers = p->n_helpers};
	for (uint32_t i = 0; i < p->n_helpers; i++) {
		if (strlen(p->helpers[i]) >= sizeof h->helper[i])
			return fail(TRIMS_E_BAD_REQUEST, "not a device's UUID: %.64s", p->helpers[i]);
		strcpy(h->helper[i], p->helpers[i]);
	}
	if (p->n_entries)
		memcpy(h + 1, p->entries, p->n_entries * sizeof *p->entries);
	return plan_check(h, plan_bytes(p), 0, &why) < 0 ? fail_fault(&why) : 0;
}

/* As a file that is mapped here for as long as it is filled. */
static int make(const struct trims_plan *p, int fd)
{
	size_t bytes = plan_bytes(p);
	if (ftruncate(fd, (off_t)bytes) < 0)
		return fail_errno(TRIMS_E_NO_MEMORY, errno, "no memory for a plan");
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return fail_errno(TRIMS_E_NO_MEMORY, errno, "no memory for a plan");
	int r = fill(p, at);
	munmap(at, bytes);
	if (r == 0 && fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		r = fail_errno(TRIMS_E_NO_SYSTEM, errno, "cannot seal a plan");
	return r;
}

int plan_for(const struct trims_plan *plan, uint32_t tier, struct msg_fds *out, int *fd)
{
	struct trims_plan p;
	if (!plan)
		return 0;
	if (tier != TRIMS_TIER_GPU && tier != TRIMS_TIER_HOST)
		return fail(TRIMS_E_BAD_REQUEST, "a plan is for a model on a GPU or, as the order in which it comes, on the host");
	int r = options_read(&p, sizeof p, plan, "trims_plan");
	if (r == 0 && (p.n_entries > TRIMS_PLAN_MAX_ENTRIES || p.n_helpers > TRIMS_PLAN_MAX_HELPERS))
		r = fail(TRIMS_E_BAD_REQUEST, "a plan of %u tensors and %u helpers is too long", p.n_entries, p.n_helpers);
	if (r < 0)
		return r;
	*fd = memfd_create("trims-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	*out = (struct msg_fds){.n = 1, .fd = {*fd}};
	return *fd < 0 ? fail_errno(TRIMS_E_NO_SYSTEM, errno, "no memory file for a plan") : make(&p, *fd);
}
