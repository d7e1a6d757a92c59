# items.sh - what run can run: a function for each part.  Sourced by run.
# Seconds are what an item may take on a real device; those of a part fit into one call together.  On the simulator everything is
# short: there it shows that it works, and nothing else.
# shellcheck shell=sh disable=SC2154,SC2034  # $build, $driver, $root, $here, $out, $work, $simulated, $gpu, $points: run's

all_parts='points suite bench contention run e2e'
short_parts='points suite bench contention' # what a call that names none runs on the simulator

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
	for name in cuda_abi hash_kernel; do
		item unit "$name" 30 "$here/tap" "$build/tests/unit/test_$name"
	done
	if [ "$simulated" = true ]; then # all of them are run beside this
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

curves() { # NAME: a folder for what is drawn
	place=$out
	[ "$simulated" = false ] || place=$work
	folder=$place/$(printf '%s' "${gpu:-gpu}" | tr -c 'A-Za-z0-9.-' '_')-$1
	[ "$listing" = yes ] || mkdir -p "$folder"
	printf '%s' "$folder"
}

part_bench() {
	if [ "$simulated" = true ]; then
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
	if [ "$simulated" = true ]; then
		bench contention contention 60 --bytes 16M --calls 1 --budget 6 --out "$(curves contention)"
	else
		bench contention contention 520 --budget 420 --out "$(curves contention)" # what is not measured takes time as well
	fi
}

# A function from its start to its first result.
part_e2e() {
	if [ "$simulated" = true ]; then
		bench e2e-minilm e2e 120 --only minilm --rounds 1 --calls 2
		return
	fi
	for model in minilm:80 bert-base:110 gpt2:110 resnet-50:90 bert-large:140; do
		bench "e2e-${model%:*}" e2e "${model#*:}" --only "${model%:*}" --rounds 5 --calls 10 --out "$(curves "e2e-${model%:*}")"
	done
}

# Cold starts of one model by each mode, in turns, and what the planner had said of them: whether it knew what direct access is worth.
part_run() {
	if [ "$simulated" = true ]; then
		bench cold-minilm cold 120 --only minilm --rounds 2
	else
		bench cold-bert-base cold 530 --only bert-base --rounds 200 --budget 480s # after 20 of each that do not count
	fi
}
