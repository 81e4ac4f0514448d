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

run_bundle() { # bundle, config or list of configs, settings
    local folder="bundles/$1" configs="" name
    for name in $2; do configs="$configs${configs:+,}'$folder/configs/$name.json'"; done
    step "$PYTHON" -m monai.bundle run --config_file "[$configs]" --bundle_root "$folder" \
        --logging_file "$folder/configs/logging.conf" "${@:3}"
}

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
    run_bundle cxr_embedding_export inference \
        --dataset_dir "$images" --output_dir "$DEMO/exports/hospital_$site" --state_dir "$DEMO/state/hospital_$site" \
        --site_id "hospital_$site" --recipient "$(cat "$keys/coordinator_recipient.txt")" \
        --signing_key "$keys/hospital_${site}_signing_key.txt" --img_size 128 --num_views 4
    step "$PYTHON" -m msdino_monai receive --export_dir "$DEMO/exports/hospital_$site" \
        --output_file "$DEMO/receipts/hospital_$site.json" --identity "$keys/coordinator_identity.txt" \
        --trusted_sites "$keys/trusted_sites" --signing_key "$keys/coordinator_signing_key.txt"
    step "$PYTHON" -m msdino_monai confirm --receipt "$DEMO/receipts/hospital_$site.json" \
        --export_dir "$DEMO/exports/hospital_$site" --coordinator_key "$keys/coordinator_signing_key.pub"
done

# The coordinator: one body from three hospitals.
run_bundle cxr_msdino_pretraining "train demonstration" \
    --dataset_dir "$DEMO/exports" --output_dir "$DEMO/pretraining" --identity "$keys/coordinator_identity.txt" \
    --trusted_sites "$keys/trusted_sites" --signing_key "$keys/coordinator_signing_key.txt"

# Hospital A: its own labels, from the returned body and from scratch.
labelled="$DEMO/cohort/site_a"
returned=(--backbone "$DEMO/pretraining/models" --coordinator_key "$keys/coordinator_signing_key.pub")
scratch=(--hidden_size 128 --mlp_dim 512 --num_layers 4 --num_heads 4)
small=(--dataset_dir "$labelled" --img_size 128 --batch_size 8 --max_epochs 3 --warmup_epochs 1 --num_workers 0)
run_bundle cxr_classification train "${small[@]}" "${returned[@]}" --output_dir "$DEMO/classification"
run_bundle cxr_classification train "${small[@]}" "${scratch[@]}" --output_dir "$DEMO/classification_from_scratch"
run_bundle cxr_classification "train evaluate" --dataset_dir "$labelled" --num_workers 0 \
    --model "$DEMO/classification/models/model.pt" --output_dir "$DEMO/classification/test"
run_bundle cxr_segmentation train "${small[@]}" "${returned[@]}" --label_key lungs --output_dir "$DEMO/lungs"
run_bundle cxr_segmentation train "${small[@]}" "${scratch[@]}" --label_key lungs --output_dir "$DEMO/lungs_from_scratch"
run_bundle cxr_segmentation inference --dataset_dir "$labelled/images" --num_workers 0 \
    --model "$DEMO/lungs/models/model.pt" --output_dir "$DEMO/lungs/masks"

printf '\n[%3ds] done. Synthetic radiographs as the networks see them, receipts, curves, what was learnt (little: 78 images):\n' "$SECONDS"
ls "$DEMO"/survey/*/contact_sheet.png "$DEMO"/receipts/*.json "$DEMO"/pretraining/curves.png "$DEMO"/*/metrics.json
