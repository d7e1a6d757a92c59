/* list.h - intrusive doubly linked list with a sentinel.
 * Thread: the owner's.  Owns nothing: nodes live inside their objects; a destructor unhooks its node. */
#ifndef SHARED_LIST_H
#define SHARED_LIST_H

#include "shared/base.h"

struct list {
	struct list *prev, *next;
};

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* True while the node hangs in some list.  A node must have been through list_init(). */
static inline bool list_hooked(const struct list *node)
{
	return node->next != node;
}

static inline void list_add_before(struct list *node, struct list *pos)
{
	node->prev = pos->prev;
	node->next = pos;
	pos->prev->next = node;
	pos->prev = node;
}

static inline void list_add_tail(struct list *node, struct list *head)
{
	list_add_before(node, head);
}

static inline void list_add_head(struct list *node, struct list *head)
{
	list_add_before(node, head->next);
}

/* Unhooks; harmless on a node that hangs nowhere. */
static inline void list_del(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_first(head, type, member) list_entry((head)->next, type, member)
#define list_for_each(it, head) for (struct list *it = (head)->next; it != (head); it = it->next)
/* Safe against removal of `it` itself, not of its successor. */
#define list_for_each_safe(it, head)                                                                                  \
	for (struct list *it = (head)->next, *it##_next = it->next; it != (head); it = it##_next, it##_next = it->next)

#endif
