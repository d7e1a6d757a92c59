/* reports.h - what QUERY can ask for, from reports.def.  Thread: any.  Owns nothing. */
#ifndef SHARED_REPORTS_H
#define SHARED_REPORTS_H

#include <stdbool.h>
#include <stdint.h>

enum report {
#define REPORT_ROW(number, NAME, name, needs_model, doc) REPORT_##NAME = number,
#include "shared/reports.def"
#undef REPORT_ROW
};

/* "ls"; NULL for a number that no row has, which is the way to test one that came over the socket. */
const char *report_name(uint32_t report);
/* Whether the report is about one model. */
bool report_needs_model(uint32_t report);

#endif
