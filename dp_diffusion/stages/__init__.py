"""The stages of a run: assembly of the parts below, one `run` each."""
