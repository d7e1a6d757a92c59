/* test_linksched.c - the link scheduler's arithmetic and rules, one by one.  tests/sim/sim_links.c has the properties. */
#include "cache/linksched.h"
#include "shared/check.h"
#include "tests/unit/unit.h"

#include <errno.h>

#define GBPS ((uint64_t)1000000000)
#define US NS_PER_US

static const struct linksched_calibration gen3 = {12 * GBPS, 710, 6 * US, 10 * US};
static const struct linksched_calibration gen4 = {26 * GBPS, 710, 6 * US, 10 * US};
static const struct linksched_calibration gen5 = {55 * GBPS, 710, 6 * US, 10 * US};

/* One link of Gen4, nothing shared; `now` is the test's clock. */
struct bed {
	struct linksched *s;
	uint32_t link;
	uint64_t now, until;
	struct linksched_pick picks[2];
	unsigned in_flight;
};

static struct linksched *sched_with(const struct linksched_config *config)
{
	struct linksched *s;
	ck_assert_int_eq(linksched_new(&s, config), 0);
	return s;
}

static uint32_t link_with(struct linksched *s, const struct linksched_calibration *c, uint32_t share, uint32_t node,
	uint32_t charge)
{
	struct linksched_link_config config = {.calibration = *c, .share = share,
		.hops = {{.node = node, .charge = charge}}, .n_hops = charge ? 1 : 0};
	uint32_t link;
	ck_assert_int_eq(linksched_link_add(s, &config, &link), 0);
	return link;
}

static void bed_init(struct bed *b, const struct linksched_config *config)
{
	*b = (struct bed){.s = sched_with(config), .now = NS_PER_S};
	b->link = link_with(b->s, &gen4, 1000, 0, 0);
}

static void bed_fini(struct bed *b)
{
	linksched_verify(b->s);
	linksched_free(&b->s);
	ck_assert_ptr_null(b->s);
}

static uint64_t flow_of(struct bed *b, enum link_class class, uint64_t bytes, uint64_t deadline, uint32_t user)
{
	struct linksched_flow flow = {.class = class, .link = b->link, .user = user, .bytes = bytes, .ready = bytes,
		.deadline = deadline};
	uint64_t id;
	ck_assert_int_eq(linksched_add(b->s, b->now, &flow, &id), 0);
	linksched_verify(b->s);
	return id;
}

static uint64_t add(struct bed *b, enum link_class class, uint64_t bytes)
{
	return flow_of(b, class, bytes, LINKSCHED_NEVER, LINKSCHED_ANYBODY);
}

static enum linksched_answer next(struct bed *b)
{
	ck_assert_uint_lt(b->in_flight, 3);
	struct linksched_pick pick;
	enum linksched_answer answer = linksched_next(b->s, b->now, b->link, &pick, &b->until);
	linksched_verify(b->s);
	if (answer == LINKSCHED_PICK) {
		ck_assert_uint_lt(b->in_flight, 2);
		b->picks[b->in_flight++] = pick;
	}
	return answer;
}

/* The flow of the next piece; 0: none can go. */
static uint64_t next_flow(struct bed *b)
{
	return next(b) == LINKSCHED_PICK ? b->picks[b->in_flight - 1].flow : 0;
}

/* The oldest piece is done after its time on the wire. */
static bool done(struct bed *b, struct linksched_flow_view *last)
{
	struct linksched_flow_view ignored;
	struct linksched_pick pick = b->picks[0];
	b->now += pick.bytes * 1000 / 26000;
	b->picks[0] = b->picks[1];
	b->in_flight--;
	bool ended = linksched_done(b->s, b->now, &pick, last ? last : &ignored);
	linksched_verify(b->s);
	return ended;
}

/* Lets time pass until another piece is picked; its flow. */
static uint64_t step(struct bed *b)
{
	for (;;) {
		enum linksched_answer answer = b->in_flight < 2 ? next(b) : LINKSCHED_NOTHING;
		if (answer == LINKSCHED_PICK)
			return b->picks[b->in_flight - 1].flow;
		if (b->in_flight) {
			done(b, NULL);
			continue;
		}
		ck_assert_int_eq(answer, LINKSCHED_UNTIL);
		ck_assert_uint_gt(b->until, b->now);
		b->now = b->until;
	}
}

/* ---- arithmetic ---- */

static uint64_t chunk_for(const struct linksched_calibration *c, uint32_t in_flight, uint64_t target_ns, bool *costs)
{
	return linksched_chunk(c, c->bytes_per_s * c->duplex / 1000, in_flight, target_ns, costs);
}

START_TEST(chunk_follows_from_the_target)
{
	bool costs;
	ck_assert_uint_eq(chunk_for(&gen3, 2, 300 * US, &costs), 1 * MIB);
	ck_assert(!costs);
	ck_assert_uint_eq(chunk_for(&gen4, 2, 300 * US, &costs), 2 * MIB);
	ck_assert(!costs);
	ck_assert_uint_eq(chunk_for(&gen5, 2, 300 * US, &costs), 4 * MIB);
	ck_assert(!costs);
}
END_TEST

START_TEST(chunk_is_clamped_and_says_when_the_target_costs_bandwidth)
{
	bool costs;
	ck_assert_uint_eq(chunk_for(&gen5, 2, NS_PER_S, &costs), LINKSCHED_CHUNK_MAX);
	ck_assert(!costs);
	ck_assert_uint_eq(chunk_for(&gen5, 2, 20 * US, &costs), LINKSCHED_CHUNK_MIN);
	ck_assert(costs);
	ck_assert_uint_eq(chunk_for(&gen5, 2, 60 * US, &costs), 512 * KIB);
	ck_assert(costs); /* which take 9.5 us, less than a submission: the engine could run dry */
	ck_assert_uint_eq(chunk_for(&gen4, 1, 150 * US, &costs), 2 * MIB);
	ck_assert(costs); /* alone 6 us of overhead want 2.96 MB */
}
END_TEST

START_TEST(bound_is_what_is_in_flight_and_its_costs)
{
	struct linksched *s = sched_with(&(struct linksched_config){0});
	uint32_t four = link_with(s, &gen4, 0, 0, 0), five = link_with(s, &gen5, 0, 0, 0);
	ck_assert_uint_eq(linksched_worst_bytes_per_s(s, four), 18460000000);
	ck_assert_uint_eq(linksched_bound_ns(s, four) / US, 253);
	ck_assert_uint_eq(linksched_bound_ns(s, five) / US, 240);
	ck_assert_int_eq(linksched_reserve(s, 0, linksched_link_node(s, four), 9 * GBPS), 0);
	ck_assert_uint_eq(linksched_worst_bytes_per_s(s, four), 9460000000);
	ck_assert_uint_eq(linksched_chunk_bytes(s, four), 1 * MIB);
	ck_assert_uint_eq(linksched_bound_ns(s, four) / US, 247);
	linksched_verify(s);
	linksched_free(&s);
}
END_TEST

START_TEST(what_is_copied_first_takes_no_longer_than_a_chunk_on_the_link)
{
	struct linksched *s = sched_with(&(struct linksched_config){0});
	uint32_t four = link_with(s, &gen4, 0, 0, 0);
	uint64_t chunk = linksched_chunk_bytes(s, four), some = linksched_copied_bytes(s, four, 4 * GBPS);
	uint64_t chunk_ns = chunk * NS_PER_S / linksched_worst_bytes_per_s(s, four), costs = gen4.overhead_ns + gen4.submit_ns;
	ck_assert_uint_eq(linksched_copied_bytes(s, four, 100 * GBPS), chunk);
	ck_assert_uint_le(some * NS_PER_S / (4 * GBPS) + costs, chunk_ns);
	ck_assert_uint_ge(some * NS_PER_S / (4 * GBPS) + costs, chunk_ns - 2); /* and not much less */
	ck_assert_uint_eq(linksched_copied_bytes(s, four, 1), 4096);
	linksched_free(&s);
}
END_TEST

START_TEST(a_shared_node_slows_the_worst_case_and_adds_its_tokens)
{
	struct linksched *s = sched_with(&(struct linksched_config){0});
	uint32_t wide, narrow;
	ck_assert_int_eq(linksched_node_add(s, &(struct linksched_node_config){.bytes_per_s = 200 * GBPS}, &wide), 0);
	ck_assert_int_eq(linksched_node_add(s, &(struct linksched_node_config){.bytes_per_s = 26 * GBPS}, &narrow), 0);
	uint32_t a = link_with(s, &gen4, 0, wide, 1000);
	ck_assert_uint_eq(linksched_bound_ns(s, a) / US, 253);
	uint32_t b = link_with(s, &gen4, 0, narrow, 1000), c = link_with(s, &gen4, 0, narrow, 1000);
	ck_assert_uint_eq(linksched_worst_bytes_per_s(s, b), 13000000001);
	ck_assert_uint_eq(linksched_worst_bytes_per_s(s, c), 13000000001);
	ck_assert_uint_eq(linksched_chunk_bytes(s, b), 1 * MIB);
	ck_assert_uint_eq(linksched_bound_ns(s, b), 2 * 80660 + 26000 + 44811); /* 2 MiB at 13, costs, 1 MiB at 0.9 x 26 */
	linksched_verify(s);
	linksched_free(&s);
}
END_TEST

START_TEST(numbers_out_of_range_are_refused)
{
	struct linksched *s;
	struct linksched_link_config link = {.calibration = gen4};
	uint32_t out;
	uint64_t id;
	ck_assert_int_eq(linksched_new(&s, &(struct linksched_config){.in_flight = 9}), -EINVAL);
	ck_assert_int_eq(linksched_new(&s, &(struct linksched_config){.guard_share = 251}), -EINVAL);
	s = sched_with(&(struct linksched_config){.max_flows = 1});
	link.calibration.duplex = 1001;
	ck_assert_int_eq(linksched_link_add(s, &link, &out), -EINVAL);
	link.calibration.duplex = 1000;
	link.n_hops = 1; /* node 0 is not there yet */
	ck_assert_int_eq(linksched_link_add(s, &link, &out), -EINVAL);
	link.n_hops = 0;
	ck_assert_int_eq(linksched_link_add(s, &link, &out), 0);
	struct linksched_flow flow = {.class = LINK_TINY, .bytes = LINKSCHED_TINY_BYTES + 1, .user = LINKSCHED_ANYBODY};
	ck_assert_int_eq(linksched_add(s, 0, &flow, &id), -EINVAL);
	flow.class = LINK_DEMAND;
	flow.hops[0] = (struct linksched_hop){.node = linksched_link_node(s, out), .charge = 1000};
	flow.n_hops = 1; /* the link's own node twice */
	ck_assert_int_eq(linksched_add(s, 0, &flow, &id), -EINVAL);
	flow.n_hops = 0;
	ck_assert_int_eq(linksched_add(s, 0, &flow, &id), 0);
	ck_assert_int_eq(linksched_ready(s, 0, id, flow.bytes + 1), -EINVAL);
	ck_assert_int_eq(linksched_reclass(s, 0, id, LINK_TINY, 0), -EINVAL);
	ck_assert_int_eq(linksched_ready(s, 0, id + 1, 1), -ENOENT);
	ck_assert_int_eq(linksched_add(s, 0, &flow, &id), -ENOSPC);
	linksched_verify(s);
	linksched_free(&s);
}
END_TEST

START_TEST(measured_times_refine_the_rate_within_limits)
{
	struct bed b;
	struct linksched_link_view v;
	bed_init(&b, &(struct linksched_config){0});
	for (int i = 0; i < 200; i++)
		linksched_measured(b.s, b.now, b.link, 2 * MIB, 2 * MIB * 1000 / 20000, false); /* 20 GB/s */
	linksched_link_view(b.s, b.link, &v);
	ck_assert_uint_ge(v.bytes_per_s, 19900000000);
	ck_assert_uint_le(v.bytes_per_s, 20100000000);
	for (int i = 0; i < 200; i++)
		linksched_measured(b.s, b.now, b.link, 2 * MIB, NS_PER_S, false); /* a stall is no new bandwidth */
	linksched_link_view(b.s, b.link, &v);
	ck_assert_uint_ge(v.bytes_per_s, 26 * GBPS / 4 - GBPS / 10);
	linksched_measured(b.s, b.now, b.link, 64 * KIB, 1, false); /* too small to tell */
	struct linksched_link_view w;
	linksched_link_view(b.s, b.link, &w);
	ck_assert_uint_eq(v.bytes_per_s, w.bytes_per_s);
	bed_fini(&b);
}
END_TEST

static void arithmetic(Suite *s)
{
	UNIT_CASE(s, "arithmetic", chunk_follows_from_the_target,
		chunk_is_clamped_and_says_when_the_target_costs_bandwidth, bound_is_what_is_in_flight_and_its_costs,
		what_is_copied_first_takes_no_longer_than_a_chunk_on_the_link,
		a_shared_node_slows_the_worst_case_and_adds_its_tokens, numbers_out_of_range_are_refused,
		measured_times_refine_the_rate_within_limits);
}

/* ---- pieces ---- */

START_TEST(two_chunks_are_in_flight_and_no_more)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t id = add(&b, LINK_DEMAND, 5 * MIB);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[0].bytes, 2 * MIB);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[1].offset, 2 * MIB);
	ck_assert_int_eq(next(&b), LINKSCHED_NOTHING);
	ck_assert(!done(&b, NULL));
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[1].bytes, 1 * MIB);
	ck_assert(!done(&b, NULL));
	struct linksched_flow_view last;
	ck_assert(done(&b, &last));
	ck_assert_uint_eq(last.done, 5 * MIB);
	ck_assert_uint_eq(last.id, id);
	ck_assert_int_eq(linksched_ready(b.s, b.now, id, 1), -ENOENT);
	bed_fini(&b);
}
END_TEST

START_TEST(pieces_end_at_edges_and_at_what_is_ready)
{
	struct bed b;
	uint64_t id;
	bed_init(&b, &(struct linksched_config){0});
	struct linksched_flow flow = {.class = LINK_DEMAND, .link = b.link, .user = LINKSCHED_ANYBODY, .bytes = 6 * MIB,
		.ready = 4 * MIB, .edge_bytes = 3 * MIB, .deadline = LINKSCHED_NEVER};
	ck_assert_int_eq(linksched_add(b.s, b.now, &flow, &id), 0);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[1].bytes, 1 * MIB);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[1].bytes, 1 * MIB);
	done(&b, NULL);
	ck_assert_int_eq(next(&b), LINKSCHED_NOTHING);
	ck_assert_int_eq(linksched_ready(b.s, b.now, id, 2 * MIB), 0);
	ck_assert_uint_eq(linksched_kicks(b.s), 1);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[1].offset, 4 * MIB);
	bed_fini(&b);
}
END_TEST

START_TEST(a_trimmed_piece_gives_the_rest_back)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t id = add(&b, LINK_PREFETCH, 2 * MIB);
	ck_assert_uint_eq(next_flow(&b), id);
	linksched_trim(b.s, b.now, &b.picks[0], 512 * KIB);
	linksched_verify(b.s);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[1].offset, 512 * KIB);
	ck_assert_uint_eq(b.picks[1].bytes, 1536 * KIB);
	ck_assert(!done(&b, NULL));
	ck_assert(done(&b, NULL));
	struct linksched_node_view v;
	linksched_node_view(b.s, linksched_link_node(b.s, b.link), &v);
	ck_assert_uint_eq(v.bytes, 2 * MIB);
	bed_fini(&b);
}
END_TEST

START_TEST(a_cancelled_flow_ends_with_its_last_piece)
{
	struct bed b;
	struct linksched_flow_view last;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t id = add(&b, LINK_PREFETCH, 64 * MIB), idle = add(&b, LINK_PREFETCH, MIB);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert(!linksched_cancel(b.s, b.now, id, &last));
	ck_assert_uint_eq(last.id, id);
	ck_assert_uint_eq(last.in_flight, 2 * MIB);
	ck_assert(!linksched_cancel(b.s, b.now, id, &last));
	ck_assert_uint_eq(last.id, 0);
	ck_assert(done(&b, &last));
	ck_assert_uint_eq(last.done, 2 * MIB);
	ck_assert(last.cancelled);
	ck_assert(linksched_cancel(b.s, b.now, idle, &last));
	ck_assert_int_eq(next(&b), LINKSCHED_NOTHING);
	bed_fini(&b);
}
END_TEST

START_TEST(a_flow_can_become_more_or_less)
{
	struct bed b;
	struct linksched_flow_view last;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t id = add(&b, LINK_DEMAND, 2 * MIB);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 5 * MIB, &last), 0);
	ck_assert_uint_eq(last.id, 0);
	ck_assert(!done(&b, &last));
	ck_assert_int_eq(next(&b), LINKSCHED_NOTHING);
	ck_assert_int_eq(linksched_ready(b.s, b.now, id, 2 * MIB), 0);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_int_eq(linksched_ready(b.s, b.now, id, MIB), 0);
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 5 * MIB - 1, &last), -EINVAL);
	ck_assert_int_eq(linksched_call_back(b.s, b.now, id, MIB + 1, &last), -EINVAL);
	ck_assert_int_eq(linksched_call_back(b.s, b.now, id, 0, &last), -EINVAL);
	ck_assert_int_eq(linksched_call_back(b.s, b.now, id + 1, 1, &last), -ENOENT);
	ck_assert_int_eq(linksched_call_back(b.s, b.now, id, MIB - 1, &last), 0);
	ck_assert_uint_eq(last.id, 0);
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 0, &last), -EINVAL);
	ck_assert_int_eq(linksched_resize(b.s, b.now, id + 1, MIB, &last), -ENOENT);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(b.picks[1].bytes, 1);
	ck_assert(!done(&b, &last));
	ck_assert(done(&b, &last));
	ck_assert_uint_eq(last.id, id);
	id = add(&b, LINK_DEMAND, 4 * MIB);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert(!done(&b, &last));
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 5 * MIB, &last), 0);
	ck_assert(!done(&b, &last));
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 4 * MIB, &last), 0);
	ck_assert_uint_eq(last.id, id);
	ck_assert_uint_eq(last.done, 4 * MIB);
	ck_assert(!last.cancelled);
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 8 * MIB, &last), -ENOENT);
	id = add(&b, LINK_DEMAND, 4 * MIB);
	ck_assert_int_eq(linksched_call_back(b.s, b.now, id, 4 * MIB, &last), 0);
	ck_assert_uint_eq(last.id, id);
	ck_assert_uint_eq(last.done, 0);
	ck_assert_int_eq(next(&b), LINKSCHED_NOTHING);
	bed_fini(&b);
}
END_TEST

static uint64_t late_flows(const struct bed *b)
{
	struct linksched_link_view v;
	ck_assert_int_eq(linksched_link_view(b->s, b->link, &v), 0);
	return v.late;
}

/* 26 MB take a millisecond. */
START_TEST(a_flow_that_is_late_is_so_once_and_in_time_again_when_it_has_less)
{
	struct bed b;
	struct linksched_flow_view last, v;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t id = flow_of(&b, LINK_DEMAND, 52 * MIB, b.now + NS_PER_MS, LINKSCHED_ANYBODY);
	uint64_t later = flow_of(&b, LINK_DEMAND, 8 * MIB, b.now + NS_PER_S, LINKSCHED_ANYBODY);
	ck_assert_uint_eq(next_flow(&b), later);
	ck_assert_uint_eq(late_flows(&b), 1);
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 56 * MIB, &last), 0);
	ck_assert_uint_eq(next_flow(&b), later);
	ck_assert_uint_eq(late_flows(&b), 1);
	ck_assert_int_eq(linksched_flow_view(b.s, id - 1, &v), 0);
	ck_assert(v.late);
	ck_assert_int_eq(linksched_call_back(b.s, b.now, id, 51 * MIB, &last), 0);
	ck_assert_int_eq(linksched_resize(b.s, b.now, id, 4 * MIB, &last), 0);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_uint_eq(late_flows(&b), 1);
	bed_fini(&b);
}
END_TEST

static void pieces(Suite *s)
{
	UNIT_CASE(s, "pieces", two_chunks_are_in_flight_and_no_more, pieces_end_at_edges_and_at_what_is_ready,
		a_trimmed_piece_gives_the_rest_back, a_cancelled_flow_ends_with_its_last_piece, a_flow_can_become_more_or_less,
		a_flow_that_is_late_is_so_once_and_in_time_again_when_it_has_less);
}

/* ---- order ---- */

START_TEST(tiny_then_demand_then_prefetch)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t prefetch = add(&b, LINK_PREFETCH, MIB), demand = add(&b, LINK_DEMAND, 2 * MIB);
	uint64_t tiny = add(&b, LINK_TINY, 4 * KIB);
	ck_assert_uint_eq(next_flow(&b), tiny);
	ck_assert_uint_eq(next_flow(&b), demand);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), prefetch);
	bed_fini(&b);
}
END_TEST

START_TEST(demands_go_by_deadline_and_hopeless_ones_behind)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t hopeless = flow_of(&b, LINK_DEMAND, GIB, b.now + NS_PER_MS, LINKSCHED_ANYBODY);
	uint64_t never = add(&b, LINK_DEMAND, 2 * MIB);
	uint64_t late = flow_of(&b, LINK_DEMAND, 2 * MIB, b.now + NS_PER_S, LINKSCHED_ANYBODY);
	uint64_t soon = flow_of(&b, LINK_DEMAND, 2 * MIB, b.now + 10 * NS_PER_MS, LINKSCHED_ANYBODY);
	ck_assert_uint_eq(next_flow(&b), soon);
	ck_assert_uint_eq(next_flow(&b), late);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), never);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), hopeless);
	struct linksched_flow_view v;
	ck_assert_int_eq(linksched_flow_view(b.s, hopeless - 1, &v), 0);
	ck_assert(v.late);
	ck_assert_uint_eq(v.floor_bytes_per_s, 0);
	bed_fini(&b);
}
END_TEST

START_TEST(a_floor_is_what_is_left_by_the_time_left)
{
	struct bed b;
	struct linksched_flow_view v;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t id = flow_of(&b, LINK_DEMAND, 1000 * MIB, b.now + NS_PER_S / 2, LINKSCHED_ANYBODY);
	ck_assert_int_eq(linksched_flow_view(b.s, 0, &v), 0);
	ck_assert_uint_eq(v.id, id);
	ck_assert_uint_eq(v.floor_bytes_per_s, 2000 * MIB);
	ck_assert_int_eq(linksched_flow_view(b.s, id, &v), -ENOENT);
	/* 26 GB/s less 24.5 leave no 2 GiB/s for it */
	ck_assert_int_eq(linksched_reserve(b.s, b.now, linksched_link_node(b.s, b.link), 24500000000), -ENOSPC);
	ck_assert_int_eq(linksched_reserve(b.s, b.now, linksched_link_node(b.s, b.link), 20 * GBPS), 0);
	bed_fini(&b);
}
END_TEST

START_TEST(a_promoted_prefetch_goes_before_the_others)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t first = add(&b, LINK_PREFETCH, 64 * MIB), second = add(&b, LINK_PREFETCH, 64 * MIB);
	ck_assert_uint_eq(next_flow(&b), first);
	ck_assert_uint_eq(next_flow(&b), second);
	done(&b, NULL);
	ck_assert_int_eq(linksched_reclass(b.s, b.now, second, LINK_DEMAND, b.now + NS_PER_S), 0);
	ck_assert_uint_eq(next_flow(&b), second);
	ck_assert_uint_eq(b.picks[1].offset, 2 * MIB);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), second);
	bed_fini(&b);
}
END_TEST

START_TEST(prefetches_share_by_weight)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t ids[2], bytes[2] = {0}, total = 0;
	for (unsigned i = 0; i < 2; i++) {
		struct linksched_flow flow = {.class = LINK_PREFETCH, .link = b.link, .user = LINKSCHED_ANYBODY,
			.weight = i ? 3 : 1, .bytes = GIB, .ready = GIB, .deadline = LINKSCHED_NEVER};
		ck_assert_int_eq(linksched_add(b.s, b.now, &flow, &ids[i]), 0);
	}
	while (total < 512 * MIB) {
		uint64_t id = step(&b);
		total += b.picks[b.in_flight - 1].bytes;
		bytes[id == ids[1]] += b.picks[b.in_flight - 1].bytes;
	}
	ck_assert_uint_ge(bytes[1], 3 * bytes[0] - 8 * MIB);
	ck_assert_uint_le(bytes[1], 3 * bytes[0] + 8 * MIB);
	bed_fini(&b);
}
END_TEST

static void order(Suite *s)
{
	UNIT_CASE(s, "order", tiny_then_demand_then_prefetch, demands_go_by_deadline_and_hopeless_ones_behind,
		a_floor_is_what_is_left_by_the_time_left, a_promoted_prefetch_goes_before_the_others, prefetches_share_by_weight);
}

/* ---- tokens, caps, guard, pause ---- */

START_TEST(prefetch_gets_its_share_of_the_link_and_demand_all)
{
	struct bed b = {.s = sched_with(&(struct linksched_config){0}), .now = NS_PER_S};
	b.link = link_with(b.s, &gen4, 500, 0, 0);
	uint64_t id = add(&b, LINK_PREFETCH, GIB), started = b.now, moved = 0;
	while (b.now < started + 10 * NS_PER_MS) {
		ck_assert_uint_eq(step(&b), id);
		moved += b.picks[b.in_flight - 1].bytes;
	}
	ck_assert_uint_ge(moved, 130 * MIB * 9 / 10);
	ck_assert_uint_le(moved, 130 * GBPS / 1000 + 4 * MIB + 2 * MIB);
	struct linksched_flow_view last;
	linksched_cancel(b.s, b.now, id, &last);
	while (b.in_flight)
		done(&b, NULL);
	uint64_t demand = add(&b, LINK_DEMAND, 64 * MIB);
	started = b.now;
	for (int i = 0; i < 32; i++)
		ck_assert_uint_eq(step(&b), demand);
	while (!done(&b, NULL))
		;
	ck_assert_uint_eq((b.now - started) / US, 64 * MIB / 26000);
	bed_fini(&b);
}
END_TEST

START_TEST(a_user_is_capped_over_time)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){.user_bytes_per_s = GBPS});
	uint64_t capped = flow_of(&b, LINK_DEMAND, 64 * MIB, LINKSCHED_NEVER, 1000);
	ck_assert_uint_eq(next_flow(&b), capped);
	ck_assert_uint_eq(next_flow(&b), capped);
	done(&b, NULL);
	ck_assert_int_eq(next(&b), LINKSCHED_UNTIL);
	uint64_t when = NS_PER_S + 2097152; /* 2 MiB earned since the start, at 1 GB/s */
	ck_assert_uint_eq(b.until, when);
	uint64_t other = flow_of(&b, LINK_PREFETCH, MIB, LINKSCHED_NEVER, 1001);
	ck_assert_uint_eq(next_flow(&b), other); /* nobody waits for the capped one */
	done(&b, NULL);
	done(&b, NULL);
	b.now = when - 1;
	ck_assert_int_eq(next(&b), LINKSCHED_UNTIL);
	b.now = when;
	ck_assert_uint_eq(next_flow(&b), capped);
	bed_fini(&b);
}
END_TEST

static struct linksched_user_view user_of(struct bed *b, uint32_t user)
{
	struct linksched_user_view v;
	for (uint32_t n = 0; linksched_user_view(b->s, n, &v) == 0; n++)
		if (v.user == user)
			return v;
	ck_abort_msg("user %u is not known", user);
	return v;
}

START_TEST(whoever_leads_a_flow_is_charged_from_the_next_piece_on)
{
	struct bed b;
	struct linksched_flow_view f;
	bed_init(&b, &(struct linksched_config){.user_bytes_per_s = GBPS});
	uint64_t id = flow_of(&b, LINK_DEMAND, 64 * MIB, LINKSCHED_NEVER, 1000);
	next(&b);
	next(&b);
	ck_assert_int_eq(linksched_charge(b.s, b.now, id, 1001), 0);
	linksched_verify(b.s); /* the pieces in flight stay the first one's */
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), id);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), id);
	done(&b, NULL);
	ck_assert_int_eq(next(&b), LINKSCHED_UNTIL);
	uint64_t capped_at = b.now;
	ck_assert_uint_eq(user_of(&b, 1000).bytes, 4 * MIB);
	ck_assert_uint_eq(user_of(&b, 1001).bytes, 4 * MIB);
	ck_assert_int_eq(linksched_charge(b.s, b.now, id, LINKSCHED_ANYBODY), 0);
	b.now += 100 * US;
	ck_assert_int_eq(linksched_charge(b.s, b.now, id, 1000), 0);
	b.now = user_of(&b, 1000).since + 10 * NS_PER_MS;
	ck_assert_uint_eq(next_flow(&b), id);
	ck_assert_int_eq(linksched_charge(b.s, b.now, id + 1, 7), -ENOENT);
	linksched_flow_view(b.s, id - 1, &f);
	ck_assert_uint_eq(f.user, 1000);
	ck_assert_uint_eq(f.capped_ns, 0); /* in 100 us nobody asked, and from then on nobody was in its way */
	ck_assert_uint_gt(b.now, capped_at);
	bed_fini(&b);
}
END_TEST

START_TEST(what_a_cap_kept_a_flow_waiting_is_told)
{
	struct bed b;
	struct linksched_flow_view f;
	bed_init(&b, &(struct linksched_config){.user_bytes_per_s = GBPS});
	uint64_t id = flow_of(&b, LINK_DEMAND, 64 * MIB, LINKSCHED_NEVER, 1000);
	next(&b);
	next(&b);
	done(&b, NULL);
	done(&b, NULL);
	ck_assert_int_eq(next(&b), LINKSCHED_UNTIL);
	uint64_t since = b.now, until = b.until;
	b.now += 50 * US;
	linksched_ready(b.s, b.now, 0, 0); /* time passes */
	linksched_flow_view(b.s, id - 1, &f);
	ck_assert_uint_eq(f.capped_ns, 50 * US);
	b.now = until;
	ck_assert_uint_eq(next_flow(&b), id);
	linksched_flow_view(b.s, id - 1, &f);
	ck_assert_uint_eq(f.capped_ns, until - since);
	bed_fini(&b);
}
END_TEST

START_TEST(caps_can_be_set_while_flows_run_and_the_books_begin_anew)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	uint64_t id = flow_of(&b, LINK_DEMAND, GIB, LINKSCHED_NEVER, 1000);
	for (int i = 0; i < 20; i++)
		ck_assert_uint_eq(step(&b), id);
	ck_assert_uint_eq(user_of(&b, 1000).bytes, 40 * MIB);
	ck_assert_int_eq(linksched_limit_users(b.s, b.now, LINKSCHED_MAX_RATE + 1, 0), -EINVAL);
	ck_assert_int_eq(linksched_limit_users(b.s, b.now, 2 * GBPS, 0), 0);
	ck_assert_uint_ne(linksched_kicks(b.s) & 1, 0);
	struct linksched_user_view u = user_of(&b, 1000);
	ck_assert_uint_eq(u.bytes, 0);
	ck_assert_uint_eq(u.since, b.now);
	for (int i = 0; i < 200; i++) {
		step(&b);
		u = user_of(&b, 1000);
		ck_assert_uint_le(u.bytes, (uint64_t)u.burst_max + (b.now - u.since) * 2); /* 2 GB/s: 2 bytes a ns */
	}
	ck_assert_uint_ge(u.bytes, 200 * 2 * MIB);
	ck_assert_int_eq(linksched_limit_users(b.s, b.now, 0, 0), 0);
	uint64_t before = b.now;
	for (int i = 0; i < 20; i++)
		step(&b);
	ck_assert_uint_lt(b.now - before, 20 * 2 * MIB / 20); /* 26 GB/s again */
	bed_fini(&b);
}
END_TEST

START_TEST(a_user_has_no_more_than_its_share_in_flight_while_others_wait)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){.user_share = 500});
	uint64_t hog = flow_of(&b, LINK_DEMAND, 64 * MIB, b.now + NS_PER_S, 1);
	ck_assert_uint_eq(next_flow(&b), hog);
	uint64_t meek = flow_of(&b, LINK_DEMAND, 64 * MIB, b.now + 2 * NS_PER_S, 2);
	ck_assert_uint_eq(next_flow(&b), meek);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), hog);
	struct linksched_flow_view last;
	linksched_cancel(b.s, b.now, meek, &last);
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), hog); /* alone it has both */
	bed_fini(&b);
}
END_TEST

START_TEST(under_lasting_demand_the_guard_lets_prefetch_live)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	add(&b, LINK_DEMAND, 10 * GIB);
	uint64_t prefetch = add(&b, LINK_PREFETCH, 10 * GIB), got = 0, started = b.now;
	bool guard_first = true;
	while (b.now < started + 200 * NS_PER_MS) {
		uint64_t id = step(&b);
		guard_first &= id == prefetch;
		ck_assert_uint_eq(b.picks[b.in_flight - 1].guard, id == prefetch);
		got += id == prefetch ? b.picks[b.in_flight - 1].bytes : 0;
	}
	ck_assert(!guard_first);
	ck_assert_uint_ge(got, 26 * GBPS / 100 - 4 * MIB); /* 5 % of 26 GB/s in 200 ms */
	ck_assert_uint_le(got, 26 * GBPS / 100 + 4 * MIB);
	bed_fini(&b);
}
END_TEST

START_TEST(the_guard_stands_back_when_a_deadline_is_at_risk)
{
	struct bed b;
	bed_init(&b, &(struct linksched_config){0});
	flow_of(&b, LINK_DEMAND, 4800 * MIB, b.now + 200 * NS_PER_MS, LINKSCHED_ANYBODY); /* 25.1 of 26 GB/s */
	uint64_t prefetch = add(&b, LINK_PREFETCH, GIB), end = b.now + 100 * NS_PER_MS;
	while (b.now < end)
		ck_assert_uint_ne(step(&b), prefetch);
	bed_fini(&b);
}
END_TEST

/* A device with both directions; what the second moves is charged to the first at 0.5. */
static void bed_duplex(struct bed *b, uint32_t *d2h)
{
	bed_init(b, &(struct linksched_config){0});
	*d2h = link_with(b->s, &gen4, 1000, linksched_link_node(b->s, b->link), 500);
}

static uint64_t demotion_on(struct bed *b, uint32_t link, uint64_t bytes)
{
	struct linksched_flow flow = {.class = LINK_DEMOTION, .link = link, .user = LINKSCHED_ANYBODY, .bytes = bytes,
		.ready = bytes, .deadline = LINKSCHED_NEVER};
	uint64_t id;
	ck_assert_int_eq(linksched_add(b->s, b->now, &flow, &id), 0);
	return id;
}

START_TEST(a_demotion_pauses_while_a_demand_waits_and_is_kicked_afterwards)
{
	struct bed b;
	uint32_t d2h;
	struct linksched_pick pick;
	bed_duplex(&b, &d2h);
	uint64_t demotion = demotion_on(&b, d2h, 64 * MIB), demand = add(&b, LINK_DEMAND, 6 * MIB);
	ck_assert_int_eq(linksched_next(b.s, b.now, d2h, &pick, &b.until), LINKSCHED_NOTHING);
	ck_assert_uint_eq(next_flow(&b), demand);
	ck_assert_uint_eq(next_flow(&b), demand);
	done(&b, NULL);
	linksched_kicks(b.s);
	ck_assert_uint_eq(next_flow(&b), demand); /* the last piece: nothing waits any more */
	ck_assert_uint_ne(linksched_kicks(b.s) & (uint64_t)1 << d2h, 0);
	ck_assert_int_eq(linksched_next(b.s, b.now, d2h, &pick, &b.until), LINKSCHED_UNTIL);
	b.now = b.until; /* the demand has overdrawn its link */
	ck_assert_int_eq(linksched_next(b.s, b.now, d2h, &pick, &b.until), LINKSCHED_PICK);
	ck_assert_uint_eq(pick.flow, demotion);
	linksched_verify(b.s);
	bed_fini(&b);
}
END_TEST

START_TEST(a_demotion_that_a_demand_waits_for_inherits_its_class)
{
	struct bed b;
	uint32_t d2h;
	struct linksched_pick pick;
	bed_duplex(&b, &d2h);
	uint64_t demotion = demotion_on(&b, d2h, 64 * MIB);
	add(&b, LINK_DEMAND, 64 * MIB);
	ck_assert_int_ne(linksched_next(b.s, b.now, d2h, &pick, &b.until), LINKSCHED_PICK);
	ck_assert_int_eq(linksched_reclass(b.s, b.now, demotion, LINK_DEMAND, b.now + NS_PER_S), 0);
	ck_assert_int_eq(linksched_next(b.s, b.now, d2h, &pick, &b.until), LINKSCHED_PICK);
	ck_assert_uint_eq(pick.flow, demotion);
	ck_assert_int_eq(linksched_reclass(b.s, b.now, demotion, LINK_DEMOTION, LINKSCHED_NEVER), 0);
	ck_assert_int_ne(linksched_next(b.s, b.now, d2h, &pick, &b.until), LINKSCHED_PICK);
	bed_fini(&b);
}
END_TEST

START_TEST(a_demotion_is_charged_to_the_other_direction)
{
	struct bed b;
	uint32_t d2h;
	struct linksched_pick pick;
	struct linksched_node_view v;
	bed_duplex(&b, &d2h);
	demotion_on(&b, d2h, 2 * MIB);
	ck_assert_int_eq(linksched_next(b.s, b.now, d2h, &pick, &b.until), LINKSCHED_PICK);
	linksched_node_view(b.s, linksched_link_node(b.s, b.link), &v);
	ck_assert_uint_eq(v.bytes, 1 * MIB);
	ck_assert_int_eq(v.tokens, v.burst - (int64_t)MIB);
	bed_fini(&b);
}
END_TEST

START_TEST(a_narrow_shared_node_keeps_a_reserve_for_demands)
{
	struct bed b = {.s = sched_with(&(struct linksched_config){0}), .now = NS_PER_S};
	struct linksched_pick pick;
	struct linksched_flow_view last;
	struct linksched_node_view v;
	uint32_t node;
	linksched_node_add(b.s, &(struct linksched_node_config){.bytes_per_s = 26 * GBPS}, &node);
	b.link = link_with(b.s, &gen4, 1000, node, 1000);
	uint32_t other = link_with(b.s, &gen4, 1000, node, 1000);
	add(&b, LINK_PREFETCH, GIB);
	while (next(&b) == LINKSCHED_PICK) { /* all at once, as if the wire were infinitely fast */
		pick = b.picks[0];
		b.in_flight = 0;
		linksched_done(b.s, b.now, &pick, &last);
	}
	linksched_node_view(b.s, node, &v);
	ck_assert_int_ge(v.tokens, v.burst / 2);
	struct linksched_flow demand = {.class = LINK_DEMAND, .link = other, .user = LINKSCHED_ANYBODY, .bytes = 4 * MIB,
		.ready = 4 * MIB, .deadline = LINKSCHED_NEVER};
	uint64_t id;
	ck_assert_int_eq(linksched_add(b.s, b.now, &demand, &id), 0);
	ck_assert_int_eq(linksched_next(b.s, b.now, other, &pick, &b.until), LINKSCHED_PICK);
	bed_fini(&b);
}
END_TEST

START_TEST(a_flow_leaves_a_node_that_its_bytes_no_longer_come_over)
{
	struct bed b;
	struct linksched_node_view v;
	uint32_t disk;
	uint64_t id;
	bed_init(&b, &(struct linksched_config){0});
	linksched_node_add(b.s, &(struct linksched_node_config){.bytes_per_s = GBPS}, &disk);
	struct linksched_flow flow = {.class = LINK_DEMAND, .link = b.link, .user = LINKSCHED_ANYBODY, .bytes = GIB, .ready = GIB,
		.deadline = LINKSCHED_NEVER, .hops = {{disk, 1000}}, .n_hops = 1};
	ck_assert_int_eq(linksched_add(b.s, b.now, &flow, &id), 0);
	while (next(&b) == LINKSCHED_PICK)
		done(&b, NULL);
	linksched_node_view(b.s, disk, &v);
	ck_assert_uint_eq(v.waiting, 1);
	ck_assert_uint_eq(v.bytes, 8 * MIB); /* its burst, and the disk has given what it can */
	ck_assert_int_eq(linksched_leave(b.s, b.now, id, linksched_link_node(b.s, b.link)), -ENOENT);
	ck_assert_int_eq(linksched_leave(b.s, b.now, id, disk), 0);
	ck_assert_int_eq(linksched_leave(b.s, b.now, id, disk), -ENOENT);
	linksched_verify(b.s);
	ck_assert_uint_ne(linksched_kicks(b.s) & 1, 0);
	for (int i = 0; i < 20; i++)
		ck_assert_uint_eq(step(&b), id);
	linksched_node_view(b.s, disk, &v);
	ck_assert_uint_eq(v.waiting, 0);
	ck_assert_uint_eq(v.bytes, 8 * MIB);
	bed_fini(&b);
}
END_TEST

START_TEST(waits_are_booked_on_whoever_had_the_engine)
{
	struct bed b;
	struct linksched_flow_view last;
	struct linksched_link_view v;
	bed_init(&b, &(struct linksched_config){0});
	add(&b, LINK_PREFETCH, 4 * MIB);
	next(&b);
	next(&b);
	uint64_t demand = add(&b, LINK_DEMAND, 2 * MIB), piece_ns = 2 * MIB * 1000 / 26000;
	done(&b, NULL);
	ck_assert_uint_eq(next_flow(&b), demand);
	done(&b, NULL);
	ck_assert(done(&b, &last));
	ck_assert_uint_eq(last.waits, 1);
	ck_assert_uint_eq(last.waited_ns[LINK_PREFETCH], 2 * piece_ns);
	ck_assert_uint_eq(last.waited_ns[LINK_DEMAND] + last.waited_ns[LINK_NOBODY], 0);
	linksched_link_view(b.s, b.link, &v);
	ck_assert_uint_eq(v.alone_waits, 1);
	ck_assert_uint_eq(v.alone_wait_max_ns, 2 * piece_ns);
	ck_assert_uint_eq(v.beyond_bound, 0);
	ck_assert_uint_eq(v.bytes[LINK_PREFETCH], 4 * MIB);
	bed_fini(&b);
}
END_TEST

static void rules(Suite *s)
{
	UNIT_CASE(s, "rules", prefetch_gets_its_share_of_the_link_and_demand_all, a_user_is_capped_over_time,
		whoever_leads_a_flow_is_charged_from_the_next_piece_on, what_a_cap_kept_a_flow_waiting_is_told,
		caps_can_be_set_while_flows_run_and_the_books_begin_anew, a_flow_leaves_a_node_that_its_bytes_no_longer_come_over,
		a_user_has_no_more_than_its_share_in_flight_while_others_wait, under_lasting_demand_the_guard_lets_prefetch_live,
		the_guard_stands_back_when_a_deadline_is_at_risk,
		a_demotion_pauses_while_a_demand_waits_and_is_kicked_afterwards,
		a_demotion_that_a_demand_waits_for_inherits_its_class, a_demotion_is_charged_to_the_other_direction,
		a_narrow_shared_node_keeps_a_reserve_for_demands, waits_are_booked_on_whoever_had_the_engine);
}

UNIT_MAIN("linksched", arithmetic, pieces, order, rules)
