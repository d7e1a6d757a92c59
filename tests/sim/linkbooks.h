/* linkbooks.h - a machine of modelled links, and books about it that know nothing of the scheduler's insides.
 *
 * The books see what the submitters and engines do (simlinks.h) and what the trace asked for, and hold every event against
 * what cache/linksched.h promises: the bound, tokens of every node over every window, idling only for a reason, exact bytes.
 * A broken promise ends the program with the seed and the step.  Thread: main. */
#ifndef TESTS_SIM_LINKBOOKS_H
#define TESTS_SIM_LINKBOOKS_H

#include "tools/simlinks.h"

#define BOOKS_GPUS 3
#define BOOKS_FLOWS 48
#define BOOKS_NODES (2 * BOOKS_GPUS + 4)
#define BOOKS_CHUNKS_OF_SLACK 3

struct book_flow {
	uint64_t id;               /* 0: free */
	enum link_class class;
	uint32_t link, user;
	uint64_t deadline, bytes, given, picked, landed; /* given: ready at some time */
	struct linksched_hop hops[LINKSCHED_MAX_HOPS + 1];
	uint32_t n_hops;
	bool cancelled;
	bool alone;                /* a demand that waits and has found no other so far */
	uint64_t since, bound_ns;
};

struct book_node {
	bool shared;
	uint32_t link;
	__int128 balance, level;   /* bytes x ns: tokens as they should be; how full a bucket that leaks at the rate is */
	uint64_t at;
};

struct books {
	struct linksched *sched;
	struct simlinks *sim;
	uint32_t n_gpus, n_links, n_nodes, in_flight_limit, kappa;
	bool user_caps;
	uint64_t seed, random, step;
	const char *label;
	struct simlinks_wire wires[2 * BOOKS_GPUS];
	struct linksched_hop link_hops[2 * BOOKS_GPUS][LINKSCHED_MAX_HOPS];
	uint32_t n_link_hops[2 * BOOKS_GPUS], in_flight[2 * BOOKS_GPUS];
	bool stalled[2 * BOOKS_GPUS];   /* room in flight, and yet its last answer was no piece */
	bool urgent_went[2 * BOOKS_GPUS]; /* a tiny or demand piece since its burst of them began, and since the last guard piece */
	uint64_t until[2 * BOOKS_GPUS]; /* what it was told then */
	struct book_node nodes[BOOKS_NODES];
	struct book_flow flows[BOOKS_FLOWS];
	uint32_t live;
	uint64_t hash;             /* of everything seen */
	uint64_t served[2 * BOOKS_GPUS][LINK_CLASSES];  /* bytes picked */
	/* how often each promise was put to the test */
	uint64_t bounds_checked, idles_checked, token_checks, guards_checked, flows_ended, pieces, waits_longest_permille;
};

#define BOOKS_ASSERT(b, cond)                                                                                         \
	do {                                                                                                          \
		if (!(cond))                                                                                          \
			books_broken(b, __FILE__, __LINE__, #cond);                                                   \
	} while (0)

void books_broken(const struct books *b, const char *file, int line, const char *what) __attribute__((noreturn));

/* Link 2g is host to GPU g, 2g + 1 the way back. */
struct books_machine {
	uint32_t gpus, kappa;
	struct linksched_config config;
	struct linksched_calibration calibration;
	uint32_t share;            /* of the links */
	uint64_t uplink_bytes_per_s; /* over all GPUs, each way; 0: none */
	uint64_t memory_bytes_per_s; /* node over everything, not a wire; 0: none */
	uint64_t copy_bytes_per_s;   /* of every other flow the submitter copies pieces itself, at that rate; 0: of none */
};

void books_init(struct books *b, const struct books_machine *m, uint64_t seed, const char *label);
/* All that was asked for must have ended. */
void books_fini(struct books *b);

uint64_t books_draw(struct books *b, uint64_t below);

/* What the trace asks for; each is booked and passed on.  NULL when the books are full. */
struct book_flow *books_add(struct books *b, const struct linksched_flow *flow);
void books_ready(struct books *b, struct book_flow *f, uint64_t bytes);
void books_reclass(struct books *b, struct book_flow *f, enum link_class class, uint64_t deadline);
/* Somebody else leads it. */
void books_charge(struct books *b, struct book_flow *f, uint32_t user);
void books_cancel(struct books *b, struct book_flow *f);
/* Lets time pass. */
void books_advance(struct books *b, uint64_t ns);

#endif
