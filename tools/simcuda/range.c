/* range.c - every address range that the simulation knows, sorted by address.  Keeps: ranges never overlap; one that an
 * operation touches stays until it is done. */
#include "tools/simcuda/sim.h"

#include <string.h>

static struct range **table;
static size_t n_ranges, room;

/* Index of the first range that ends above addr. */
static size_t find(cu_ptr addr)
{
	size_t low = 0, high = n_ranges;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (table[middle]->base + table[middle]->bytes > addr)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

cu_result range_add(const struct range *r, struct range **out)
{
	struct range *added = malloc(sizeof *added);
	size_t at = find(r->base);

	if (!added)
		return CU_E_OUT_OF_MEMORY;
	if (n_ranges == room) {
		size_t wanted = room ? room * 2 : 64;
		struct range **grown = realloc(table, wanted * sizeof *grown);

		if (!grown) {
			free(added);
			return CU_E_OUT_OF_MEMORY;
		}
		table = grown;
		room = wanted;
	}
	ASSERT(at == n_ranges || table[at]->base >= r->base + r->bytes);
	*added = *r;
	memmove(table + at + 1, table + at, (n_ranges - at) * sizeof *table);
	table[at] = added;
	n_ranges++;
	if (out)
		*out = added;
	return CU_OK;
}

bool range_quiet(struct range *r)
{
	if (r->leaving)
		return false;
	r->leaving = true;
	while (r->busy)
		pthread_cond_wait(&sim.done, &sim.lock);
	return true;
}

void range_remove(struct range *r)
{
	size_t at = find(r->base);

	ASSERT(at < n_ranges && table[at] == r && r->leaving && !r->busy);
	n_ranges--;
	memmove(table + at, table + at + 1, (n_ranges - at) * sizeof *table);
	free(r);
}

struct range *range_first_in(cu_ptr addr, size_t bytes)
{
	size_t at = find(addr);

	return at < n_ranges && table[at]->base < addr + bytes ? table[at] : NULL;
}

struct range *range_at(cu_ptr addr)
{
	return range_first_in(addr & ~HOST_ALIAS, 1);
}

struct range *range_each(size_t *i)
{
	return *i < n_ranges ? table[(*i)++] : NULL;
}

static bool is_host(const struct range *r)
{
	return r->kind == RANGE_REGISTERED || r->kind == RANGE_HOST;
}

static bool allowed(const struct range *r, const struct sim_device *by, cu_ptr addr, bool write)
{
	if (r->leaving)
		return false;
	if (r->kind == RANGE_VMM)
		return (write ? r->writers : r->readers) >> by->ordinal & 1;
	if (!is_host(r))
		return !(addr & HOST_ALIAS);
	/* Where devices see host memory elsewhere, the CPU's address means nothing to them. */
	return !(write && r->cpu_read_only) && (!!(addr & HOST_ALIAS) != !!device_attr(by, CU_ATTR_SAME_HOST_POINTER));
}

cu_result range_check(const struct sim_device *by, cu_ptr addr, size_t bytes, bool write)
{
	if (addr + bytes < addr)
		return CU_E_INVALID_VALUE;
	while (bytes) {
		struct range *r = range_at(addr);
		size_t part;

		if (!r || !allowed(r, by, addr, write))
			return CU_E_INVALID_VALUE;
		part = MIN(bytes, r->base + r->bytes - (addr & ~HOST_ALIAS));
		if (part < bytes && r->kind != RANGE_VMM) /* allocations that happen to be neighbours are still two */
			return CU_E_INVALID_VALUE;
		addr += part;
		bytes -= part;
	}
	return CU_OK;
}

bool range_reach(const struct sim_device *by, cu_ptr addr, size_t bytes, bool write)
{
	struct range *r = range_at(addr);

	return !range_check(by, addr, bytes, write) && !(r->kind == RANGE_IPC && store_is_orphan(r->fd, r->mapped));
}

cu_result range_host(cu_ptr addr, size_t bytes, bool write, bool *pageable)
{
	struct range *r;

	*pageable = false;
	if (!addr || addr + bytes < addr)
		return CU_E_INVALID_VALUE;
	r = range_first_in(addr, bytes);
	if (!r) {
		*pageable = true;
		return CU_OK;
	}
	/* Some of it is registered, or it runs from one registration into the next. */
	if (addr < r->base || bytes > r->base + r->bytes - addr || r->leaving)
		return CU_E_INVALID_VALUE;
	return is_host(r) && !(write && r->cpu_read_only) ? CU_OK : CU_E_INVALID_VALUE;
}

static void add_busy(cu_ptr addr, size_t bytes, int by)
{
	addr &= ~HOST_ALIAS;
	for (size_t at = find(addr); at < n_ranges && table[at]->base < addr + bytes; at++)
		table[at]->busy += (unsigned)by;
}

/* A span that ranges cover from its first byte to its last stays so; in one of unregistered memory some may appear. */
bool range_pin(cu_ptr addr, size_t bytes)
{
	if (!range_at(addr))
		return false;
	add_busy(addr, bytes, 1);
	return true;
}

void range_unpin(cu_ptr addr, size_t bytes)
{
	add_busy(addr, bytes, -1);
	pthread_cond_broadcast(&sim.done);
}

void *range_cpu(cu_ptr addr)
{
	return (void *)(uintptr_t)(addr & ~HOST_ALIAS);
}
