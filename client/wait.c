/* wait.c - waiting for bytes on the progress page; shared/progress.h has the order of updates.
 * Keeps: no wait outlives its deadline or the daemon.  A thread sleeps on the page's futex for at most SLICE_NS at a time
 * and then looks whether the connection still lives, because nobody would wake it after the daemon's death. */
#include "client/model.h"

#include "client/fail.h"
#include "client/gpu.h"
#include "shared/image.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLICE_NS (100 * NS_PER_MS)

static int poisoned(struct progress_page *page)
{
	struct fault f;
	uint32_t code = atomic_load_explicit(&page->error, memory_order_relaxed);
	memcpy(f.text, page->error_text, sizeof f.text);
	f.text[sizeof f.text - 1] = 0;
	if (code == TRIMS_E_NONE)
		code = TRIMS_E_INTERNAL;
	return fail((enum trims_code)code, "%s", *f.text ? f.text : error_text(code));
}

/* Above the watermark: where a load follows a plan, what is wanted first need not lie first. */
static bool chunks_landed(trims_model *m, struct progress_page *page, const struct tensor_place *place)
{
	const struct mapped_image *im;
	uint64_t first = 0;
	if (mapping_image(m->mapping, &im) < 0)
		return false;
	for (uint32_t e = 0; e < place->extent; e++)
		first += (im->extents[e].bytes + IMAGE_CHUNK_BYTES - 1) / IMAGE_CHUNK_BYTES;
	uint64_t last = first + (place->end - 1) / IMAGE_CHUNK_BYTES;
	for (uint64_t c = first + place->offset / IMAGE_CHUNK_BYTES; c <= last; c++)
		if (c >= PROGRESS_MAX_CHUNKS || !(atomic_load_explicit(&page->chunk[c / 64], memory_order_acquire) >> c % 64 & 1))
			return false;
	return true;
}

static bool has_landed_on_host(trims_model *m, struct progress_page *page, const struct tensor_place *place)
{
	return atomic_load_explicit(&page->watermark[place->extent], memory_order_acquire) >= place->end ||
		chunks_landed(m, page, place);
}

/* On a device by pieces, else by extents and chunks; of all bytes in all only READY vouches for those. */
static bool has_landed(trims_model *m, struct progress_page *page, const struct tensor_place *place)
{
	if (!m->gpu)
		return place && has_landed_on_host(m, page, place);
	for (struct gpu_need need = {0}; gpu_next(m, place, &need);)
		if (atomic_load_explicit(&page->watermark[need.piece], memory_order_acquire) < need.bytes)
			return false;
	return true;
}

static int look(trims_model *m, struct progress_page *page, const struct tensor_place *place)
{
	uint32_t state = atomic_load_explicit(&page->state, memory_order_acquire);
	if (state == PROGRESS_READY) {
		atomic_store_explicit(&m->ready, true, memory_order_release);
		return 1;
	}
	if (place && has_landed(m, page, place))
		return 1;
	return state == PROGRESS_POISONED ? poisoned(page) : 0;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
	syscall(SYS_futex, word, FUTEX_WAIT, seen, &ts, NULL, 0); /* whatever ended it, the caller looks again */
}

/* Memory of cuda-ipc goes with the daemon: what has arrived is not there any more. */
static int owner_gone(trims_model *m)
{
	return m->gpu ? gpu_owner_gone(m) : 0;
}

static int find_page(trims_model *m, const struct tensor_place *place, struct progress_page **out)
{
	int r = mapping_progress(m->mapping, out);
	if (r == 0 && m->gpu && gpu_pieces(m) > (*out)->extents)
		r = fail(TRIMS_E_PROTOCOL, "the progress page has %u pieces of %u", (*out)->extents, gpu_pieces(m));
	else if (r == 0 && !m->gpu && place && place->extent >= (*out)->extents)
		r = fail(TRIMS_E_PROTOCOL, "the progress page has no extent %u", place->extent);
	return r;
}

/* What a stream sees that waits for everything; READY, with the digest, comes a moment later. */
static bool all_landed(trims_model *m, struct progress_page *page, const struct tensor_place *place)
{
	return !place && m->gpu && has_landed(m, page, NULL);
}

static int look_here(trims_model *m, const struct tensor_place *place)
{
	struct progress_page *page;
	int r = owner_gone(m);
	if (r < 0 || atomic_load_explicit(&m->ready, memory_order_acquire))
		return r < 0 ? r : 1;
	r = find_page(m, place, &page);
	if (r == 0)
		r = look(m, page, place);
	return r ? r : all_landed(m, page, place);
}

static int wait_here(trims_model *m, const struct tensor_place *place, uint64_t deadline)
{
	struct progress_page *page;
	int r = owner_gone(m);
	if (r < 0 || atomic_load_explicit(&m->ready, memory_order_acquire))
		return r;
	if ((r = find_page(m, place, &page)) < 0)
		return r;
	for (bool alive = true;;) {
		uint32_t seen = atomic_load_explicit(&page->wake, memory_order_acquire);
		int there = look(m, page, place);
		if (there)
			return there < 0 ? there : owner_gone(m);
		if (!alive) /* and the last look came after its death */
			return r;
		r = conn_alive(m->conn, model_lease(m).life.epoch);
		alive = r == 0;
		uint64_t now = conn_now();
		if (alive && now >= deadline && all_landed(m, page, place))
			return 0;
		if (alive && now >= deadline)
			return fail(TRIMS_E_TIMED_OUT, "the model did not arrive in time");
		if (alive)
			futex_wait(&page->wake, seen, MIN(SLICE_NS, deadline - now));
	}
}

int model_look(trims_model *m, const struct tensor_place *place)
{
	if (place && gpu_dha_has(m, place))
		return gpu_dha_look(m, place);
	int r = look_here(m, place);
	return r == 1 && m->gpu && !place ? gpu_dha_look(m, NULL) : r;
}

int model_wait(trims_model *m, const struct tensor_place *place, uint64_t deadline)
{
	if (place && gpu_dha_has(m, place))
		return gpu_dha_wait(m, place, deadline);
	int r = wait_here(m, place, deadline);
	return r == 0 && m->gpu && !place ? gpu_dha_wait(m, NULL, deadline) : r;
}

int trims_wait(trims_model *m, uint64_t timeout_ns)
{
	return model_wait(m, NULL, conn_deadline(timeout_ns));
}

int trims_wait_tensor(trims_model *m, uint32_t index, uint64_t timeout_ns)
{
	struct tensor_place place;
	int r = model_tensor_place(m, index, &place);
	return r < 0 ? r : model_wait(m, &place, conn_deadline(timeout_ns));
}

int trims_progress(trims_model *m, struct trims_progress *out)
{
	struct progress_page *page;
	int rest = m->gpu ? gpu_dha_state(m) : 1;
	if (rest == 1 && atomic_load_explicit(&m->ready, memory_order_acquire)) {
		*out = (struct trims_progress){.landed_bytes = m->image_bytes, .image_bytes = m->image_bytes,
			.state = TRIMS_STATE_READY};
		return 0;
	}
	int r = mapping_progress(m->mapping, &page);
	if (r < 0)
		return r;
	uint32_t state = atomic_load_explicit(&page->state, memory_order_acquire);
	*out = (struct trims_progress){.landed_bytes = page->landed, .image_bytes = m->image_bytes, .state = state};
	if (state == PROGRESS_POISONED)
		out->error = page->error;
	else if (rest < 0)
		*out = (struct trims_progress){.landed_bytes = page->landed, .image_bytes = m->image_bytes,
			.state = TRIMS_STATE_FAILED, .error = (uint32_t)-rest};
	else if (rest == 0)
		out->state = TRIMS_STATE_LOADING;
	return 0;
}
