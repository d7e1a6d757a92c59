/* effect.c - the queue of things to be done.
 * Effects wait in a short form; texts are owned by the entry and go with it. */
#include "cache/brain.h"

static struct pending_effect *effect_at(const struct effects *e, size_t i)
{
	return &e->v[(e->head + i) & (e->cap - 1)];
}

static void effects_widen(struct effects *e)
{
	size_t cap = e->cap;
	struct pending_effect *wider = NULL;
	wider = memory_grow(wider, &cap, sizeof(*wider));
	for (size_t i = 0; i < e->n; i++)
		wider[i] = *effect_at(e, i);
	memory_free(e->v);
	e->v = wider;
	e->head = 0;
	e->cap = cap;
}

struct pending_effect *effect_add(struct cache *c, enum effect_kind kind)
{
	struct effects *e = &c->effects;
	if (e->n == e->cap)
		effects_widen(e);
	struct pending_effect *fx = effect_at(e, e->n++);
	*fx = (struct pending_effect){.kind = kind};
	return fx;
}

struct pending_effect *effect_copy(struct cache *c, enum effect_kind kind, const struct copy *k)
{
	struct pending_effect *fx = effect_add(c, kind);
	fx->model = k->model->id;
	fx->copy = k->generation;
	fx->edition = k->edition;
	fx->plan = k->plan;
	fx->bytes = k->bytes;
	fx->reach = k->reach;
	fx->to = k->tier;
	if (kind == FX_POISON)
		fx->text = memory_copy(k->fault, sizeof(*k->fault));
	return fx;
}

void effect_refuse(struct cache *c, const struct ask *ask, const struct fault *why)
{
	struct pending_effect *fx = effect_add(c, FX_REFUSE);
	fx->owner = ask->owner;
	fx->request = ask->token;
	fx->text = memory_copy(why, sizeof(*why));
	if (ask->kind == ASK_OPEN)
		c->stats.opens_refused++;
}

void effect_accept(struct cache *c, const struct ask *ask, const struct model *m)
{
	struct pending_effect *fx = effect_add(c, FX_ACCEPT);
	fx->model = m->id;
	fx->owner = ask->owner;
	fx->request = ask->token;
}

static bool effect_is_answer(const struct pending_effect *fx)
{
	return fx->kind == FX_GRANT || fx->kind == FX_REFUSE || fx->kind == FX_ACCEPT;
}

void effects_drop_owner(struct cache *c, uint64_t owner)
{
	for (size_t i = 0; i < c->effects.n; i++) {
		struct pending_effect *fx = effect_at(&c->effects, i);
		if (effect_is_answer(fx) && fx->owner == owner)
			fx->kind = FX_N;
	}
}

void effects_fini(struct effects *e)
{
	for (size_t i = 0; i < e->n; i++)
		memory_free(effect_at(e, i)->text);
	memory_free(e->v);
	*e = (struct effects){0};
}

/* The two texts are large: they are cleared, not copied, for effects that have none. */
static void effect_unfold(const struct pending_effect *fx, struct cache_effect *out)
{
	out->kind = fx->kind;
	out->request = fx->request;
	out->owner = fx->owner;
	out->model = fx->model;
	out->copy = fx->copy;
	out->edition = fx->edition;
	out->plan = fx->plan;
	out->bytes = fx->bytes;
	out->reach = (enum copy_reach)fx->reach;
	out->grow = fx->grow;
	out->transfer = fx->transfer;
	out->follows = fx->follows;
	out->lease = fx->lease;
	out->deadline = fx->deadline;
	out->class = (enum load_class)fx->class;
	out->user = fx->user;
	out->state = (enum copy_state)fx->state;
	out->from = fx->from;
	out->to = fx->to;
	out->hit = fx->hit;
	out->joined = fx->joined;
	out->name = fx->name;
	out->name_text[0] = '\0';
	out->error.code = TRIMS_E_NONE;
	out->error.text[0] = '\0';
	if (fx->kind == FX_RESOLVE)
		memcpy(out->name_text, fx->text, strlen(fx->text) + 1);
	else if (fx->text)
		out->error = *(const struct fault *)fx->text;
}

bool cache_next_effect(struct cache *c, struct cache_effect *out)
{
	struct effects *e = &c->effects;
	while (e->n) {
		struct pending_effect *fx = effect_at(e, 0);
		bool real = fx->kind != FX_N;
		if (real)
			effect_unfold(fx, out);
		memory_free(fx->text);
		e->head = (e->head + 1) & (e->cap - 1);
		e->n--;
		if (real)
			return true;
	}
	return false;
}
