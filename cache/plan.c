/* plan.c - profiles and machines checked and turned into times; the timeline of a plan; the policies' table.
 * Keeps: no plan leaves plan_make() that plan_predict() would refuse. */
#include "cache/plan.h"

#include "cache/memory.h"
#include "cache/plan_impl.h"

#include <errno.h>

static const struct policy {
	const char *name, *doc;
	int (*make)(struct plan_problem *q);
} policies[] = {
#define PLAN_POLICY(NAME, name, function, doc) {name, doc, function},
#include "cache/planpolicies.def"
#undef PLAN_POLICY
};

const char *plan_policy_name(unsigned policy)
{
	return policy < ARRAY_LEN(policies) ? policies[policy].name : NULL;
}

const char *plan_policy_doc(unsigned policy)
{
	return policy < ARRAY_LEN(policies) ? policies[policy].doc : NULL;
}

enum plan_policy plan_policy_find(const char *name)
{
	unsigned i = 0;
	while (i < ARRAY_LEN(policies) && strcmp(policies[i].name, name) != 0)
		i++;
	return (enum plan_policy)i;
}

/* ---- what comes in ---- */

static bool layer_is_valid(const struct plan_profile *p, uint32_t i)
{
	const struct plan_layer *l = &p->layers[i];
	if (l->bytes > PLAN_MAX_BYTES || l->touched_bytes > PLAN_MAX_BYTES || l->exec_ns > PLAN_MAX_NS ||
		l->dha_ns > PLAN_MAX_NS || l->copy_ns > PLAN_MAX_NS)
		return false;
	if (!l->same_as)
		return true;
	return l->same_as <= i && !p->layers[l->same_as - 1].same_as && p->layers[l->same_as - 1].bytes == l->bytes &&
		l->bytes;
}

int plan_check_profile(const struct plan_profile *p, uint32_t *layer)
{
	uint32_t nowhere, *at = layer ? layer : &nowhere;
	uint64_t ways = 1;
	*at = UINT32_MAX;
	if (p->n_layers == 0 || p->n_layers > PLAN_MAX_LAYERS)
		return -EINVAL;
	for (uint32_t i = 0; i < p->n_layers; i++) {
		uint32_t first = p->layers[i].same_as;
		*at = i;
		if (!layer_is_valid(p, i))
			return -EINVAL;
		/* Once for each that is shared: at its first sharer. */
		if (!first || !p->layers[first - 1].dha_ns)
			continue;
		bool seen = false;
		for (uint32_t k = first; k < i && !seen; k++)
			seen = p->layers[k].same_as == first;
		if (!seen && (ways *= 2) > PLAN_MAX_SHARINGS)
			return -EINVAL;
	}
	*at = UINT32_MAX;
	return 0;
}

int plan_check_machine(const struct plan_machine *m)
{
	if (m->n_links == 0 || m->n_links > PLAN_MAX_LINKS || m->target >= m->n_links || m->chunk_bytes == 0 ||
		m->chunk_bytes > PLAN_MAX_BYTES)
		return -EINVAL;
	for (uint32_t i = 0; i < m->n_links; i++) {
		const struct plan_link *l = &m->links[i];
		if (l->bytes_per_s == 0 || l->bytes_per_s > PLAN_MAX_RATE || l->hop_bytes_per_s > PLAN_MAX_RATE ||
			l->overhead_ns > PLAN_MAX_NS)
			return -EINVAL;
	}
	return 0;
}

static uint64_t rate_of(const struct plan_machine *m, unsigned link)
{
	const struct plan_link *l = &m->links[link];
	return link == m->target ? l->bytes_per_s : MIN(l->bytes_per_s, l->hop_bytes_per_s);
}

/* Nobody uses it, the target can be reached, and it shares nothing with those that were taken. */
static bool is_apart(const struct plan_machine *m, unsigned link, const uint8_t *taken, unsigned n)
{
	if (link == m->target || m->links[link].busy || !m->links[link].hop_bytes_per_s)
		return false;
	for (unsigned i = 0; i < n; i++)
		if (m->links[taken[i]].group == m->links[link].group)
			return false;
	return true;
}

unsigned plan_usable_links(const struct plan_machine *m, uint8_t links[PLAN_MAX_PARTS])
{
	unsigned n = 0;
	for (links[n++] = (uint8_t)m->target; n < PLAN_MAX_PARTS; n++) {
		unsigned best = PLAN_MAX_LINKS;
		for (unsigned i = 0; i < m->n_links; i++)
			if (is_apart(m, i, links, n) && (best == PLAN_MAX_LINKS || rate_of(m, i) > rate_of(m, best)))
				best = i;
		if (best == PLAN_MAX_LINKS)
			break;
		links[n] = (uint8_t)best;
	}
	return n;
}

/* a * b / c, rounded up; UINT64_MAX where that is too much. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c)
{
	unsigned __int128 v = ((unsigned __int128)a * b + c - 1) / c;
	return v > UINT64_MAX ? UINT64_MAX : (uint64_t)v;
}

static struct plan_item item_of(const struct plan_problem *q, uint32_t i)
{
	const struct plan_layer *l = &q->profile->layers[i];
	const struct plan_machine *m = q->machine;
	uint64_t own = rate_of(m, m->target);
	struct plan_item item = {.exec_ns = l->exec_ns, .bytes = l->bytes, .fate = l->bytes ? PLAN_FREE : PLAN_OWED,
		.first = l->same_as ? l->same_as - 1 : i, .dha_ns = m->dha ? l->dha_ns : 0};
	item.traffic_ns = MIN(scale(l->touched_bytes, NS_PER_S, own), item.dha_ns);
	for (unsigned k = 0; k < q->n_links; k++) {
		uint64_t rate = rate_of(m, q->links[k]);
		item.load_ns[k] = l->copy_ns ? scale(l->copy_ns, own, rate) : scale(l->bytes, NS_PER_S, rate);
		item.piece_ns[k] = item.load_ns[k] + (l->bytes < m->chunk_bytes ? m->links[q->links[k]].overhead_ns : 0);
	}
	return item;
}

/* No plan takes PLAN_MAX_TOTAL_NS, and sums of times do not overflow. */
static bool times_fit(const struct plan_problem *q)
{
	uint64_t total = 0;
	for (unsigned k = 0; k < q->n_links; k++)
		for (uint32_t i = 0; i < q->n; i++) {
			const struct plan_item *item = &q->items[i];
			if (item->piece_ns[k] > PLAN_MAX_NS || q->hop_ns[k] > PLAN_MAX_NS)
				return false;
			total += item->piece_ns[k] + q->hop_ns[k] + item->exec_ns + item->dha_ns;
		}
	return total < PLAN_MAX_TOTAL_NS;
}

int plan_problem_init(struct plan_problem *q, const struct plan_profile *p, const struct plan_machine *m)
{
	if (plan_check_machine(m) || plan_check_profile(p, NULL))
		return -EINVAL;
	*q = (struct plan_problem){.profile = p, .machine = m, .n = p->n_layers, .bound_ns = UINT64_MAX,
		.memory_bytes = m->memory_bytes ? m->memory_bytes : UINT64_MAX};
	q->n_links = plan_usable_links(m, q->links);
	for (unsigned k = 0; k < q->n_links; k++) {
		const struct plan_link *l = &m->links[q->links[k]];
		q->hop_ns[k] = k ? scale(m->chunk_bytes, NS_PER_S, l->hop_bytes_per_s) : 0;
	}
	q->items = memory_new(q->n * sizeof *q->items);
	for (uint32_t i = 0; i < q->n; i++)
		q->items[i] = item_of(q, i);
	if (times_fit(q))
		return 0;
	plan_problem_fini(q);
	return -EINVAL;
}

void plan_problem_fini(struct plan_problem *q)
{
	memory_free(q->items);
	*q = (struct plan_problem){0};
}

bool plan_is_owed(const struct plan_problem *q, const uint8_t *how, uint32_t layer)
{
	const struct plan_item *item = &q->items[layer];
	for (uint32_t i = item->first; i < layer; i++)
		if (q->items[i].first == item->first && plan_is_load(how[i]))
			return true;
	return item->bytes == 0;
}

void plan_settle(const struct plan_problem *q, uint8_t *how)
{
	for (uint32_t i = 0; i < q->n; i++)
		if (plan_is_owed(q, how, i))
			how[i] = PLAN_NOTHING;
}

/* ---- the timeline ---- */

/* A plan being played. */
struct play {
	const struct plan_problem *q;
	const uint8_t *how;
	uint32_t resident;
	enum plan_charge charge;
	uint64_t frontier[PLAN_MAX_PARTS]; /* when each usable link has served what it was given so far */
	uint64_t begin[PLAN_MAX_PARTS];    /* where the next layer of the open piece begins */
	uint64_t ready[PLAN_MAX_PARTS];    /* when the open piece has arrived */
	uint64_t run;
	bool used[PLAN_MAX_PARTS];
	bool open;                         /* there is a piece that a layer could be joined to */
	bool begun;                        /* some of it is loaded, not in device memory already */
	uint64_t overhead;                 /* that it costs, whether or not its first layers are there already */
	unsigned part;                     /* the link of the part that is open */
};

/* Index among the usable links; PLAN_MAX_PARTS: the plan must not use it. */
static unsigned usable_index(const struct plan_problem *q, uint8_t how)
{
	unsigned k = 0;
	if (how & 0x70)
		return PLAN_MAX_PARTS;
	while (k < q->n_links && q->links[k] != plan_link(how))
		k++;
	return k < q->n_links ? k : PLAN_MAX_PARTS;
}

/* The bytes of the piece that begins with `layer` take so long on link k. */
static uint64_t piece_ns(const struct play *p, uint32_t layer, unsigned k)
{
	uint64_t ns = p->q->items[layer].load_ns[k];
	for (uint32_t i = layer + 1; i < p->q->n; i++) {
		if (p->how[i] == PLAN_NOTHING)
			continue;
		if (!plan_is_load(p->how[i]) || !(p->how[i] & PLAN_JOIN))
			break;
		ns += p->q->items[i].load_ns[k];
	}
	return ns;
}

/* The piece that layer i is in begins with it: where its bytes begin and arrive. */
static void begin_piece(struct play *p, uint32_t i, unsigned k, struct plan_figures *out)
{
	p->begin[k] = p->frontier[k] + p->overhead;
	p->frontier[k] = p->begin[k] + piece_ns(p, i, k);
	p->ready[k] = p->frontier[k] + p->q->hop_ns[k];
	p->begun = true;
	out->pieces++;
}

static int play_load(struct play *p, uint32_t i, struct plan_step *step, struct plan_figures *out)
{
	const struct plan_problem *q = p->q;
	const struct plan_item *item = &q->items[i];
	unsigned k = usable_index(q, p->how[i]);
	bool joins = p->how[i] & PLAN_JOIN;
	if (k == PLAN_MAX_PARTS || (k != p->part && (p->used[k] || k == 0)) || (joins && (k != p->part || !p->open)))
		return -EDOM;
	p->part = k;
	p->used[k] = p->open = true;
	out->resident_bytes += item->bytes;
	if (!joins) {
		p->begun = false;
		p->overhead = item->piece_ns[k] - item->load_ns[k];
	}
	if (i < p->resident) {
		*step = (struct plan_step){.exec_begin_ns = p->run, .exec_end_ns = p->run + item->exec_ns};
		return out->resident_bytes > q->memory_bytes ? -EDOM : 0;
	}
	if (!p->begun)
		begin_piece(p, i, k, out);
	step->load_begin_ns = p->begin[k];
	step->load_end_ns = p->begin[k] += item->load_ns[k];
	step->ready_ns = p->ready[k];
	step->exec_begin_ns = MAX(p->run, step->ready_ns);
	step->stall_ns = step->exec_begin_ns - p->run;
	step->exec_end_ns = step->exec_begin_ns + item->exec_ns;
	out->link_bytes[q->links[k]] += item->bytes;
	return out->resident_bytes > q->memory_bytes ? -EDOM : 0;
}

static int play_dha(struct play *p, uint32_t i, struct plan_step *step, struct plan_figures *out)
{
	const struct plan_item *item = &p->q->items[i];
	if (!item->dha_ns)
		return -EDOM;
	if (p->charge == PLAN_CHARGED) {
		step->load_begin_ns = p->frontier[0];
		step->load_end_ns = p->frontier[0] += item->traffic_ns;
	}
	p->open = false;
	step->exec_begin_ns = p->run;
	step->exec_end_ns = p->run + item->dha_ns;
	out->dha_layers++;
	out->dha_bytes += p->q->profile->layers[i].touched_bytes;
	return 0;
}

static int play_layer(struct play *p, uint32_t i, struct plan_step *step, struct plan_figures *out)
{
	bool nothing = p->how[i] == PLAN_NOTHING;
	int r = 0;
	*step = (struct plan_step){0};
	if (nothing != plan_is_owed(p->q, p->how, i) || (p->q->items[i].first != i && plan_is_load(p->how[i])))
		return -EDOM;
	if (nothing)
		*step = (struct plan_step){.exec_begin_ns = p->run, .exec_end_ns = p->run + p->q->items[i].exec_ns};
	else if (p->how[i] == PLAN_DHA)
		r = play_dha(p, i, step, out);
	else
		r = play_load(p, i, step, out);
	p->run = step->exec_end_ns;
	out->stall_ns += step->stall_ns;
	return r;
}

int plan_play(const struct plan_problem *q, const uint8_t *how, uint32_t resident, enum plan_charge charge,
	struct plan_step *steps, struct plan_figures *out)
{
	struct play p = {.q = q, .how = how, .resident = resident, .charge = charge};
	struct plan_step step;
	*out = (struct plan_figures){0};
	for (uint32_t i = 0; i < q->n; i++) {
		int r = play_layer(&p, i, steps ? &steps[i] : &step, out);
		if (r)
			return r;
	}
	out->total_ns = p.run;
	return 0;
}

int plan_predict(const struct plan_profile *p, const struct plan_machine *m, const uint8_t *how, uint32_t resident,
	enum plan_charge charge, struct plan_step *steps, struct plan_figures *out)
{
	struct plan_problem q;
	int r = plan_problem_init(&q, p, m);
	if (r)
		return r;
	r = plan_play(&q, how, resident, charge, steps, out);
	plan_problem_fini(&q);
	return r;
}

int plan_keep(const struct plan_profile *p, const struct plan_machine *m, const uint8_t *how, uint32_t *layers,
	uint64_t *bytes)
{
	struct plan_problem q;
	struct plan_figures f;
	int r = plan_problem_init(&q, p, m);
	if (r)
		return r;
	uint32_t low = 0, high = q.n; /* more of them never stall more */
	r = plan_play(&q, how, q.n, PLAN_CHARGED, NULL, &f);
	while (r == 0 && low < high) {
		uint32_t middle = low + (high - low) / 2;
		r = plan_play(&q, how, middle, PLAN_CHARGED, NULL, &f);
		if (f.stall_ns)
			low = middle + 1;
		else
			high = middle;
	}
	*layers = low;
	*bytes = 0;
	for (uint32_t i = 0; r == 0 && i < low; i++)
		*bytes += plan_is_load(how[i]) ? q.items[i].bytes : 0;
	plan_problem_fini(&q);
	return r;
}

/* ---- policies ---- */

int plan_make(enum plan_policy policy, const struct plan_profile *p, const struct plan_machine *m, uint8_t *how,
	struct plan_figures *out)
{
	struct plan_problem q;
	int r = plan_problem_init(&q, p, m);
	if (r)
		return r;
	q.how = how;
	r = policies[policy].make(&q);
	if (r == 0) {
		plan_settle(&q, how);
		r = plan_play(&q, how, 0, PLAN_CHARGED, NULL, out);
		ASSERT(r == 0 || r == -EDOM);
		out->states = q.states;
		out->exact = !q.inexact;
		out->bound_ns = MIN(q.bound_ns, out->total_ns);
		r = r ? -ENOSPC : 0; /* what it wants loaded is too much: all else a policy keeps to */
	}
	plan_problem_fini(&q);
	return r;
}

/* Everything that has to be brought, over the target's link. */
static void load_everything(struct plan_problem *q, uint8_t join)
{
	bool first = true;
	memset(q->how, PLAN_NOTHING, q->n);
	for (uint32_t i = 0; i < q->n; i++) {
		if (plan_is_owed(q, q->how, i))
			continue;
		q->how[i] = (uint8_t)(q->links[0] | (first ? 0 : join));
		first = false;
	}
}

int plan_make_pipelined(struct plan_problem *q)
{
	load_everything(q, 0);
	return 0;
}

int plan_make_load_all(struct plan_problem *q)
{
	load_everything(q, PLAN_JOIN);
	return 0;
}
