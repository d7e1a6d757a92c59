/* linksched.c - configuration, and the life of flows.
 *
 * Invariants: a flow's bytes are done, in flight (picked - done), ready or not there yet; it leaves when the first two are all
 * there ever will be.  A node counts as urgent exactly the tiny and demand flows with bytes ready: a link's own node those
 * of the link, a shared one all whose path it is on. */
#include "cache/linksched_impl.h"

const char *link_class_name(unsigned class)
{
	static const char *const names[] = {
#define LINK_CLASS(name, text, doc) text,
#include "cache/linkclasses.def"
#undef LINK_CLASS
		"nobody"};
	ASSERT(class < ARRAY_LEN(names));
	return names[class];
}

/* ---- configuration ---- */

int linksched_new(struct linksched **out, const struct linksched_config *config)
{
	struct linksched_config c = *config;
	c.in_flight = c.in_flight ? c.in_flight : 2;
	c.target_ns = c.target_ns ? c.target_ns : 300 * NS_PER_US;
	c.guard_share = c.guard_share ? c.guard_share : 50;
	c.window_ns = c.window_ns ? c.window_ns : 100 * NS_PER_MS;
	c.patience_ns = c.patience_ns ? c.patience_ns : 10 * NS_PER_S;
	c.max_flows = c.max_flows ? c.max_flows : 1024;
	if (c.in_flight > LINKSCHED_MAX_IN_FLIGHT || c.target_ns > NS_PER_S || c.guard_share > 250 ||
		c.window_ns > 60 * NS_PER_S || c.patience_ns > 3600 * NS_PER_S || c.user_share > THOUSAND ||
		c.user_bytes_per_s > LINKSCHED_MAX_RATE)
		return -EINVAL;
	struct linksched *s = memory_new(sizeof(*s));
	s->magic = SCHED_MAGIC;
	s->config = c;
	list_init(&s->users);
	*out = s;
	return 0;
}

void linksched_free(struct linksched **p)
{
	struct linksched *s = *p;
	if (!s)
		return;
	CHECK_OBJ(s, SCHED_MAGIC);
	for (uint32_t i = 0; i < s->n_links; i++) {
		struct link *l = &s->links[i];
		l->n_in_flight = 0;
		list_for_each_safe(it, &l->flows)
			flow_free(s, list_entry(it, struct flow, node));
	}
	list_for_each_safe(it, &s->users)
		memory_free(list_entry(it, struct user, node));
	slots_fini(&s->flows);
	s->magic = 0;
	memory_free(s);
	*p = NULL;
}

static bool rate_is_sane(uint64_t bytes_per_s)
{
	return bytes_per_s >= THOUSAND && bytes_per_s <= LINKSCHED_MAX_RATE;
}

static bool calibration_is_sane(const struct linksched_calibration *c)
{
	return rate_is_sane(c->bytes_per_s) && c->duplex >= 10 && c->duplex <= THOUSAND && c->overhead_ns <= NS_PER_MS &&
		c->submit_ns <= NS_PER_MS;
}

static uint32_t node_new(struct linksched *s, bool shared, uint32_t link, uint64_t bytes_per_s, uint32_t share)
{
	struct node *n = &s->nodes[s->n_nodes];
	*n = (struct node){.shared = shared, .link = link, .share = share ? share : 900, .bytes_per_s = bytes_per_s,
		.bucket = {.at = s->now, .bytes_per_s = 1}};
	return s->n_nodes++;
}

int linksched_node_add(struct linksched *s, const struct linksched_node_config *config, uint32_t *node)
{
	CHECK_OBJ(s, SCHED_MAGIC);
	if (!rate_is_sane(config->bytes_per_s) || config->share > THOUSAND)
		return -EINVAL;
	if (s->n_nodes == LINKSCHED_MAX_NODES)
		return -ENOSPC;
	*node = node_new(s, true, 0, config->bytes_per_s, config->share);
	return 0;
}

/* A link over `node`; true: a new one, rates must follow. */
static bool node_join(struct linksched *s, uint32_t node, uint32_t link)
{
	uint64_t bit = (uint64_t)1 << link, before = s->nodes[node].links;
	s->nodes[node].links |= bit;
	return !(before & bit);
}

static bool hops_are_sane(const struct linksched *s, const struct linksched_hop *hops, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (hops[i].node >= s->n_nodes || hops[i].charge > THOUSAND)
			return false;
		for (uint32_t j = 0; j < i; j++)
			if (hops[j].node == hops[i].node)
				return false;
	}
	return true;
}

static void link_set_rates(struct link *l, const struct linksched_calibration *c)
{
	l->calibration = *c;
	l->bytes_per_s = c->bytes_per_s;
	l->duplex_bytes_per_s = mul_div(c->bytes_per_s, c->duplex, THOUSAND);
}

int linksched_link_add(struct linksched *s, const struct linksched_link_config *config, uint32_t *link)
{
	CHECK_OBJ(s, SCHED_MAGIC);
	if (!calibration_is_sane(&config->calibration) || config->share > THOUSAND || config->n_hops > LINKSCHED_MAX_HOPS ||
		!hops_are_sane(s, config->hops, config->n_hops))
		return -EINVAL;
	if (s->n_links == LINKSCHED_MAX_LINKS || s->n_nodes == LINKSCHED_MAX_NODES)
		return -ENOSPC;
	uint32_t index = s->n_links++;
	struct link *l = &s->links[index];
	l->own = node_new(s, false, index, config->calibration.bytes_per_s, config->share);
	link_set_rates(l, &config->calibration);
	list_init(&l->flows);
	l->n_hops = config->n_hops;
	memcpy(l->hops, config->hops, sizeof(l->hops));
	l->clock_at = s->now;
	node_join(s, l->own, index);
	for (uint32_t i = 0; i < l->n_hops; i++)
		node_join(s, l->hops[i].node, index);
	sched_retune(s, s->now);
	*link = index;
	return 0;
}

uint32_t linksched_link_node(const struct linksched *s, uint32_t link)
{
	ASSERT(link < s->n_links);
	return s->links[link].own;
}

int linksched_calibrate(struct linksched *s, uint64_t now, uint32_t link, const struct linksched_calibration *c)
{
	now = sched_at(s, now);
	if (link >= s->n_links || !calibration_is_sane(c))
		return -EINVAL;
	link_set_rates(&s->links[link], c);
	sched_retune(s, now);
	s->kicks |= s->nodes[s->links[link].own].links;
	return 0;
}

int linksched_reserve(struct linksched *s, uint64_t now, uint32_t node, uint64_t bytes_per_s)
{
	now = sched_at(s, now);
	if (node >= s->n_nodes)
		return -EINVAL;
	struct node *n = &s->nodes[node];
	uint64_t given = mul_div(n->bytes_per_s, n->share, THOUSAND);
	if (bytes_per_s > n->reserved_bytes_per_s &&
		(bytes_per_s > given || node_floors(s, node, now) > given - bytes_per_s))
		return -ENOSPC;
	n->reserved_bytes_per_s = bytes_per_s;
	sched_retune(s, now);
	s->kicks |= n->links;
	return 0;
}

int linksched_node_rate(struct linksched *s, uint64_t now, uint32_t node, uint64_t bytes_per_s)
{
	now = sched_at(s, now);
	if (node >= s->n_nodes || !s->nodes[node].shared || !rate_is_sane(bytes_per_s))
		return -EINVAL;
	s->nodes[node].bytes_per_s = bytes_per_s;
	sched_retune(s, now);
	s->kicks |= s->nodes[node].links;
	return 0;
}

void linksched_measured(struct linksched *s, uint64_t now, uint32_t link, uint64_t bytes, uint64_t busy_ns, bool duplex)
{
	now = sched_at(s, now);
	ASSERT(link < s->n_links);
	struct link *l = &s->links[link];
	if (bytes < l->chunk / 2 || bytes > LINKSCHED_CHUNK_MAX || busy_ns == 0)
		return;
	uint64_t given = l->calibration.bytes_per_s, *rate = duplex ? &l->duplex_bytes_per_s : &l->bytes_per_s;
	if (duplex)
		given = mul_div(given, l->calibration.duplex, THOUSAND);
	uint64_t seen = MIN(MAX(mul_div(bytes, NS_PER_S, busy_ns), given / 4), 2 * given);
	*rate = *rate - *rate / 16 + seen / 16;
	sched_retune(s, now);
}

uint64_t linksched_kicks(struct linksched *s)
{
	CHECK_OBJ(s, SCHED_MAGIC);
	uint64_t kicks = s->kicks;
	s->kicks = 0;
	return kicks;
}

/* ---- users ---- */

static bool user_is_forgettable(struct linksched *s, struct user *u)
{
	bucket_refill(&u->bucket, s->now);
	return u->flows == 0 && u->pieces == 0 && (!s->config.user_bytes_per_s || u->bucket.balance == u->bucket.burst);
}

/* Those who owe tokens are remembered until they have earned them, or coming back would pay. */
static struct user *user_get(struct linksched *s, uint32_t uid)
{
	struct user *found = NULL;
	list_for_each_safe(it, &s->users) {
		struct user *u = list_entry(it, struct user, node);
		if (u->uid == uid) {
			found = u;
		} else if (s->n_users > USERS_KEPT && user_is_forgettable(s, u)) {
			s->n_users--;
			list_del(&u->node);
			memory_free(u);
		}
	}
	if (!found) {
		found = memory_new(sizeof(*found));
		found->uid = uid;
		found->bucket = (struct bucket){.bytes_per_s = 1, .at = s->now};
		found->since = s->now;
		list_init(&found->node);
		list_add_tail(&found->node, &s->users);
		s->n_users++;
		sched_retune(s, s->now);
	}
	found->flows++;
	return found;
}

int linksched_limit_users(struct linksched *s, uint64_t now, uint64_t bytes_per_s, uint32_t share)
{
	now = sched_at(s, now);
	if (bytes_per_s > LINKSCHED_MAX_RATE || share > THOUSAND)
		return -EINVAL;
	if (bytes_per_s == s->config.user_bytes_per_s && share == s->config.user_share)
		return 0;
	list_for_each(it, &s->users) {
		struct user *u = list_entry(it, struct user, node);
		bucket_refill(&u->bucket, now);
		u->bytes = 0;
		u->since = now;
		u->burst_max = 0;
	}
	s->config.user_bytes_per_s = bytes_per_s;
	s->config.user_share = share;
	sched_retune(s, now);
	s->kicks |= s->n_links == LINKSCHED_MAX_LINKS ? UINT64_MAX : ((uint64_t)1 << s->n_links) - 1;
	return 0;
}

/* ---- flows ---- */

void link_kick_neighbours(struct linksched *s, const struct link *l)
{
	for (uint32_t i = 0; i < s->n_nodes; i++)
		if (s->nodes[i].links >> (l - s->links) & 1)
			s->kicks |= s->nodes[i].links;
}

/* New tiny or demand work: how often it comes decides how deep the lower classes queue. */
static void link_note_arrival(struct linksched *s, struct link *l)
{
	l->recent = link_recent(s, l) + THOUSAND;
	l->arrived_at = s->now;
}

/* A burst of a node begins with its first urgent flow; until one of its pieces went, no guard piece may. */
static void flow_count_urgent(struct linksched *s, struct flow *f, bool urgent)
{
	struct link *l = &s->links[f->link];
	f->urgent = urgent;
	l->n_urgent += urgent ? 1 : -1u;
	for (uint32_t i = 0; i < f->n_hops; i++) {
		struct node *n = flow_node(s, f, i);
		if (i > 0 && !n->shared)
			continue;
		if (urgent && n->urgent == 0)
			n->turn = false;
		n->urgent += urgent ? 1 : -1u;
		n->arrivals += urgent;
	}
	if (urgent)
		link_note_arrival(s, l);
	else if (l->n_urgent == 0)
		link_kick_neighbours(s, l);
}

void flow_settle(struct linksched *s, struct flow *f)
{
	bool urgent = class_is_urgent(f->class) && flow_is_workable(f);
	if (urgent != f->urgent)
		flow_count_urgent(s, f, urgent);
	wait_update(s, f);
}

void flow_free(struct linksched *s, struct flow *f)
{
	CHECK_OBJ(f, FLOW_MAGIC);
	list_del(&f->node);
	s->links[f->link].n_flows--;
	f->user->flows--;
	slots_del(&s->flows, f->id);
	f->magic = 0;
	memory_free(f);
}

static struct flow *flow_get(struct linksched *s, uint64_t id)
{
	struct flow *f = slots_get(&s->flows, id);
	if (!f || f->cancelled)
		return NULL;
	CHECK_OBJ(f, FLOW_MAGIC);
	return f;
}

/* The link's own node, the link's hops, the flow's. */
static int flow_set_path(struct linksched *s, struct flow *f, const struct linksched_flow *given)
{
	const struct link *l = &s->links[f->link];
	f->hops[f->n_hops++] = (struct linksched_hop){.node = l->own, .charge = THOUSAND};
	for (uint32_t i = 0; i < l->n_hops; i++)
		f->hops[f->n_hops++] = l->hops[i];
	for (uint32_t i = 0; i < given->n_hops; i++)
		f->hops[f->n_hops++] = given->hops[i];
	return hops_are_sane(s, f->hops, f->n_hops) ? 0 : -EINVAL;
}

static void flow_join_nodes(struct linksched *s, const struct flow *f)
{
	bool joined = false;
	for (uint32_t i = 0; i < f->n_hops; i++)
		joined |= node_join(s, f->hops[i].node, f->link);
	if (joined)
		sched_retune(s, s->now);
}

static uint64_t flow_due(const struct linksched *s, uint64_t deadline)
{
	return deadline == LINKSCHED_NEVER ? s->now + s->config.patience_ns : deadline;
}

static bool flow_is_sane(const struct linksched *s, const struct linksched_flow *given)
{
	return given->link < s->n_links && given->class < LINK_CLASSES && given->bytes > 0 &&
		given->bytes <= LINKSCHED_MAX_BYTES && given->ready <= given->bytes && given->n_hops <= LINKSCHED_MAX_HOPS &&
		given->weight <= THOUSAND && (given->class != LINK_TINY || given->bytes <= LINKSCHED_TINY_BYTES);
}

int linksched_add(struct linksched *s, uint64_t now, const struct linksched_flow *given, uint64_t *id)
{
	sched_at(s, now);
	if (!flow_is_sane(s, given))
		return -EINVAL;
	struct link *l = &s->links[given->link];
	if (l->n_flows == s->config.max_flows)
		return -ENOSPC;
	struct flow *f = memory_new(sizeof(*f));
	f->link = given->link;
	if (flow_set_path(s, f, given)) {
		memory_free(f);
		return -EINVAL;
	}
	f->magic = FLOW_MAGIC;
	f->class = given->class;
	f->weight = given->weight ? given->weight : 1;
	f->bytes = given->bytes;
	f->edge_bytes = given->edge_bytes;
	f->tag = given->tag;
	f->deadline = given->deadline;
	f->due = flow_due(s, given->deadline);
	f->virtual_time = l->virtual_time[f->class];
	f->added_at = s->now;
	f->sequence = ++s->sequence;
	f->user = user_get(s, given->user);
	f->id = slots_add(&s->flows, f);
	list_init(&f->node);
	list_add_tail(&f->node, &l->flows);
	l->n_flows++;
	flow_join_nodes(s, f);
	*id = f->id;
	return given->ready ? linksched_ready(s, now, f->id, given->ready) : 0;
}

int linksched_ready(struct linksched *s, uint64_t now, uint64_t id, uint64_t bytes)
{
	sched_at(s, now);
	struct flow *f = flow_get(s, id);
	if (!f)
		return -ENOENT;
	if (bytes > f->bytes - f->picked - f->ready)
		return -EINVAL;
	struct link *l = &s->links[f->link];
	wait_clock(s, l);
	guards_accrue(s, l);
	if (f->ready == 0)
		f->virtual_time = MAX(f->virtual_time, l->virtual_time[f->class]);
	f->ready += bytes;
	flow_settle(s, f);
	s->kicks |= (uint64_t)1 << f->link;
	return 0;
}

void flow_uncap(struct linksched *s, struct flow *f)
{
	f->capped_ns += f->capped_since ? s->now - f->capped_since : 0;
	f->capped_since = 0;
}

/* *last filled when it has ended by that. */
static void flow_set_bytes(struct linksched *s, struct flow *f, uint64_t bytes, uint64_t ready, struct linksched_flow_view *last)
{
	struct link *l = &s->links[f->link];
	wait_clock(s, l);
	guards_accrue(s, l);
	if (f->late && bytes < f->bytes) { /* to be judged anew */
		f->late = false;
		f->due = flow_due(s, f->deadline);
	}
	f->bytes = bytes;
	f->ready = ready;
	flow_settle(s, f); /* a tiny one goes when all of it is ready */
	s->kicks |= (uint64_t)1 << f->link;
	if (f->done < bytes)
		return;
	flow_uncap(s, f);
	flow_fill_view(s, f, last);
	flow_free(s, f);
}

int linksched_resize(struct linksched *s, uint64_t now, uint64_t id, uint64_t bytes, struct linksched_flow_view *last)
{
	sched_at(s, now);
	struct flow *f = flow_get(s, id);
	*last = (struct linksched_flow_view){0};
	if (!f)
		return -ENOENT;
	if (!bytes || bytes > LINKSCHED_MAX_BYTES || bytes < f->picked + f->ready ||
		(f->class == LINK_TINY && bytes > LINKSCHED_TINY_BYTES))
		return -EINVAL;
	flow_set_bytes(s, f, bytes, f->ready, last);
	return 0;
}

int linksched_call_back(struct linksched *s, uint64_t now, uint64_t id, uint64_t bytes, struct linksched_flow_view *last)
{
	sched_at(s, now);
	struct flow *f = flow_get(s, id);
	*last = (struct linksched_flow_view){0};
	if (!f)
		return -ENOENT;
	if (!bytes || bytes > f->ready)
		return -EINVAL;
	flow_set_bytes(s, f, f->bytes - bytes, f->ready - bytes, last);
	return 0;
}

int linksched_reclass(struct linksched *s, uint64_t now, uint64_t id, enum link_class class, uint64_t deadline)
{
	sched_at(s, now);
	struct flow *f = flow_get(s, id);
	if (!f)
		return -ENOENT;
	if (class >= LINK_CLASSES || (class == LINK_TINY && f->bytes > LINKSCHED_TINY_BYTES))
		return -EINVAL;
	if (class == f->class && deadline == f->deadline)
		return 0; /* it keeps its place */
	struct link *l = &s->links[f->link];
	wait_clock(s, l);
	guards_accrue(s, l);
	if (class != f->class)
		f->virtual_time = l->virtual_time[class];
	f->class = class;
	f->deadline = deadline;
	f->due = flow_due(s, deadline);
	f->late = false;
	if (f->urgent) /* it may overtake others now */
		flow_count_urgent(s, f, false);
	wait_restart(s, f);
	flow_settle(s, f);
	s->kicks |= (uint64_t)1 << f->link;
	return 0;
}

int linksched_charge(struct linksched *s, uint64_t now, uint64_t id, uint32_t user)
{
	sched_at(s, now);
	struct flow *f = flow_get(s, id);
	if (!f)
		return -ENOENT;
	if (f->user->uid == user)
		return 0;
	struct user *u = user_get(s, user);
	f->user->flows--;
	f->user = u;
	flow_uncap(s, f);
	s->kicks |= (uint64_t)1 << f->link;
	return 0;
}

int linksched_leave(struct linksched *s, uint64_t now, uint64_t id, uint32_t node)
{
	sched_at(s, now);
	struct flow *f = flow_get(s, id);
	uint32_t i = f ? 1 + s->links[f->link].n_hops : 0;
	while (f && i < f->n_hops && f->hops[i].node != node)
		i++;
	if (!f || i == f->n_hops)
		return -ENOENT;
	struct node *n = flow_node(s, f, i);
	if (f->urgent && n->shared)
		n->urgent--;
	f->hops[i] = f->hops[--f->n_hops];
	s->kicks |= n->links;
	return 0;
}

bool linksched_cancel(struct linksched *s, uint64_t now, uint64_t id, struct linksched_flow_view *last)
{
	sched_at(s, now);
	struct flow *f = flow_get(s, id);
	*last = (struct linksched_flow_view){0};
	if (!f)
		return false;
	struct link *l = &s->links[f->link];
	wait_clock(s, l);
	guards_accrue(s, l);
	f->cancelled = true;
	f->ready = 0;
	flow_uncap(s, f);
	l->cancelled++;
	flow_settle(s, f);
	s->kicks |= (uint64_t)1 << f->link;
	flow_fill_view(s, f, last);
	if (f->picked > f->done)
		return false;
	flow_free(s, f);
	return true;
}
