/* plan_fixture.h - random profiles and machines for the tests of plans, and the timeline computed a second way.  Thread: any.
 * Owns: the fixture holds its arrays. */
#ifndef TESTS_UNIT_PLAN_FIXTURE_H
#define TESTS_UNIT_PLAN_FIXTURE_H

#include "cache/plan.h"
#include "tests/unit/unit.h"

#include <string.h>

#define FIXTURE_LAYERS 32

struct plan_fixture {
	struct plan_layer layers[FIXTURE_LAYERS];
	struct plan_profile profile;
	struct plan_machine machine;
	uint8_t how[FIXTURE_LAYERS];
};

static inline uint64_t between(uint64_t *seed, uint64_t low, uint64_t high)
{
	return low + unit_random(seed) % (high - low + 1);
}

static inline bool one_in(uint64_t *seed, uint64_t n)
{
	return unit_random(seed) % n == 0;
}

/* Times up to `most` ns: a small one makes ties and zeros.  Some layers have no bytes, some cannot be read from the host. */
static inline void fixture_layer(struct plan_fixture *f, uint32_t i, uint64_t most, uint64_t *seed)
{
	struct plan_layer *l = &f->layers[i];
	uint64_t load_ns = one_in(seed, 8) ? 0 : between(seed, 0, one_in(seed, 3) ? most / 8 + 1 : most);
	*l = (struct plan_layer){.bytes = load_ns * 12, .exec_ns = between(seed, 0, one_in(seed, 2) ? most : most / 8 + 1)};
	if (!one_in(seed, 5)) {
		l->touched_bytes = between(seed, 0, one_in(seed, 2) ? l->bytes / 4 + 1 : l->bytes * 2 + 1);
		l->dha_ns = 1 + between(seed, l->exec_ns / 2, l->exec_ns + l->touched_bytes / 12 + most / 4);
	}
	if (l->bytes && one_in(seed, 10))
		l->copy_ns = between(seed, 1, most);
	l->first_tensor = i;
	l->n_tensors = 1;
	if (i && one_in(seed, 12)) {
		uint32_t first = (uint32_t)between(seed, 0, i - 1);
		first = f->layers[first].same_as ? f->layers[first].same_as - 1 : first;
		if (f->layers[first].bytes) {
			l->bytes = f->layers[first].bytes;
			l->same_as = first + 1;
		}
	}
}

static inline void fixture_machine(struct plan_fixture *f, uint32_t n_links, uint64_t most, uint64_t *seed)
{
	struct plan_machine *m = &f->machine;
	bool alike = one_in(seed, 2);
	*m = (struct plan_machine){.n_links = n_links, .target = (uint32_t)between(seed, 0, n_links - 1), .dha = !one_in(seed, 10),
		.chunk_bytes = between(seed, 1, most * 12)};
	for (uint32_t k = 0; k < n_links; k++)
		m->links[k] = (struct plan_link){.bytes_per_s = alike ? 12 * NS_PER_S : between(seed, 4, 24) * NS_PER_S,
			.overhead_ns = one_in(seed, 3) ? 0 : between(seed, 0, most / 4 + 1), .group = k,
			.hop_bytes_per_s = alike ? 40 * NS_PER_S : between(seed, 6, 80) * NS_PER_S};
	if (alike)
		for (uint32_t k = 1; k < n_links; k++)
			m->links[k].overhead_ns = m->links[0].overhead_ns;
	if (one_in(seed, 3)) {
		uint64_t bytes = 0;
		for (uint32_t i = 0; i < f->profile.n_layers; i++)
			bytes += f->layers[i].bytes;
		m->memory_bytes = 1 + bytes * between(seed, 20, 110) / 100;
	}
}

/* One that plan_check_profile() takes. */
static inline void fixture_random(struct plan_fixture *f, uint32_t n_layers, uint32_t n_links, uint64_t *seed)
{
	uint64_t most = one_in(seed, 3) ? 8 : one_in(seed, 2) ? 100 : 1000000;
	f->profile = (struct plan_profile){f->layers, n_layers};
	for (uint32_t i = 0; i < n_layers; i++)
		fixture_layer(f, i, most, seed);
	for (uint32_t i = n_layers; plan_check_profile(&f->profile, NULL) && i-- > 0;)
		f->layers[i].same_as = 0;
	fixture_machine(f, n_links, most, seed);
	ck_assert_int_eq(plan_check_profile(&f->profile, NULL), 0);
	ck_assert_int_eq(plan_check_machine(&f->machine), 0);
}

/* ---- the timeline, from what plan.h says of it ---- */

static inline uint64_t ratio_up(uint64_t a, uint64_t b, uint64_t c)
{
	return (uint64_t)(((unsigned __int128)a * b + c - 1) / c);
}

static inline uint64_t link_rate(const struct plan_machine *m, unsigned k)
{
	const struct plan_link *l = &m->links[k];
	return k == m->target ? l->bytes_per_s : MIN(l->bytes_per_s, l->hop_bytes_per_s);
}

static inline uint64_t bytes_ns(const struct plan_fixture *f, uint32_t i, unsigned k)
{
	const struct plan_layer *l = &f->layers[i];
	if (l->copy_ns)
		return ratio_up(l->copy_ns, link_rate(&f->machine, f->machine.target), link_rate(&f->machine, k));
	return ratio_up(l->bytes, NS_PER_S, link_rate(&f->machine, k));
}

static inline uint64_t traffic_ns(const struct plan_fixture *f, uint32_t i)
{
	uint64_t ns = ratio_up(f->layers[i].touched_bytes, NS_PER_S, link_rate(&f->machine, f->machine.target));
	return MIN(ns, f->layers[i].dha_ns);
}

/* What a link has to do: a piece with its layers, or the traffic of a layer. */
struct link_job {
	unsigned link;
	uint32_t layers[FIXTURE_LAYERS], n;
	bool traffic;
	uint64_t end;
};

/* Gathers the jobs in the order in which they are served. */
static inline uint32_t list_jobs(const struct plan_fixture *f, const uint8_t *how, struct link_job *jobs)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < f->profile.n_layers; i++) {
		if (how[i] == PLAN_NOTHING)
			continue;
		if (how[i] == PLAN_DHA) {
			jobs[n++] = (struct link_job){.link = f->machine.target, .layers = {i}, .n = 1, .traffic = true};
			continue;
		}
		if (!(how[i] & PLAN_JOIN))
			jobs[n++] = (struct link_job){.link = plan_link(how[i])};
		jobs[n - 1].layers[jobs[n - 1].n++] = i;
	}
	return n;
}

/* The total; ready[i]: when what was loaded for layer i has arrived. */
static inline uint64_t second_total(const struct plan_fixture *f, const uint8_t *how, uint64_t *ready)
{
	static struct link_job jobs[FIXTURE_LAYERS];
	uint64_t clock[PLAN_MAX_LINKS] = {0}, now = 0;
	uint32_t n = list_jobs(f, how, jobs);
	for (uint32_t k = 0; k < n; k++) {
		struct link_job *j = &jobs[k];
		const struct plan_link *l = &f->machine.links[j->link];
		uint64_t hop = j->link == f->machine.target ? 0 : ratio_up(f->machine.chunk_bytes, NS_PER_S, l->hop_bytes_per_s);
		if (j->traffic)
			clock[j->link] += traffic_ns(f, j->layers[0]);
		else if (f->layers[j->layers[0]].bytes < f->machine.chunk_bytes)
			clock[j->link] += l->overhead_ns;
		for (uint32_t i = 0; i < j->n && !j->traffic; i++)
			clock[j->link] += bytes_ns(f, j->layers[i], j->link);
		for (uint32_t i = 0; i < j->n && !j->traffic; i++)
			ready[j->layers[i]] = clock[j->link] + hop;
	}
	for (uint32_t i = 0; i < f->profile.n_layers; i++) {
		if (plan_is_load(how[i]))
			now = MAX(now, ready[i]);
		now += how[i] == PLAN_DHA ? f->layers[i].dha_ns : f->layers[i].exec_ns;
	}
	return now;
}

#endif
