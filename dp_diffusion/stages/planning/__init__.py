"""What a run will cost: operations, memory, batch sizes, hours."""
