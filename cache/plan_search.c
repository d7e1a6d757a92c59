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

#define FIRST_WIDTH 24          /* states of all fronts before a layer in the first pass */
#define FIRST_PASSES 3
#define LAST_WIDTH 16           /* of each when PLAN_MAX_STATES are running out */
#define ALLOWANCES 8            /* times in a pass that a better plan makes the bounds tighter */
#define BURST 12                /* times the mean number of states that a front may have, if the others have none */
#define NO_STATE UINT32_MAX
#define NOT_OPEN UINT64_MAX     /* y without an open piece */
#define MAX_SEATS (1 + 3 * 4)   /* subsets of three links, times the one used last */

struct state {
	uint64_t f;      /* what the link has to do ends here */
	uint64_t z;      /* run time if the open piece ends here */
	uint64_t y;      /* run time as far as it follows from the open piece's end: arrival and what runs behind it */
	uint64_t m;      /* bytes loaded, if that counts */
	uint32_t parent;
	uint8_t how;
};

struct states {
	struct state *s;
	size_t n, cap;
};

/* Children come in the order of f from a front that is in that order, one way at a time. */
enum way { OTHER, APART, JOINED, ENTRY, WAYS };

struct seat {
	unsigned link;          /* index among the usable ones */
	unsigned used;          /* bits of them */
	unsigned first[PLAN_MAX_PARTS]; /* seat to which a part on that link leads; MAX_SEATS: none */
	uint32_t from, to;      /* its front among the states */
	struct states children[WAYS];
	struct plan_bound bound;
};

/* Of states in the order of f, those that no other is better than in z and y: z rises, y falls. */
struct stairs {
	struct { uint64_t z, y; } *s;
	size_t n, cap;
};

struct search {
	struct plan_problem *q;
	struct plan_choice may;
	struct seat seats[MAX_SEATS];
	unsigned n_seats;
	struct states states;   /* all that were kept */
	struct states front, alike; /* one that is being made; states with the same f */
	struct stairs stairs;
	uint32_t width;         /* of a front; 0: all */
	bool memory;            /* not all fit */
	uint64_t fine[PLAN_MAX_PARTS]; /* of a loaded byte on each link then */
	uint64_t best;          /* total of the best plan known, in q->how once a pass has ended; else more than any */
	uint64_t allowed;       /* what the bounds go by */
	bool found, narrowed;
	uint32_t end_state, end_layer; /* of this pass's best: the state from which it runs without a stall */
};

static void push(struct states *list, const struct state *s)
{
	if (list->n == list->cap)
		list->s = memory_grow(list->s, &list->cap, sizeof *list->s);
	list->s[list->n++] = *s;
}

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

/* ---- children ---- */

/* Beyond what the bounds allow to a state that has decided on the layers before i. */
static int64_t excess_of(const struct seat *seat, uint32_t i, const struct state *c)
{
	return plan_bound_excess(&seat->bound, i, c->f, c->z, c->m, c->y != NOT_OPEN);
}

/* Such a state. */
static void put(struct search *s, struct seat *seat, enum way way, uint32_t i, const struct state *c)
{
	const struct plan_bound *b = &seat->bound;
	struct states *list = &seat->children[way];
	if (s->memory && c->m + b->must_bytes[i] > s->q->memory_bytes)
		return;
	if (excess_of(seat, i, c) > 0)
		return;
	/* Parts begin with equal f and y. */
	if (way == ENTRY && list->n && !s->memory) {
		if (c->z < list->s[0].z)
			list->s[0] = *c;
		return;
	}
	push(list, c);
}

static void put_loaded(struct search *s, unsigned to, enum way way, uint32_t i, const struct state *p)
{
	struct seat *seat = &s->seats[to];
	const struct plan_problem *q = s->q;
	const struct plan_item *item = &q->items[i];
	struct state c = {.parent = p->parent, .how = q->links[seat->link]};
	if (way == JOINED) {
		c.how |= PLAN_JOIN;
		c.f = p->f + item->load_ns[seat->link];
		c.y = p->y + item->load_ns[seat->link];
	} else {
		c.f = (way == ENTRY ? 0 : p->f) + item->piece_ns[seat->link];
		c.y = c.f + q->hop_ns[seat->link];
	}
	c.z = MAX(p->z, c.y) + item->exec_ns;
	c.y += item->exec_ns;
	c.m = s->memory ? p->m + item->bytes : 0;
	put(s, seat, way, i + 1, &c);
}

static void put_other(struct search *s, unsigned at, uint32_t i, const struct state *p, uint8_t how)
{
	const struct plan_item *item = &s->q->items[i];
	uint64_t run = how == PLAN_DHA ? item->dha_ns : item->exec_ns;
	struct state c = *p;
	c.how = how;
	c.z += run;
	if (how == PLAN_DHA)
		c.y = NOT_OPEN;
	else
		c.y += c.y == NOT_OPEN ? 0 : run;
	if (how == PLAN_DHA && s->seats[at].link == 0)
		c.f += item->traffic_ns;
	put(s, &s->seats[at], OTHER, i + 1, &c);
}

static void expand(struct search *s, unsigned at, uint32_t i, uint32_t index)
{
	const struct plan_item *item = &s->q->items[i];
	const struct seat *seat = &s->seats[at];
	struct state p = s->states.s[index];
	p.parent = index;
	if (item->fate == PLAN_OWED) {
		put_other(s, at, i, &p, PLAN_NOTHING);
		return;
	}
	if (item->dha_ns && item->fate != PLAN_MUST_LOAD)
		put_other(s, at, i, &p, PLAN_DHA);
	if (item->fate == PLAN_MUST_DHA)
		return;
	put_loaded(s, at, APART, i, &p);
	if (p.y != NOT_OPEN && item->piece_ns[seat->link] > item->load_ns[seat->link])
		put_loaded(s, at, JOINED, i, &p); /* else a piece of its own is no worse: y is not below f */
	for (unsigned l = 1; l < PLAN_MAX_PARTS; l++)
		if (seat->first[l] != MAX_SEATS)
			put_loaded(s, seat->first[l], ENTRY, i, &p);
}

/* ---- fronts ---- */

#define ORDER(a, b) ((a) < (b) ? -1 : (a) > (b))

static int by_z_and_y(const void *va, const void *vb)
{
	const struct state *a = va, *b = vb;
	int r = ORDER(a->z, b->z);
	r = r ? r : ORDER(a->y, b->y);
	r = r ? r : ORDER(a->m, b->m);
	return r ? r : ORDER(a->how, b->how);
}

/* Takes the children with the least f that is left into s->alike, in the order of z and y; false: none is left. */
static bool next_children(struct search *s, const struct seat *seat, size_t at[WAYS])
{
	uint64_t f = UINT64_MAX;
	for (unsigned w = 0; w < WAYS; w++)
		if (at[w] < seat->children[w].n)
			f = MIN(f, seat->children[w].s[at[w]].f);
	s->alike.n = 0;
	for (unsigned w = 0; w < WAYS; w++)
		for (; at[w] < seat->children[w].n && seat->children[w].s[at[w]].f == f; at[w]++)
			push(&s->alike, &seat->children[w].s[at[w]]);
	if (s->alike.n > 1)
		qsort(s->alike.s, s->alike.n, sizeof *s->alike.s, by_z_and_y);
	return s->alike.n > 0;
}

/* No worse in z and y than c is one before it; else c takes its place on the stairs. */
static bool is_above_stairs(struct stairs *t, const struct state *c)
{
	size_t low = 0, high = t->n; /* the first with z above that of c */
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (t->s[middle].z <= c->z)
			low = middle + 1;
		else
			high = middle;
	}
	if (low && t->s[low - 1].y <= c->y)
		return true;
	size_t end = low;
	while (end < t->n && t->s[end].y >= c->y)
		end++;
	if (low && t->s[low - 1].z == c->z)
		low--;
	if (t->n == t->cap)
		t->s = memory_grow(t->s, &t->cap, sizeof *t->s);
	memmove(&t->s[low + 1], &t->s[end], (t->n - end) * sizeof *t->s);
	t->n += low + 1 - end;
	t->s[low].z = c->z;
	t->s[low].y = c->y;
	return false;
}

/* With bytes that count; those that are likeliest to be better first: the last. */
static bool is_dominated(const struct states *front, const struct state *c)
{
	for (size_t n = front->n; n-- > 0;)
		if (front->s[n].z <= c->z && front->s[n].y <= c->y && front->s[n].m <= c->m)
			return true;
	return false;
}

/* From here on it can run without a stall: nothing it leads to is better than that. */
static bool can_finish(const struct search *s, const struct seat *seat, const struct state *c, uint32_t i)
{
	const struct plan_bound *b = &seat->bound;
	return (int64_t)(c->z - c->f) >= b->ahead[i] && (!s->memory || c->m + b->run_bytes[i] <= s->q->memory_bytes);
}

static void finish(struct search *s, const struct seat *seat, const struct state *c, uint32_t i)
{
	if (c->z + seat->bound.run[i] >= s->best)
		return;
	push(&s->states, c);
	s->best = c->z + seat->bound.run[i];
	s->end_state = (uint32_t)s->states.n - 1;
	s->end_layer = i;
}

struct ranked {
	int64_t excess;
	size_t at;
};

static int by_excess(const void *va, const void *vb)
{
	const struct ranked *a = va, *b = vb;
	int r = ORDER(a->excess, b->excess);
	return r ? r : ORDER(a->at, b->at);
}

static int by_place(const void *va, const void *vb)
{
	const struct ranked *a = va, *b = vb;
	return ORDER(a->at, b->at);
}

/* Keeps the most promising ones, in their order. */
static void narrow(struct search *s, const struct seat *seat, uint32_t i, size_t width)
{
	struct states *front = &s->front;
	if (front->n <= width)
		return;
	struct ranked *r = memory_new(front->n * sizeof *r);
	for (size_t k = 0; k < front->n; k++)
		r[k] = (struct ranked){excess_of(seat, i, &front->s[k]), k};
	qsort(r, front->n, sizeof *r, by_excess);
	qsort(r, width, sizeof *r, by_place);
	for (size_t k = 0; k < width; k++)
		front->s[k] = front->s[r[k].at];
	front->n = width;
	memory_free(r);
	s->narrowed = true;
}

/* How many states a front may have: there are to be some left for every layer. */
static size_t width_at(const struct search *s, uint32_t i)
{
	size_t room = s->memory ? PLAN_MAX_STATES / 4 : PLAN_MAX_STATES; /* more is compared with more there */
	size_t left = room - MIN(s->states.n, room), layers = s->q->n - i + 1;
	return s->width ? s->width : MAX(LAST_WIDTH, left / layers * BURST / s->n_seats);
}

static void keep(struct search *s, const struct seat *seat, const struct state *c, uint32_t i)
{
	if (s->memory ? is_dominated(&s->front, c) : is_above_stairs(&s->stairs, c))
		return;
	if (can_finish(s, seat, c, i))
		finish(s, seat, c, i);
	else
		push(&s->front, c);
}

/* The front before layer i becomes what was put for it, less what can be finished. */
static void commit(struct search *s, struct seat *seat, uint32_t i)
{
	size_t at[WAYS] = {0};
	s->front.n = s->stairs.n = 0;
	while (next_children(s, seat, at))
		for (size_t k = 0; k < s->alike.n; k++)
			keep(s, seat, &s->alike.s[k], i);
	narrow(s, seat, i, width_at(s, i));
	seat->from = (uint32_t)s->states.n;
	for (size_t k = 0; k < s->front.n; k++)
		push(&s->states, &s->front.s[k]);
	seat->to = (uint32_t)s->states.n;
	for (unsigned w = 0; w < WAYS; w++)
		seat->children[w].n = 0;
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
	for (; i-- > 0; at = s->states.s[at].parent)
		how[i] = s->states.s[at].how;
	unsigned link = link_before(s, how, s->end_layer);
	for (i = s->end_layer; i < s->q->n; i++)
		how[i] = finishing(s, &s->q->items[i], link);
}

/* What the bounds allow from now on: less than `below`.  Later seats first, what precedes them goes by them. */
static void allow(struct search *s, uint64_t below)
{
	for (unsigned k = s->n_seats; k-- > 0;) {
		const struct plan_bound *next[PLAN_MAX_PARTS];
		unsigned n = 0;
		for (unsigned l = 0; l < PLAN_MAX_PARTS; l++)
			if (s->seats[k].first[l] != MAX_SEATS)
				next[n++] = &s->seats[s->seats[k].first[l]].bound;
		plan_bound_allow(&s->seats[k].bound, s->q, below, next, n);
	}
	s->allowed = below;
}

/* No plan is shorter: the least total, or nearly, with which the begin is not beyond what is allowed. */
static uint64_t bound_of_all(struct search *s)
{
	uint64_t low = 0, high = s->best, near = s->best >> 14;
	while (high - low > near) {
		uint64_t middle = low + (high - low) / 2;
		allow(s, middle + 1);
		if (plan_bound_excess(&s->seats[0].bound, 0, 0, 0, 0, false) > 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* One layer after the other. */
static void run_layers(struct search *s)
{
	put(s, &s->seats[0], OTHER, 0, &(struct state){.y = NOT_OPEN, .parent = NO_STATE});
	for (uint32_t i = 0;; i++) {
		for (unsigned k = 0; k < s->n_seats; k++)
			commit(s, &s->seats[k], i);
		if (i == s->q->n)
			break;
		if (s->best < s->allowed && i % (s->q->n / ALLOWANCES + 1) == 0)
			allow(s, s->best);
		for (unsigned k = 0; k < s->n_seats; k++)
			for (uint32_t at = s->seats[k].from; at < s->seats[k].to; at++)
				expand(s, k, i, at);
	}
}

/* The bounds are sharp where the best plan that is known has its parts. */
static void pass(struct search *s, uint32_t width, const struct plan_stretch stretches[PLAN_MAX_PARTS])
{
	s->states.n = 0;
	s->end_state = NO_STATE;
	s->width = width;
	s->narrowed = false;
	for (unsigned k = 0; k < s->n_seats; k++) {
		struct seat *seat = &s->seats[k];
		plan_bound_init(&seat->bound, s->q, seat->link, &stretches[seat->link], s->fine[seat->link],
			width == 0);
		seat->from = seat->to = 0;
	}
	allow(s, s->best);
	run_layers(s);
	s->q->states += (uint32_t)s->states.n;
	if (s->end_state != NO_STATE) {
		write_plan(s);
		s->found = true;
	}
	if (s->narrowed && !width) {
		s->q->inexact = true;
		s->q->bound_ns = MIN(s->q->bound_ns, bound_of_all(s));
	}
	for (unsigned k = 0; k < s->n_seats; k++)
		plan_bound_fini(&s->seats[k].bound);
}

/* Where the parts of q->how are. */
static void find_stretches(const struct search *s, struct plan_stretch stretches[PLAN_MAX_PARTS])
{
	const struct plan_problem *q = s->q;
	struct plan_step *steps = memory_new(q->n * sizeof *steps);
	struct plan_figures f;
	unsigned part = 0;
	int r = plan_play(q, q->how, 0, PLAN_CHARGED, steps, &f);
	ASSERT(r == 0);
	stretches[0] = (struct plan_stretch){0, q->n, 0};
	for (uint32_t i = 0; i < q->n; i++) {
		if (!plan_is_load(q->how[i]) || plan_link(q->how[i]) == q->links[part])
			continue;
		stretches[part].to = i;
		for (part = 1; q->links[part] != plan_link(q->how[i]); part++)
			;
		stretches[part] = (struct plan_stretch){i, q->n, i ? steps[i - 1].exec_end_ns : 0};
	}
	memory_free(steps);
}

/* ---- bytes that several layers read ---- */

/* The layers with the bytes of `first`: they are loaded for it, or all read them from the host.  False: one of them cannot. */
static bool set_fates(struct plan_problem *q, uint32_t first, bool loaded)
{
	bool can = true;
	for (uint32_t i = first; i < q->n; i++) {
		struct plan_item *item = &q->items[i];
		if (item->first != first)
			continue;
		item->fate = !loaded ? PLAN_MUST_DHA : i == first ? PLAN_MUST_LOAD : PLAN_OWED;
		can &= item->fate != PLAN_MUST_DHA || item->dha_ns;
	}
	return can;
}

/* Goes through the ways to share, a bit of `way` each; false: there is no such way.  *can: it is possible. */
static bool choose_way(struct plan_problem *q, uint32_t way, bool *can)
{
	*can = true;
	for (uint32_t i = 0; i < q->n; i++) {
		uint32_t first = q->items[i].first;
		if (first == i)
			continue;
		bool seen = false;
		for (uint32_t k = first + 1; k < i && !seen; k++)
			seen = q->items[k].first == first;
		if (seen)
			continue;
		bool may_read = q->items[first].dha_ns > 0;
		*can &= set_fates(q, first, !may_read || way % 2 == 0);
		way /= may_read ? 2 : 1;
	}
	return way == 0;
}

/* ---- all of it ---- */

/* Beginnings: plans that cost nothing to make. */
static const struct {
	int (*make)(struct plan_problem *q);
	bool dha, part;
} beginnings[] = {
	{plan_make_pipelined, false, false},
	{plan_make_load_all, false, false},
	{plan_make_deepplan_dha, true, false},
	{plan_make_deepplan_pt, false, true},
	{plan_make_deepplan, true, true},
};

static void try_beginnings(struct search *s)
{
	struct plan_problem *q = s->q;
	uint8_t *best = memory_new(q->n);
	for (unsigned i = 0; i < ARRAY_LEN(beginnings); i++) {
		struct plan_figures f;
		if ((beginnings[i].dha && !s->may.dha) || (beginnings[i].part && !s->may.part))
			continue;
		beginnings[i].make(q);
		plan_settle(q, q->how);
		if (plan_play(q, q->how, 0, PLAN_CHARGED, NULL, &f) || f.total_ns >= s->best)
			continue;
		memcpy(best, q->how, q->n);
		s->best = f.total_ns;
		s->found = true;
	}
	memcpy(q->how, best, q->n);
	memory_free(best);
}

/* Narrow passes, each with bounds that are sharp where the plan of the last one has its parts, then a wide one. */
static void search_way(struct search *s)
{
	struct plan_stretch stretches[PLAN_MAX_PARTS];
	uint64_t before;
	unsigned rounds = 0;
	for (unsigned k = 0; k < PLAN_MAX_PARTS; k++)
		stretches[k] = (struct plan_stretch){0, s->q->n, 0};
	do {
		if (s->found)
			find_stretches(s, stretches);
		before = s->best;
		pass(s, MAX(FIRST_WIDTH / s->n_seats, 3), stretches);
		if (!s->narrowed)
			return; /* nothing was left out */
	} while (s->best < before && ++rounds < FIRST_PASSES);
	if (s->found)
		find_stretches(s, stretches);
	pass(s, 0, stretches);
}

int plan_search(struct plan_problem *q, const struct plan_choice *may)
{
	struct search s = {.q = q, .may = *may, .best = PLAN_MAX_TOTAL_NS};
	uint64_t bytes = 0;
	bool can;
	for (uint32_t i = 0; i < q->n; i++) {
		q->items[i].dha_ns = may->dha ? q->items[i].dha_ns : 0;
		bytes += q->items[i].first == i ? q->items[i].bytes : 0;
	}
	s.memory = bytes > q->memory_bytes;
	for (unsigned k = 0; s.memory && k < q->n_links; k++)
		s.fine[k] = plan_bound_fine(q, k);
	make_seats(&s);
	try_beginnings(&s);
	for (uint32_t way = 0; choose_way(q, way, &can); way++)
		if (can)
			search_way(&s);
	for (unsigned k = 0; k < s.n_seats * WAYS; k++)
		memory_free(s.seats[k / WAYS].children[k % WAYS].s);
	memory_free(s.states.s);
	memory_free(s.front.s);
	memory_free(s.alike.s);
	memory_free(s.stairs.s);
	q->bound_ns = MIN(q->bound_ns, s.best);
	return s.found ? 0 : -ENOSPC;
}

/* No plan over the target's link alone is shorter. */
static uint64_t link_work(const struct plan_problem *q)
{
	uint64_t ns = 0;
	for (uint32_t i = 0; i < q->n; i++) {
		const struct plan_item *item = &q->items[i];
		if (item->first == i && item->bytes)
			ns += item->dha_ns ? MIN(item->load_ns[0], item->traffic_ns) : item->load_ns[0];
	}
	return ns;
}

/* Where the programme ran out of room, a policy with fewer choices may have come further. */
int plan_make_best(struct plan_problem *q)
{
	static const enum plan_policy fewer[] = {PLAN_BY_DHA, PLAN_BY_PT, PLAN_BY_GROUPS};
	int r = plan_search(q, &(struct plan_choice){.dha = true, .part = true});
	if (r || !q->inexact)
		return r;
	uint8_t *how = memory_new(q->n);
	struct plan_figures best, other;
	plan_settle(q, q->how);
	r = plan_play(q, q->how, 0, PLAN_CHARGED, NULL, &best);
	ASSERT(r == 0);
	for (unsigned i = 0; i < ARRAY_LEN(fewer); i++) {
		if ((fewer[i] != PLAN_BY_PT && link_work(q) >= best.total_ns) || plan_make(fewer[i], q->profile, q->machine, how, &other))
			continue;
		q->states += other.states;
		if (other.total_ns >= best.total_ns)
			continue;
		best = other;
		memcpy(q->how, how, q->n);
	}
	memory_free(how);
	return 0;
}

int plan_make_dha(struct plan_problem *q)
{
	return plan_search(q, &(struct plan_choice){.dha = true});
}

int plan_make_pt(struct plan_problem *q)
{
	return plan_search(q, &(struct plan_choice){.part = true});
}

int plan_make_groups(struct plan_problem *q)
{
	return plan_search(q, &(struct plan_choice){0});
}
