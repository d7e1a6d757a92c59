/* plan_deepplan.c - DeepPlan's plans as its published code makes them, to be compared with: the greedy choice of layers that
 * are read from the host (plan.py, DYNAMIC) and the split by bytes (model.cpp).
 * Keeps: its defects.  The break at the first layer that does not qualify, stalls that stay as they were while one is
 * being worked off, traffic that costs nothing, parts of equal bytes whatever the links' rates. */
#include "cache/memory.h"
#include "cache/plan_impl.h"

struct trace {
	uint64_t stall;
	bool dha;
};

struct greedy {
	const struct plan_problem *q;
	struct trace *traces;
	uint32_t *order; /* the layers up to a stall, the best candidate first */
	bool *shared;    /* another layer has its bytes */
};

/* What it calls the load time of a layer: a copy of its own. */
static uint64_t load_ns(const struct plan_problem *q, uint32_t i)
{
	return q->items[i].piece_ns[0];
}

static bool is_nothing(const struct plan_problem *q, uint32_t i)
{
	return plan_is_owed(q, q->how, i);
}

/* How much longer it runs from the host; a layer that cannot is never taken, nor one whose bytes another has, which its planner knows
 * nothing of. */
static int64_t gap_ns(const struct greedy *g, uint32_t i)
{
	const struct plan_item *item = &g->q->items[i];
	return item->dha_ns && !g->shared[i] ? (int64_t)item->dha_ns - (int64_t)item->exec_ns : INT64_MAX;
}

/* update_PEF(): where it stalls, with what is chosen now. */
static void predict(struct greedy *g)
{
	const struct plan_problem *q = g->q;
	uint64_t run = 0, loaded = 0;
	for (uint32_t i = 0; i < q->n; i++) {
		struct trace *t = &g->traces[i];
		t->stall = 0;
		if (t->dha) {
			run += q->items[i].dha_ns;
			continue;
		}
		if (!is_nothing(q, i)) {
			loaded += load_ns(q, i);
			t->stall = loaded > run ? loaded - run : 0;
		}
		run += t->stall + q->items[i].exec_ns;
	}
}

/* (gap ascending, load descending), stable. */
static bool goes_before(const struct greedy *g, uint32_t a, uint32_t b)
{
	int64_t x = gap_ns(g, a), y = gap_ns(g, b);
	return x < y || (x == y && load_ns(g->q, a) > load_ns(g->q, b));
}

/* One more layer is a candidate; the order of those that were does not change. */
static void insert(struct greedy *g, uint32_t layer)
{
	uint32_t at = layer;
	for (; at > 0 && goes_before(g, layer, g->order[at - 1]); at--)
		g->order[at] = g->order[at - 1];
	g->order[at] = layer;
}

/* Works on the stall of layer `at` with the layers up to it. */
static void relieve(struct greedy *g, uint32_t at)
{
	const struct plan_problem *q = g->q;
	int64_t stall = (int64_t)g->traces[at].stall;
	for (uint32_t k = 0; k <= at; k++) {
		uint32_t i = g->order[k];
		int64_t gap = gap_ns(g, i), load = (int64_t)load_ns(q, i);
		if (g->traces[i].dha || is_nothing(q, i))
			continue;
		if (gap > load + load / 2 || stall < gap)
			return;
		g->traces[i].dha = true;
		stall -= load + gap;
		if (stall <= 0) {
			predict(g);
			return;
		}
	}
}

/* traces[i].dha of all layers. */
static void choose(struct greedy *g)
{
	predict(g);
	for (uint32_t i = 0; i < g->q->n; i++) {
		insert(g, i);
		if (g->traces[i].stall)
			relieve(g, i);
	}
}

static void choose_greedily(struct plan_problem *q)
{
	struct greedy g = {.q = q, .traces = memory_new(q->n * sizeof *g.traces), .order = memory_new(q->n * sizeof *g.order),
		.shared = memory_new(q->n * sizeof *g.shared)};
	for (uint32_t i = 0; i < q->n; i++)
		if (q->items[i].first != i)
			g.shared[i] = g.shared[q->items[i].first] = true;
	choose(&g);
	for (uint32_t i = 0; i < q->n; i++)
		if (g.traces[i].dha)
			q->how[i] = PLAN_DHA;
	memory_free(g.traces);
	memory_free(g.order);
	memory_free(g.shared);
}

/* What is to be loaded, in parts of about equal bytes: the layer that overflows a part opens the next. */
static void split_by_bytes(struct plan_problem *q)
{
	uint64_t all = 0, part = 0;
	unsigned k = 0;
	for (uint32_t i = 0; i < q->n; i++)
		all += plan_is_load(q->how[i]) ? q->items[i].bytes : 0;
	for (uint32_t i = 0; i < q->n; i++) {
		if (!plan_is_load(q->how[i]))
			continue;
		if (part + q->items[i].bytes > all / q->n_links && k + 1 < q->n_links) {
			k++;
			part = 0;
		}
		part += q->items[i].bytes;
		q->how[i] = q->links[k];
	}
}

int plan_make_deepplan_dha(struct plan_problem *q)
{
	plan_make_pipelined(q);
	choose_greedily(q);
	return 0;
}

int plan_make_deepplan_pt(struct plan_problem *q)
{
	plan_make_pipelined(q);
	split_by_bytes(q);
	return 0;
}

int plan_make_deepplan(struct plan_problem *q)
{
	plan_make_pipelined(q);
	choose_greedily(q);
	split_by_bytes(q);
	return 0;
}
