/* function.c - see function.h.
 * Keeps: a run counts or is counted as failed; the parts add up to the whole. */
#include "tools/function.h"

#include "shared/own.h"
#include "tools/child.h"
#include "tools/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS 48
#define PAGE 4096u
#define BESIDE_WEIGHTS (256 * MIB) /* more than a function takes beside them */
#define MAX_REPORT (16 * (size_t)MIB) /* results of large batches are long */

static const char *const part_keys[] = {
#define PART(NAME, key, doc) #key,
#include "tools/function.def"
#undef PART
};

const char *function_part_key(unsigned part)
{
	return part_keys[part];
}

static _Noreturn void become(const struct function_options *o, const char *const args[], int out, uint64_t asked_ns, pid_t parent)
{
	char started[32];
	const char *argv[MAX_ARGS] = {o->program, "infer", "--json"};
	size_t n = 3;
	for (; *args && n < MAX_ARGS - 1; args++)
		argv[n++] = *args;
	snprintf(started, sizeof started, "%" PRIu64, asked_ns);
	setenv("TRIMS_STARTED_NS", started, 1);
	if (o->driver)
		setenv("TRIMS_CUDA_DRIVER", o->driver, 1);
	child_become(parent, out, o->err, argv);
}

int function_start(const struct function_options *o, struct function *f, uint64_t asked_ns, const char *const args[])
{
	int pipes[2];
	pid_t parent = getpid();
	if (pipe2(pipes, O_CLOEXEC))
		return -errno;
	OWN_FD int out = pipes[0], in = pipes[1];
	f->asked_ns = asked_ns ? asked_ns : clock_ns();
	f->pid = fork();
	if (f->pid < 0)
		return -errno;
	if (f->pid == 0)
		become(o, args, in, f->asked_ns, parent);
	f->out = steal_fd(&out);
	return 0;
}

static double ms_of(const json_t *times, const char *key)
{
	char name[32];
	snprintf(name, sizeof name, "%s_ns", key);
	return (double)json_integer_value(json_object_get(times, name)) / 1e6;
}

/* The parts that it names need not be all. */
static void take_times(struct function_run *out)
{
	const json_t *times = json_object_get(out->report, "times");
	double named = 0;
	out->total = ms_of(times, "total");
	out->simulated = json_is_true(json_object_get(out->report, "simulated"));
	for (unsigned i = 0; i < FUNCTION_PARTS; i++) {
		out->part[i] = i == FUNCTION_OTHER ? 0 : ms_of(times, part_keys[i]);
		named += out->part[i];
	}
	out->part[FUNCTION_OTHER] = fmax(out->total - named, 0);
}

/* Returns how much; the rest is left, and ends its writer. */
static size_t read_report(int fd, char **text)
{
	size_t used = 0, room = 0;
	ssize_t n = 1;
	*text = NULL;
	while (n > 0 && used < MAX_REPORT) {
		if (used == room) {
			room = room ? 2 * room : 65536;
			char *more = realloc(*text, room);
			if (!more)
				break;
			*text = more;
		}
		do
			n = read(fd, *text + used, room - used);
		while (n < 0 && errno == EINTR);
		used += n > 0 ? (size_t)n : 0;
	}
	return used;
}

/* In its own words, if it had time for any. */
static int explain(const json_t *said, int status, struct fault *why)
{
	const char *text = json_string_value(json_object_get(json_object_get(said, "error"), "text"));
	if (text)
		return fault_set(why, TRIMS_E_UNSUPPORTED, "%s", text);
	if (WIFSIGNALED(status))
		return fault_set(why, TRIMS_E_UNSUPPORTED, "trims-run was ended by signal %d", WTERMSIG(status));
	return fault_set(why, TRIMS_E_UNSUPPORTED, "trims-run ended with status %d and no result", WEXITSTATUS(status));
}

int function_finish(struct function *f, struct function_run *out, struct fault *why)
{
	char *text;
	int status;
	size_t bytes = read_report(f->out, &text);
	*out = (struct function_run){0};
	close(f->out);
	while (waitpid(f->pid, &status, 0) < 0)
		if (errno != EINTR) {
			free(text);
			return fault_errno(why, TRIMS_E_NO_SYSTEM, errno, "waiting for trims-run");
		}
	f->pid = 0;
	out->report = json_loadb(text ? text : "", bytes, 0, NULL);
	free(text);
	if (out->report)
		take_times(out);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && out->total > 0)
		return 0;
	int r = explain(out->report, status, why);
	json_decref(STEAL(out->report));
	return r;
}

static int touch(uint64_t bytes, int advice, struct fault *why)
{
	volatile char *p = bytes ? mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
	if (p == MAP_FAILED)
		return fault_errno(why, TRIMS_E_NO_MEMORY, errno, "touching free memory");
	if (!p)
		return 0;
	madvise((void *)p, (size_t)bytes, advice);
	for (uint64_t at = 0; at < bytes; at += PAGE)
		p[at] = 1;
	munmap((void *)p, (size_t)bytes);
	return 0;
}

/* As they are taken: weights by huge pages, where the machine has any, the rest by small ones, which come from other lists. */
int function_warm_memory(uint64_t weights, struct fault *why)
{
	int r = touch(BESIDE_WEIGHTS, MADV_NOHUGEPAGE, why);
	return r ? r : touch(weights + weights / 4, MADV_HUGEPAGE, why);
}

/* ---- many of them ---- */

void function_cell_add(struct function_cell *c, const struct function_run *r)
{
	c->failed += !r;
	if (!r)
		return;
	samples_add(&c->total, r->total);
	for (unsigned i = 0; i < FUNCTION_PARTS; i++)
		samples_add(&c->part[i], r->part[i]);
}

void function_cell_fini(struct function_cell *c)
{
	samples_fini(&c->total);
	for (unsigned i = 0; i < FUNCTION_PARTS; i++)
		samples_fini(&c->part[i]);
}
