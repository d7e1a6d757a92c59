/* test_sha.c - mrm/sha: whole files are digested in file order however their chunks land, and nothing of a file can be
 * read before it has passed. */
#include "mrm/sha.h"
#include "shared/log.h"
#include "tests/unit/mrm_fixture.h"

#include <ev.h>
#include <openssl/sha.h>

static const uint64_t sizes[] = {9 * MIB + 12345, 100, 5 * MIB, 1, 13 * MIB + 7};

struct fixture {
	struct model model;
	struct daemon daemon;
	struct holding image;
	struct haul *haul;
	struct sha_check *sha;
	struct shm_options shm;
	uint64_t seed;
	uint32_t *order;
	bool *before; /* [n_chunks] readable since an earlier load, whose check let them pass */
};

static void init(struct fixture *fx, bool gaps, uint64_t salt)
{
	static const struct pool_ops ops = {.name = "test"};
	struct fault why;
	*fx = (struct fixture){.seed = unit_seed() ^ salt};
	log_set_level(LOG_ERROR);
	model_init(&fx->model, sizes, ARRAY_LEN(sizes), gaps, &fx->seed);
	struct image_desc *desc = fx->model.desc;
	for (uint32_t i = 0; i < desc->n_files; i++) {
		desc->files[i].has_sha256 = i != 2; /* one that the source says nothing of */
		SHA256(fx->model.file[i], fx->model.bytes[i], desc->files[i].sha256);
	}
	fx->daemon.loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_int_eq(jobs_new(&fx->daemon.jobs, fx->daemon.loop), 0);
	ck_assert_int_eq(pool_new(&fx->daemon.misc, fx->daemon.jobs, &ops, 3), 0);
	fx->image.daemon = &fx->daemon;
	fx->image.desc = desc;
	ck_assert_int_eq(segment_new(&fx->image.copies[BRAIN_HOST], desc->layout, 1, SEGMENT_HOST, NULL, "test", &fx->shm, &why), 0);
	fx->image.copies[BRAIN_HOST]->gaps = malloc(desc->layout->gap_bytes + 1);
	fx->order = random_order(desc->layout->n_chunks, &fx->seed);
	ck_assert(sha_check_wanted(&fx->image));
}

/* One load; STAGE_PREPARE keeps the haul itself from going on. */
static void begin(struct fixture *fx)
{
	struct fault why;
	size_t n = fx->model.desc->layout->n_chunks;
	free(fx->before);
	fx->before = calloc(n + 1, sizeof *fx->before);
	memcpy(fx->before, fx->image.copies[BRAIN_HOST]->readable, n * sizeof *fx->before);
	fx->haul = calloc(1, sizeof *fx->haul);
	*fx->haul = (struct haul){.magic = HAUL_MAGIC, .daemon = &fx->daemon, .image = &fx->image, .id = 1,
		.way = WAY_REMOTE_HOST, .stage = STAGE_PREPARE, .gaps = fx->image.copies[BRAIN_HOST]->gaps};
	struct source_bytes *heads = calloc(fx->model.n_files, sizeof *heads);
	for (uint32_t i = 0; i < fx->model.n_files; i++) {
		heads[i] = (struct source_bytes){malloc(fx->model.head[i]), fx->model.head[i]};
		memcpy(heads[i].data, fx->model.file[i], fx->model.head[i]);
	}
	ck_assert_int_eq(sha_check_new(&fx->sha, fx->haul, heads, &why), 0);
	sha_check_go_on(fx->sha);
}

static void settle(struct fixture *fx)
{
	while (jobs_outstanding(fx->daemon.jobs))
		jobs_wait(fx->daemon.jobs, NS_PER_S);
	ck_assert_uint_eq(fx->haul->outstanding, 0);
}

static void end(struct fixture *fx)
{
	settle(fx);
	sha_check_free(&fx->sha);
	free(fx->haul);
}

static void fini(struct fixture *fx)
{
	pool_free(&fx->daemon.misc);
	jobs_free(&fx->daemon.jobs);
	ev_loop_destroy(fx->daemon.loop);
	segment_free(&fx->image.copies[BRAIN_HOST]);
	model_fini(&fx->model);
	free(fx->order);
	free(fx->before);
}

/* Every chunk that this load made readable has bytes of files that have passed, or that nobody checks. */
static void check_readable(const struct fixture *fx)
{
	const struct segment *host = fx->image.copies[BRAIN_HOST];
	for (uint32_t c = 0; c < fx->model.desc->layout->n_chunks; c++)
		ck_assert(!host->readable[c] || fx->before[c] || (host->landed[c] && sha_check_passed(fx->sha, c)));
}

/* Chunk number i of the order arrives. */
static void land(struct fixture *fx, uint32_t i)
{
	uint32_t chunk = fx->order[i];
	struct segment *host = fx->image.copies[BRAIN_HOST];
	model_gather(&fx->model, chunk, segment_chunk(host, fx->model.desc->layout, chunk), host->gaps);
	host->landed[chunk] = true;
	host->n_landed++;
	if (sha_check_passed(fx->sha, chunk))
		haul_chunk_readable(fx->haul, chunk);
	sha_check_landed(fx->sha, chunk);
	if (unit_random(&fx->seed) % 3 == 0)
		jobs_collect(fx->daemon.jobs);
	check_readable(fx);
}

START_TEST(files_pass_whatever_order_their_chunks_land_in)
{
	struct fixture fx;
	init(&fx, _i % 2, (uint64_t)_i);
	begin(&fx);
	uint32_t n = fx.model.desc->layout->n_chunks;
	for (uint32_t i = 0; i < n; i++)
		land(&fx, i);
	settle(&fx);
	ck_assert(!haul_is_over(fx.haul));
	ck_assert(sha_check_complete(fx.sha));
	ck_assert_uint_eq(fx.image.copies[BRAIN_HOST]->n_readable, n);
	end(&fx);
	fini(&fx);
}
END_TEST

START_TEST(a_wrong_byte_anywhere_fails_the_load_and_its_file_is_never_readable)
{
	struct fixture fx;
	init(&fx, _i % 2, 100 + (uint64_t)_i);
	uint32_t file;
	do
		file = (uint32_t)(unit_random(&fx.seed) % fx.model.n_files);
	while (!fx.model.desc->files[file].has_sha256);
	uint64_t at = fx.model.head[file] + unit_random(&fx.seed) % (fx.model.bytes[file] - fx.model.head[file]);
	fx.model.file[file][at] ^= 1;
	begin(&fx);
	for (uint32_t i = 0; i < fx.model.desc->layout->n_chunks; i++)
		land(&fx, i);
	settle(&fx);
	ck_assert(haul_is_over(fx.haul));
	ck_assert_int_eq(fx.haul->error.code, TRIMS_E_MISMATCH);
	ck_assert_int_eq(fx.haul->error.text[0], *fx.model.desc->files[file].path);
	ck_assert(!sha_check_complete(fx.sha));
	for (uint32_t c = 0; c < fx.model.desc->layout->n_chunks; c++) {
		struct layout_span spans[MODEL_MAX_FILES];
		uint32_t n = layout_spans(fx.model.desc->layout, c, spans, MODEL_MAX_FILES);
		for (uint32_t k = 0; k < n; k++)
			ck_assert(spans[k].file != file || !fx.image.copies[BRAIN_HOST]->readable[c]);
	}
	end(&fx);
	fini(&fx);
}
END_TEST

START_TEST(a_load_that_was_broken_off_anywhere_goes_on)
{
	struct fixture fx;
	init(&fx, _i % 2, 200 + (uint64_t)_i);
	uint32_t n = fx.model.desc->layout->n_chunks, stop = (uint32_t)(unit_random(&fx.seed) % (n + 1));
	begin(&fx);
	for (uint32_t i = 0; i < stop; i++)
		land(&fx, i);
	fx.haul->cancelled = true;
	end(&fx);
	begin(&fx);
	for (uint32_t i = stop; i < n; i++)
		land(&fx, i);
	settle(&fx);
	ck_assert_msg(!haul_is_over(fx.haul), "%s", fx.haul->error.text);
	ck_assert(sha_check_complete(fx.sha));
	ck_assert_uint_eq(fx.image.copies[BRAIN_HOST]->n_readable, n);
	end(&fx);
	fini(&fx);
}
END_TEST

START_TEST(a_known_model_needs_no_check)
{
	struct fixture fx;
	init(&fx, false, 300);
	fx.image.digest = (struct hash128){1, 2};
	ck_assert(!sha_check_wanted(&fx.image));
	fx.image.digest = (struct hash128){0, 0};
	for (uint32_t i = 0; i < fx.model.n_files; i++)
		fx.model.desc->files[i].has_sha256 = false;
	ck_assert(!sha_check_wanted(&fx.image));
	fini(&fx);
}
END_TEST

static void all(Suite *suite)
{
	const TTest *const tests[] = {files_pass_whatever_order_their_chunks_land_in,
		a_wrong_byte_anywhere_fails_the_load_and_its_file_is_never_readable,
		a_load_that_was_broken_off_anywhere_goes_on};
	TCase *c = tcase_create("random");
	for (size_t i = 0; i < ARRAY_LEN(tests); i++)
		tcase_add_loop_test(c, tests[i], 0, 10);
	suite_add_tcase(suite, c);
	UNIT_CASE(suite, "wanted", a_known_model_needs_no_check);
}

UNIT_MAIN("sha", all)
