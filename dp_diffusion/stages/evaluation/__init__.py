"""What the evaluation stage and the audit are made of."""
