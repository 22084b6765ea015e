"""The pages' templates, style sheet and script: one set, exported as a static report and served live."""
