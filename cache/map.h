/* map.h - the two lookup tables of the brain: an intrusive chained hash map, and slots, which give objects ids that are
 * never used twice.  Thread: the cache's.  Owns buckets and slots, not the objects. */
#ifndef CACHE_MAP_H
#define CACHE_MAP_H

#include "shared/base.h"

struct map_node {
	struct map_node *next;
	uint64_t hash;
};

struct map {
	struct map_node **buckets;
	size_t n, mask;
};

void map_init(struct map *m);
void map_fini(struct map *m);
void map_add(struct map *m, struct map_node *node, uint64_t hash);
/* The node must be in the map. */
void map_del(struct map *m, struct map_node *node);
/* The first node with that hash, then the following ones; the caller compares keys. */
struct map_node *map_first(const struct map *m, uint64_t hash);
struct map_node *map_next(const struct map_node *node);
/* ASSERTs that the chains hold exactly n nodes, each in its bucket. */
void map_verify(const struct map *m);

/* Seeded, for tables whose keys strangers choose. */
uint64_t hash_bytes(uint32_t seed, const void *data, size_t bytes);
uint64_t hash_pair(uint32_t seed, uint64_t a, uint64_t b);

struct slot {
	void *object;
	uint32_t generation, next_free;
};

/* id = index << 32 | generation; generations start at 1, so no id is 0.  A slot whose generations are used up retires. */
struct slots {
	struct slot *v;
	size_t cap;
	uint32_t n, used, free_head; /* free_head: index + 1 */
};

void slots_fini(struct slots *s);
uint64_t slots_add(struct slots *s, void *object);
void slots_del(struct slots *s, uint64_t id);
/* NULL for an id that is not in use (any more). */
void *slots_get(const struct slots *s, uint64_t id);
/* The object with the lowest id above `after`, NULL past the last. */
void *slots_above(const struct slots *s, uint64_t after);

#endif
