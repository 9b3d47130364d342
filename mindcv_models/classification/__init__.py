"""Image classification: its options, data, objective, validation, prediction and reports."""
