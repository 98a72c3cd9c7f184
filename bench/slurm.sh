#!/usr/bin/env bash
# A real Slurm of one node on this machine, and prunebench's jobs in it: an array, a requeue in the
# middle of a case, and the same command again. Needs root and Debian's slurm-wlm and munge:
#   apt-get install -y slurm-wlm munge
# Usage: bench/slurm.sh [PYTHON]; ends what it started. With PRUNEBENCH_NEED_SLURM=1 it does not skip.
set -euo pipefail
PATH=$PATH:/usr/sbin

python=${1:-python}
[[ $python != */* ]] || python=$(realpath --no-symlinks "$python")
skip() {
    echo "skipped: $*"
    exit "${PRUNEBENCH_NEED_SLURM:-0}"
}
for tool in munged slurmctld slurmd sbatch; do
    command -v "$tool" >/dev/null || skip "no $tool here (apt-get install -y slurm-wlm munge)"
done
[ "$(id -u)" = 0 ] || skip "slurmd needs root"

docs=$(cd "$(dirname "$0")/.." && pwd)/docs/slurm.md
root=$(mktemp -d)
host=$(hostname -s)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$root"
}
trap finish EXIT

mkdir -p "$root"/{munge,state,spool,work/cases}
chmod 755 "$root"
head -c 128 /dev/urandom >"$root/munge/key"
chmod 700 "$root/munge"
chmod 400 "$root/munge/key"
chown -R root "$root/munge"
munged --foreground --force --key-file="$root/munge/key" --socket="$root/munge.socket" \
    --pid-file="$root/munge/pid" --seed-file="$root/munge/seed" >"$root/munge.out" 2>&1 &
pids+=($!)

memory=$(slurmd -C | sed -n 's/.*RealMemory=\([0-9]*\).*/\1/p')
cpus=$(nproc)
cat >"$root/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
CryptoType=crypto/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=requeue_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$root/slurm.conf
sleep 1
slurmctld -D -f "$root/slurm.conf" >"$root/ctl.out" 2>&1 &
pids+=($!)
slurmd -D -f "$root/slurm.conf" >"$root/d.out" 2>&1 &
pids+=($!)
for _ in $(seq 60); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break
    sleep 1
done
sinfo || { tail -n 20 "$root"/*.log "$root"/*.out; exit 1; }

restarts() { # of $job; it must have come back at least once
    scontrol show job "$job" | grep -o 'Restarts=[1-9][0-9]*'
}

wait_for() { # WHAT COMMAND...: until it succeeds, for two minutes at most
    local what=$1
    shift
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "not within two minutes: $what"
    squeue
    tail -n 20 "$root"/work/*.out "$root"/work/*/slurm/*.out "$root"/slurm*.log
    exit 1
}

cd "$root/work"
cat >cases/small.yaml <<'CASE'
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 32, seqlen: 128}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 128, nsamples: 24}
matrix:
  method: [{name: sleb, calibration_unit: windows}, {name: first}]
  blocks: [1, 2]
CASE
run=("$python" -m prunebench run cases --device cpu)

echo "== an array of jobs, waited for"
"${run[@]}" --executor slurm --slurm time=10 --slurm cpus_per_task=1 --json jobs.json
echo "== the same in this process: every number is equal"
"${run[@]}" --store other --json here.json -q >/dev/null
"$python" - <<'PY'
import json
a, b = (json.load(open(f"{n}.json"))["records"] for n in ("jobs", "here"))
for x, y in zip(a, b, strict=True):
    assert x["case_id"] == y["case_id"] and x["plan"] == y["plan"]
    assert x["measurements"] == y["measurements"], x["case_id"]
print(f"{len(a)} records equal")
PY

echo "== the plain script of docs/slurm.md, stopped by a signal"
sed -n '/^```bash/,/^```/p' "$docs" | grep -v '^```' | sed -e '/--gpus/d; /--cpus-per-task/d' \
    -e "s#^prunebench run .*#$python -m prunebench run cases --device cpu --store fourth -k sleb \&#" \
    >plain.sh
plain=$(sbatch --parsable plain.sh)
wait_for "a case begun by job $plain" compgen -G 'fourth/locks/*.owner'
scancel --batch --signal=USR1 "$plain" # it comes back in two minutes, which the next part takes too

echo "== detached; requeued by SIGUSR1 while it runs; the same command collects"
"${run[@]}" --store third --executor slurm --detach -k sleb --slurm cpus_per_task=1 2>&1 | tee submitted.txt
# By the number it printed: the plain script's job has the same name and may be waiting again.
job=$(grep -o 'submitted job [0-9]*' submitted.txt | grep -o '[0-9]*$')
wait_for "a search begun by job $job" grep -rqs --include="${job}_*.out" searching third
scancel --signal=USR1 "$job"
sleep 2
squeue --format="%i %T %r" || true
scontrol show job "$job" | grep -o 'Restarts=[0-9]*' || true
"${run[@]}" --store third --executor slurm -k sleb --slurm cpus_per_task=1
restarts
ls third/records/small

echo "== the plain script has come back"
job=$plain
for _ in $(seq 400); do
    [ -z "$(squeue -h -j "$job" 2>/dev/null)" ] && break
    sleep 1
done
scontrol show job "$job" | grep -o 'JobState=[A-Z]*'
cat "slurm-$job.out"
restarts
