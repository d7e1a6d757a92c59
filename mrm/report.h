/* report.h - answers QUERY: JSON pages in sealed memory.  Thread: loop; a page is bounded so that it never holds the loop
 * up. */
#ifndef MRM_REPORT_H
#define MRM_REPORT_H

#include "mrm/conn.h"

#include <jansson.h>

void report_answer(struct conn *c, uint64_t request, uint32_t report, const char *model, uint64_t cursor);
/* Sends one page; takes the reference. next: the following page's cursor, 0 at the end. */
void report_send(struct conn *c, uint64_t request, json_t *page, uint64_t next);
/* doctor.c */
json_t *report_doctor(struct daemon *d);

#endif
