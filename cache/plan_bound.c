/* plan_bound.c - see plan_bound.h.  All suffix sums, computed once per pass. */
#include "cache/plan_bound.h"

#include "cache/memory.h"

#define FINE_BITS 32

bool plan_runs_by_dha(const struct plan_item *item)
{
	return item->fate == PLAN_MUST_DHA || (item->fate == PLAN_FREE && item->dha_ns && item->dha_ns < item->exec_ns);
}

static bool may_load(const struct plan_item *item)
{
	return item->fate == PLAN_FREE || item->fate == PLAN_MUST_LOAD;
}

static bool may_dha(const struct plan_item *item)
{
	return item->dha_ns && (item->fate == PLAN_FREE || item->fate == PLAN_MUST_DHA);
}

/* ---- the part that needs no link ---- */

static void init_run(struct plan_bound *b, const struct plan_problem *q, unsigned k)
{
	b->ahead = memory_new((q->n + 1) * sizeof *b->ahead);
	b->run = memory_new((q->n + 1) * sizeof *b->run);
	b->run_bytes = memory_new((q->n + 1) * sizeof *b->run_bytes);
	b->must_bytes = memory_new((q->n + 1) * sizeof *b->must_bytes);
	b->ahead[q->n] = INT64_MIN / 2;
	for (uint32_t i = q->n; i-- > 0;) {
		const struct plan_item *item = &q->items[i];
		bool dha = plan_runs_by_dha(item), load = !dha && may_load(item);
		int64_t run = (int64_t)(dha ? item->dha_ns : item->exec_ns), link = 0;
		if (dha)
			link = k ? 0 : (int64_t)item->traffic_ns;
		else if (load)
			link = (int64_t)(q->overhead_ns[k] + item->load_ns[k]);
		b->ahead[i] = MAX(b->ahead[i + 1], INT64_MIN / 4) + link - run;
		if (load)
			b->ahead[i] = MAX(b->ahead[i], link + (int64_t)q->hop_ns[k]);
		b->run[i] = b->run[i + 1] + (uint64_t)run;
		b->run_bytes[i] = b->run_bytes[i + 1] + (load ? item->bytes : 0);
		b->must_bytes[i] = b->must_bytes[i + 1] + (may_load(item) && !may_dha(item) ? item->bytes : 0);
	}
}

/* ---- lines ---- */

/* Of the current link and those still free, the least time. */
static uint64_t least_load_ns(const struct plan_problem *q, const struct plan_item *item, unsigned k, unsigned free_links)
{
	uint64_t ns = item->load_ns[k];
	for (unsigned l = 0; l < q->n_links; l++)
		if (free_links & 1u << l)
			ns = MIN(ns, item->load_ns[l]);
	return ns;
}

static int64_t fine_of(uint64_t fine, uint64_t bytes)
{
	return (int64_t)((unsigned __int128)fine * bytes >> FINE_BITS);
}

/* What a layer adds at least, the run time weighing `weight` 64ths. */
static int64_t least_cost(const struct plan_problem *q, const struct plan_bound *b, const struct plan_item *item,
	uint64_t weight, uint64_t fine, uint64_t load_ns, uint64_t traffic_ns)
{
	int64_t loaded = (int64_t)(weight * item->exec_ns), read = INT64_MAX;
	if (may_load(item))
		loaded += (int64_t)((64 - weight) * load_ns / b->share) + fine_of(fine, item->bytes);
	if (may_dha(item))
		read = (int64_t)(weight * item->dha_ns + (64 - weight) * traffic_ns / b->share);
	return item->fate == PLAN_MUST_DHA ? read : MIN(loaded, read);
}

static void add_line(struct plan_bound *b, const struct plan_problem *q, unsigned k, unsigned free_links, uint32_t cut,
	uint32_t weight, uint64_t fine)
{
	struct plan_bound_line *l = &b->lines[b->n_lines++];
	ASSERT(b->n_lines <= PLAN_BOUND_LINES);
	*l = (struct plan_bound_line){.weight = weight, .fine = fine, .rest = memory_new((q->n + 1) * sizeof *l->rest)};
	l->rest[q->n] = fine ? -fine_of(fine, q->memory_bytes) - 1 : 0;
	for (uint32_t i = q->n; i-- > 0;) {
		const struct plan_item *item = &q->items[i];
		/* Behind the target's part nothing is charged that could delay a load. */
		uint64_t traffic_ns = k == 0 && free_links == 0 ? item->traffic_ns : 0;
		l->rest[i] = l->rest[i + 1] + least_cost(q, b, item, i < cut ? weight : 64, fine,
			least_load_ns(q, item, k, free_links), traffic_ns);
	}
}

/* What the mean link takes for a byte, in 2^-32 of 64ths of a ns. */
static uint64_t usual_fine(const struct plan_problem *q)
{
	uint64_t ns = 0, bytes = 1;
	for (uint32_t i = 0; i < q->n; i++) {
		ns += q->items[i].load_ns[0];
		bytes += q->items[i].bytes;
	}
	return (uint64_t)(((unsigned __int128)ns * 64 << FINE_BITS) / bytes);
}

void plan_bound_init(struct plan_bound *b, const struct plan_problem *q, unsigned k, unsigned free_links, uint32_t cut,
	bool memory)
{
	static const uint32_t weights[] = {0, 8, 16, 32, 48};
	*b = (struct plan_bound){.share = 1 + (uint32_t)__builtin_popcount(free_links)};
	uint64_t fine = memory ? usual_fine(q) : 0;
	init_run(b, q, k);
	for (unsigned w = 0; w < ARRAY_LEN(weights); w++) {
		add_line(b, q, k, free_links, q->n, weights[w], 0);
		if (cut < q->n)
			add_line(b, q, k, free_links, cut, weights[w], 0);
		for (unsigned f = 0; memory && f < 5; f++)
			add_line(b, q, k, free_links, q->n, weights[w], fine << f >> 2);
	}
}

void plan_bound_fini(struct plan_bound *b)
{
	for (uint32_t i = 0; i < b->n_lines; i++)
		memory_free(b->lines[i].rest);
	memory_free(b->ahead);
	memory_free(b->run);
	memory_free(b->run_bytes);
	memory_free(b->must_bytes);
	*b = (struct plan_bound){0};
}

uint64_t plan_bound_total(const struct plan_bound *b, uint32_t i, uint64_t f, uint64_t z, uint64_t m)
{
	int64_t most = (int64_t)(z + b->run[i]);
	for (uint32_t k = 0; k < b->n_lines; k++) {
		const struct plan_bound_line *l = &b->lines[k];
		int64_t v = (int64_t)(l->weight * z + (64 - l->weight) * f / b->share) + l->rest[i];
		if (l->fine)
			v += fine_of(l->fine, m);
		v = v / 64 - (v < 0);
		most = MAX(most, v);
	}
	return (uint64_t)most;
}
