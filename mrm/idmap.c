/* idmap.c - see idmap.h.  Keeps: at most two thirds full; linear probing, removal by shifting back. */
#include "mrm/idmap.h"

#include "shared/check.h"

#include <stdlib.h>

static size_t home_of(const struct idmap *m, uint64_t key)
{
	return (size_t)((key * 0x9e3779b97f4a7c15u) >> 32) & (m->cap - 1);
}

static size_t probe(const struct idmap *m, uint64_t key)
{
	size_t i = home_of(m, key);
	while (m->slot[i].key && m->slot[i].key != key)
		i = (i + 1) & (m->cap - 1);
	return i;
}

static void grow(struct idmap *m)
{
	struct idmap bigger = {.cap = m->cap ? m->cap * 2 : 64};
	bigger.slot = calloc(bigger.cap, sizeof *bigger.slot);
	ASSERT(bigger.slot);
	for (size_t i = 0; i < m->cap; i++)
		if (m->slot[i].key)
			bigger.slot[probe(&bigger, m->slot[i].key)] = m->slot[i];
	bigger.n = m->n;
	free(m->slot);
	*m = bigger;
}

void idmap_fini(struct idmap *m)
{
	free(m->slot);
	*m = (struct idmap){0};
}

void *idmap_get(const struct idmap *m, uint64_t key)
{
	return m->cap && key ? m->slot[probe(m, key)].value : NULL;
}

void idmap_set(struct idmap *m, uint64_t key, void *value)
{
	ASSERT(key && value);
	if (m->n * 3 >= m->cap * 2)
		grow(m);
	size_t i = probe(m, key);
	m->n += !m->slot[i].key;
	m->slot[i] = (struct idmap_slot){key, value};
}

void *idmap_take(struct idmap *m, uint64_t key)
{
	if (!m->cap || !key)
		return NULL;
	size_t hole = probe(m, key);
	void *value = m->slot[hole].value;
	if (!m->slot[hole].key)
		return NULL;
	for (size_t i = (hole + 1) & (m->cap - 1); m->slot[i].key; i = (i + 1) & (m->cap - 1)) {
		size_t home = home_of(m, m->slot[i].key);
		if (((i - home) & (m->cap - 1)) >= ((i - hole) & (m->cap - 1))) {
			m->slot[hole] = m->slot[i];
			hole = i;
		}
	}
	m->slot[hole] = (struct idmap_slot){0};
	m->n--;
	return value;
}

void *idmap_next(const struct idmap *m, size_t *at)
{
	while (*at < m->cap) {
		size_t i = (*at)++;
		if (m->slot[i].key)
			return m->slot[i].value;
	}
	return NULL;
}

/* What lies behind a slot that is emptied may move into it, so the slot is looked at again. */
void *idmap_take_any(struct idmap *m, size_t *at)
{
	for (; *at < m->cap; ++*at)
		if (m->slot[*at].key)
			return idmap_take(m, m->slot[*at].key);
	return NULL;
}
