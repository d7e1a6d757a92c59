/* test_profile.c - profile and machine files, and what is planned for the published machine. */
#include "cache/plan.h"
#include "tests/unit/unit.h"
#include "tools/profile.h"

#include <string.h>
#include <unistd.h>

/* A file with this text, removed at once: read through its descriptor's path. */
static const char *file_of(const char *text)
{
	static char path[64];
	FILE *f = tmpfile();
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fflush(f);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(f));
	return path; /* the file stays open as long as the process lives */
}

#define HEAD "{\"format\": \"trims-profile-1\", \"model\": \"m\", \"layers\": ["

START_TEST(a_profile_is_read)
{
	struct profile p;
	struct fault why;
	const char *text = HEAD
		"{\"name\": \"a\", \"bytes\": 12, \"copy_ns\": 3, \"tensors\": [\"a.w\", \"a.b\"], \"batches\": ["
		"{\"batch\": 1, \"exec_ns\": 5}, {\"batch\": 8, \"exec_ns\": 7, \"dha_ns\": 9, \"touched_bytes\": 11}]},"
		"{\"name\": \"b\", \"bytes\": 12, \"same_as\": 0, \"touched_bytes\": 4, \"batches\": ["
		"{\"batch\": 1, \"exec_ns\": 5, \"dha_ns\": 6}, {\"batch\": 8, \"exec_ns\": 6}]}]}";
	ck_assert_msg(profile_read(file_of(text), 8, &p, &why) == 0, "%s", why.text);
	ck_assert_uint_eq(p.n_layers, 2);
	ck_assert_uint_eq(p.batch, 8);
	ck_assert_str_eq(p.model, "m");
	ck_assert_str_eq(p.names[1], "b");
	ck_assert_uint_eq(p.layers[0].exec_ns, 7);
	ck_assert_uint_eq(p.layers[0].dha_ns, 9);
	ck_assert_uint_eq(p.layers[0].touched_bytes, 11);
	ck_assert_uint_eq(p.layers[0].copy_ns, 3);
	ck_assert_uint_eq(p.layers[0].n_tensors, 2);
	ck_assert_str_eq(p.tensors[1], "a.b");
	ck_assert_uint_eq(p.layers[1].first_tensor, 2);
	ck_assert_uint_eq(p.layers[1].n_tensors, 0);
	ck_assert_uint_eq(p.layers[1].same_as, 1);
	ck_assert_uint_eq(p.layers[1].dha_ns, 0);
	ck_assert_int_eq(plan_check_profile(&p.plan, NULL), 0);
	profile_fini(&p);
	ck_assert_int_eq(profile_read(file_of(text), 0, &p, &why), 0); /* two batches: 1 */
	ck_assert_uint_eq(p.batch, 1);
	ck_assert_uint_eq(p.layers[1].touched_bytes, 4);
	profile_fini(&p);
}
END_TEST

static void must_refuse(const char *text, const char *what)
{
	struct profile p;
	struct fault why = {0};
	ck_assert_msg(profile_read(file_of(text), 0, &p, &why) != 0, "not refused: %s", what);
	ck_assert_msg(strstr(why.text, what) != NULL, "\"%s\" is not in: %s", what, why.text);
}

START_TEST(bad_profiles_are_refused)
{
	must_refuse("{", "line 1");
	must_refuse("[]", "its format is not");
	must_refuse("{\"format\": \"trims-profile-2\", \"layers\": []}", "its format is not");
	must_refuse(HEAD "]}", "it has 0 layers");
	must_refuse(HEAD "7]}", "layers[0]: batches has none");
	must_refuse(HEAD "{\"batches\": [{\"batch\": 1, \"exec_ns\": 1}]}]}", "layers[0]: bytes is missing");
	must_refuse(HEAD "{\"bytes\": -1, \"batches\": [{\"batch\": 1, \"exec_ns\": 1}]}]}", "bytes is no number");
	must_refuse(HEAD "{\"bytes\": 1.5, \"batches\": [{\"batch\": 1, \"exec_ns\": 1}]}]}", "bytes is no number");
	must_refuse(HEAD "{\"bytes\": 1, \"batches\": [{\"batch\": 1}]}]}", "exec_ns is missing");
	must_refuse(HEAD "{\"bytes\": 1, \"batches\": [{\"batch\": 1, \"exec_ns\": 1, \"dha_ns\": 2}]}]}", "touched_bytes is missing");
	must_refuse(HEAD "{\"bytes\": 1, \"same_as\": 0, \"batches\": [{\"batch\": 1, \"exec_ns\": 1}]}]}", "same_as is no earlier");
	must_refuse(HEAD "{\"bytes\": 1, \"tensors\": [3], \"batches\": [{\"batch\": 1, \"exec_ns\": 1}]}]}", "tensors has something");
	must_refuse(HEAD "{\"bytes\": 1, \"batches\": [{\"batch\": 2, \"exec_ns\": 1}, {\"batch\": 4, \"exec_ns\": 1}]}]}", "none of the batch");
}
END_TEST

START_TEST(bad_machines_are_refused)
{
	struct machine m;
	struct fault why;
	const char *const bad[][2] = {
		{"{\"format\": \"trims-machine-1\", \"links\": []}", "it has 0 links"},
		{"{\"format\": \"trims-machine-1\", \"links\": [{\"bytes_per_s\": 1, \"overhead_ns\": 0}]}", "target is missing"},
		{"{\"format\": \"trims-machine-1\", \"target\": 0, \"chunk_bytes\": 1, \"links\": [{\"bytes_per_s\": 1}]}",
			"links[0]: overhead_ns is missing"},
		{"{\"format\": \"trims-machine-1\", \"target\": 4294967296, \"chunk_bytes\": 1, \"links\": [{}]}", "target is too large"},
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		ck_assert_int_ne(machine_read(file_of(bad[i][0]), &m, &why), 0);
		ck_assert_msg(strstr(why.text, bad[i][1]) != NULL, "\"%s\" is not in: %s", bad[i][1], why.text);
	}
}
END_TEST

/* ---- the published machine ---- */

struct published {
	struct profile profile;
	struct machine machine;
	uint8_t how[PLAN_MAX_LAYERS];
};

static void published_init(struct published *p, const char *model)
{
	struct fault why;
	char path[512];
	snprintf(path, sizeof path, "%s/%s.json", PROFILES, model);
	ck_assert_msg(profile_read(path, 0, &p->profile, &why) == 0, "%s", why.text);
	ck_assert_msg(machine_read(MACHINE, &p->machine, &why) == 0, "%s", why.text);
}

static struct plan_figures plan(struct published *p, enum plan_policy policy)
{
	struct plan_figures f;
	ck_assert_int_eq(plan_make(policy, &p->profile.plan, &p->machine.plan, p->how, &f), 0);
	ck_assert(f.exact);
	return f;
}

static void published_fini(struct published *p)
{
	profile_fini(&p->profile);
	machine_fini(&p->machine);
}

/* Layers and MiB as DeepPlan lists them. */
START_TEST(shapes_are_the_published_ones)
{
	static const struct {
		const char *model;
		uint32_t layers;
		double mib;
	} want[] = {
		{"bert-base", 102, 417.7}, {"roberta-base", 102, 475.5}, {"gpt2", 75, 474.7}, {"bert-large", 198, 1278.5},
		{"roberta-large", 198, 1355.6}, {"gpt2-medium", 147, 1353.6}, {"resnet-50", 158, 97.8}, {"resnet-101", 311, 170.6},
	};
	static struct published p;
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		uint64_t bytes = 0;
		published_init(&p, want[i].model);
		for (uint32_t k = 0; k < p.profile.n_layers; k++)
			bytes += p.profile.layers[k].bytes;
		ck_assert_uint_eq(p.profile.n_layers, want[i].layers);
		ck_assert_double_eq_tol((double)bytes / (double)MIB, want[i].mib, 0.3);
		published_fini(&p);
	}
}
END_TEST

/* Published: 1.94 for BERT-Base with its own planner and the split by bytes, and that its planner reads both large embedding
 * tables from the host. */
START_TEST(bert_base_over_pipelined)
{
	static struct published p;
	published_init(&p, "bert-base");
	double pipelined = (double)plan(&p, PLAN_BY_PIPELINED).total_ns;
	double best = pipelined / (double)plan(&p, PLAN_BY_BEST).total_ns;
	double theirs = pipelined / (double)plan(&p, PLAN_BY_DEEPPLAN).total_ns;
	double dha = pipelined / (double)plan(&p, PLAN_BY_DHA).total_ns;
	printf("# bert-base over pipelined: %.3f, DeepPlan's plan %.3f, one link %.3f\n", best, theirs, dha);
	ck_assert_double_ge(best, 1.94);
	ck_assert_double_eq_tol(theirs, 1.94, 0.05);
	ck_assert_double_ge(dha, 1.2);
	ck_assert_uint_eq(plan(&p, PLAN_BY_DEEPPLAN_DHA).dha_layers, 2);
	ck_assert(p.how[0] == PLAN_DHA && p.how[1] == PLAN_DHA);
	/* With its traffic charged, the greedy plan is no better than the programme's, and not much worse. */
	ck_assert_uint_eq(plan(&p, PLAN_BY_DHA).dha_layers, 2);
	ck_assert(p.how[0] == PLAN_DHA && p.how[1] == PLAN_DHA);
	published_fini(&p);
}
END_TEST

START_TEST(less_is_resident)
{
	static const struct {
		const char *model;
		double percent; /* as published, rounded there */
	} want[] = {{"bert-base", 22}, {"gpt2", 31}, {"roberta-base", 31}};
	static struct published p;
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		published_init(&p, want[i].model);
		double all = (double)plan(&p, PLAN_BY_PIPELINED).resident_bytes;
		double saved = 100 - 100 * (double)plan(&p, PLAN_BY_DHA).resident_bytes / all;
		printf("# %s: -%.2f %% resident\n", want[i].model, saved);
		ck_assert_double_ge(saved, want[i].percent - 0.5);
		saved = 100 - 100 * (double)plan(&p, PLAN_BY_BEST).resident_bytes / all;
		ck_assert_double_ge(saved, want[i].percent - 0.5);
		published_fini(&p);
	}
}
END_TEST

static void files(Suite *suite)
{
	UNIT_CASE(suite, "files", a_profile_is_read, bad_profiles_are_refused, bad_machines_are_refused);
}

static void published(Suite *suite)
{
	UNIT_CASE(suite, "published", shapes_are_the_published_ones, bert_base_over_pipelined, less_is_resident);
}

UNIT_MAIN("profile", files, published)
