/* plan_bound.c - see plan_bound.h.  Sums once per pass, but what is allowed whenever a better plan is known. */
#include "cache/plan_bound.h"

#include "cache/memory.h"

#define ONE PLAN_BOUND_ONE
#define FINE_BITS 16
#define ROUNDS 32          /* of sharpening, each goes through the stretch; for a wide pass, a narrow one, and to try a fine */
#define FEW_ROUNDS 10
#define FINE_ROUNDS 12
#define SHIFT 6            /* hundredths of a stretch by which its begin is varied */
#define ENTRY_STEPS 8
#define NO_NEED (INT64_MIN / 4)
#define NO_ROOM (INT64_MIN / 4)    /* and what is below it */
#define IMPOSSIBLE (INT64_MAX / 4)

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

static uint64_t traffic_of(const struct plan_item *item, unsigned link)
{
	return link ? 0 : item->traffic_ns;
}

/* ---- running without a stall ---- */

static void init_run(struct plan_bound *b, const struct plan_problem *q)
{
	unsigned k = b->link;
	b->ahead[q->n] = NO_NEED;
	for (uint32_t i = q->n; i-- > 0;) {
		const struct plan_item *item = &q->items[i];
		bool dha = plan_runs_by_dha(item), load = !dha && may_load(item);
		int64_t run = (int64_t)(dha ? item->dha_ns : item->exec_ns), link = 0;
		if (dha)
			link = (int64_t)traffic_of(item, k);
		else if (load)
			link = (int64_t)item->piece_ns[k];
		b->ahead[i] = MAX(b->ahead[i + 1], NO_NEED) + link - run;
		if (load)
			b->ahead[i] = MAX(b->ahead[i], link + (int64_t)q->hop_ns[k]);
		b->run[i] = b->run[i + 1] + (uint64_t)run;
		b->run_bytes[i] = b->run_bytes[i + 1] + (load ? item->bytes : 0);
		b->must_bytes[i] = b->must_bytes[i + 1] + (may_load(item) && !may_dha(item) ? item->bytes : 0);
	}
}

/* ---- lines ---- */

static int64_t fine_of(uint64_t fine, uint64_t bytes)
{
	return (int64_t)((unsigned __int128)fine * bytes >> FINE_BITS);
}

/* What a layer costs where the link weighs `weight`, by each of its choices. */
struct costs {
	int64_t piece, load, read; /* load in a piece of its own, likewise joined, read from the host; IMPOSSIBLE */
	bool owed;                 /* no choice: `load` it is, and an open piece stays open */
};

static struct costs costs_of(const struct plan_bound *b, const struct plan_problem *q, uint32_t i, uint64_t weight,
	uint64_t fine)
{
	const struct plan_item *item = &q->items[i];
	struct costs c = {.piece = IMPOSSIBLE, .load = IMPOSSIBLE, .read = IMPOSSIBLE, .owed = item->fate == PLAN_OWED};
	if (c.owed)
		c.load = (int64_t)((ONE - weight) * item->exec_ns);
	if (may_load(item)) {
		c.load = (int64_t)((ONE - weight) * item->exec_ns + weight * item->load_ns[b->link]) + fine_of(fine, item->bytes);
		c.piece = c.load + (int64_t)(weight * (item->piece_ns[b->link] - item->load_ns[b->link]));
	}
	if (may_dha(item))
		c.read = (int64_t)((ONE - weight) * item->dha_ns + weight * traffic_of(item, b->link));
	return c;
}

/* What is left before a layer of what is left behind it (closed, open). */
static void step_back(const struct costs *c, const int64_t behind[2], int64_t before[2])
{
	for (unsigned open = 0; open < 2; open++)
		if (c->owed)
			before[open] = behind[open] - c->load;
		else
			before[open] = MAX(behind[1] - (open ? c->load : c->piece), behind[0] - c->read);
}

static struct plan_bound_line *add_line(struct plan_bound *b, const struct plan_problem *q, uint64_t fine)
{
	struct plan_bound_line *l = &b->lines[b->n_lines++];
	ASSERT(b->n_lines <= PLAN_BOUND_LINES);
	l->fine = fine;
	l->weight = memory_new((q->n + 1) * sizeof *l->weight);
	for (unsigned open = 0; open < 2; open++)
		l->allowed[open] = memory_new((q->n + 1) * sizeof *l->allowed[open]);
	return l;
}

static void add_level_line(struct plan_bound *b, const struct plan_problem *q, uint32_t weight)
{
	struct plan_bound_line *l = add_line(b, q, 0);
	for (uint32_t i = 0; i <= q->n; i++)
		l->weight[i] = weight;
}

/* Weights of a stretch, by fictitious play: each round puts some of the mean on the path that is longest for the choices that
 * the mean so far leads to. */
struct sharpening {
	const struct plan_bound *b;
	const struct plan_problem *q;
	struct plan_stretch at;
	uint64_t fine;
	uint32_t *mass;      /* of the path that leaves the link behind layer j; [n]: that never is on it */
	uint32_t *weight;
	int64_t (*left)[2];  /* of nothing, at each layer */
};

/* What the line is worth at the end of the stretch. */
static int64_t value_of(struct sharpening *sh)
{
	uint32_t weight = ONE - sh->mass[sh->q->n], first = weight;
	for (uint32_t i = sh->at.from; i < sh->at.to; i++) {
		sh->weight[i] = weight;
		weight -= sh->mass[i];
	}
	sh->left[sh->at.to][0] = sh->left[sh->at.to][1] = 0;
	for (uint32_t i = sh->at.to; i-- > sh->at.from;) {
		struct costs c = costs_of(sh->b, sh->q, i, sh->weight[i], sh->fine);
		step_back(&c, sh->left[i + 1], sh->left[i]);
	}
	return (int64_t)((ONE - first) * sh->at.run) - sh->left[sh->at.from][0];
}

/* The best choices one after the other: how long the layers before i take on the link, and how long they run. */
struct walk {
	uint64_t link, run;
	bool open;
};

static void walk_on(const struct sharpening *sh, uint32_t i, struct walk *w)
{
	const struct plan_item *item = &sh->q->items[i];
	struct costs c = costs_of(sh->b, sh->q, i, sh->weight[i], sh->fine);
	int64_t load = w->open ? c.load : c.piece;
	if (c.owed || sh->left[i + 1][1] - load >= sh->left[i + 1][0] - c.read)
		w->run += item->exec_ns;
	else
		w->run += item->dha_ns;
	if (c.owed)
		return;
	if (sh->left[i + 1][1] - load >= sh->left[i + 1][0] - c.read) {
		w->link += w->open ? item->load_ns[sh->b->link] : item->piece_ns[sh->b->link];
		w->open = true;
	} else {
		w->link += traffic_of(item, sh->b->link);
		w->open = false;
	}
}

/* The layer behind which the longest path leaves the link, or n: paths differ by link less run up to there. */
static uint32_t longest_path(const struct sharpening *sh)
{
	struct walk w = {0};
	int64_t most = (int64_t)sh->at.run;
	uint32_t best = sh->q->n;
	for (uint32_t i = sh->at.from; i < sh->at.to; i++) {
		walk_on(sh, i, &w);
		if ((int64_t)(w.link - w.run) > most) {
			most = (int64_t)(w.link - w.run);
			best = i;
		}
	}
	return best;
}

/* A share of 2/(round + 2) of the mass goes to one path. */
static void shift_mass(struct sharpening *sh, uint32_t round, uint32_t path)
{
	uint32_t kept = 0;
	for (uint32_t i = sh->at.from; i <= sh->q->n; i = i + 1 == sh->at.to ? sh->q->n : i + 1) {
		sh->mass[i] = (uint32_t)((uint64_t)sh->mass[i] * round / (round + 2));
		kept += sh->mass[i];
	}
	sh->mass[path] += ONE - kept;
}

/* Before the stretch and behind it the weights are as at its ends. */
static void take_weights(const struct sharpening *sh, struct plan_bound_line *l)
{
	for (uint32_t i = 0; i <= sh->q->n; i++)
		l->weight[i] = sh->weight[MIN(MAX(i, sh->at.from), sh->at.to - 1)];
}

static void sharpening_init(struct sharpening *sh, const struct plan_bound *b, const struct plan_problem *q,
	const struct plan_stretch *at, uint64_t fine)
{
	*sh = (struct sharpening){.b = b, .q = q, .at = *at, .fine = fine, .mass = memory_new((q->n + 1) * sizeof *sh->mass),
		.weight = memory_new((q->n + 1) * sizeof *sh->weight), .left = memory_new((q->n + 1) * sizeof *sh->left)};
	sh->mass[at->to - 1] = ONE;
}

static void sharpening_fini(struct sharpening *sh)
{
	memory_free(sh->mass);
	memory_free(sh->weight);
	memory_free(sh->left);
}

/* The most that the line was worth; its weights then into *l, which may be NULL. */
static int64_t sharpen(struct sharpening *sh, uint32_t rounds, struct plan_bound_line *l)
{
	int64_t most = INT64_MIN;
	for (uint32_t round = 0; round < rounds; round++) {
		int64_t value = value_of(sh);
		if (value > most && l)
			take_weights(sh, l);
		most = MAX(most, value);
		shift_mass(sh, round, longest_path(sh));
	}
	return most;
}

static void add_sharp_line(struct plan_bound *b, const struct plan_problem *q, const struct plan_stretch *at, uint64_t fine,
	uint32_t rounds)
{
	struct plan_bound_line *l = add_line(b, q, fine);
	struct sharpening sh;
	sharpening_init(&sh, b, q, at, fine);
	sharpen(&sh, rounds, l);
	sharpening_fini(&sh);
}

/* For a part that begins so many hundredths of the stretch later, at a run time in proportion. */
static void add_shifted_line(struct plan_bound *b, const struct plan_problem *q, const struct plan_stretch *at, int hundredths,
	uint32_t rounds)
{
	struct plan_stretch there = *at;
	int64_t from = (int64_t)at->from + ((int64_t)at->to - at->from) * hundredths / 100;
	there.from = (uint32_t)MIN(MAX(from, 0), (int64_t)at->to - 1);
	there.run = at->from ? at->run / at->from * there.from : 0;
	if (there.from != at->from)
		add_sharp_line(b, q, &there, 0, rounds);
}

/* What the mean byte takes on the target's link. */
static uint64_t usual_fine(const struct plan_problem *q)
{
	uint64_t ns = 0, bytes = 1;
	for (uint32_t i = 0; i < q->n; i++) {
		ns += q->items[i].load_ns[0];
		bytes += q->items[i].bytes;
	}
	return (uint64_t)(((unsigned __int128)ns * ONE << FINE_BITS) / bytes);
}

/* Tried in steps of two, then of eighths. */
uint64_t plan_bound_fine(const struct plan_problem *q, unsigned link)
{
	const struct plan_bound on_link = {.link = link};
	static const unsigned fines[] = {5, 6, 7, 9, 10, 11, 12};
	const struct plan_stretch all = {0, q->n, 0};
	uint64_t usual = usual_fine(q), best = usual;
	int64_t most = INT64_MIN;
	for (unsigned k = 0; k < 16; k++) {
		uint64_t fine = k < 9 ? (usual << k) >> 3 : best / 8 * fines[k - 9];
		struct sharpening sh;
		sharpening_init(&sh, &on_link, q, &all, fine);
		int64_t value = sharpen(&sh, FINE_ROUNDS, NULL) - fine_of(fine, q->memory_bytes);
		sharpening_fini(&sh);
		if (value > most) {
			most = value;
			best = fine;
		}
	}
	return best;
}

void plan_bound_init(struct plan_bound *b, const struct plan_problem *q, unsigned link, const struct plan_stretch *stretch,
	uint64_t fine, bool wide)
{
	uint32_t rounds = wide ? ROUNDS : FEW_ROUNDS;
	*b = (struct plan_bound){.link = link, .ahead = memory_new((q->n + 1) * sizeof *b->ahead),
		.run = memory_new((q->n + 1) * sizeof *b->run), .run_bytes = memory_new((q->n + 1) * sizeof *b->run_bytes),
		.must_bytes = memory_new((q->n + 1) * sizeof *b->must_bytes)};
	init_run(b, q);
	add_level_line(b, q, 0);
	add_level_line(b, q, ONE);
	add_level_line(b, q, ONE / 2);
	add_level_line(b, q, ONE / 4 * 3);
	if (stretch->from < stretch->to)
		add_sharp_line(b, q, stretch, 0, rounds);
	for (int k = -2; wide && stretch->from && stretch->from < stretch->to && k <= 2; k++)
		add_shifted_line(b, q, stretch, k * SHIFT, rounds);
	for (unsigned k = 0; fine && k < 5; k++)
		add_sharp_line(b, q, &(struct plan_stretch){0, q->n, 0}, fine / 4 * (k + 2), rounds);
}

void plan_bound_fini(struct plan_bound *b)
{
	for (uint32_t i = 0; i < b->n_lines; i++) {
		memory_free(b->lines[i].weight);
		memory_free(b->lines[i].allowed[0]);
		memory_free(b->lines[i].allowed[1]);
	}
	memory_free(b->ahead);
	memory_free(b->run);
	memory_free(b->run_bytes);
	memory_free(b->must_bytes);
	*b = (struct plan_bound){0};
}

/* ---- what is allowed ---- */

int64_t plan_bound_entry(const struct plan_bound *b, uint32_t i, uint64_t m)
{
	int64_t most = INT64_MAX / ONE / 4;
	for (uint32_t k = 0; k < b->n_lines; k++) {
		const struct plan_bound_line *l = &b->lines[k];
		int64_t left = l->allowed[0][i] - fine_of(l->fine, m);
		int64_t weight = (int64_t)ONE - l->weight[i];
		if (left < 0)
			return -1;
		if (weight)
			most = MIN(most, left / weight);
	}
	return most;
}

/* The most that run time and fine can come to where the next part begins before layer i: the later it may begin, the less is
 * loaded by then; looked at in steps.  Negative: it cannot begin there. */
static int64_t most_at_entry(const struct plan_bound *next, uint32_t i, const struct plan_bound_line *l, uint64_t memory)
{
	unsigned steps = l->fine ? ENTRY_STEPS : 1;
	int64_t most = -1;
	for (unsigned k = 0; k < steps; k++) {
		int64_t run = plan_bound_entry(next, i, memory / steps * k);
		if (run >= 0)
			most = MAX(most, run * ONE + fine_of(l->fine, memory / steps * (k + 1) + steps) + 1);
	}
	return most;
}

void plan_bound_allow(struct plan_bound *b, const struct plan_problem *q, uint64_t below, const struct plan_bound *const *next,
	unsigned n_next)
{
	uint64_t memory = q->memory_bytes == UINT64_MAX ? 0 : q->memory_bytes;
	for (uint32_t k = 0; k < b->n_lines; k++) {
		struct plan_bound_line *l = &b->lines[k];
		int64_t behind[2];
		behind[0] = behind[1] = ((int64_t)below - 1) * ONE + fine_of(l->fine, memory) + 1;
		for (uint32_t i = q->n;; i--) {
			l->allowed[0][i] = MAX(behind[0], NO_ROOM);
			l->allowed[1][i] = MAX(behind[1], NO_ROOM);
			if (i == 0)
				break;
			struct costs c = costs_of(b, q, i - 1, l->weight[i - 1], l->fine);
			int64_t before[2];
			step_back(&c, (int64_t[]){l->allowed[0][i], l->allowed[1][i]}, before);
			for (unsigned e = 0; e < n_next; e++) {
				int64_t most = most_at_entry(next[e], i - 1, l, memory);
				before[0] = MAX(before[0], most >= 0 ? most : NO_ROOM);
				before[1] = MAX(before[1], most >= 0 ? most : NO_ROOM);
			}
			memcpy(behind, before, sizeof behind);
		}
	}
}

int64_t plan_bound_excess(const struct plan_bound *b, uint32_t i, uint64_t f, uint64_t z, uint64_t m, bool open)
{
	int64_t most = INT64_MIN;
	for (uint32_t k = 0; k < b->n_lines; k++) {
		const struct plan_bound_line *l = &b->lines[k];
		int64_t has = (int64_t)(l->weight[i] * f + (ONE - l->weight[i]) * z);
		if (l->fine)
			has += fine_of(l->fine, m);
		most = MAX(most, has - l->allowed[open][i]);
	}
	return most;
}
