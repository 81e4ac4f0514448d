#!/usr/bin/env bash
# The whole way of the data on a synthetic cohort, with the commands a user types. Run again to continue.
set -euo pipefail
PYTHON=${PYTHON:-python3}
DEMO=${DEMO:-demo}

step() { # print a command, run it, say how long it took; status 3 means some files were set aside, which is no failure
    printf '\n[%3ds] $ %s\n' "$SECONDS" "$*"
    local status=0
    "$@" || status=$?
    if [ "$status" -ne 0 ] && [ "$status" -ne 3 ]; then
        printf '\nThis step failed (status %s). Repeat it with:\n  %s\nor run `make demo` again: finished steps are kept.\n' \
            "$status" "$*" >&2
        exit "$status"
    fi
}

step "$PYTHON" -m msdino_monai cohort --output_dir "$DEMO/cohort" --sites 3 --patients_per_site 20 --seed 0
for site in a b c; do
    step "$PYTHON" -m msdino_monai survey --dataset_dir "$DEMO/cohort/site_$site/images" --output_dir "$DEMO/survey/site_$site"
done

printf '\n[%3ds] done. Synthetic radiographs as the networks see them:\n' "$SECONDS"
ls "$DEMO"/survey/*/contact_sheet.png
