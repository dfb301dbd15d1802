#!/usr/bin/env bash
# What a GPU is asked first: `janus doctor`, then as many runs as fit the time, several at once on one card.
#
#   benchmarks/device.sh SECONDS [COMMANDS_FILE]     # the file: a `janus run …` a line (benchmarks/device_runs.txt)
#   benchmarks/device.sh --wheels [PACKAGE …]        # beforehand, with a network: fills wheels/
#
# DEVICE: cuda (default), cpu …   JOBS: runs at once (the number of cores, at most 8)   PYTHON: the interpreter (python3)
# OUT: where device_results.tar.gz goes (the current folder)   DOCTOR: full or quick (quick below 420 seconds)
#
# The same command goes on: what is finished is not repeated, what was stopped resumes from its checkpoint. Everything is
# in runs/device, and unpacking the bundle at the root of a fresh copy puts the finished results back there. What the
# interpreter lacks of this project's dependencies is installed from wheels/ into runs/device/site, without a network.
set -euo pipefail

here=$PWD to=${OUT:-$PWD}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3} device=${DEVICE:-cuda} work=runs/device
reserve=${RESERVE:-15}   # seconds in which runs are stopped and results are bundled
shortest=${SHORTEST:-20} # no run is begun with less
pids=() names=() lines=() outs=() commands="" failed=0

fail() {
    echo "device.sh: $*" >&2
    exit 2
}

fetch_wheels() {
    "$python" -m pip download --quiet --disable-pip-version-check --dest wheels --only-binary=:all: \
        --implementation cp --python-version "${PYTHON_VERSION:-3.12}" --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 platformdirs pydantic "$@"
    ls -sh wheels
}

install_missing() {
    export PYTHONPATH="$PWD:$PWD/$work/site${PYTHONPATH:+:$PYTHONPATH}"
    local missing
    missing=$("$python" - <<'PY'
import re
from importlib.metadata import PackageNotFoundError, version

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

for wanted in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    name = re.match(r"[\w.-]+", wanted)[0]
    try:
        version(name)
    except PackageNotFoundError:
        print(name)
PY
    )
    [[ -n $missing ]] || return 0
    local packages
    mapfile -t packages <<<"$missing"
    [[ -d wheels ]] || fail "missing here: ${packages[*]}; with a network: pip install them, or benchmarks/device.sh --wheels" \
        "${packages[*]}, and bring wheels/ along"
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --find-links wheels --no-compile \
        --target "$work/site" "${packages[@]}" || fail "wheels/ does not have all of: ${packages[*]}"
}

out_of() { # the folder after --out
    while (($#)); do
        [[ $1 == --out && $# -gt 1 ]] && echo "$2" && return
        shift
    done
}

read_commands() {
    local line words out
    mapfile -t lines < <(grep -v -E '^[[:space:]]*(#|$)' "$commands")
    for line in "${lines[@]}"; do
        read -r -a words <<<"$line"
        [[ ${words[0]} == janus && ${words[1]:-} == run ]] || fail "$commands: not a \`janus run\` command: ${words[*]}"
        out=$(out_of "${words[@]}")
        [[ -n $out ]] || fail "$commands: no --out in: ${words[*]}"
        outs+=("$out")
    done
    ((${#outs[@]})) || fail "$commands holds no command"
}

left() { echo $((budget - reserve - SECONDS)); }

examine() {
    [[ -s $work/doctor.json ]] && echo "device.sh: examined before ($work/doctor.json)" && return
    local quick=() code=0
    [[ ${DOCTOR:-} == quick || (-z ${DOCTOR:-} && $budget -lt 420) ]] && quick=(--quick)
    timeout --kill-after=5 "$(left)" "$python" -m janus doctor --device "$device" "${quick[@]}" \
        --out "$work/doctor.json" >"$work/doctor.txt" 2>"$work/logs/doctor.log" &
    pids=($!)
    wait "${pids[0]}" || code=$?
    pids=()
    cat "$work/doctor.txt"
    ((code == 0)) || echo "device.sh: doctor: $(tail -n 1 "$work/logs/doctor.log") (exit code $code)" >&2
    ((code == 0 || code == 124)) || failed=1
}

start_runs() {
    local i words out name
    for i in "${!lines[@]}"; do
        read -r -a words <<<"${lines[i]}"
        out=${outs[i]}
        [[ -e $out/result.json ]] && continue
        while (($(jobs -rp | wc -l) >= jobs)); do sleep 0.2; done
        (($(left) >= shortest)) || break
        name=${out##*/}
        echo "$SECONDS s  $name"
        timeout --kill-after=5 "$(left)" "$python" -m janus "${words[@]:1}" --set "device=$device" \
            >>"$work/logs/$name.log" 2>&1 </dev/null &
        pids+=($!) names+=("$name")
    done
}

end_runs() { # waits for all; 124 and 143: stopped because the time was up
    local i code
    for i in "${!pids[@]}"; do
        code=0
        wait "${pids[i]}" || code=$?
        case $code in
        0 | 124 | 137 | 143) ;;
        *) failed=1 && echo "device.sh: ${names[i]} failed: $(tail -n 1 "$work/logs/${names[i]}.log")" >&2 ;;
        esac
    done
    pids=()
}

bundle() { # also after Ctrl-C and SIGTERM
    trap - EXIT
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    local out done=0 files=("$work/logs")
    for out in "${outs[@]}"; do
        [[ -e $out/result.json ]] && files+=("$out/result.json") && done=$((done + 1))
    done
    for out in "$work/doctor.json" "$work/doctor.txt"; do
        [[ -e $out ]] && files+=("$out")
    done
    tar -czf "$to/.device_results.part" "${files[@]}"
    mv "$to/.device_results.part" "$to/device_results.tar.gz"
    echo "$done of ${#outs[@]} runs are finished; all results: $to/device_results.tar.gz ($SECONDS of $budget s)"
}

if [[ ${1:-} == --wheels ]]; then
    fetch_wheels "${@:2}"
    exit
fi
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || fail "usage: benchmarks/device.sh SECONDS [COMMANDS_FILE], or benchmarks/device.sh --wheels"
budget=$1 cores=$(env -u OMP_NUM_THREADS nproc)
[[ -d $to ]] || fail "there is no folder $to (OUT)"
to=$(cd "$here" && cd "$to" && pwd)
commands=${2:-benchmarks/device_runs.txt}
[[ -e $commands || ${2:-} == "" ]] || commands=$here/$2
[[ -r $commands ]] || fail "cannot read $commands"
read_commands
jobs=${JOBS:-$((cores < 8 ? cores : 8))}
mkdir -p "$work/logs"
install_missing
trap bundle EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
examine
export OMP_NUM_THREADS=$((cores > jobs ? cores / jobs : 1))
start_runs
end_runs
bundle
exit "$failed"
