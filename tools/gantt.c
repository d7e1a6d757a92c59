/* gantt.c - see gantt.h. */
#include "tools/gantt.h"

#include "shared/base.h"
#include "tools/svg.h"

#include <math.h>

#define WIDTH 1000.0
#define ROW 34.0
#define BAR 22.0
#define NAMES 130.0 /* of rows, left of the bars */
#define FOOT 44.0

/* Ticks every 1, 2 or 5 times a power of ten milliseconds, ten or so. */
static double tick_ms(double total_ms)
{
	double ten = pow(10, floor(log10(total_ms / 10))), rough = total_ms / 10 / ten;
	return ten * (rough <= 1 ? 1 : rough <= 2 ? 2 : rough <= 5 ? 5 : 10);
}

static void draw_axis(FILE *out, double total_ms, double scale, double bottom)
{
	double step = tick_ms(total_ms);
	for (unsigned i = 0; i * step <= total_ms * 1.001; i++) {
		char text[32];
		double x = NAMES + i * step * scale;
		snprintf(text, sizeof text, "%g", i * step);
		fprintf(out, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", x, SVG_HEAD, bottom);
		svg_text(out, x, bottom + 16, "text-anchor=\"middle\"", text);
	}
	svg_text(out, NAMES + total_ms * scale / 2, bottom + 34, "text-anchor=\"middle\"", "ms");
}

static void draw_bar(FILE *out, const struct gantt_bar *b, double scale)
{
	double x = NAMES + (double)b->begin_ns / 1e6 * scale, width = (double)(b->end_ns - b->begin_ns) / 1e6 * scale;
	fprintf(out, "<g><rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.0f\" fill=\"%s\" stroke=\"#fff\" "
		"stroke-width=\"0.3\"/>", x, SVG_HEAD + ROW * b->row + (ROW - BAR) / 2, width, BAR, svg_colour(b->kind));
	fputs("<title>", out);
	svg_put(out, b->name);
	fprintf(out, ", %.3f to %.3f ms</title></g>\n", (double)b->begin_ns / 1e6, (double)b->end_ns / 1e6);
}

void gantt_write(FILE *out, const char *title, const char *const *rows, size_t n_rows, const char *const *kinds, size_t n_kinds,
	const struct gantt_bar *bars, size_t n_bars, uint64_t total_ns)
{
	double total_ms = MAX((double)total_ns / 1e6, 1e-6), bottom = SVG_HEAD + ROW * (double)n_rows;
	double scale = (WIDTH - NAMES - 20) / total_ms;
	svg_begin(out, title, WIDTH, bottom + FOOT);
	svg_legend(out, kinds, n_kinds);
	draw_axis(out, total_ms, scale, bottom);
	for (size_t i = 0; i < n_rows; i++)
		svg_text(out, NAMES - 8, SVG_HEAD + ROW * (double)i + ROW / 2 + 4, "text-anchor=\"end\"", rows[i]);
	for (size_t i = 0; i < n_bars; i++)
		if (bars[i].end_ns > bars[i].begin_ns)
			draw_bar(out, &bars[i], scale);
	svg_end(out);
}
