/* fuzz_linksched.c - bytes as a list of calls to the link scheduler; every invariant is verified after each.
 * The first two bytes choose the machine; then each call takes a byte for its kind and one for its argument.  Ids that
 * are out of date are used on purpose; pieces are done when the input says so, in the order that is promised.  In the end
 * everything is let run: what was asked for must arrive to the byte. */
#include "cache/linksched.h"
#include "shared/check.h"
#include "tests/fuzz/fuzz.h"

#define CALLS 400
#define IDS 32
#define LINKS 4

struct state {
	struct linksched *s;
	uint64_t now, ids[IDS], n_ids, moved, expected;
	uint32_t nodes[3];
	struct linksched_pick flying[LINKS][LINKSCHED_MAX_IN_FLIGHT];
	uint32_t n_flying[LINKS];
};

static void start(struct state *st, uint8_t a, uint8_t b)
{
	static const uint64_t rates[] = {2000, 26000000000, 55000000000, LINKSCHED_MAX_RATE};
	struct linksched_config config = {.in_flight = a & 7, .target_ns = (uint64_t)(a >> 3) * 20 * NS_PER_US,
		.user_bytes_per_s = b & 1 ? 1000000000 : 0, .user_share = b & 2 ? 500 : 0, .max_flows = 8};
	struct linksched_link_config link = {.calibration = {rates[b >> 2 & 3], 430 + 10 * (b >> 4), 6000, 10000}};
	ASSERT(linksched_new(&st->s, &config) == 0);
	for (unsigned i = 0; i < 2; i++)
		ASSERT(linksched_node_add(st->s, &(struct linksched_node_config){.bytes_per_s = rates[i + 1]}, &st->nodes[i]) == 0);
	for (uint32_t i = 0, got; i < LINKS; i++) {
		link.n_hops = 0;
		if (i & 1)
			link.hops[link.n_hops++] = (struct linksched_hop){linksched_link_node(st->s, i - 1), 500};
		if (b & 8)
			link.hops[link.n_hops++] = (struct linksched_hop){st->nodes[0], 1000};
		ASSERT(linksched_link_add(st->s, &link, &got) == 0 && got == i);
	}
}

static void add(struct state *st, uint8_t arg)
{
	struct linksched_flow flow = {.class = (enum link_class)(arg & 3), .link = arg >> 2 & 3, .user = 1000 + (arg >> 6),
		.weight = arg >> 5, .bytes = 1 + (uint64_t)arg * 40000, .edge_bytes = arg & 16 ? MIB : 0,
		.deadline = arg & 32 ? st->now + NS_PER_MS : LINKSCHED_NEVER, .tag = arg};
	uint64_t id;
	if (arg & 64)
		flow.hops[flow.n_hops++] = (struct linksched_hop){st->nodes[1], 1000};
	if (flow.class == LINK_TINY)
		flow.bytes = 1 + arg * 100;
	flow.ready = arg & 128 ? flow.bytes : flow.bytes / 2;
	if (linksched_add(st->s, st->now, &flow, &id))
		return;
	st->ids[st->n_ids++ % IDS] = id;
	st->expected += flow.bytes;
}

static void cancel(struct state *st, uint64_t id)
{
	struct linksched_flow_view last;
	linksched_cancel(st->s, st->now, id, &last);
	if (last.id)
		st->expected -= last.bytes - last.done - last.in_flight;
}

/* Also to what it cannot be, and to what it has done. */
static void resize(struct state *st, uint64_t id, uint8_t arg)
{
	struct linksched_flow_view v, last;
	if (linksched_flow_view(st->s, id - 1, &v) || v.id != id)
		return;
	uint64_t bytes = arg & 1 ? v.done + v.in_flight + v.ready : (uint64_t)arg * 30000, back = arg & 4 ? v.ready : arg * 1000;
	if (arg & 2) {
		if (linksched_call_back(st->s, st->now, id, back, &last) == 0)
			st->expected -= back;
		ASSERT(!last.id || last.done == v.bytes - back);
		return;
	}
	if (linksched_resize(st->s, st->now, id, bytes, &last) == 0)
		st->expected += bytes - v.bytes;
	else
		ASSERT(last.id == 0);
	ASSERT(!last.id || (last.done == bytes && !last.in_flight));
}

static bool next(struct state *st, uint32_t link, uint8_t arg, uint64_t *until)
{
	struct linksched_pick p;
	enum linksched_answer answer = linksched_next(st->s, st->now, link, &p, until);
	if (answer != LINKSCHED_PICK) {
		ASSERT(answer == LINKSCHED_UNTIL ? *until > st->now : *until == LINKSCHED_NEVER);
		return false;
	}
	ASSERT(p.link == link && p.bytes > 0 && st->n_flying[link] < LINKSCHED_MAX_IN_FLIGHT);
	if (arg & 1 && p.class != LINK_TINY)
		linksched_trim(st->s, st->now, &p, 1 + p.bytes / 2);
	st->flying[link][st->n_flying[link]++] = p;
	return true;
}

static bool done(struct state *st, uint32_t link)
{
	struct linksched_flow_view last;
	if (st->n_flying[link] == 0)
		return false;
	struct linksched_pick p = st->flying[link][0];
	st->n_flying[link]--;
	for (uint32_t i = 0; i < st->n_flying[link]; i++)
		st->flying[link][i] = st->flying[link][i + 1];
	st->moved += p.bytes;
	if (linksched_done(st->s, st->now, &p, &last))
		ASSERT(last.id == p.flow && (last.cancelled || last.done == last.bytes));
	return true;
}

static void calibrate(struct state *st, uint8_t arg)
{
	const struct linksched_calibration c = {1000 * (uint64_t)arg * arg * arg, 10 + 3 * arg, 100 * arg, 50 * arg};
	if (arg & 1)
		linksched_calibrate(st->s, st->now, arg & 3, &c);
	else
		linksched_measured(st->s, st->now, arg >> 1 & 3, (uint64_t)arg << 16, 1 + (uint64_t)arg * 1000, arg & 8);
}

/* Whose flows are, what they may have, and what their bytes go over. */
static void users(struct state *st, uint64_t id, uint8_t arg)
{
	struct linksched_user_view v;
	if (arg & 1)
		linksched_charge(st->s, st->now, id, 1000 + (arg >> 6));
	else if (arg & 2)
		linksched_leave(st->s, st->now, id, st->nodes[arg >> 2 & 1]);
	else if (arg & 4)
		ASSERT(linksched_limit_users(st->s, st->now, (uint64_t)arg * 10000000, arg & 8 ? 500 : 0) == 0);
	else
		linksched_kicks(st->s);
	for (uint32_t n = 0; linksched_user_view(st->s, n, &v) == 0; n++)
		ASSERT(v.user >= 1000 && v.since <= st->now);
}

static void call(struct state *st, uint8_t kind, uint8_t arg)
{
	uint64_t id = st->ids[arg % IDS], until;
	switch (kind % 16) {
	case 0: case 1: case 2: add(st, arg); break;
	case 3: case 4: linksched_ready(st->s, st->now, id, (uint64_t)arg * 5000); break;
	case 5: linksched_reclass(st->s, st->now, id, (enum link_class)(arg >> 5), st->now + arg * NS_PER_US); break;
	case 6: cancel(st, id); break;
	case 7: linksched_reserve(st->s, st->now, arg & 7, (uint64_t)arg * 100000000); break;
	case 8: calibrate(st, arg); break;
	case 9: users(st, id, arg); break;
	case 10: if (arg & 128) resize(st, id, arg); else st->now += (uint64_t)arg * NS_PER_MS; break;
	case 11: st->now += (uint64_t)arg * NS_PER_US; break;
	case 12: case 13: done(st, arg & 3); break;
	default: next(st, arg & 3, arg >> 2, &until); break;
	}
}

static void give_all(struct state *st)
{
	struct linksched_flow_view v;
	for (uint64_t id = 0; linksched_flow_view(st->s, id, &v) == 0; id = v.id)
		if (!v.cancelled)
			linksched_ready(st->s, st->now, v.id, v.bytes - v.done - v.in_flight - v.ready);
}

/* Until no flow is left; each round something moves, or time does. */
static void finish(struct state *st)
{
	struct linksched_flow_view v;
	give_all(st);
	for (unsigned rounds = 0; linksched_flow_view(st->s, 0, &v) == 0; rounds++) {
		uint64_t soonest = LINKSCHED_NEVER, until;
		bool moved = false;
		ASSERT(rounds < 1000000);
		for (uint32_t link = 0; link < LINKS; link++) {
			moved |= done(st, link);
			moved |= next(st, link, 0, &until);
			soonest = until < soonest ? until : soonest;
		}
		if (!moved) {
			ASSERT(soonest != LINKSCHED_NEVER);
			st->now = soonest;
		}
	}
	ASSERT(st->moved == st->expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state st = {.now = NS_PER_S};
	if (size < 2)
		return 0;
	start(&st, data[0], data[1]);
	for (size_t i = 2; i + 1 < size && i < 2 * CALLS; i += 2) {
		call(&st, data[i], data[i + 1]);
		linksched_verify(st.s);
	}
	finish(&st);
	linksched_verify(st.s);
	linksched_free(&st.s);
	return 0;
}
