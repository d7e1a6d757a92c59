/* reports.c - see reports.h. */
#include "shared/reports.h"

#include "shared/base.h"

static const struct {
	const char *name;
	bool needs_model;
} rows[] = {
#define REPORT_ROW(number, NAME, name_, needs_model_, doc) [number] = {#name_, needs_model_},
#include "shared/reports.def"
#undef REPORT_ROW
};

const char *report_name(uint32_t report)
{
	return report < ARRAY_LEN(rows) ? rows[report].name : NULL;
}

bool report_needs_model(uint32_t report)
{
	return report < ARRAY_LEN(rows) && rows[report].needs_model;
}
