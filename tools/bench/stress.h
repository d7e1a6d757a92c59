/* stress.h - the load function of the PCIe study beside a demand copy, in the bench's own process.
 * At pressure p each call starts p threads that each move one block of 1024 * 1024 * p * 4 bytes, and waits for them; meanwhile
 * copies of 8 MiB to the device are asked for at random times.  The arms differ in how copies reach the engine.
 * Thread: main.  Owns its memory on both sides and its streams. */
#ifndef TOOLS_BENCH_STRESS_H
#define TOOLS_BENCH_STRESS_H

#include "tools/bench/jit.h"

#define STRESS_MAX_PRESSURE 8
#define STRESS_BLOCK_BYTES(p) ((uint64_t)1024 * 1024 * (p) * 4)
#define STRESS_DEMAND_BYTES (8 * MIB)

enum stress_arm { ARM_NONE, ARM_PRIORITY, ARM_QUEUED, ARM_JIT, ARM_BUCKETS, ARMS };
enum stress_direction { STRESS_H2D, STRESS_D2H, STRESS_BOTH, STRESS_DIRECTIONS };

struct stress_cell {
	enum stress_arm arm;
	enum stress_direction direction; /* of the load; a demand goes to the device */
	bool pageable;                   /* all host memory; else page-locked */
	uint32_t pressure, calls;
	uint64_t limit_ns;               /* ends after that many calls, or after this time; 0: none */
};

struct stress_outcome {
	struct samples latency_us; /* of a demand, from being asked for to its last byte */
	struct samples engine_us;  /* until the engine got to it: with ARM_JIT and ARM_BUCKETS alone */
	uint32_t calls;
	double load_gbps, all_gbps;
};

struct stress;
/* max_pressure: of the cells to come. */
void stress_new(struct stress **out, const struct gpu *g, const struct link_rates *rates, uint32_t max_pressure);
void stress_free(struct stress **s);
void stress_run(struct stress *s, const struct stress_cell *cell, struct stress_outcome *out);
void stress_outcome_fini(struct stress_outcome *o);
/* What a stress of that pressure takes on the device. */
uint64_t stress_device_bytes(uint32_t max_pressure);
/* B and the size of pieces in ARM_JIT. */
uint64_t stress_bound_ns(const struct stress *s);
uint64_t stress_chunk_bytes(const struct stress *s);

#endif
