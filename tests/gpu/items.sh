# items.sh - the items of run that need a whole build: the GPU cases of the suite, and the benchmarks.  Sourced by run.
# The benchmarks take about five of run's ten minutes on a real device; on the simulator they only show that they work.
# shellcheck shell=sh disable=SC2154  # $build, $driver, $root, $here, $out, $work, $simulated, $began, $minutes: run's

export TRIMS_BUILD="$build" TRIMS_SANITIZE=none PYTHONDONTWRITEBYTECODE=1 TRIMS_GPU_DRIVER="${driver:-libcuda.so.1}"

python=python3
[ -x /usr/bin/python3 ] && python=/usr/bin/python3

for name in cuda_abi hash_kernel; do
	item unit "$name" 30 "$here/tap" "$build/tests/unit/test_$name"
done
if [ "$simulated" = true ]; then # the suite has all of them
	item suite 610-gpu_clients 60 "$here/tap" "$python" "$root/tests/sys/610-gpu_clients.py" a_copy_is_one
else
	item suite 600-gpu 60 "$here/tap" "$python" "$root/tests/sys/600-gpu.py"
	item suite 610-gpu_clients 120 "$here/tap" "$python" "$root/tests/sys/610-gpu_clients.py"
	item suite 620-gpu_faults 60 "$here/tap" "$python" "$root/tests/sys/620-gpu_faults.py"
	item suite 730-run_cuda 90 "$here/tap" "$python" "$root/tests/sys/730-run_cuda.py"
fi

bench() { # NAME SECONDS OPTION...
	name=$1 seconds=$2
	shift 2
	# Beyond a limit (1) is an answer, too.
	# shellcheck disable=SC2016  # the inner shell's
	item bench "$name" "$seconds" sh -c '"$@"; code=$?; [ "$code" -ne 1 ] || exit 0; exit "$code"' sh \
		"$build/tools/trims-bench" "$name" --json ${driver:+--driver "$driver"} "$@"
}

if [ "$simulated" = true ]; then
	bench h2d 60 --bytes 16M --rounds 2
	bench gpu-open 60 --bytes 16M --rounds 5
	bench contention 120 --bytes 16M --calls 1 --budget 6 --out "$work/curves"
else
	bench h2d 90
	bench gpu-open 200
	bench e2e 120 --only bert-base --rounds 5 --driver "${driver:-libcuda.so.1}" # adds the cases on the device
	left=$((began + minutes * 60 - $(date +%s) - 45)) # what is not measured takes time as well
	[ "$left" -le 160 ] || left=160
	[ "$left" -ge 20 ] || left=20
	bench contention 230 --budget "$left" --out "$out/$(printf '%s' "$gpu" | tr -c 'A-Za-z0-9.-' '_')"
fi
