"""Reading radiographs, setting aside those that cannot be used, and a synthetic cohort."""
