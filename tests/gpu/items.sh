# items.sh - what run can run: a function for each part.  Sourced by run.
# Seconds are what an item may take on a real device; those of a part fit into one call together.  Behind a + an item can use more:
# grant, before it, says how much it is, and it is told a budget, since one that is ended says nothing.
# A short run shows that everything works, and nothing else; it is what the simulator gets unless it is told otherwise.
# shellcheck shell=sh disable=SC2154,SC2034  # $build, $driver, $root, $here, $out, $work, $effort, $gpu, $points, $granted: run's

# The most valuable first.
all_parts='points suite bench run contention e2e peers run-small e2e-medium run-medium e2e-mixed run-large e2e-large pageable'
short_parts='points suite bench contention peers' # of a short run that names none; the others want minutes

part_points() {
	"$points" --list >"$work/list"
	while read -r name seconds; do
		item point "$name" "$seconds" "$points" "$name" ${driver:+"$driver"}
	done <"$work/list"
}

# ---- the suite's cases that a real device can be put through ----

# With the system's interpreter where that has numpy, else with any.
suite() { # NAME SECONDS CASE...
	name=$1 seconds=$2
	shift 2
	python=python3
	[ ! -x /usr/bin/python3 ] || ! /usr/bin/python3 -c 'import numpy' 2>/dev/null || python=/usr/bin/python3
	item suite "$name" "$seconds" env TRIMS_BUILD="$build" TRIMS_SANITIZE=none PYTHONDONTWRITEBYTECODE=1 \
		TRIMS_GPU_DRIVER="${driver:-libcuda.so.1}" "$here/tap" "$python" "$root/tests/sys/$name.py" "$@"
}

part_suite() {
	bench ways ways 40 # which of them this device goes: what is measured behind this was measured there
	for name in cuda_abi hash_kernel; do
		item unit "$name" 30 "$here/tap" "$build/tests/unit/test_$name"
	done
	if [ "$effort" = short ]; then # all of them are run beside this
		suite 610-gpu_clients 60 a_copy_is_one
	else
		suite 610-gpu_clients 180
		suite 730-run_cuda 240
	fi
}

# ---- benchmarks ----

bench() { # NAME BENCH SECONDS OPTION...
	name=$1 which=$2 seconds=$3
	shift 3
	# Beyond a limit (1) is an answer, too.
	# shellcheck disable=SC2016  # the inner shell's
	item bench "$name" "$seconds" sh -c '"$@"; code=$?; [ "$code" -ne 1 ] || exit 0; exit "$code"' sh \
		"$build/tools/trims-bench" "$which" --json --driver "${driver:-libcuda.so.1}" "$@"
}

# What a benchmark that knows --budget is told: so many hundredths of what its item was granted.
timed() { # NAME BENCH SECONDS HUNDREDTHS OPTION...
	name=$1 which=$2 seconds=$3 hundredths=$4
	shift 4
	grant "$seconds"
	bench "$name" "$which" "$seconds+" --budget "$((granted * hundredths / 100))s" "$@"
}

curves() { # NAME: a folder for what is drawn
	place=$out
	[ "$simulated" = false ] || place=$work
	folder=$place/$(printf '%s' "${gpu:-gpu}" | tr -c 'A-Za-z0-9.-' '_')-$1
	[ "$running" = no ] || mkdir -p "$folder"
	printf '%s' "$folder"
}

part_bench() {
	if [ "$effort" = short ]; then
		bench h2d h2d 60 --bytes 16M --rounds 2
		bench gpu-open gpu-open 60 --bytes 16M --rounds 5
	else
		bench h2d h2d 150 --bytes 4G
		bench gpu-open-vmm-fd gpu-open 180 --only vmm-fd
		bench gpu-open-cuda-ipc gpu-open 180 --only cuda-ipc
		bench links links 30 # the scheduler in modelled time, to be laid beside what contention measures
	fi
}

part_contention() {
	if [ "$effort" = short ]; then
		bench contention contention 60 --bytes 16M --calls 1 --budget 6 --out "$(curves contention)"
	else
		timed contention-pinned contention 180 80 --only pinned --out "$(curves contention-pinned)"
		timed contention-inside contention 90 75 --only inside --out "$(curves contention-inside)"
	fi
}

part_pageable() { # 300 calls of every cell take minutes: such copies are slow
	if [ "$effort" = short ]; then
		bench contention-pageable contention 60 --only pageable --calls 1 --budget 4 --out "$(curves contention-pageable)"
	else
		timed contention-pageable contention 530 80 --only pageable --out "$(curves contention-pageable)"
	fi
}

# Cold starts of a model by each mode, in turns, and what the planner had said of them: whether it knew what direct access is worth.  200
# rounds behind 20 that do not count, or as many as there is time for: the result has their number.
cold_part() {
	while read -r model where seconds _; do
		if [ "$where" != "$part" ]; then
			continue
		elif [ "$effort" = short ]; then
			bench "cold-$model" cold 60 --only "$model" --rounds 1
		else
			timed "cold-$model" cold "$seconds" 88 --only "$model" --rounds 200
		fi
	done <"$here/models"
}
part_run() { cold_part; }
part_run_small() { cold_part; }
part_run_medium() { cold_part; }
part_run_large() { cold_part; }

# Parallel transmission; skipped where there is one device.
part_peers() {
	if [ "$effort" = short ]; then
		bench pt-minilm pt 60 --only minilm --rounds 1
	else
		timed pt-bert-base pt 240 88 --only bert-base --rounds 200
		timed pt-bert-large pt 270 88 --only bert-large --rounds 200
	fi
}

# A function from its start to its first result; several at once at the end.
e2e_part() {
	while read -r model _ _ where seconds short; do
		if [ "$where" != "$part" ]; then
			continue
		elif [ "$effort" = full ]; then
			timed "e2e-$model" e2e "$seconds" 70 --only "$model" --calls 10 --out "$(curves "e2e-$model")"
		elif [ "$short" = yes ]; then
			bench "e2e-$model" e2e 60 --only "$model" --rounds 1 --calls 2
		else
			item bench "e2e-$model" 1 sh -c 'echo "left out of a short run: it takes minutes" >&2; exit 77'
		fi
	done <"$here/models"
}
part_e2e() { e2e_part; }
part_e2e_medium() { e2e_part; }
part_e2e_large() { e2e_part; }

# Several models at once: the concurrent case is what this is about.
part_e2e_mixed() {
	if [ "$effort" = short ]; then
		bench e2e-mixed e2e 60 --only minilm,resnet-50 --rounds 1 --calls 3
	else
		timed e2e-mixed e2e 400 50 --only minilm,bert-base,roberta-base,gpt2,resnet-50,resnet-101 --rounds 1 --calls 60 --out "$(curves e2e-mixed)"
	fi
}
