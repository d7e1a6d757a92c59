/* pt.c - trims-bench pt: parallel transmission: cold starts of a model that comes over the links of several GPUs, against one that comes
 * over its own alone, predicted beside measured; by trims-run bench, as cold.  Needs two GPUs, of which the first one takes from the
 * other's memory. */
#include "tools/bench/cold.h"

/* How many other devices' memory the first one reaches. */
static int count_helpers(const struct gpu *g, int *devices)
{
	int n = 0;
	GPU_MUST(g, device_get_count, devices);
	for (int i = 1; i < *devices; i++) {
		cu_device other;
		int can = 0;
		GPU_MUST(g, device_get, &other, i);
		GPU_MUST(g, device_can_access_peer, &can, g->device, other);
		n += can != 0;
	}
	return n;
}

/* What of the model came over their links in the last runs of the modes that may have it so: the most of them. */
static json_int_t helped(const json_t *report)
{
	const json_t *modes = json_object_get(report, "modes");
	json_int_t pt = json_integer_value(json_object_get(json_object_get(modes, "pt"), "helper_bytes"));
	json_int_t both = json_integer_value(json_object_get(json_object_get(modes, "pt+dha"), "helper_bytes"));
	return MAX(pt, both);
}

json_t *bench_pt(const struct bench_options *o)
{
	struct gpu g;
	int devices;
	gpu_open(o, &g);
	int helpers = count_helpers(&g, &devices);
	if (devices < 2)
		skip("one device: there is no other link to load over");
	if (!helpers)
		skip("%d devices, but the first one reaches the memory of no other", devices);
	json_t *report = cold_report(o, &g, "pipeline,dha,pt,pt+dha");
	json_object_set_new(report, "helpers", json_integer(helpers));
	json_object_set_new(report, "helper_bytes", json_integer(helped(report)));
	json_object_set_new(report, "pt_over_pipeline", cold_over_pipeline(report, "pt"));
	json_object_set_new(report, "pt_dha_over_pipeline", cold_over_pipeline(report, "pt+dha"));
	return report;
}
