/* cpu_attend.c - attention: a pair of small products and a softmax for each sequence and head, shared out among threads.
 * x holds a token's q, k and v side by side.  A causal layer first puts k and v behind what its cache holds. */
#include "tools/run/cpu.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

struct job {
	const struct call *call;
	float *scratch;
	size_t scratch_each;
};

/* One head of one sequence: where its rows are, how far apart, how many. */
struct head {
	const float *q, *k, *v;
	float *y;
	size_t width, row, kv_row, queries, keys, before; /* before: keys that stand before the first query */
};

static void store_in_cache(const struct call *call, uint32_t n)
{
	size_t c = call->ys.c, t = call->xs.t;
	const float *x = call->x + n * t * 3 * c;
	size_t at = ((size_t)n * call->cache_tokens + call->past) * c;
	for (size_t i = 0; i < t; i++, x += 3 * c, at += c) {
		memcpy(call->cache_k + at, x + c, c * sizeof *x);
		memcpy(call->cache_v + at, x + 2 * c, c * sizeof *x);
	}
}

static struct head find_head(const struct call *call, uint32_t n, uint32_t h)
{
	size_t c = call->ys.c, t = call->xs.t, width = c / call->layer->heads;
	const float *x = call->x + n * t * 3 * c + h * width;
	struct head head = {
		.q = x, .k = x + c, .v = x + 2 * c, .y = call->y + n * t * c + h * width,
		.width = width, .row = 3 * c, .kv_row = 3 * c, .queries = t,
	};
	if (call->layer->causal) {
		size_t at = (size_t)n * call->cache_tokens * c + h * width;
		head.k = call->cache_k + at;
		head.v = call->cache_v + at;
		head.kv_row = c;
		head.before = call->past;
		head.keys = call->past + t;
	} else {
		head.keys = (size_t)call->lengths[n];
	}
	return head;
}

/* One query: products with vectors, which need no packing. */
static void attend_one(const struct head *h, size_t c, float *scores)
{
	int width = (int)h->width, keys = (int)h->keys;
	cblas_sgemv(CblasRowMajor, CblasNoTrans, keys, width, 1 / sqrtf((float)h->width), h->k, (int)h->kv_row, h->q, 1, 0, scores,
		1);
	math_softmax(scores, h->keys);
	cblas_sgemv(CblasRowMajor, CblasTrans, keys, width, 1, h->v, (int)h->kv_row, scores, 1, 0, h->y, 1);
}

static void attend_head(const struct head *h, size_t c, bool causal, float *scores)
{
	int width = (int)h->width, keys = (int)h->keys, queries = (int)h->queries;
	if (queries == 1) {
		attend_one(h, c, scores);
		return;
	}
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, queries, keys, width, 1 / sqrtf((float)h->width), h->q, (int)h->row,
		h->k, (int)h->kv_row, 0, scores, keys);
	for (size_t i = 0; i < h->queries; i++) {
		float *row = scores + i * h->keys;
		size_t seen = causal ? h->before + i + 1 : h->keys;
		math_softmax(row, seen);
		memset(row + seen, 0, (h->keys - seen) * sizeof *row);
	}
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, queries, width, keys, 1, scores, keys, h->v, (int)h->kv_row, 0, h->y,
		(int)c);
}

static void attend_part(void *arg, uint32_t part, uint32_t parts)
{
	const struct job *j = arg;
	const struct call *call = j->call;
	size_t from, to;
	pool_share((size_t)call->xs.n * call->layer->heads, 1, part, parts, &from, &to);
	for (size_t i = from; i < to; i++) {
		struct head h = find_head(call, (uint32_t)(i / call->layer->heads), (uint32_t)(i % call->layer->heads));
		attend_head(&h, call->ys.c, call->layer->causal, j->scratch + part * j->scratch_each);
	}
}

static size_t scores_floats(const struct call *call)
{
	return (size_t)call->xs.t * (call->layer->causal ? call->past + call->xs.t : call->xs.t);
}

size_t cpu_attend_scratch(const struct cpu *c, const struct call *call)
{
	return scores_floats(call) * pool_threads(c->pool);
}

int cpu_attend(struct backend *b, const struct call *call, struct fault *why)
{
	struct cpu *c = container_of(b, struct cpu, base);
	struct job j = {.call = call, .scratch = c->scratch, .scratch_each = scores_floats(call)};
	for (uint32_t n = 0; call->layer->causal && n < call->xs.n; n++)
		store_in_cache(call, n);
	pool_run(c->pool, attend_part, &j);
	return 0;
}
