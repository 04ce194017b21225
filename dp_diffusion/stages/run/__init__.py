"""What the stages of a run share: folder, secret, resume, ledger."""
