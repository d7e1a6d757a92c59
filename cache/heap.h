/* heap.h - intrusive binary heap: the smallest node on top, any node moved or removed in O(log n).
 * Thread: the cache's.  Owns its array, not the nodes: they live inside their objects; a destructor takes its node out.
 * A zeroed node is in no heap. */
#ifndef CACHE_HEAP_H
#define CACHE_HEAP_H

#include "shared/base.h"

struct heap_node {
	size_t at; /* position + 1; 0: in no heap */
};

/* A strict total order, so that equal histories give equal heaps. */
typedef bool (*heap_before_fn)(const struct heap_node *a, const struct heap_node *b);

struct heap {
	struct heap_node **v;
	size_t n, cap;
	heap_before_fn before;
};

void heap_init(struct heap *h, heap_before_fn before);
void heap_fini(struct heap *h);
void heap_add(struct heap *h, struct heap_node *node);
/* Harmless on a node that is in no heap. */
void heap_del(struct heap *h, struct heap_node *node);
/* After the node's order changed. */
void heap_update(struct heap *h, struct heap_node *node);
/* ASSERTs positions and order. */
void heap_verify(const struct heap *h);

static inline struct heap_node *heap_top(const struct heap *h)
{
	return h->n ? h->v[0] : NULL;
}

static inline bool heap_hooked(const struct heap_node *node)
{
	return node->at != 0;
}

#endif
