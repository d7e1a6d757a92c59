/* plan_search.c - the shortest plan: a dynamic programme over the layers, see plan.h.
 *
 * A seat is a current link with the set of links used so far; each seat has a front of states.  A layer makes of each state
 * of a front its children: read from the host, a piece of its own, joined to the open piece, the first of a part on
 * a free link.  Children that cannot beat the best plan known are dropped at once, then those that another of the same seat
 * is no worse than; one that is far enough ahead of its link is finished at once (plan_bound.h).
 * A first pass keeps few states of each front and so finds a good plan; the second keeps all that may beat it.
 * Keeps: a dropped state can lead to nothing shorter than what is returned, or q->bound_ns is as low as it could lead. */
#include "cache/memory.h"
#include "cache/plan_bound.h"

#include <errno.h>

#define FIRST_WIDTH 24          /* states of a front in the first pass */
#define LAST_WIDTH 64           /* when PLAN_MAX_STATES are used up */
#define NO_STATE UINT32_MAX
#define NOT_OPEN UINT64_MAX     /* y without an open piece */
#define MAX_SEATS (1 + 3 * 4)   /* subsets of three links, times the one used last */

struct state {
	uint64_t f;      /* what the link has to do ends here */
	uint64_t z;      /* run time if the open piece ends here */
	uint64_t y;      /* run time as far as it follows from the open piece's end: arrival and what runs behind it */
	uint64_t m;      /* bytes loaded, if that counts */
	uint64_t bound;
	uint32_t parent;
	uint8_t how;
};

struct seat {
	unsigned link;          /* index among the usable ones */
	unsigned used;          /* bits of them */
	unsigned first[PLAN_MAX_PARTS]; /* seat to which a part on that link leads; MAX_SEATS: none */
	uint32_t from, to;      /* its front among the states */
	struct state *children;
	size_t n_children, cap;
	struct plan_bound bound;
};

struct search {
	struct plan_problem *q;
	struct plan_choice may;
	struct seat seats[MAX_SEATS];
	unsigned n_seats;
	struct state *states;
	size_t n_states, cap;
	uint32_t width;         /* of a front; 0: all */
	bool memory;            /* not all fit */
	uint64_t best;          /* total of the best plan known, in q->how unless nothing was found */
	bool found, narrowed;
	uint32_t cut;           /* the layer behind its last stall */
	/* The end of a better one. */
	uint32_t end_state, end_layer;
};

/* ---- seats ---- */

static bool same_link(const struct plan_problem *q, unsigned a, unsigned b)
{
	const struct plan_link *x = &q->machine->links[q->links[a]], *y = &q->machine->links[q->links[b]];
	return MIN(x->bytes_per_s, x->hop_bytes_per_s) == MIN(y->bytes_per_s, y->hop_bytes_per_s) &&
		x->overhead_ns == y->overhead_ns && q->hop_ns[a] == q->hop_ns[b];
}

/* Links that are the same are used in their order: another one gives the same totals. */
static bool may_follow(const struct plan_problem *q, unsigned used, unsigned link)
{
	if (used & 1u << link)
		return false;
	for (unsigned l = 1; l < link; l++)
		if (!(used & 1u << l) && same_link(q, l, link))
			return false;
	return true;
}

static unsigned seat_of(struct search *s, unsigned link, unsigned used)
{
	for (unsigned i = 0; i < s->n_seats; i++)
		if (s->seats[i].link == link && s->seats[i].used == used)
			return i;
	ASSERT(s->n_seats < MAX_SEATS);
	s->seats[s->n_seats] = (struct seat){.link = link, .used = used};
	return s->n_seats++;
}

static void make_seats(struct search *s)
{
	seat_of(s, 0, 1);
	for (unsigned i = 0; i < s->n_seats; i++)
		for (unsigned l = 0; l < PLAN_MAX_PARTS; l++) {
			bool may = s->may.part && l < s->q->n_links && may_follow(s->q, s->seats[i].used, l);
			unsigned next = may ? seat_of(s, l, s->seats[i].used | 1u << l) : MAX_SEATS;
			s->seats[i].first[l] = next;
		}
}

static unsigned free_links(const struct search *s, const struct seat *seat)
{
	return s->may.part ? ~seat->used & ((1u << s->q->n_links) - 1) : 0;
}

/* ---- states ---- */

/* A child of `parent` that has decided on all layers before i. */
static void put(struct search *s, struct seat *seat, uint32_t i, struct state c)
{
	const struct plan_bound *b = &seat->bound;
	if (s->memory && c.m + b->must_bytes[i] > s->q->memory_bytes)
		return;
	c.bound = plan_bound_total(b, i, c.f, c.z, c.m);
	if (s->found && c.bound >= s->best)
		return;
	if (seat->n_children == seat->cap)
		seat->children = memory_grow(seat->children, &seat->cap, sizeof *seat->children);
	seat->children[seat->n_children++] = c;
}

static void put_loaded(struct search *s, unsigned to, uint32_t i, const struct state *p, uint64_t f, uint8_t join)
{
	struct seat *seat = &s->seats[to];
	const struct plan_problem *q = s->q;
	const struct plan_item *item = &q->items[i];
	struct state c = {.parent = p->parent, .how = (uint8_t)(q->links[seat->link] | join)};
	if (join) {
		c.f = p->f + item->load_ns[seat->link];
		c.y = p->y + item->load_ns[seat->link];
	} else {
		c.f = f + q->overhead_ns[seat->link] + item->load_ns[seat->link];
		c.y = c.f + q->hop_ns[seat->link];
	}
	c.z = MAX(p->z, c.y) + item->exec_ns;
	c.y = s->may.join ? c.y + item->exec_ns : NOT_OPEN;
	c.m = s->memory ? p->m + item->bytes : 0;
	put(s, seat, i + 1, c);
}

static void put_other(struct search *s, unsigned at, uint32_t i, const struct state *p, uint8_t how)
{
	const struct plan_item *item = &s->q->items[i];
	uint64_t run = how == PLAN_DHA ? item->dha_ns : item->exec_ns;
	struct state c = *p;
	c.how = how;
	c.z += run;
	c.y += c.y == NOT_OPEN ? 0 : run;
	if (how == PLAN_DHA && s->seats[at].link == 0)
		c.f += item->traffic_ns;
	put(s, &s->seats[at], i + 1, c);
}

static void expand(struct search *s, unsigned at, uint32_t i, uint32_t index)
{
	const struct plan_item *item = &s->q->items[i];
	const struct seat *seat = &s->seats[at];
	struct state p = s->states[index];
	p.parent = index;
	if (item->fate == PLAN_OWED) {
		put_other(s, at, i, &p, PLAN_NOTHING);
		return;
	}
	if (item->dha_ns && item->fate != PLAN_MUST_LOAD)
		put_other(s, at, i, &p, PLAN_DHA);
	if (item->fate == PLAN_MUST_DHA)
		return;
	put_loaded(s, at, i, &p, p.f, 0);
	if (p.y != NOT_OPEN)
		put_loaded(s, at, i, &p, 0, PLAN_JOIN);
	for (unsigned l = 1; l < PLAN_MAX_PARTS; l++)
		if (seat->first[l] != MAX_SEATS)
			put_loaded(s, seat->first[l], i, &p, 0, 0);
}

/* ---- fronts ---- */

#define ORDER(a, b) ((a) < (b) ? -1 : (a) > (b) ? 1 : 0)

static int by_place(const void *va, const void *vb)
{
	const struct state *a = va, *b = vb;
	int r = ORDER(a->f, b->f);
	r = r ? r : ORDER(a->z, b->z);
	r = r ? r : ORDER(a->y, b->y);
	r = r ? r : ORDER(a->m, b->m);
	r = r ? r : ORDER(a->parent, b->parent);
	return r ? r : ORDER(a->how, b->how);
}

static int by_bound(const void *va, const void *vb)
{
	const struct state *a = va, *b = vb;
	int r = ORDER(a->bound, b->bound);
	return r ? r : by_place(va, vb);
}

/* Of states in the order of f, whether one of the first n is no worse than c.  Those that are likeliest to be: the last. */
static bool is_dominated(const struct state *kept, size_t n, const struct state *c)
{
	while (n-- > 0)
		if (kept[n].z <= c->z && kept[n].y <= c->y && kept[n].m <= c->m)
			return true;
	return false;
}

static void thin_out(struct seat *seat)
{
	size_t n = 0;
	qsort(seat->children, seat->n_children, sizeof *seat->children, by_place);
	for (size_t i = 0; i < seat->n_children; i++)
		if (!is_dominated(seat->children, n, &seat->children[i]))
			seat->children[n++] = seat->children[i];
	seat->n_children = n;
}

/* Keeps the most promising ones and notes what the others might have led to. */
static void narrow(struct search *s, struct seat *seat, size_t width, bool last)
{
	if (seat->n_children <= width)
		return;
	qsort(seat->children, seat->n_children, sizeof *seat->children, by_bound);
	if (last) {
		s->q->inexact = true;
		s->q->bound_ns = MIN(s->q->bound_ns, seat->children[width].bound);
	}
	s->narrowed = true;
	seat->n_children = width;
}

/* The best known total is no better than what c can still lead to. */
static bool is_hopeless(const struct search *s, const struct state *c)
{
	return s->found && c->bound >= s->best;
}

static void keep(struct search *s, const struct state *c)
{
	if (s->n_states == s->cap)
		s->states = memory_grow(s->states, &s->cap, sizeof *s->states);
	s->states[s->n_states++] = *c;
}

/* From here on it can run without a stall: nothing it leads to is better than that. */
static bool can_finish(const struct search *s, const struct seat *seat, const struct state *c, uint32_t i)
{
	const struct plan_bound *b = &seat->bound;
	return (int64_t)(c->z - c->f) >= b->ahead[i] && (!s->memory || c->m + b->run_bytes[i] <= s->q->memory_bytes);
}

/* The front before layer i becomes what was put for it, less what can be finished. */
static void commit(struct search *s, struct seat *seat, uint32_t i)
{
	size_t left = 0;
	thin_out(seat);
	for (size_t k = 0; k < seat->n_children; k++) {
		const struct state *c = &seat->children[k];
		if (!can_finish(s, seat, c, i)) {
			seat->children[left++] = *c;
			continue;
		}
		if (s->found && c->z + seat->bound.run[i] >= s->best)
			continue;
		keep(s, c);
		s->found = true;
		s->best = c->z + seat->bound.run[i];
		s->end_state = (uint32_t)s->n_states - 1;
		s->end_layer = i;
	}
	seat->n_children = left;
	if (s->width)
		narrow(s, seat, s->width, false);
	else if (s->n_states + left > PLAN_MAX_STATES)
		narrow(s, seat, LAST_WIDTH, true);
	seat->from = (uint32_t)s->n_states;
	for (size_t k = 0; k < seat->n_children; k++)
		if (!is_hopeless(s, &seat->children[k]))
			keep(s, &seat->children[k]);
	seat->to = (uint32_t)s->n_states;
	seat->n_children = 0;
}

/* ---- a pass ---- */

static uint8_t finishing(const struct search *s, const struct plan_item *item, unsigned link)
{
	if (item->fate == PLAN_OWED)
		return PLAN_NOTHING;
	return plan_runs_by_dha(item) ? PLAN_DHA : s->q->links[link];
}

/* The link on which the last of a state's ancestors loaded; the target's if none did. */
static unsigned link_before(const struct search *s, const uint8_t *how, uint32_t layer)
{
	while (layer-- > 0)
		for (unsigned k = 0; plan_is_load(how[layer]) && k < s->q->n_links; k++)
			if (s->q->links[k] == plan_link(how[layer]))
				return k;
	return 0;
}

static void write_plan(struct search *s)
{
	uint8_t *how = s->q->how;
	uint32_t at = s->end_state, i = s->end_layer;
	for (; i-- > 0; at = s->states[at].parent)
		how[i] = s->states[at].how;
	unsigned link = link_before(s, how, s->end_layer);
	for (i = s->end_layer; i < s->q->n; i++)
		how[i] = finishing(s, &s->q->items[i], link);
}

static void pass(struct search *s)
{
	s->n_states = 0;
	s->end_state = NO_STATE;
	for (unsigned k = 0; k < s->n_seats; k++) {
		struct seat *seat = &s->seats[k];
		plan_bound_init(&seat->bound, s->q, seat->link, free_links(s, seat), s->cut, s->memory);
		seat->from = seat->to = 0;
	}
	put(s, &s->seats[0], 0, (struct state){.y = NOT_OPEN, .parent = NO_STATE});
	for (uint32_t i = 0;; i++) {
		for (unsigned k = 0; k < s->n_seats; k++)
			commit(s, &s->seats[k], i);
		if (i == s->q->n)
			break;
		for (unsigned k = 0; k < s->n_seats; k++)
			for (uint32_t at = s->seats[k].from; at < s->seats[k].to; at++)
				expand(s, k, i, at);
	}
	s->q->states += (uint32_t)s->n_states;
	if (s->end_state != NO_STATE)
		write_plan(s);
	for (unsigned k = 0; k < s->n_seats; k++)
		plan_bound_fini(&s->seats[k].bound);
}

/* ---- bytes that several layers read ---- */

/* The layers with the bytes of `first`, of which number `loaded` is the first that is loaded (as many as there are: none).
 * False: one that would have to be read from the host cannot be.  *count: how many there are. */
static bool set_fates(struct plan_problem *q, uint32_t first, uint32_t loaded, uint32_t *count)
{
	bool can = true;
	*count = 0;
	for (uint32_t i = first; i < q->n; i++) {
		struct plan_item *item = &q->items[i];
		if (item->first != first)
			continue;
		item->fate = *count < loaded ? PLAN_MUST_DHA : *count == loaded ? PLAN_MUST_LOAD : PLAN_OWED;
		can &= item->fate != PLAN_MUST_DHA || item->dha_ns;
		++*count;
	}
	return can;
}

/* Goes through the ways to share, `way` counting in mixed radix; false: there is no such way.  *can: it is possible. */
static bool choose_way(struct plan_problem *q, uint32_t way, bool *can)
{
	*can = true;
	for (uint32_t i = 0; i < q->n; i++) {
		uint32_t count, first = q->items[i].first;
		if (first == i)
			continue;
		bool seen = false;
		for (uint32_t k = first + 1; k < i && !seen; k++)
			seen = q->items[k].first == first;
		if (seen)
			continue;
		set_fates(q, first, 0, &count);
		uint32_t ways = q->items[first].dha_ns ? count + 1 : 1;
		*can &= set_fates(q, first, way % ways, &count);
		way /= ways;
	}
	return way == 0;
}

/* ---- all of it ---- */

static uint32_t last_stall(const struct plan_problem *q)
{
	struct plan_step *steps = memory_new(q->n * sizeof *steps);
	struct plan_figures f;
	uint32_t last = 0;
	int r = plan_play(q, q->how, PLAN_CHARGED, steps, &f);
	ASSERT(r == 0);
	for (uint32_t i = 0; i < q->n; i++)
		if (steps[i].stall_ns)
			last = i + 1;
	memory_free(steps);
	return last;
}

static void search_way(struct search *s)
{
	s->width = FIRST_WIDTH;
	s->narrowed = false;
	pass(s);
	if (!s->narrowed)
		return; /* nothing was left out */
	s->width = 0;
	s->cut = last_stall(s->q);
	pass(s);
}

int plan_search(struct plan_problem *q, const struct plan_choice *may)
{
	struct search s = {.q = q, .may = *may, .cut = q->n};
	uint64_t bytes = 0;
	bool can;
	for (uint32_t i = 0; i < q->n; i++) {
		q->items[i].dha_ns = may->dha ? q->items[i].dha_ns : 0;
		bytes += q->items[i].first == i ? q->items[i].bytes : 0;
	}
	s.memory = bytes > q->memory_bytes;
	make_seats(&s);
	for (uint32_t way = 0; choose_way(q, way, &can); way++)
		if (can)
			search_way(&s);
	for (unsigned k = 0; k < s.n_seats; k++)
		memory_free(s.seats[k].children);
	memory_free(s.states);
	q->bound_ns = MIN(q->bound_ns, s.best);
	return s.found ? 0 : -ENOSPC;
}

int plan_make_best(struct plan_problem *q)
{
	return plan_search(q, &(struct plan_choice){.dha = true, .join = true, .part = true});
}

int plan_make_dha(struct plan_problem *q)
{
	return plan_search(q, &(struct plan_choice){.dha = true, .join = true});
}

int plan_make_pt(struct plan_problem *q)
{
	return plan_search(q, &(struct plan_choice){.join = true, .part = true});
}

int plan_make_groups(struct plan_problem *q)
{
	return plan_search(q, &(struct plan_choice){.join = true});
}
