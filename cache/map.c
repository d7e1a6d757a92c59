/* map.c - see map.h.  Invariants: a map has at least as many buckets as nodes / 2; a slot in use has an object, a free
 * one has none and the generation its next object will get. */
#include "cache/map.h"

#include <string.h>

#include "cache/memory.h"
#include "shared/check.h"

#define MAP_FIRST_BUCKETS 64

void map_init(struct map *m)
{
	*m = (struct map){.mask = MAP_FIRST_BUCKETS - 1};
	m->buckets = memory_new(MAP_FIRST_BUCKETS * sizeof(*m->buckets));
}

void map_fini(struct map *m)
{
	memory_free(m->buckets);
	*m = (struct map){0};
}

static void map_widen(struct map *m)
{
	size_t mask = m->mask * 2 + 1;
	struct map_node **wider = memory_new((mask + 1) * sizeof(*wider));
	for (size_t i = 0; i <= m->mask; i++) {
		struct map_node *next;
		for (struct map_node *node = m->buckets[i]; node; node = next) {
			next = node->next;
			node->next = wider[node->hash & mask];
			wider[node->hash & mask] = node;
		}
	}
	memory_free(m->buckets);
	m->buckets = wider;
	m->mask = mask;
}

void map_add(struct map *m, struct map_node *node, uint64_t hash)
{
	if (m->n > m->mask)
		map_widen(m);
	node->hash = hash;
	node->next = m->buckets[hash & m->mask];
	m->buckets[hash & m->mask] = node;
	m->n++;
}

void map_del(struct map *m, struct map_node *node)
{
	struct map_node **at = &m->buckets[node->hash & m->mask];
	while (*at != node) {
		ASSERT(*at);
		at = &(*at)->next;
	}
	*at = node->next;
	m->n--;
}

static struct map_node *map_same(struct map_node *node, uint64_t hash)
{
	while (node && node->hash != hash)
		node = node->next;
	return node;
}

struct map_node *map_first(const struct map *m, uint64_t hash)
{
	return map_same(m->buckets[hash & m->mask], hash);
}

struct map_node *map_next(const struct map_node *node)
{
	return map_same(node->next, node->hash);
}

void map_verify(const struct map *m)
{
	size_t n = 0;
	for (size_t i = 0; i <= m->mask; i++)
		for (const struct map_node *node = m->buckets[i]; node; node = node->next, n++)
			ASSERT((node->hash & m->mask) == i);
	ASSERT(n == m->n);
}

/* One round: a 64 x 64 -> 128 bit product, folded. */
static uint64_t hash_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd6e8feb86659fd93u);
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t hash_pair(uint32_t seed, uint64_t a, uint64_t b)
{
	return hash_fold(hash_fold(a, seed), hash_fold(b, ~(uint64_t)seed));
}

uint64_t hash_bytes(uint32_t seed, const void *data, size_t bytes)
{
	const unsigned char *p = data;
	uint64_t h = hash_fold(bytes, seed), word;
	for (; bytes >= sizeof(word); p += sizeof(word), bytes -= sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		h = hash_fold(h ^ word, seed);
	}
	word = 0;
	memcpy(&word, p, bytes);
	return hash_fold(h ^ word, ~(uint64_t)seed);
}

void slots_fini(struct slots *s)
{
	memory_free(s->v);
	*s = (struct slots){0};
}

static uint32_t slots_take(struct slots *s)
{
	if (s->free_head) {
		uint32_t index = s->free_head - 1;
		s->free_head = s->v[index].next_free;
		return index;
	}
	ASSERT(s->n < UINT32_MAX);
	if (s->n == s->cap)
		s->v = memory_grow(s->v, &s->cap, sizeof(*s->v));
	s->v[s->n] = (struct slot){.generation = 1};
	return s->n++;
}

uint64_t slots_add(struct slots *s, void *object)
{
	uint32_t index = slots_take(s);
	s->v[index].object = object;
	s->used++;
	return (uint64_t)index << 32 | s->v[index].generation;
}

void *slots_get(const struct slots *s, uint64_t id)
{
	uint64_t index = id >> 32;
	if (index >= s->n || s->v[index].generation != (uint32_t)id)
		return NULL;
	return s->v[index].object;
}

void slots_del(struct slots *s, uint64_t id)
{
	uint32_t index = (uint32_t)(id >> 32);
	ASSERT(slots_get(s, id));
	struct slot *slot = &s->v[index];
	slot->object = NULL;
	s->used--;
	if (++slot->generation == 0)
		return;
	slot->next_free = s->free_head;
	s->free_head = index + 1;
}

void *slots_above(const struct slots *s, uint64_t after)
{
	for (uint64_t i = after >> 32; i < s->n; i++)
		if (s->v[i].object && (i << 32 | s->v[i].generation) > after)
			return s->v[i].object;
	return NULL;
}
