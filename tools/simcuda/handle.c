/* handle.c - handles as numbers.  Keeps: a handle names one object for ever; after handle_end() it names none, however
 * often its slot is used again.  Layout: kind 8 bits, generation 24, slot 32. */
#include "tools/simcuda/sim.h"

struct slot {
	void *object; /* NULL: free */
	uint32_t generation;
	uint32_t next_free; /* + 1; 0: the last */
};

static struct slot *slots;
static uint32_t n_slots, room, free_slot;

static bool grow(void)
{
	uint32_t wanted = room ? room * 2 : 64;
	struct slot *grown = realloc(slots, wanted * sizeof *slots);

	if (!grown)
		return false;
	slots = grown;
	room = wanted;
	return true;
}

uint64_t handle_new(enum handle_kind kind, void *object)
{
	uint32_t i;

	if (free_slot) {
		i = free_slot - 1;
		free_slot = slots[i].next_free;
	} else {
		if (n_slots == room && !grow())
			return 0;
		i = n_slots++;
		slots[i].generation = 0;
	}
	slots[i].object = object;
	slots[i].generation = (slots[i].generation + 1) & 0xffffff;
	return (uint64_t)kind << 56 | (uint64_t)slots[i].generation << 32 | i;
}

void *handle_get(enum handle_kind kind, uint64_t handle)
{
	uint32_t i = (uint32_t)handle;

	if (handle >> 56 != (uint64_t)kind || i >= n_slots || (handle >> 32 & 0xffffff) != slots[i].generation)
		return NULL;
	return slots[i].object;
}

void handle_end(enum handle_kind kind, uint64_t handle)
{
	uint32_t i = (uint32_t)handle;

	ASSERT(handle_get(kind, handle));
	slots[i].object = NULL;
	slots[i].next_free = free_slot;
	free_slot = i + 1;
}
