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

bundle=bundles/cxr_embedding_export
keys="$DEMO/keys"

step "$PYTHON" -m msdino_monai cohort --output_dir "$DEMO/cohort" --sites 3 --patients_per_site 20 --seed 0
if [ ! -e "$keys/coordinator_identity.txt" ]; then
    step "$PYTHON" -m msdino_monai keygen --output_dir "$keys" --kind coordinator
    for site in a b c; do
        step "$PYTHON" -m msdino_monai keygen --output_dir "$keys" --kind site --name "hospital_$site"
        printf 'hospital_%s %s\n' "$site" "$(cat "$keys/hospital_${site}_signing_key.pub")" >>"$keys/trusted_sites"
    done
fi
for site in a b c; do
    images="$DEMO/cohort/site_$site/images"
    step "$PYTHON" -m msdino_monai survey --dataset_dir "$images" --output_dir "$DEMO/survey/site_$site"
    step "$PYTHON" -m monai.bundle run --config_file "$bundle/configs/inference.json" --bundle_root "$bundle" \
        --dataset_dir "$images" --output_dir "$DEMO/exports/hospital_$site" --state_dir "$DEMO/state/hospital_$site" \
        --site_id "hospital_$site" --recipient "$(cat "$keys/coordinator_recipient.txt")" \
        --signing_key "$keys/hospital_${site}_signing_key.txt"
    step "$PYTHON" -m msdino_monai receive --export_dir "$DEMO/exports/hospital_$site" \
        --output_file "$DEMO/receipts/hospital_$site.json" --identity "$keys/coordinator_identity.txt" \
        --trusted_sites "$keys/trusted_sites" --signing_key "$keys/coordinator_signing_key.txt"
    step "$PYTHON" -m msdino_monai confirm --receipt "$DEMO/receipts/hospital_$site.json" \
        --export_dir "$DEMO/exports/hospital_$site" --coordinator_key "$keys/coordinator_signing_key.pub"
done

printf '\n[%3ds] done. Synthetic radiographs as the networks see them, and the receipts for three sealed exports:\n' "$SECONDS"
ls "$DEMO"/survey/*/contact_sheet.png "$DEMO"/receipts/*.json
