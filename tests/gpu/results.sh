# results.sh - what items said: kept a line each, merged with what earlier calls of run have left, made a table of.  Sourced by run.
# A results file is JSON whose items are one line each, so that lines can be merged without a parser.  What was not run this
# time leaves an earlier result as it was.
# shellcheck shell=sh disable=SC2154  # $out: run's

# A benchmark's answer, in the table, is what it is held to, and whether it is simulated.
results_shown() {
	sed '/"simulated": *true/s/"figures": *{/&"simulated": true, /
		s/.*"figures": *{\([^}]*\)}.*/\1/; s/":\([^ ]\)/": \1/g; s/,"/, "/g'
}

# results_table FILE: rows of its item lines.
results_table() {
	grep '^    {"part"' "$1" | while IFS= read -r line; do
		printf '%s' "$line" | sed 's/^ *{"part": "\([^"]*\)", "kind": "\([^"]*\)", "name": "\([^"]*\)", "effort": "\([^"]*\)", "status": "\([^"]*\)", "seconds": [0-9]*, "why": "\([^"]*\)".*/| \1 | \3 (\4) | \5: \6 | /; s/ (full) | / | /; s/:  | $/ | /'
		printf '%s' "${line#*\"answer\": }" | sed 's/},*$//' | results_shown | tr -d '{}"' | sed 's/simulated: false,* *//; s/  */ /g'
		printf ' |\n'
	done
}

# results_merge OLD NEW: item lines of both, each once; a new one that says nothing of the device does not take an old one's place.
results_merge() {
	cat "$1" "$2" | sed -n 's/^\(    {"part".*}\),*$/\1/p' | awk '
		{ key = $0; sub(/", "status".*/, "", key); silent = / "status": "skipped"/ || / "why": "not run: / }
		!(key in line) { order[++n] = key; line[key] = $0; next }
		!silent { line[key] = $0 }
		END { for (i = 1; i <= n; i++) print line[order[i]] (i < n ? "," : "") }'
}

results_head() { # FILE KEY
	sed -n "s/^  \"$2\": \"\{0,1\}\([^\",]*\).*/\1/p" "$1"
}

# results_write GPU DRIVER ITEMS: into the files of that device and driver; prints their name.
results_write() {
	mkdir -p "$out" || return 1
	base=$out/$(printf '%s-%s' "$1" "$2" | tr -c 'A-Za-z0-9.-' '_')
	[ -e "$base.json" ] || : >"$base.json"
	{
		printf '{\n  "gpu": "%s",\n  "driver": %s,\n  "items": [\n' "$1" "$2"
		results_merge "$base.json" "$3"
		printf '  ]\n}\n'
	} >"$base.json.new" && mv "$base.json.new" "$base.json" || return 1
	{
		printf '## %s, driver %s\n\n| part | item | result | figures |\n|---|---|---|---|\n' "$1" "$2"
		results_table "$base.json"
		printf '\n'
	} >"$base.md.new" && mv "$base.md.new" "$base.md" || return 1
	{
		printf '# What real devices said\n\nMade by tests/gpu/run; one section a device and driver.\n\n'
		cat "$out"/*.md
	} >"$out/../RESULTS.md.new" && mv "$out/../RESULTS.md.new" "$out/../RESULTS.md" || return 1
	printf '%s\n' "$base.json"
}
