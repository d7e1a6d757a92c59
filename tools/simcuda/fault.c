/* fault.c - the fault script: which call of which name fails, stalls, kills or loses a device; README.md has the format.
 * Keeps: a rule counts the calls that it could mean from the moment the script was set; a stall holds no lock. */
#include "tools/simcuda/sim.h"
#include "tools/simcuda/simcuda.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define RULES 64

enum action { ACTION_FAIL, ACTION_STALL, ACTION_LOSE, ACTION_KILL, ACTION_ATTR };

struct rule {
	char name[64]; /* an entry's name or symbol, "*", or an attribute */
	bool running;  /* the operation on its stream, not the call */
	unsigned first, last, seen;
	enum action action;
	int value;  /* result, milliseconds (0: until released), attribute's value */
	int device; /* -1: any, or the current one */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static struct rule rules[RULES];
static unsigned n_rules, release_number;
static int n_stalled;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool broken;

/* "3", "3+", "3-5", "*" */
static bool read_numbers(const char *text, struct rule *r)
{
	char *end;

	if (!strcmp(text, "*"))
		text = "1+";
	r->first = r->last = (unsigned)strtoul(text, &end, 10);
	if (end == text || !r->first)
		return false;
	if (*end == '+') {
		r->last = UINT32_MAX;
		end++;
	} else if (*end == '-') {
		r->last = (unsigned)strtoul(end + 1, &end, 10);
	}
	return !*end && r->last >= r->first;
}

/* "2", "stall", "stall:50", "lose", "lose:719", "kill" */
static bool read_action(char *text, struct rule *r)
{
	char *value = strchr(text, ':'), *end;

	if (value)
		*value++ = 0;
	if (!strcmp(text, "kill")) {
		r->action = ACTION_KILL;
		return !value;
	}
	if (!strcmp(text, "stall") || !strcmp(text, "lose")) {
		r->action = *text == 's' ? ACTION_STALL : ACTION_LOSE;
		r->value = value ? atoi(value) : r->action == ACTION_LOSE ? CU_E_LAUNCH_FAILED : 0;
		return true;
	}
	r->action = ACTION_FAIL;
	r->value = (int)strtol(text, &end, 10);
	return end != text && !*end && r->value > 0 && !value;
}

static bool is_entry(const char *name)
{
	if (!strcmp(name, "*"))
		return true;
	for (int i = 0; i < CALLS; i++)
		if (!strcmp(name, sim_call_name(i)) || !strcmp(name, sim_call_symbol(i)))
			return true;
	return false;
}

static bool read_rule(char *text, struct rule *r)
{
	char *value = strchr(text, '='), *device, *numbers;

	*r = (struct rule){.device = -1, .first = 1, .last = 1};
	if (!value)
		return false;
	*value++ = 0;
	device = strchr(value, '@');
	if (device) {
		*device++ = 0;
		r->device = atoi(device);
	}
	numbers = strchr(text, ':');
	if (numbers)
		*numbers++ = 0;
	if (!strcmp(text, "attr")) {
		r->action = ACTION_ATTR;
		r->value = atoi(value);
		r->first = numbers ? topology_attr_number(numbers) : 0;
		return r->first != 0;
	}
	r->running = *text == '~';
	snprintf(r->name, sizeof r->name, "%s", text + r->running);
	return is_entry(r->name) && (!numbers || read_numbers(numbers, r)) && read_action(value, r);
}

static int read_script(const char *script)
{
	OWN_MEM char *copy = strdup(script ? script : "");
	struct rule *fresh = calloc(RULES, sizeof *fresh);
	unsigned n = 0;
	char *save = NULL, *word;

	if (!copy || !fresh) {
		free(fresh);
		return -1;
	}
	for (word = strtok_r(copy, ", \n", &save); word; word = strtok_r(NULL, ", \n", &save)) {
		if (n == RULES || !read_rule(word, &fresh[n])) {
			sim_say("a fault script that makes no sense, at its rule %u: %s", n + 1, script);
			free(fresh);
			return -1;
		}
		n++;
	}
	pthread_mutex_lock(&lock);
	memcpy(rules, fresh, sizeof rules);
	n_rules = n;
	pthread_mutex_unlock(&lock);
	free(fresh);
	return 0;
}

static void from_environment(void)
{
	broken = read_script(getenv("SIMCUDA_FAULTS")) < 0;
}

static bool means(const struct rule *r, enum sim_call which, bool running)
{
	return r->action != ACTION_ATTR && r->running == running &&
		(!strcmp(r->name, "*") || !strcmp(r->name, sim_call_name(which)) || !strcmp(r->name, sim_call_symbol(which)));
}

/* The first rule that means this very call; all that could mean it count it. */
static bool pick(enum sim_call which, bool running, struct rule *out)
{
	bool found = false;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < n_rules; i++) {
		struct rule *r = &rules[i];

		if (!means(r, which, running))
			continue;
		r->seen++;
		if (!found && r->seen >= r->first && r->seen <= r->last) {
			found = true;
			*out = *r;
		}
	}
	pthread_mutex_unlock(&lock);
	return found;
}

static void stall(enum sim_call which, int ms)
{
	uint64_t until = ms ? sim_now() + (uint64_t)ms * NS_PER_MS : UINT64_MAX;
	unsigned seen;
	char mark[128];

	snprintf(mark, sizeof mark, "stalled.%d.%s", (int)getpid(), sim_call_name(which));
	store_mark(mark, true);
	pthread_mutex_lock(&lock);
	n_stalled++;
	seen = release_number;
	while (seen == release_number && sim_now() < until && !store_has("release")) {
		struct timespec soon;

		clock_gettime(CLOCK_REALTIME, &soon);
		soon.tv_nsec += 5 * (long)NS_PER_MS;
		soon.tv_sec += soon.tv_nsec / (long)NS_PER_S;
		soon.tv_nsec %= (long)NS_PER_S;
		pthread_cond_timedwait(&released, &lock, &soon);
	}
	n_stalled--;
	pthread_mutex_unlock(&lock);
	store_mark(mark, false);
}

static cu_result lose(const struct rule *r)
{
	int ordinal = r->device;

	if (ordinal < 0) {
		pthread_mutex_lock(&sim.lock);
		ordinal = context_current() ? context_current()->device->ordinal : 0;
		pthread_mutex_unlock(&sim.lock);
	}
	simcuda_lose(ordinal, r->value);
	return (cu_result)r->value;
}

cu_result fault_call(enum sim_call which, bool running)
{
	struct rule r = {0};

	pthread_once(&once, from_environment);
	if (broken) /* nobody shall believe in a script that does nothing */
		return CU_E_INVALID_VALUE;
	if (!pick(which, running, &r))
		return CU_OK;
	switch (r.action) {
	case ACTION_FAIL:
		return (cu_result)r.value;
	case ACTION_LOSE:
		return lose(&r);
	case ACTION_KILL:
		kill(getpid(), SIGKILL);
		return CU_E_UNKNOWN;
	default:
		stall(which, r.value);
		return CU_OK;
	}
}

bool fault_attr(int ordinal, unsigned attr, int *value)
{
	bool found = false;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < n_rules && !found; i++) {
		found = rules[i].action == ACTION_ATTR && rules[i].first == attr &&
			(rules[i].device < 0 || rules[i].device == ordinal);
		*value = found ? rules[i].value : *value;
	}
	pthread_mutex_unlock(&lock);
	return found;
}

EXPORT int simcuda_script(const char *script)
{
	pthread_once(&once, from_environment);
	if (read_script(script) < 0)
		return -1;
	broken = false;
	return 0;
}

EXPORT void simcuda_release(void)
{
	pthread_mutex_lock(&lock);
	release_number++;
	pthread_cond_broadcast(&released);
	pthread_mutex_unlock(&lock);
}

EXPORT int simcuda_stalled(void)
{
	int n;

	pthread_mutex_lock(&lock);
	n = n_stalled;
	pthread_mutex_unlock(&lock);
	return n;
}
