/* link.c - transfers, and who of them may run.
 *
 * Invariants: n_active transfers of a link hang in its active list, never more than max_active; the others wait in its
 * heap in (class, deadline, age) order, or are parked until the transfer they follow has started, so that nobody holds
 * a slot only to wait.  A transfer holds one reader of its source.  A demand that finds the slots taken by lower
 * classes has as many of them stopped as it needs; they keep what has landed and queue again. */
#include "cache/brain.h"

#define RATE_WEIGHT 4 /* a new measurement counts for one in four */

bool transfer_is_running(const struct transfer *t)
{
	return t->state == TRANSFER_ACTIVE || t->state == TRANSFER_STOPPING;
}

void link_dirty(struct cache *c, struct link *link)
{
	if (!list_hooked(&link->dirty_node))
		list_add_tail(&link->dirty_node, &c->dirty_links);
}

static bool transfer_before(const struct heap_node *a, const struct heap_node *b)
{
	const struct load *x = container_of(a, struct transfer, queue_node)->load;
	const struct load *y = container_of(b, struct transfer, queue_node)->load;
	return load_before(x, y);
}

void link_init(struct link *link, const struct cache_link_config *config)
{
	link->from = config->from;
	link->to = config->to;
	link->max_active = config->max_active;
	link->bytes_per_s = config->bytes_per_s;
	heap_init(&link->queue, transfer_before);
	list_init(&link->active);
	list_init(&link->dirty_node);
}

static void transfer_queue(struct cache *c, struct transfer *t)
{
	t->state = TRANSFER_QUEUED;
	heap_add(&t->link->queue, &t->queue_node);
	link_dirty(c, t->link);
}

struct transfer *transfer_new(struct cache *c, struct load *l, uint8_t from)
{
	struct transfer *t = memory_new(sizeof(*t));
	t->magic = TRANSFER_MAGIC;
	t->id = slots_add(&c->transfers, t);
	t->load = l;
	t->link = c->link_at[from][l->copy->tier];
	ASSERT(t->link);
	list_init(&t->followers);
	list_init(&t->follower_node);
	list_init(&t->active_node);
	list_init(&t->dead_node);
	l->transfer = t;
	t->source = from ? l->copy->model->copies[from] : NULL;
	if (!t->source || t->source->state == COPY_READY) {
		transfer_queue(c, t);
	} else {
		t->leader = t->source->load->transfer;
		list_add_tail(&t->follower_node, &t->leader->followers);
		t->state = TRANSFER_PARKED;
		if (transfer_is_running(t->leader))
			transfer_queue(c, t);
	}
	if (t->source) {
		t->source->n_readers++;
		copy_settle(c, t->source);
	}
	return t;
}

/* Unhooks it from everything but its load. */
static void transfer_unhook(struct cache *c, struct transfer *t)
{
	heap_del(&t->link->queue, &t->queue_node);
	list_del(&t->follower_node);
	if (transfer_is_running(t)) {
		list_del(&t->active_node);
		t->link->n_active--;
	}
	link_dirty(c, t->link);
	t->state = TRANSFER_DEAD;
	slots_del(&c->transfers, t->id);
	list_add_tail(&t->dead_node, &c->dead_transfers);
	if (t->source) {
		ASSERT(t->source->n_readers > 0);
		t->source->n_readers--;
		if (t->source->state == COPY_READY)
			copy_touch(c, t->source);
		copy_settle(c, t->source);
	}
}

static bool transfer_grows(const struct transfer *t)
{
	return t->load == t->load->copy->growth;
}

static struct pending_effect *transfer_effect(struct cache *c, enum effect_kind kind, struct transfer *t)
{
	struct pending_effect *fx = effect_copy(c, kind, t->load->copy);
	fx->plan = t->load->plan;
	fx->grow = t->load->copy->headed;
	if (transfer_grows(t)) {
		fx->edition = t->load->edition;
		fx->reach = REACH_ALL;
		fx->grow = true;
	}
	fx->transfer = t->id;
	fx->follows = t->leader ? t->leader->id : 0;
	fx->deadline = t->load->deadline;
	fx->class = (uint8_t)t->load->class;
	fx->user = t->load->user;
	fx->from = t->link->from;
	fx->to = t->link->to;
	t->told_class = t->load->class;
	t->told_deadline = t->load->deadline;
	t->told_user = t->load->user;
	return fx;
}

void transfer_stop(struct cache *c, struct transfer *t)
{
	if (t->state != TRANSFER_ACTIVE)
		return;
	t->state = TRANSFER_STOPPING;
	transfer_effect(c, FX_CANCEL, t);
	copy_settle(c, t->load->copy);
}

void transfer_reclass(struct cache *c, struct transfer *t)
{
	if (t->state == TRANSFER_QUEUED)
		heap_update(&t->link->queue, &t->queue_node);
	else if (t->state == TRANSFER_ACTIVE)
		transfer_effect(c, FX_RECLASS, t);
	link_dirty(c, t->link);
}

/* ---- giving up ---- */

void transfer_leave_source(struct cache *c, struct transfer *t)
{
	struct load *l = t->load;
	if (l == l->copy->growth) {
		growth_stop(c, l->copy);
		return;
	}
	if (transfer_is_running(t)) {
		transfer_stop(c, t); /* load_transfer_ended() plans again */
		return;
	}
	transfer_drop(c, t);
	copy_set(c, l->copy, COPY_RESERVED, "its source stopped arriving");
	load_replan(c, l);
	copy_settle(c, l->copy);
}

/* Those that read behind a transfer which did not make it. */
static void transfer_strand_followers(struct cache *c, struct transfer *t)
{
	while (!list_empty(&t->followers)) {
		struct transfer *f = list_first(&t->followers, struct transfer, follower_node);
		list_del(&f->follower_node);
		f->leader = NULL;
		transfer_leave_source(c, f);
	}
}

void transfer_drop(struct cache *c, struct transfer *t)
{
	ASSERT(t->state == TRANSFER_PARKED || t->state == TRANSFER_QUEUED);
	t->load->transfer = NULL;
	transfer_unhook(c, t);
	transfer_strand_followers(c, t);
}

/* ---- starting ---- */

static void transfer_start(struct cache *c, struct transfer *t)
{
	struct link *link = t->link;
	heap_del(&link->queue, &t->queue_node);
	t->state = TRANSFER_ACTIVE;
	t->started_at = c->now;
	t->link_moved_at_start = link->moved_bytes;
	t->load->copy->filled = true;
	link->n_active++;
	list_add_tail(&t->active_node, &link->active);
	c->stats.loads_started++;
	transfer_effect(c, FX_START, t);
	list_for_each_safe(it, &t->followers) {
		struct transfer *f = list_entry(it, struct transfer, follower_node);
		if (f->state == TRANSFER_PARKED)
			transfer_queue(c, f);
	}
	if (link->from == 0 && c->tiers[link->to].kind == TIER_HOST)
		load_persist(c, t->load->copy->model, link->to);
}

/* The running transfer a demand should take the slot of: the lowest class, of these the one that started last. */
static struct transfer *link_yielder(struct link *link)
{
	struct transfer *worst = NULL;
	list_for_each(it, &link->active) {
		struct transfer *t = list_entry(it, struct transfer, active_node);
		if (t->state == TRANSFER_ACTIVE && t->load->class != CLASS_DEMAND &&
			(!worst || t->load->class >= worst->load->class))
			worst = t;
	}
	return worst;
}

/* How many demands wait, counted up to `limit`: in a heap nothing below a lower class is a demand. */
static uint32_t link_waiting_demands(const struct link *link, size_t at, uint32_t limit)
{
	if (limit == 0 || at >= link->queue.n ||
		container_of(link->queue.v[at], struct transfer, queue_node)->load->class != CLASS_DEMAND)
		return 0;
	uint32_t n = 1 + link_waiting_demands(link, 2 * at + 1, limit - 1);
	return n + link_waiting_demands(link, 2 * at + 2, limit - n);
}

static void link_preempt(struct cache *c, struct link *link)
{
	uint32_t stopping = 0;
	list_for_each(it, &link->active)
		stopping += list_entry(it, struct transfer, active_node)->state == TRANSFER_STOPPING;
	uint32_t demands = link_waiting_demands(link, 0, link->max_active);
	for (; stopping < demands; stopping++) {
		struct transfer *t = link_yielder(link);
		if (!t)
			return;
		c->stats.loads_preempted++;
		transfer_stop(c, t);
	}
}

void link_pump(struct cache *c, struct link *link)
{
	while (link->n_active < link->max_active && heap_top(&link->queue))
		transfer_start(c, container_of(heap_top(&link->queue), struct transfer, queue_node));
	if (heap_top(&link->queue))
		link_preempt(c, link);
}

/* ---- ending ---- */

/* What the whole link moved while this transfer ran.  One that follows another is as slow as that one: no measure. */
static void link_measure(struct cache *c, const struct transfer *t)
{
	struct link *link = t->link;
	uint64_t ns = c->now - t->started_at, bytes = link->moved_bytes - t->link_moved_at_start;
	if (t->leader || ns == 0 || bytes == 0)
		return;
	unsigned __int128 rate = (unsigned __int128)bytes * NS_PER_S / ns;
	uint64_t measured = rate > BYTES_LIMIT ? BYTES_LIMIT : (uint64_t)rate;
	link->bytes_per_s = MAX(link->bytes_per_s - link->bytes_per_s / RATE_WEIGHT + measured / RATE_WEIGHT, 1);
}

static void transfer_release_followers(struct transfer *t)
{
	while (!list_empty(&t->followers)) {
		struct transfer *f = list_first(&t->followers, struct transfer, follower_node);
		ASSERT(f->state != TRANSFER_PARKED);
		list_del(&f->follower_node);
		f->leader = NULL;
	}
}

/* What of the image its copy holds in the end. */
static uint64_t transfer_whole(const struct transfer *t)
{
	const struct copy *k = t->load->copy;
	uint64_t image = k->model->info.image_bytes;
	return k->plan ? MIN(image, copy_reach_bytes(k, transfer_grows(t) ? REACH_ALL : REACH_PLAN)) : image;
}

static void transfer_landed(struct transfer *t, uint64_t landed_bytes)
{
	struct copy *k = t->load->copy;
	landed_bytes = MIN(landed_bytes, transfer_whole(t));
	if (landed_bytes <= k->landed_bytes)
		return;
	t->link->moved_bytes += landed_bytes - k->landed_bytes;
	k->landed_bytes = landed_bytes;
}

void cache_landed(struct cache *c, uint64_t now, uint64_t transfer, uint64_t landed_bytes)
{
	brain_begin(c, now);
	struct transfer *t = slots_get(&c->transfers, transfer);
	if (t && transfer_is_running(t))
		transfer_landed(t, landed_bytes);
	brain_run(c);
}

void cache_transfer_done(struct cache *c, uint64_t now, uint64_t transfer, const struct fault *error)
{
	brain_begin(c, now);
	struct transfer *t = slots_get(&c->transfers, transfer);
	if (!t || !transfer_is_running(t))
		return; /* an answer nobody waits for */
	CHECK_OBJ(t, TRANSFER_MAGIC);
	struct load *l = t->load;
	enum load_end end = !error ? LOAD_END_OK : LOAD_END_FAILED;
	if (l->condemned || (error && error->code == TRIMS_E_CANCELLED && t->state == TRANSFER_STOPPING))
		end = LOAD_END_STOPPED;
	if (end == LOAD_END_OK)
		transfer_landed(t, transfer_whole(t));
	if (end != LOAD_END_FAILED)
		link_measure(c, t);
	l->transfer = NULL;
	transfer_unhook(c, t);
	if (end == LOAD_END_OK)
		transfer_release_followers(t);
	load_transfer_ended(c, l, t->link->from, end, error);
	if (end != LOAD_END_OK)
		transfer_strand_followers(c, t);
	brain_run(c);
}
