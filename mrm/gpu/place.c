/* place.c - see place.h. */
#include "mrm/gpu/place.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool gpu_sysfs_read(const void *ctx, const char *name, char *text, size_t size)
{
	const struct gpu_sysfs *s = ctx;
	char path[PATH_MAX], id[GPU_PCI_TEXT], *end;
	size_t n = 0;
	for (; n < sizeof id - 1 && s->pci[n]; n++)
		id[n] = (char)tolower((unsigned char)s->pci[n]);
	id[n] = 0;
	/* "../" has to be that of the device, not of the link to it: the kernel follows links first. */
	if (!*id || (size_t)snprintf(path, sizeof path, "%s/bus/pci/devices/%s/%s", s->root, id, name) >= sizeof path)
		return false;
	if (!*name) {
		char *real = realpath(path, NULL);
		bool fits = real && strlen(real) < size;
		if (fits)
			memcpy(text, real, strlen(real) + 1);
		free(real);
		return fits;
	}
	FILE *f = fopen(path, "re");
	bool got = f && fgets(text, (int)size, f);
	if (f)
		fclose(f);
	if (got && (end = strchr(text, '\n')))
		*end = 0;
	return got;
}

/* "0000:3b:00.0" */
static bool is_function(const char *s, size_t length)
{
	static const char form[] = "hhhh:hh:hh.h";
	if (length != sizeof form - 1)
		return false;
	for (size_t i = 0; i < length; i++)
		if (form[i] == 'h' ? !isxdigit((unsigned char)s[i]) : s[i] != form[i])
			return false;
	return true;
}

/* ".../pci0000:3a/0000:3a:00.0/0000:3b:00.0/0000:3c:04.0/0000:3d:00.0": all functions but the last, which is the device. */
static void read_bridges(struct gpu_place *p, const char *path)
{
	const char *last = strrchr(path, '/');
	for (const char *at = path; at && at < last; at = strchr(at + 1, '/')) {
		size_t length = strcspn(at + 1, "/");
		if (*at != '/' || !is_function(at + 1, length) || p->n_bridges == GPU_PLACE_BRIDGES)
			continue;
		memcpy(p->bridge[p->n_bridges], at + 1, length);
		p->bridge[p->n_bridges++][length] = 0;
	}
}

static bool number_in(gpu_place_reader read, const void *ctx, const char *name, double *out)
{
	char text[64], *end;
	if (!read(ctx, name, text, sizeof text))
		return false;
	*out = strtod(text, &end);
	return end != text;
}

/* 0: none that is known. */
static uint32_t generation(double gigatransfers)
{
	static const double of[] = {0, 2.5, 5, 8, 16, 32, 64};
	uint32_t gen = 0;
	while (gen + 1 < ARRAY_LEN(of) && gigatransfers >= of[gen + 1])
		gen++;
	return gen;
}

/* What a link runs at now tells nothing, since it slows down when the device idles; what both ends can do is what it runs at
 * when it has work. */
static void read_link(struct gpu_place *p, gpu_place_reader read, const void *ctx)
{
	double own, above, lanes;
	if (number_in(read, ctx, "max_link_speed", &own))
		p->pcie_gen = generation(number_in(read, ctx, "../max_link_speed", &above) ? MIN(own, above) : own);
	/* 255 and 0 are what the kernel makes of a register that could not be read. */
	if (number_in(read, ctx, "current_link_width", &lanes) && lanes >= 1 && lanes <= 32)
		p->pcie_width = (uint32_t)lanes;
}

void gpu_place_find(struct gpu_place *out, gpu_place_reader read, const void *ctx)
{
	char path[PATH_MAX];
	double node;
	*out = (struct gpu_place){.numa_node = -1};
	if (read(ctx, "", path, sizeof path))
		read_bridges(out, path);
	if (number_in(read, ctx, "numa_node", &node) && node >= 0)
		out->numa_node = (int)node;
	read_link(out, read, ctx);
}
