/* heap.c - see heap.h.  Invariants: v[i]->at == i + 1; no node comes before its parent. */
#include "cache/heap.h"

#include "cache/memory.h"
#include "shared/check.h"

static void heap_put(struct heap *h, size_t i, struct heap_node *node)
{
	h->v[i] = node;
	node->at = i + 1;
}

static size_t heap_up(struct heap *h, size_t i, struct heap_node *node)
{
	while (i > 0 && h->before(node, h->v[(i - 1) / 2])) {
		heap_put(h, i, h->v[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_put(h, i, node);
	return i;
}

static void heap_down(struct heap *h, size_t i, struct heap_node *node)
{
	for (;;) {
		size_t child = 2 * i + 1;
		if (child >= h->n)
			break;
		if (child + 1 < h->n && h->before(h->v[child + 1], h->v[child]))
			child++;
		if (!h->before(h->v[child], node))
			break;
		heap_put(h, i, h->v[child]);
		i = child;
	}
	heap_put(h, i, node);
}

void heap_init(struct heap *h, heap_before_fn before)
{
	*h = (struct heap){.before = before};
}

void heap_fini(struct heap *h)
{
	memory_free(h->v);
	*h = (struct heap){0};
}

void heap_add(struct heap *h, struct heap_node *node)
{
	ASSERT(!heap_hooked(node));
	if (h->n == h->cap)
		h->v = memory_grow(h->v, &h->cap, sizeof(*h->v));
	heap_up(h, h->n++, node);
}

void heap_update(struct heap *h, struct heap_node *node)
{
	ASSERT(node->at > 0 && node->at <= h->n && h->v[node->at - 1] == node);
	heap_down(h, heap_up(h, node->at - 1, node), node);
}

void heap_del(struct heap *h, struct heap_node *node)
{
	if (!heap_hooked(node))
		return;
	size_t i = node->at - 1;
	ASSERT(i < h->n && h->v[i] == node);
	struct heap_node *last = h->v[--h->n];
	node->at = 0;
	if (last == node)
		return;
	heap_put(h, i, last);
	heap_update(h, last);
}

void heap_verify(const struct heap *h)
{
	for (size_t i = 0; i < h->n; i++) {
		ASSERT(h->v[i]->at == i + 1);
		ASSERT(i == 0 || !h->before(h->v[i], h->v[(i - 1) / 2]));
	}
}
