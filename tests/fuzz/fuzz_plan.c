/* fuzz_plan.c - a provisioning plan from a client: refused with a sentence, or it cuts every model that it fits into pieces that
 * keep the rules.
 *
 * Input: a byte, how many tensors the model has; two bytes each, its size in 64 KiB; then the plan. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/pieces_verify.h"

#include <errno.h>

#define MAX_TENSORS 24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t bytes[MAX_TENSORS];
	struct fault why = {0};
	if (size < 1 + 2 * MAX_TENSORS)
		return 0;
	uint32_t n = 1 + data[0] % MAX_TENSORS;
	for (uint32_t i = 0; i < n; i++)
		bytes[i] = (uint64_t)(data[1 + 2 * i] | (data[2 + 2 * i] & 7) << 8) << 16;
	data += 1 + 2 * MAX_TENSORS;
	size -= 1 + 2 * MAX_TENSORS;
	struct plan_head *plan = malloc(size + 1);
	ASSERT(plan);
	memcpy(plan, data, size);
	int r = plan_check(plan, size, 0, &why);
	ASSERT(!r || (r == -EPROTO && why.code == TRIMS_E_BAD_REQUEST && !strncmp(why.text, "plan: ", 6)));
	if (!r) {
		bool fits = !plan_check_model(plan, n, &why);
		ASSERT(fits == !plan_check(plan, size, n, &why));
		struct layout *l = pieces_layout(bytes, n);
		if (fits)
			verify_pieces(l, plan, data[size - 1] & 1);
		layout_free(&l);
	}
	free(plan);
	return 0;
}
