/* device_class.c - see device_class.h. */
#include "shared/device_class.h"

#include "shared/base.h"
#include "shared/utf8.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* From /proc/cpuinfo, proc(5); other architectures call it otherwise or not at all. */
static void cpu_name(char out[80])
{
	char line[256];
	FILE *f = fopen("/proc/cpuinfo", "re");
	snprintf(out, 80, "unknown");
	while (f && fgets(line, sizeof line, f)) {
		const char *value = strncmp(line, "model name", 10) ? NULL : strchr(line, ':');
		if (!value)
			continue;
		value += strspn(value, ": \t");
		int n = (int)MIN(strcspn(value, "\n"), (size_t)79);
		if (n && utf8_valid(value, (size_t)n))
			snprintf(out, 80, "%.*s", n, value);
		break;
	}
	if (f)
		fclose(f);
}

void device_class_cpu(char out[DEVICE_CLASS_BYTES])
{
	char name[80];
	cpu_name(name);
	snprintf(out, DEVICE_CLASS_BYTES, "cpu: %s, %ld cores", name, sysconf(_SC_NPROCESSORS_ONLN));
}

void device_class_gpu(char out[DEVICE_CLASS_BYTES], const char *name, uint64_t bytes, bool simulated)
{
	size_t n = strnlen(name, 90);
	snprintf(out, DEVICE_CLASS_BYTES, "%s%.*s, %llu MiB", simulated ? "simulated: " : "", utf8_valid(name, n) ? (int)n : 0, name,
		(unsigned long long)(bytes / MIB));
}

void device_class_driver(char out[16], uint32_t version)
{
	snprintf(out, 16, "%u.%u", version / 1000 % 10000, version % 1000 / 10);
}
