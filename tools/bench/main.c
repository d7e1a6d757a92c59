/* main.c - trims-bench: takes the command line apart, runs one benchmark in a worker and judges its figures, or all of
 * them as a table.
 * Keeps: the temporary directory, and every process below this one, are gone when it exits, whatever the worker did;
 * only measured numbers are printed. */
#include "shared/metrics.h"
#include "tools/bench/bench.h"
#include "tools/bench/lab.h"
#include "tools/text.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct bench {
	const char *name, *doc;
	json_t *(*run)(const struct bench_options *o);
} benches[] = {
#define BENCH(name, doc) {#name, doc, bench_##name},
#define FIGURE(bench, key, sense, goal, limit, doc)
#define FACT(bench, key, doc)
#include "tools/bench/bench.def"
#undef BENCH
#undef FIGURE
#undef FACT
};

enum sense { AT_MOST, AT_LEAST };

static const struct figure {
	const char *bench, *key;
	enum sense sense;
	double goal, limit;
	const char *doc;
} figures[] = {
#define BENCH(name, doc)
#define FIGURE(bench, key, sense, goal, limit, doc) {#bench, key, sense, goal, limit, doc},
#define FACT(bench, key, doc)
#include "tools/bench/bench.def"
#undef BENCH
#undef FIGURE
#undef FACT
};

static const struct fact {
	const char *bench, *key;
} facts[] = {
#define BENCH(name, doc)
#define FIGURE(bench, key, sense, goal, limit, doc)
#define FACT(bench, key, doc) {#bench, key},
#include "tools/bench/bench.def"
#undef BENCH
#undef FIGURE
#undef FACT
};

/* People write gpu-open for bench_gpu_open(). */
static const char *shown(const char *bench)
{
	static char text[32];
	snprintf(text, sizeof text, "%s", bench);
	for (char *p = text; (p = strchr(p, '_'));)
		*p = '-';
	return text;
}

/* ---- judging ---- */

static const json_t *find_key(const json_t *result, const char *key)
{
	char part[64];
	for (;;) {
		size_t n = strcspn(key, ".");
		snprintf(part, sizeof part, "%.*s", (int)n, key);
		result = json_object_get(result, part);
		if (!key[n])
			return result;
		key += n + 1;
	}
}

static bool reaches(const struct figure *f, double value, double bound)
{
	return f->sense == AT_MOST ? value <= bound : value >= bound;
}

/* What came from a simulated device is no measurement: it is shown, marked, and not held to anything. */
static bool is_simulated(const json_t *result)
{
	return json_is_true(json_object_get(result, "simulated"));
}

/* "ok", "below goal", "MISSED", "not measured", "simulated". */
static const char *verdict(const struct figure *f, const json_t *value, bool simulated)
{
	if (!json_is_number(value))
		return "not measured";
	if (simulated)
		return "simulated";
	double v = json_number_value(value);
	if (reaches(f, v, f->goal))
		return "ok";
	return f->limit == 0 || reaches(f, v, f->limit) ? "below goal" : "MISSED";
}

static bool judge(const char *bench, const json_t *result, struct grid *g)
{
	bool within = true, simulated = is_simulated(result);
	for (size_t i = 0; i < ARRAY_LEN(figures); i++) {
		const struct figure *f = &figures[i];
		if (strcmp(f->bench, bench) != 0)
			continue;
		const json_t *value = find_key(result, f->key);
		const char *said = verdict(f, value, simulated);
		grid_add(g, "%s", shown(f->bench));
		grid_add(g, "%s", f->key);
		grid_add(g, "%s %g", f->sense == AT_MOST ? "<=" : ">=", f->goal);
		grid_add(g, f->limit != 0 ? "%s %g" : "%s", f->limit == 0 ? "-" : f->sense == AT_MOST ? "<=" : ">=", f->limit);
		grid_add(g, !json_is_number(value) ? "-" : simulated ? "simulated %.4g" : "%.4g", json_number_value(value));
		grid_add(g, "%s", said);
		grid_add(g, "%s", f->doc);
		within = within && strcmp(said, "MISSED") != 0;
	}
	return within;
}

static void judge_header(struct grid *g)
{
	static const char *const titles[] = {"BENCH", "FIGURE", "GOAL", "LIMIT", "MEASURED", "VERDICT", "WHAT IT IS"};
	for (size_t i = 0; i < ARRAY_LEN(titles); i++)
		grid_add(g, "%s", titles[i]);
}

/* ---- printing one result ---- */

/* Numbers by pressure, one beside the other. */
static void add_list(struct grid *g, const json_t *list, const char *mark)
{
	char text[512];
	int used = snprintf(text, sizeof text, "%s", mark);
	size_t i;
	json_t *value;
	json_array_foreach(list, i, value)
		if (used < (int)sizeof text)
			used += snprintf(text + used, sizeof text - (size_t)used, json_is_number(value) ? "%s%.4g" : "%s-",
				i ? " " : "", json_number_value(value));
	grid_add(g, "%s", text);
}

static void add_values(struct grid *g, const char *prefix, const json_t *object, const char *mark)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)object, key, value) {
		char name[128];
		snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", key);
		if (json_is_object(value)) {
			add_values(g, name, value, mark);
			continue;
		}
		grid_add(g, "%s", name);
		if (json_is_array(value)) {
			add_list(g, value, mark);
			continue;
		}
		if (json_is_string(value))
			grid_add(g, "%s", json_string_value(value));
		else if (json_is_real(value))
			grid_add(g, "%s%.4g", mark, json_real_value(value));
		else if (json_is_integer(value))
			grid_add(g, "%s%" JSON_INTEGER_FORMAT, mark, json_integer_value(value));
		else
			grid_add(g, "%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
	}
}

static void print_result(const struct bench *b, const json_t *result)
{
	struct grid *g = grid_new("ll");
	printf("%s: %s\n\n", shown(b->name), b->doc);
	add_values(g, "", result, is_simulated(result) ? "simulated " : "");
	grid_print(g, stdout);
	grid_free(&g);
	putchar('\n');
	g = grid_new("lllllll");
	judge_header(g);
	judge(b->name, result, g);
	grid_print(g, stdout);
	grid_free(&g);
}

/* What the benchmark is held to, by itself, behind what has to be known to read it. */
static json_t *figures_of(const char *bench, const json_t *result)
{
	json_t *found = json_object();
	for (size_t i = 0; i < ARRAY_LEN(facts); i++) {
		json_t *value = (json_t *)find_key(result, facts[i].key);
		if (strcmp(facts[i].bench, bench) == 0 && value && !json_is_null(value) && !(json_is_string(value) && !json_string_length(value)))
			json_object_set(found, facts[i].key, value);
	}
	for (size_t i = 0; i < ARRAY_LEN(figures); i++) {
		json_t *value = (json_t *)find_key(result, figures[i].key);
		if (strcmp(figures[i].bench, bench) == 0 && json_is_number(value))
			json_object_set(found, figures[i].key, value);
	}
	return found;
}

/* In the worker. */
static _Noreturn void work(const struct bench_options *o, const struct bench *b)
{
	json_t *result = b->run(o);
	json_object_set_new(result, "bench", json_string(shown(b->name)));
	struct grid *g = grid_new("lllllll");
	bool within = judge(b->name, result, g);
	grid_free(&g);
	if (o->json) {
		json_object_set_new(result, "within_limits", json_boolean(within));
		json_object_set_new(result, "figures", figures_of(b->name, result));
		/* Simulated figures stay on the line that says so. */
		json_dumpf(result, stdout, (is_simulated(result) ? JSON_COMPACT : JSON_INDENT(2)) | JSON_REAL_PRECISION(6));
		putchar('\n');
	} else {
		print_result(b, result);
	}
	json_decref(result);
	fflush(stdout);
	exit(within ? BENCH_OK : BENCH_BEYOND);
}

/* ---- the parent: it outlives the worker and cleans up ---- */

static volatile sig_atomic_t worker_pid;

static void pass_signal_on(int sig)
{
	if (worker_pid > 0)
		kill(worker_pid, sig);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void clean_up(const char *lab, bool keep)
{
	/* The worker's children were handed to this process (subreaper) and are being killed: wait until all are gone. */
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	for (int i = 0; i < LAB_MAX_MRM; i++) {
		char socket[PATH_MAX];
		snprintf(socket, sizeof socket, "%s/mrm-%d.sock", lab, i);
		metrics_unlink(socket);
	}
	if (keep)
		fprintf(stderr, "trims-bench: kept %s\n", lab);
	else
		nftw(lab, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}

static int supervise(struct bench_options *o, const struct bench *b)
{
	char lab[256];
	const char *base = getenv("TMPDIR");
	int status;
	snprintf(lab, sizeof lab, "%.200s/trims-bench-XXXXXX", base && *base ? base : "/var/tmp");
	if (!mkdtemp(lab))
		die_errno(errno, "making a directory %s", lab);
	o->lab = lab;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fflush(stdout);
	pid_t parent = getpid(), pid = fork();
	if (pid < 0)
		die_errno(errno, "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(BENCH_FAILED);
		work(o, b);
	}
	worker_pid = pid;
	const struct sigaction pass = {.sa_handler = pass_signal_on};
	sigaction(SIGINT, &pass, NULL);
	sigaction(SIGTERM, &pass, NULL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	clean_up(lab, o->keep);
	return WIFEXITED(status) ? WEXITSTATUS(status) : BENCH_FAILED;
}

/* ---- the table: each benchmark in a run of its own ---- */

/* *status: its exit status. */
static json_t *run_self(const struct bench_options *o, const char *bench, int *status)
{
	char self[PATH_MAX], command[2 * PATH_MAX + 256], bytes[48] = "";
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n < 0)
		die_errno(errno, "/proc/self/exe");
	self[n] = 0;
	setenv("TRIMS_BENCH_SELF", self, 1);
	setenv("TRIMS_BENCH_MRM", o->mrm, 1);
	if (o->driver)
		setenv("TRIMS_BENCH_DRIVER", o->driver, 1);
	if (o->bytes)
		snprintf(bytes, sizeof bytes, "--bytes %llu", (unsigned long long)o->bytes);
	snprintf(command, sizeof command, "\"$TRIMS_BENCH_SELF\" %s --json --mrm \"$TRIMS_BENCH_MRM\" %s --rounds %u%s",
		bench, bytes, o->rounds, o->driver ? " --driver \"$TRIMS_BENCH_DRIVER\"" : "");
	FILE *f = popen(command, "re");
	if (!f)
		die_errno(errno, "running %s", bench);
	json_t *result = json_loadf(f, 0, NULL);
	int how = pclose(f);
	*status = WIFEXITED(how) ? WEXITSTATUS(how) : BENCH_FAILED;
	return result;
}

static int table(const struct bench_options *o)
{
	struct grid *g = grid_new("lllllll");
	json_t *all = json_object();
	bool within = true;
	judge_header(g);
	for (size_t i = 0; i < ARRAY_LEN(benches); i++) {
		int status;
		if (isatty(STDERR_FILENO))
			fprintf(stderr, "%s ...\n", shown(benches[i].name));
		json_t *result = run_self(o, benches[i].name, &status);
		within = judge(benches[i].name, result, g) && (result || status == BENCH_SKIPPED) && within;
		json_object_set_new(all, benches[i].name, result ? result : json_null());
	}
	if (o->json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		grid_print(g, stdout);
	}
	grid_free(&g);
	json_decref(all);
	return within ? BENCH_OK : BENCH_BEYOND;
}

/* ---- command line ---- */

static void print_help(FILE *out)
{
	struct grid *g = grid_new("ll");
	fputs("usage: trims-bench BENCH [--json] [--mrm PROGRAM] [--bytes SIZE] [--rounds N] [--only CASE] [--models N] [--keep]\n"
	      "                         [--driver FILE] [--calls N] [--budget TIME] [--out DIR]\n\nbenches:\n", out);
	for (size_t i = 0; i < ARRAY_LEN(benches); i++) {
		grid_add(g, "  %s", shown(benches[i].name));
		grid_add(g, "%s", benches[i].doc);
	}
	grid_add(g, "  table");
	grid_add(g, "all of them: goal, limit, figure, verdict");
	grid_print(g, out);
	grid_free(&g);
	fputs("\nEach measures its yardstick in the same run.  It needs about four times SIZE (default 1G, h2d 4G) in $TMPDIR (default\n"
	      "/var/tmp), which should lie on the disk to be measured.\n"
	      "exit status: 0 within limits, 1 beyond a limit, 2 usage, 3 not measured, 77 no GPU.  See trims-bench(1).\n", out);
}

static int usage(const char *what, const char *text)
{
	fprintf(stderr, "trims-bench: %s%s; see trims-bench --help\n", what, text);
	return BENCH_USAGE;
}

static int parse_rounds(const char *text, uint32_t *out)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);
	if (end == text || *end || n > 1000000)
		return -EINVAL;
	*out = (uint32_t)n;
	return 0;
}

static int parse(int argc, char **argv, struct bench_options *o)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {"mrm", required_argument, NULL, 'm'},
		{"bytes", required_argument, NULL, 'b'}, {"rounds", required_argument, NULL, 'r'},
		{"only", required_argument, NULL, 'o'}, {"keep", no_argument, NULL, 'k'},
		{"models", required_argument, NULL, 'n'}, {"driver", required_argument, NULL, 'd'},
		{"calls", required_argument, NULL, 'c'}, {"budget", required_argument, NULL, 't'},
		{"out", required_argument, NULL, 'w'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'}, {NULL, 0, NULL, 0}};
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;)
		switch (c) {
		case 'j': o->json = true; break;
		case 'k': o->keep = true; break;
		case 'm': o->mrm = optarg; break;
		case 'o': o->only = optarg; break;
		case 'd': o->driver = optarg; break;
		case 'w': o->out = optarg; break;
		case 'b':
			if (text_parse_bytes(optarg, &o->bytes) || o->bytes < MIB)
				return usage("--bytes wants a size of 1M or more, not ", optarg);
			break;
		case 'r':
			if (parse_rounds(optarg, &o->rounds))
				return usage("--rounds wants a number, not ", optarg);
			break;
		case 'c':
			if (parse_rounds(optarg, &o->calls) || o->calls == 0)
				return usage("--calls wants a number of 1 or more, not ", optarg);
			break;
		case 't':
			if (text_parse_ns(optarg, &o->budget_ns))
				return usage("--budget wants a time, not ", optarg);
			break;
		case 'n':
			if (parse_rounds(optarg, &o->models) || o->models < 1000)
				return usage("--models wants a number of 1000 or more, not ", optarg);
			break;
		case 'h': print_help(stdout); return -1;
		case 'v': puts("trims-bench " TRIMS_VERSION); return -1;
		default: return usage("bad option ", argv[optind - 1]);
		}
	return 0;
}

/* In the build folder the client programs are beside this one; installed, they and mrm have folders of their own. */
static void find_programs(struct bench_options *o)
{
	static char bin[PATH_MAX], helpers[PATH_MAX + 32], mrm[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", bin, sizeof bin - 1);
	if (n > 0 && strrchr(bin, '/'))
		*strrchr(bin, '/') = 0;
	snprintf(helpers, sizeof helpers, "%s/trims-bench-client", bin);
	bool built = access(helpers, X_OK) == 0;
	snprintf(helpers, sizeof helpers, "%s%s", bin, built ? "" : "/../libexec/trims");
	snprintf(mrm, sizeof mrm, "%s/../%s/mrm", bin, built ? "mrm" : "sbin");
	o->bin_dir = helpers;
	o->own_dir = bin;
	o->mrm = mrm;
}

int main(int argc, char **argv)
{
	struct bench_options o = {.models = 100000, .driver = getenv("TRIMS_CUDA_DRIVER")};
	find_programs(&o);
	int r = parse(argc, argv, &o);
	if (r)
		return r < 0 ? BENCH_OK : r;
	if (optind + 1 != argc)
		return usage("one benchmark at a time", "");
	if (strcmp(argv[optind], "table") == 0)
		return table(&o);
	for (size_t i = 0; i < ARRAY_LEN(benches); i++)
		if (strcmp(argv[optind], shown(benches[i].name)) == 0)
			return supervise(&o, &benches[i]);
	return usage("no such benchmark: ", argv[optind]);
}
