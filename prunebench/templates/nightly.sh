#!/bin/sh
# A nightly run of prunebench for cron: run, compare, build the site, notify of changes.
#
#   17 3 * * *  /path/to/project/nightly.sh
#
# Settings are variables, from cron or from a file nightly.env next to this one (keep it out of git):
#   PRUNEBENCH           the command, e.g. /path/to/venv/bin/prunebench (pip install 'prunebench[site]')
#   PRUNEBENCH_CASES     what to run; default cases
#   PRUNEBENCH_ARGS      more options of run, e.g. "--device cuda --fresh"
#   PRUNEBENCH_WEBHOOK   a Slack-compatible address; without it nothing is posted
#   PRUNEBENCH_LINK      where the site can be read; ends each message
#
# Exit code: that of the run (0 fine, 1 regression, 3 a case crashed; 75 and 130 stopped: run again, what
# is finished is saved), or of the first later step that failed; 75 also while another run has not ended.
set -u
cd "$(dirname "$0")" || exit 2
if [ -f ./nightly.env ]; then
    set -a
    # shellcheck disable=SC1091
    . ./nightly.env
    set +a
fi
prunebench=${PRUNEBENCH:-prunebench}
store=.prunebench
logs=logs
mkdir -p "$store" "$logs" || exit 2
# cron would mail what is printed; a person at a terminal sees it.
[ -t 1 ] || exec >>"$logs/$(date +%Y-%m-%d).log" 2>&1
echo "== $(date)"

busy() {
    echo "another nightly run has not ended"
    exit 75
}

# One run at a time. The lock of flock ends with the last process of a run; the folder is for systems
# without it.
lock=$store/nightly.lock
if command -v flock >/dev/null 2>&1; then
    exec 9>"$lock"
    flock -n 9 || busy
else
    if ! mkdir "$lock.d" 2>/dev/null; then
        holder=$(cat "$lock.d/pid" 2>/dev/null)
        if [ -n "$holder" ] && kill -0 "$holder" 2>/dev/null; then busy; fi
        # Left by a killed run.
        rm -rf "$lock.d"
        mkdir "$lock.d" 2>/dev/null || busy
    fi
    echo $$ >"$lock.d/pid"
    trap 'rm -rf "$lock.d"' EXIT
fi

[ -f "$logs/nightly.json" ] && cp "$logs/nightly.json" "$logs/previous.json"

# In the background, so that a signal to this script reaches the run, which saves its state.
# shellcheck disable=SC2086 # the options are words
"$prunebench" run ${PRUNEBENCH_CASES:-cases} --json "$logs/nightly.json" ${PRUNEBENCH_ARGS:-} &
run=$!
stopped=
trap 'stopped=yes; kill -TERM "$run" 2>/dev/null' TERM INT HUP
wait "$run"
code=$?
while [ -n "$stopped" ]; do # a signal ended the waiting, not the run
    stopped=
    wait "$run"
    last=$?
    [ "$last" -eq 127 ] || code=$last
done
trap - TERM INT HUP

case $code in
0 | 1 | 3 | 4 | 6) ;;
*)
    echo "run ended with $code; nothing is compared or published"
    exit "$code"
    ;;
esac

later() { # remember the first later step that failed if the run itself was fine
    "$@"
    status=$?
    if [ "$status" -ne 0 ]; then
        echo "failed with $status: $2"
        [ "$code" -eq 0 ] && code=$status
    fi
}

if [ -f "$logs/previous.json" ]; then
    echo "since the previous run:"
    "$prunebench" compare "$logs/previous.json" "$logs/nightly.json"
fi
later "$prunebench" leaderboard --site site
if [ -n "${PRUNEBENCH_WEBHOOK:-}" ]; then
    later "$prunebench" notify "$logs/nightly.json" ${PRUNEBENCH_LINK:+--link "$PRUNEBENCH_LINK"}
fi
exit "$code"
