"""The pipelines, the presets that reproduce known systems, and the command line that runs them."""
